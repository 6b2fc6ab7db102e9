"""Times in proportion to the loss of the bound: their density, their weights, their variance."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.losses import BoundTime, ImportanceTime, TimeSampler
from scoresde.quantisation import Quantisation
from scoresde.sde import EDMSDE, VESDE, VPSDE, AffineSDE, CosineSDE, FlowSDE, SubVPSDE

SDES = [VPSDE(), SubVPSDE(), CosineSDE(), FlowSDE(), VESDE(), EDMSDE(), FlowSDE(T=1.0)]
LEAST = 0.01


def drawn(
    time: TimeSampler, sde: AffineSDE, n: int = 200_000
) -> tuple[torch.Tensor, torch.Tensor]:
    t, weight = time.sample(sde, n, torch.Generator().manual_seed(0))
    assert weight is not None and bool(weight.isfinite().all()) and bool((weight >= 0).all())
    return t, weight


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("uniform", [0.05, 0.3, 1.0])
def test_the_weights_keep_integrals_over_time(sde: AffineSDE, uniform: float) -> None:
    """The mean of f over uniform times in [t_0, T], for f = t and for |eps error|^2 dlambda/dt."""
    time = BoundTime(std=0.5, uniform=uniform, least=LEAST)
    t, weight = drawn(time, sde)
    first = max(float(sde.time_of(-math.log(LEAST))), sde.t_min)
    assert first * (1 - 1e-9) <= float(t.min()) <= first * 1.05 + 1e-5 and float(t.max()) <= sde.T
    assert float((weight * t).mean()) == pytest.approx((first + sde.T) / 2, rel=0.01)
    near = (sde.T - t) < 1e-3 * sde.T  # pure noise, where the log-SNR may have no end
    assert float((weight * near).mean()) == pytest.approx(1e-3 * sde.T / (sde.T - first), rel=0.2)
    # 1/2 int g^2/sigma^2 m dt = int m dlambda, a difference of two softplus / 2.
    log_snr = sde.log_snr(t)
    m = torch.sigmoid(2 * (log_snr + math.log(0.5)))
    speed = (sde.g(t) / sde.sigma(t)) ** 2 / 2
    found = float((weight * speed * m).mean()) * (sde.T - first)
    ends = (2 * (sde.log_snr(end) + math.log(0.5)) for end in (first, sde.T))
    high, low = (max(x, 0) + math.log1p(math.exp(-abs(x))) for x in ends)
    assert found == pytest.approx((high - low) / 2, rel=2e-3)


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE(), FlowSDE()], ids=lambda s: type(s).__name__)
def test_the_loss_of_gaussian_data_hardly_varies(sde: AffineSDE) -> None:
    """With a small uniform share it is nearly constant; under even log-SNRs it is not."""

    def spread(time: TimeSampler) -> float:
        t, weight = drawn(time, sde)
        m = torch.sigmoid(2 * sde.log_snr(t))
        loss = weight * m * (sde.g(t) / sde.sigma(t)) ** 2
        return float(loss.std() / loss.mean())

    assert spread(BoundTime(std=1.0, uniform=1e-6, least=LEAST)) < 0.02
    assert spread(BoundTime(std=1.0, least=LEAST)) < 0.5 * spread(ImportanceTime(least=LEAST))


def test_the_weights_are_at_most_those_of_even_log_snrs_over_their_share() -> None:
    for sde in SDES:
        time = BoundTime(uniform=0.2, least=LEAST)
        t, weight = drawn(time, sde, 5000)
        speed = (sde.g(t) / sde.sigma(t)) ** 2 / 2
        first = max(float(sde.time_of(-math.log(LEAST))), sde.t_min)
        bound = (sde.log_snr(first) - max(sde.log_snr(sde.T), -8.0)) / 0.2
        ordinary = sde.log_snr(t) > -2  # where the floor of the log-SNR is not felt
        scaled = weight * speed * (sde.T - first)
        assert float(scaled[ordinary].max()) <= 1.02 * bound, sde


def test_a_trainer_tells_it_the_scale_and_the_levels() -> None:
    width = Quantisation(5).bin_width
    assert BoundTime().fitted(0.7, width) == BoundTime(std=0.7, least=0.2 * width)
    assert BoundTime().fitted(0.7) == BoundTime(std=0.7)
    own = BoundTime(std=2.0, least=0.1)
    assert own.fitted(0.7, width) == own
    for wrong, name in (
        ({"std": 0.0}, "std"),
        ({"uniform": 0.0}, "uniform"),
        ({"least": -1}, "least"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            BoundTime(**wrong)
