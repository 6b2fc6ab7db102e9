"""The SDE of a schedule given as a function, against the families in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde import VESDE, VPSDE, AffineSDE, CosineSDE, Gaussian, ReverseSampler, SubVPSDE
from scoresde.adapters import ScheduleSDE

FAMILIES = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE()]
TIMES = [0.01, 0.2, 0.5, 0.77, 0.99]


def of(sde: AffineSDE) -> ScheduleSDE:
    return ScheduleSDE(lambda t: (sde.alpha(t), sde.sigma(t)), sde.T)


@pytest.mark.parametrize("sde", FAMILIES, ids=repr)
@pytest.mark.parametrize("name", ["alpha", "sigma", "log_alpha", "log_snr", "rate", "g"])
def test_every_function_of_time(sde: AffineSDE, name: str) -> None:
    own = of(sde)
    mine, theirs = getattr(own, name), getattr(sde, name)
    expected = [theirs(t) for t in TIMES]
    assert [mine(t) for t in TIMES] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for times in (np.array(TIMES), torch.tensor(TIMES, dtype=torch.float64)):
        assert mine(times).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    column = torch.tensor(TIMES)[:, None]
    assert mine(column).shape == (5, 1) and mine(column).dtype == torch.float32


@pytest.mark.parametrize("sde", FAMILIES, ids=repr)
def test_the_time_of_a_log_snr(sde: AffineSDE) -> None:
    own = of(sde)
    for t in (1e-4, *TIMES, own.T):
        assert own.time_of(own.log_snr(t)) == pytest.approx(t, rel=1e-9)


def test_where_it_ends() -> None:
    assert (of(VESDE()).t_min, of(VESDE()).t_end) == (0.0, 0.0)
    assert (of(VPSDE()).t_min, of(VPSDE()).t_end) == (1e-5, 1e-3)


def test_it_samples_under_inference_mode() -> None:
    data = Gaussian(torch.ones(2).double(), torch.tensor(0.25).double())
    model = data.under(of(VPSDE()))
    with torch.inference_mode():
        x = ReverseSampler(model.sde, model, "unipc_2", steps=20).sample((2000, 2), seed=0)
    assert float((x.mean() - 1).abs()) < 0.03 and float((x.std() - 0.5).abs()) < 0.02


def sine(t: Tensor) -> tuple[Tensor, Tensor]:
    return 1.0 - t, 0.1 + torch.sin(9 * t) ** 2


@pytest.mark.parametrize(
    ("schedule", "error", "words"),
    [
        (3, TypeError, "schedule: expected a function of time"),
        (lambda t: t, TypeError, "schedule: expected two tensors"),
        (lambda t: (1.0, t), TypeError, "schedule: alpha"),
        (lambda t: (1.0 - t, 0.1 + t), ValueError, "schedule: alpha: expected positive"),
        (lambda t: (0.1 + t, 1.1 - t), ValueError, "expected a log-SNR that falls"),
        (lambda t: (1.1 - t, sine(t)[1]), ValueError, "one that rises at t = 0."),
    ],
)
def test_schedules_that_are_none(schedule: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ScheduleSDE(schedule)
