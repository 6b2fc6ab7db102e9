"""A state that is not finite is found by a replay, which names step and time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from bad_input import NAN, VP
from torch import Tensor, nn

from scoresde import Grid, Preconditioned, ReverseSampler


class Poisoned(nn.Module):
    """A network that answers NaN from its call number `call` on, or below the time `below`."""

    def __init__(self, below: float = -1.0, rows: slice = slice(None)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.below, self.rows, self.times = below, rows, []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        out = 0.1 * self.weight * x
        if self.times[-1] < self.below:
            out[self.rows] = math.nan
        return out


GRID = Grid.of([1.0, 0.8, 0.6, 0.4, 0.2, 0.1])


@pytest.mark.parametrize(
    ("solver", "below", "step", "before", "after", "calls"),
    [
        # the score at 0.4 is the first below 0.5: Euler-Maruyama leaves 0.4 on step 4
        ("euler_maruyama", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("ancestral", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("reverse_diffusion", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("ddim", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("euler", 0.9, 2, 0.8, 0.6, 5 + 1 + 2),
        # Heun and the corrector already ask at 0.4 on step 3, which ends there
        ("heun", 0.5, 3, 0.6, 0.4, 10 + 1 + 6),
        ("predictor_corrector", 0.5, 3, 0.6, 0.4, 10 + 1 + 6),
        ("torchsde", 0.5, 4, 0.4, 0.2, 5 + 1 + 5),
    ],
)
def test_nan_scores_are_reported_with_step_and_time(
    solver: str, below: float, step: int, before: float, after: float, calls: int
) -> None:
    net = Poisoned(below, rows=slice(2, None))
    found = ReverseSampler(VP, Preconditioned(net, VP), solver, grid=GRID)
    with pytest.raises(ValueError, match="expected finite scores") as caught:
        found.sample((5, 3), seed=0)
    message = str(caught.value)
    assert f"model: expected finite scores at step {step}, " in message
    assert f"from t = {before:g} to t = {after:g}, got" in message
    assert "3 of 5 samples, first in 2'" in message
    assert "check the model's output there" in message
    assert len(net.times) == calls  # the run, its denoising, and the replay up to the fault


def test_nan_scores_under_scipy_name_the_very_evaluation() -> None:
    net = Poisoned(0.5)
    found = ReverseSampler(VP, Preconditioned(net, VP), "scipy", grid=GRID)
    with pytest.raises(ValueError, match="expected finite scores") as caught:
        found.sample((5, 3), seed=0)
    t = net.times[-1]
    assert [time < 0.5 for time in net.times] == [False] * (len(net.times) - 1) + [True]
    step = next(i for i, node in enumerate(GRID.times[1:], 1) if t >= node)
    assert f"model: expected finite scores in step {step}, at t = {t:.6g}, got" in str(
        caught.value
    )


def test_sample_number_is_that_of_the_seed() -> None:
    """With batch_size and first, the error names the sample as the seed numbers it."""

    def broken(t: Tensor, x: Tensor, which: Tensor) -> Tensor:
        return torch.where(which[:, None] == 7, math.nan, -x)

    found = ReverseSampler(VP, broken, "ddim", grid=GRID)
    with pytest.raises(ValueError, match=r"at step 1, from t = 1 to t = 0.8.*first in 107'"):
        found.sample((9, 2), seed=0, batch_size=3, first=100, cond={"which": torch.arange(9)})


def test_nan_on_a_second_leg_is_given_its_own_times() -> None:
    net = Poisoned(0.15)
    grid = Grid(((1.0, 0.5, 0.2), (0.5, 0.3, 0.1, 0.05)))
    with pytest.raises(ValueError, match=r"at step 5, from t = 0.1 to t = 0.05"):
        ReverseSampler(VP, Preconditioned(net, VP), "ddim", grid=grid).sample((2, 2), seed=0)


def test_nan_in_the_denoising_alone_says_so() -> None:
    net = Poisoned(0.15)
    found = ReverseSampler(VP, Preconditioned(net, VP), "ddim", grid=GRID)
    with pytest.raises(ValueError, match=r"finite scores in the final denoising at t = 0.1"):
        found.sample((2, 2), seed=0)
    assert len(net.times) == 2 * 6


def test_a_model_that_answers_otherwise_in_the_replay_is_named() -> None:
    calls = itertools.count()

    def moody(t: Tensor, x: Tensor) -> Tensor:
        return -x / (0 if next(calls) == 2 else 1)

    with pytest.raises(ValueError, match=r"model: .*the same scores in a replay.*model\.eval\(\)"):
        ReverseSampler(VP, moody, "ddim", grid=GRID).sample((2, 2), seed=0)


@pytest.mark.parametrize(
    ("solver", "calls"),
    [("euler_maruyama", 6), ("heun", 11), ("predictor_corrector", 11), ("torchsde", 6)],
)
def test_a_good_run_pays_nothing_for_the_check(solver: str, calls: int) -> None:
    net = Poisoned()
    found = ReverseSampler(VP, Preconditioned(net, VP), solver, grid=GRID)
    assert found.solve((4, 2), seed=0).nfe == len(net.times) == calls


@pytest.mark.parametrize("solver", ["euler_maruyama", "heun", "scipy", "torchsde"])
def test_after_an_error_nothing_is_lost(solver: str) -> None:
    net = Poisoned()
    model = Preconditioned(net, VP).train()
    found = ReverseSampler(VP, model, solver, grid=GRID)
    expected = found.sample((4, 2), seed=0)
    net.below = 0.5
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="finite scores"):
        found.sample((4, 2), seed=0)
    with pytest.raises(ValueError, match="x_init"):
        found.sample((4, 2), seed=0, x_init=NAN)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and net.training and torch.is_grad_enabled()
    net.below = -1.0
    assert torch.equal(found.sample((4, 2), seed=0), expected)
