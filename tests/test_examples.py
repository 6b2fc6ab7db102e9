"""The examples of conditions and posteriors run, small, and leave what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scoresde import VPSDE, Preconditioned, save
from scoresde.data import digits
from scoresde.nets import network_for

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *line.split()])
    example(name).main()


def test_the_evidence_names_the_instrument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Image 1 was blurred, by 7 nats; image 0 is close to even."""
    run("evidence", f"--images 2 --particles 100 --steps 30 --out {tmp_path}", monkeypatch)
    table = (tmp_path / "table.md").read_text()
    assert "| 1 | blurred | -" in table and table.splitlines()[3].endswith("| blurred |")
    assert table.strip() in capsys.readouterr().out
    assert (tmp_path / "evidence.png").stat().st_size > 5000


def test_inverse_problems_leave_pictures_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits("train")
    torch.manual_seed(0)
    net = network_for(data.x.shape[1:], classes=data.classes, preset="tiny")
    save(Preconditioned(net, VPSDE()), tmp_path / "run")
    line = f"--model {tmp_path / 'run'} --images 2 --samples 3 --calls 20 --out {tmp_path / 'out'}"
    run("inverse_problems", line, monkeypatch)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"upper-half.png", "2x-super-resolution.png", "deblurring.png", "table.md"}
    assert len((tmp_path / "out" / "table.md").read_text().splitlines()) == 5
