"""Operators, noises and posterior models on a simulated accelerator, and on a real one if asked.

A fake tensor raises where devices mix or the host would wait for the device. Operators hold their
tensors on the CPU, where they were made, and copy them once to the device of the state.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_operators import OPERATORS
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from scoresde import VPSDE, FunctionScore, Gaussian, ReverseSampler
from scoresde.measurement import GaussianNoise, Mask, Matrix, Measurement, PoissonNoise
from scoresde.measurement.noises import MeasurementNoise
from scoresde.noise import Independent
from scoresde.posterior import DDNM, DPS, ExactPosterior, RePaint

KNOWN = torch.tensor([True, False, True, True])


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_neither_mix_devices_nor_wait(name: str) -> None:
    make, shape = OPERATORS[name]
    operator = make()
    ready = operator.decomposable
    if ready:  # the singular values are computed once, on the CPU
        operator.gram_function(torch.sin, torch.zeros(1, *shape))
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, *shape, device="lazy")
        y = operator(x)
        outs = [y, operator.adjoint(y)]
        if ready:
            outs += [operator.gram_function(lambda s: 1 / (1 + s), x), operator.pinv(y)]
        assert all(out.device.type == "lazy" for out in outs)


COVARIANCE = torch.tensor([[1.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 1.0]])
NOISES: dict[str, Callable[[], MeasurementNoise | float | Tensor]] = {
    "number": lambda: 0.5,
    "deviations": lambda: torch.tensor([1.0, 2.0, 3.0]),
    "covariance": lambda: GaussianNoise(covariance=COVARIANCE),
    "poisson": lambda: PoissonNoise(0.5),
}


def measurement(name: str, shared: bool) -> Measurement:
    y = torch.tensor([1.0, torch.nan, 2.0]) if shared else None
    return Measurement(Mask(KNOWN), y, NOISES[name]())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", NOISES)
def test_measurements_neither_mix_devices_nor_wait(name: str, shared: bool) -> None:
    seen = measurement(name, shared)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 4, device="lazy")
        cond = None if shared else {"y": torch.empty(2, 3, device="lazy")}
        y, _ = seen.split(cond, x)
        outs = [y, seen.residual(x, y), seen.log_likelihood(x, y)]
        if seen.gaussian:
            outs += [seen.solve_noise(y, y), seen.apply_noise(y, y), seen.log_det_noise(y)]
        assert all(out.device.type == "lazy" for out in outs)


def test_samples_with_a_constraint_neither_mix_devices_nor_wait() -> None:
    sde = VPSDE()
    exact = Measurement(Mask(KNOWN), torch.ones(3), 0.0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 4, device="lazy")
        own = DDNM(FunctionScore(sde, lambda t, x: -x), exact)
        found = own.predict(sde.at(0.5), x)
        changed = RePaint(exact).of_batch(Independent(0), slice(0, 2), 2)(sde.at(0.5), x)
        assert found.x0.device.type == "lazy"
        assert changed is not None and changed.device.type == "lazy"


def test_a_guided_call_waits_for_the_device_once_in_eight() -> None:
    """Whether the run diverges is read back for several calls together."""
    sde = VPSDE()
    model = DPS(FunctionScore(sde, lambda t, x: -x), Measurement(Mask(KNOWN), torch.ones(3), 0.5))
    times = [1.0 - 0.1 * k for k in range(8)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 4, device="lazy")
        for t in times[:-1]:
            assert model.predict(sde.at(t), x).x0.device.type == "lazy"
        with pytest.raises(DataDependentOutputException):
            model.predict(sde.at(times[-1]), x)


PRIOR = Gaussian(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_give_the_same_on_every_device(name: str, device: torch.device) -> None:
    make, shape = OPERATORS[name]
    operator = make()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    here, there = operator(x), operator(x.to(device))
    assert there.device.type == device.type
    outs = [(here, there), (operator.adjoint(here), operator.adjoint(there))]
    if operator.decomposable:
        outs.append((operator.pinv(here), operator.pinv(there)))
    for a, b in outs:
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-4)


POSTERIORS: dict[str, Callable[[], tuple[Measurement, RePaint | None]]] = {
    "exact": lambda: (Measurement(Matrix(torch.ones(2, 4)), torch.ones(2), 0.5), None),
    "ddnm": lambda: (Measurement(Mask(KNOWN), torch.ones(3), 0.0), None),
    "repaint": lambda: (
        Measurement(Mask(KNOWN), torch.ones(3), 0.0),
        RePaint(Measurement(Mask(KNOWN), torch.ones(3), 0.0)),
    ),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_samples_do_not_depend_on_the_device(name: str, device: torch.device) -> None:
    seen, hook = POSTERIORS[name]()
    sde, outs = VPSDE(), []
    for place in (torch.device("cpu"), device):
        prior = PRIOR.under(sde)
        made = {"exact": lambda: ExactPosterior(PRIOR, sde, seen), "repaint": lambda p=prior: p}
        own = made.get(name, lambda p=prior: DDNM(p, seen))().to(place)
        sampler = ReverseSampler(sde, own, "ancestral", steps=5)
        outs.append(sampler.sample((3, 4), seed=0, on_step=hook, device=place))
    torch.testing.assert_close(outs[0], outs[1].cpu(), rtol=1e-4, atol=1e-4)
