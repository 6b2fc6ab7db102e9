"""The average of the weights, by hand and by exact sums."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_models import same, small, trained

from scoresde.options import SCHEDULES
from scoresde.sde import LinearSDE
from scoresde.training import EMA, PowerEMA
from scoresde.training.posthoc_ema import weights_of


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.single = nn.Parameter(torch.zeros(2, dtype=torch.float32))
        self.register_buffer("table", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_ema_by_hand(decay: float) -> None:
    model = Counting()
    ema = EMA(model, decay)
    assert ema.module is not model
    values = [3.0, -1.0, 4.0, 1.0, 5.0, 9.0]
    expected = 0.0
    for n, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
            model.single.fill_(value)
            model.table.fill_(value)
            model.count += 1
        ema.update(model)
        d = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = d * expected + (1 - d) * value
        assert ema.updates == n + 1
        torch.testing.assert_close(
            ema.module.weight.detach(), torch.full((3,), expected).double(), rtol=1e-7, atol=0
        )
        assert ema.module.single.tolist() == pytest.approx([expected] * 2, rel=1e-6)
        # buffers are copied, never averaged
        assert torch.equal(ema.module.table, model.table)
        assert ema.module.count.item() == n + 1
    assert model.weight.tolist() == [9.0] * 3  # the model itself is left alone


def test_the_warm_up_ends_at_the_decay() -> None:
    model = Counting()
    ema = EMA(model, 0.5)
    for _ in range(20):  # (1 + n)/(10 + n) > 1/2 from n = 8 on
        ema.update(model)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for k in range(1, 5):
        ema.update(model)
        assert ema.module.weight[0].item() == pytest.approx(1 - 0.5**k, rel=1e-12)


def test_ema_continues_after_restore() -> None:
    model, other = Counting(), Counting()
    first = EMA(model, 0.9)
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            model.weight.fill_(value)
        first.update(model)
    second = EMA(other, 0.9)
    second.module.load_state_dict(first.module.state_dict())
    second.restore(first.updates)
    with torch.no_grad():
        model.weight.fill_(7.0)
    for ema in (first, second):
        ema.update(model)
    assert same(first.module, second.module)


def test_the_copy_keeps_the_very_sde() -> None:
    """One made of the user's functions equals itself alone, and samplers compare."""
    sde = LinearSDE(lambda t: -1.0, lambda t: 2.0)
    model = small(sde=sde)
    assert EMA(model).module.sde is sde
    assert trained(model=model, steps=2).sde is sde
    assert trained(model=model, steps=2, ema=0).sde is sde


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, "0.9"])
def test_bad_decays(decay: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"decay: .*pass|decay: .*0\.999"):
        EMA(nn.Linear(1, 1), decay)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_profiles_combine_on_a_known_trajectory(schedule: str) -> None:
    """Steps in proportion to the learning rate, far from 0: error / distance to the last weights.

    With weights that do not sum to 1 the cosine schedule misses its bounds by a factor of 4.
    """
    steps, widths, model = 400, (0.05, 0.10), nn.Linear(30, 1, bias=False).double()
    walk = torch.randn(steps, 30, generator=torch.Generator().manual_seed(0)).double()
    walk += 1.0  # a drift
    rate = torch.tensor([SCHEDULES[schedule](s / steps) for s in range(steps)]).double()
    path = 30.0 + (rate[:, None] * walk).cumsum(0)
    tracks = [PowerEMA(model, width) for width in widths]
    exact = PowerEMA(model, 0.07)
    kept: list[list[Tensor]] = []
    for theta in path:
        with torch.no_grad():
            model.weight.copy_(theta[None])
        for mean in (*tracks, exact):
            mean.update(model)
        kept.append([mean.tensors["weight"][0].clone() for mean in tracks])
    bounds = {"constant": (2.5e-3, 2e-4, 2e-5), "cosine": (5e-2, 5e-3, 4e-4)}[schedule]
    truth = exact.tensors["weight"][0]
    for count, bound in zip((10, 20, 40), bounds, strict=True):
        at = [steps * (k + 1) // count for k in range(count) for _ in widths]
        gammas = [mean.gamma for mean in tracks] * count
        weights, _ = weights_of(at, gammas, steps, exact.gamma)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
        found = weights @ torch.stack([kept[t - 1][k % 2] for k, t in enumerate(at)])
        wrong = float((found - truth).norm() / (path[-1] - truth).norm())
        assert wrong < bound
