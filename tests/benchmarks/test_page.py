"""The page of results says what the files say, and a run in parts is told as a whole."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fashion, page, training_page
from scoresde import Trainer
from scoresde.data import Data

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/results.md"
RENEW = "run `python benchmarks/page.py`"


@pytest.mark.skipif(not PAGE.exists(), reason="no results in this checkout")
def test_the_page_is_that_of_the_files() -> None:
    assert PAGE.read_text(encoding="utf-8") == page.page(), RENEW


@pytest.mark.skipif(not training_page.TRAINING.exists(), reason="no page in this checkout")
def test_the_page_of_training_is_that_of_the_files_and_of_the_recipes() -> None:
    assert training_page.TRAINING.read_text(encoding="utf-8") == training_page.training(), RENEW


def test_a_row_is_called_better_only_beyond_two_standard_errors() -> None:
    """Two seeds: 1.0 and 1.2 have the mean 1.1 and the standard error 0.1."""

    def cells(*distances: float) -> dict[str, dict[str, float]]:
        rest = {"loss": 0.1, "bound": 2.0, "seconds": 3.0, "steps": 7}
        return {str(i): {"distance": d, **rest} for i, d in enumerate(distances)}

    rows = {
        training_page.DEFAULT: cells(1.0, 1.2),
        "near": cells(0.95, 0.97),
        "far": cells(0.5, 0.52),
        "bad": cells(2.0, 2.02),
        "one seed": cells(9.0),
    }
    text = training_page.measured("moons", {"floor": 0.01, "rows": rows})
    assert f"| {training_page.DEFAULT} | 2 | 7 | 1.1 ± 0.1 |  | 0.1 ± 0 | 2 ± 0 | 3 |" in text
    assert "| near | 2 | 7 | 0.96 ± 0.01 | 0.87 |" in text
    assert "| far | 2 | 7 | 0.51 ± 0.01 | 0.46 better |" in text
    assert "| bad | 2 | 7 | 2.01 ± 0.01 | 1.83 worse |" in text
    assert "| one seed | 1 | 7 | 9 | 8.18 |" in text


def test_the_choices_quote_ratios_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        training_page.DEFAULT: {"0": {"distance": 1.0, "loss": 2.0}, "1": {"distance": 3.0}},
        "far": {"0": {"distance": 5.0, "loss": 1.0}},
        "near": {"0": {"distance": 4.0}},
    }
    cells = {"vector": {"float32": {"seconds": 2.0}, "bf16": {"seconds": 1.0, "first": 7.0}}}
    choices = (
        ("a", "b", "{moons:far}, {moons:far:distance/near}, {vector/bf16}, {vector/bf16:first}"),
        ("c", "d", "{moons:lacking}"),
        ("e", "f", "{images/bf16}"),
        ("g", "h", "said"),
    )
    monkeypatch.setattr(training_page, "CHOICES", choices)
    text = training_page.chosen({"moons": {"rows": rows}}, cells)
    rows_of_text = text.partition("| --- | --- | --- |\n")[2].splitlines()
    assert rows_of_text == [
        "| a | b | 2.50 times, 1.25 times, 0.50 times, 7 |",
        "| g | h | said |",
    ]


def test_equal_recipes_share_a_column() -> None:
    head, _, objectives, *rest = training_page.recipes().splitlines()
    kinds = [kind for cell in head.split("|")[2:-1] for kind in cell.split(",")]
    assert len(kinds) == len(training_page.RECIPES)
    columns = list(zip(*(row.split("|")[2:-1] for row in (objectives, *rest)), strict=True))
    assert len(set(columns)) == len(columns)


def test_the_numbers_of_samples_are_those_of_the_run() -> None:
    measured = {"value": 0.0123, "floor_mean": 0.0045, "floor_std": 0.0001, "count": 777}
    judged = {
        "bits": {k: [3.25, 0.01] for k in ("bound", "bound_of_the_32", "flow_of_the_32")},
        "sampling": {"count": 1234},
        "distances": {"frechet": measured},
        "seconds": 60.0,
        "conditional_accuracy": 0.5,
        "classifier_accuracy": 0.875,
        "trained_on_samples": 0.25,
        "trained_on_as_many_real": 0.75,
    }
    training = {"parameters": 10**6, "steps": 9, "seconds": 120.0, "core_seconds": 240.0}
    text = page.fashion(
        {"unet-quality": {"training": training, "judged": judged, "command": "this one"}}
    )
    for said in (
        "between 1,234 samples",
        "and 777 test images",
        "classifies 87.5% of",
        "| accuracy when trained on 1,234 samples | 25.0% |",
        "| accuracy when trained on 1,234 real images | 75.0% |",
        "| frechet distance (two real halves) | 0.0123 (0.0045 ± 0.0001) |",
        "| minutes, training | 2 |",
        "\n    this one\n",
    ):
        assert said in text
    assert "5,000" not in text
    assert (
        "| Frechet distance of the U-Net over the halves' | 2.733 | 2.000 | not reached |" in text
    )
    assert "| accuracy lost by training on samples, % | 50.0 | 1.0 | not reached |" in text
    assert "guidance" not in text


def test_guided_samples_have_rows_of_their_own() -> None:
    distances = {name: {"value": v} for name, v in (("frechet", 0.005), ("precision", 0.9))}
    guided = {
        "scale": 1.2,
        "interval": [-1.5, 1.5],
        "nfe": 16,
        "distances": distances | {"recall": {"value": 0.8}},
        "conditional_accuracy": 0.95,
        "trained_on_samples": 0.85,
    }
    rows = page.guided_rows({"unet-quality": {"guided": guided}, "unet-likelihood": {}})
    title = "guidance 1.2 on the log-SNRs from -1.5 to 1.5"
    assert rows[0] == (f"{title}: frechet distance", "0.005 (16 calls)", "")
    assert [row[1] for row in rows[1:]] == ["0.9", "0.8", "95.0%", "85.0%"]
    assert page.guided_rows({"unet-likelihood": {}}) == []
    plain = {"frechet": {"value": 0.008, "floor_mean": 0.004}}
    accuracy = {"trained_on_samples": 0.8, "trained_on_as_many_real": 0.85}
    fast = {"auto": {"10": {"frechet": 0.006}}}
    judged = accuracy | fast | {"distances": plain, "guided": guided}
    aims = page.aims({"unet-quality": {"judged": judged}})
    said = "| Frechet distance of the U-Net over the halves'"
    for way, over in (("", 2.0), (", `auto` in 10 steps", 1.5), (", guidance 1.2", 1.25)):
        assert f"{said}{way} | {over:.3f} | 2.000 | reached |" in aims


def test_the_time_of_a_run_in_parts_is_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 100.0, 1000.0, 1030.0])
    monkeypatch.setattr(fashion.time, "perf_counter", lambda: next(clock))

    def fit(self: Trainer, resume: bool = False) -> None:
        if not resume:
            raise SystemExit(143)

    monkeypatch.setattr(Trainer, "fit", fit)
    x = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    data = Data(x, {"label": torch.arange(200) % 10})
    args = argparse.Namespace(
        net="unet", objective="quality", preset="tiny", steps=3, seed=0, resume=False
    )
    with pytest.raises(SystemExit):
        fashion.train(args, tmp_path, data)
    args.resume = True
    fashion.train(args, tmp_path, data)
    made = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert made["seconds"] == 130.0
    assert made["steps"] == 3


def test_a_results_file_becomes_a_section_one_level_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.included("Spectra", "spectra") == ""
    (tmp_path / "spectra.md").write_text("# Title\n\ntext\n\n## Part\n\n![x](spectra.png)\n")
    assert page.included("Spectra", "spectra") == (
        "\n## Spectra\n\ntext\n\n### Part\n\n![x](../benchmarks/results/spectra.png)\n"
    )


def test_a_run_that_was_judged_in_short_has_blanks_and_its_steps_beside_its_distance() -> None:
    def run(steps: int, frechet: float, bits: tuple[str, ...], auto: list[str]) -> dict[str, Any]:
        measured = {"value": frechet, "value_std": 0.0, "floor_mean": 0.004, "floor_std": 1e-4}
        judged = {
            "bits": {key: [3.25, 0.01] for key in bits},
            "sampling": {"count": 10},
            "distances": {"frechet": measured | {"count": 7}},
            "auto": {n: {"frechet": frechet, "nfe": 11} for n in auto},
            "seconds": 60.0,
            "conditional_accuracy": 0.5,
            "classifier_accuracy": 0.875,
            "trained_on_samples": 0.25,
            "trained_on_as_many_real": 0.75,
        }
        training = {"parameters": 10**6, "steps": steps, "seconds": 120.0, "core_seconds": 240.0}
        return {"training": training, "judged": judged, "command": "this"}

    short = ("bound", "bound_of_the_32")
    whole = run(30, 0.01, (*short, "flow_of_the_32"), ["10", "20"])
    text = page.fashion({"unet-quality": whole, "uvit-quality": run(10, 0.02, short, ["10"])})
    for said in (
        "| flow, first 32 images | 3.250 ± 0.010 |  |",
        "| frechet distance, `auto` in 20 steps | 0.01 (11 calls) |  |",
        "of the U-ViT of 10 steps over the U-Net's of 30 | 2.000 | 1.500 | not reached |",
    ):
        assert said in text
