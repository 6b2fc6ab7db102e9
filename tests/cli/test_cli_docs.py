"""The examples of docs/cli.md run, one after the other, in one folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("tyro")
from command_line import call

from scoresde.cli.app import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (options,) = blocks("toml")
    Path("run.toml").write_text(options)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        call(line.removeprefix("scoresde "))
    made = json.loads(Path("runs/ve/config.json").read_text())
    assert (made["sde"], made["seed"], made["about"]["predicts"]) == ("ve", 1, "edm")
    weights = [Path(f"runs/{n}/checkpoint/model.safetensors") for n in ("moons", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    for name in ("bound.csv", "back.npz", "runs/between/interpolation.png", "runs/moons/loss.png"):
        assert Path(name).exists()


def test_every_command_is_on_the_page() -> None:
    for name in COMMANDS:
        assert f"`{name}" in PAGE
