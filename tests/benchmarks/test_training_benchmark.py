"""The time to quality: marks, when they are passed, and levels of noise of other libraries."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import training
from benchmarks.training_peers import Example, Foreign, level_index
from scoresde import VPSDE

ROWS = [
    {"steps": 100, "seconds": 10.0, "loss": 0.5, "frechet": 1.0},
    {"steps": 200, "seconds": 20.0, "loss": 0.3, "frechet": 0.4},
    {"steps": 400, "seconds": 40.0, "loss": 0.1, "frechet": 0.1},
]


def test_a_mark_is_passed_on_a_line_in_log_seconds() -> None:
    """Half of the way from 0.3 to 0.1, so at the geometric mean of 20 and 40 seconds."""
    seconds, steps = training.when(ROWS, "loss", 0.2)
    assert seconds == pytest.approx(math.sqrt(20 * 40))
    assert steps == pytest.approx(math.sqrt(200 * 400))


def test_a_mark_is_passed_by_the_first_row_or_never() -> None:
    assert training.when(ROWS, "loss", 0.6) == pytest.approx((10.0, 100.0))
    assert training.when(ROWS, "loss", 0.05) == (math.inf, math.inf)


def test_the_marks_are_the_peers_best_within_the_limit() -> None:
    better = [row | {"loss": 0.0, "frechet": 0.0} for row in ROWS]
    found = training.marks({"scoresde": better, "a": ROWS, "b": ROWS[:1]}, limit=25.0)
    assert found == {"loss": 0.3, "frechet": 0.4}


def test_shorter_trainings_are_added_to_those_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nothing:
        def train(self, steps: int) -> None:
            done.append(steps)

        def model(self) -> None:
            return None

    class Judges:
        train = SimpleNamespace(x=None)

        def __call__(self, model: None, seed: int) -> dict[str, float]:
            return {"loss": 0.0, "frechet": 0.0}

    done: list[int] = []
    example = Example("a", "torch", 1, True, lambda x, seed, steps: Nothing())
    monkeypatch.setattr(training, "available", lambda: [example])
    kept: dict[str, Any] = {"a": {"0": list(ROWS)}}
    training.race(Judges(), 1, 60.0, (25, 50, 100, 200), kept, lambda: None)
    assert [row["steps"] for row in kept["a"]["0"]] == [25, 50, 100, 200, 400]
    assert done == [25, 50]


def test_means_are_over_the_rows_that_every_seed_has() -> None:
    other = [{**row, "loss": row["loss"] + 0.2} for row in ROWS[:2]]
    found = training.means({"0": ROWS, "1": other})
    assert [row["loss"] for row in found] == pytest.approx([0.6, 0.4])


def test_the_index_of_a_level_is_that_of_the_chain() -> None:
    """At the levels of the chain it is their number, between them it rises with the noise."""
    alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
    index = level_index(alphas_cumprod)
    levels = 0.5 * torch.log(alphas_cumprod / (1 - alphas_cumprod))
    torch.testing.assert_close(index(levels), torch.arange(1000.0), atol=1e-3, rtol=0)
    between = index(levels[3:5].mean()[None])
    assert 3.0 < float(between) < 4.0
    assert index(torch.tensor([99.0, -99.0])).tolist() == pytest.approx([0.0, 999.0], abs=1e-3)


def test_a_network_of_another_library_is_asked_at_our_level_of_noise() -> None:
    """The exact v of data N(0, 1 / 4) as a function of x and log(alpha / sigma)."""

    def v(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        alpha = torch.sigmoid(2 * level).sqrt()[:, None]
        sigma = torch.sigmoid(-2 * level).sqrt()[:, None]
        return (0.75 * alpha * sigma * x / (0.25 * alpha**2 + sigma**2)).to(x)

    sde = VPSDE()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    for t in (0.3, torch.linspace(0.1, 0.9, 6)):
        node = sde.at(t, like=x)
        variance = 0.25 * node.alpha**2 + node.sigma**2
        found = Foreign(v, "v").predict(node, x).x0
        torch.testing.assert_close(found, (0.25 * node.alpha / variance * x).to(x))
