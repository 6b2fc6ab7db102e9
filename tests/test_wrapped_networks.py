"""Compiled, parallel and complex networks are scored, trained, saved and copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from entries import ENTRIES, SDE, a_model, compiled, parallel, some_data, wrapped
from groups import estimated
from torch import Tensor, nn

from scoresde import Preconditioned, ReverseSampler, Trainer, load, log_prob, save
from scoresde.nets import MLP
from scoresde.options import Optim, Tolerances

# Compiled and parallel networks


@pytest.mark.parametrize("wrap", [compiled, parallel])
def test_a_wrapped_network_answers_as_it_is(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrapped(wrap)
    for entry, call in ENTRIES.items():
        got = call(model, some_data())
        assert torch.allclose(got, call(a_model(), some_data()), atol=1e-5), entry


@pytest.mark.parametrize("divergence", ["hutchinson", "exact", "hutch++"])
def test_a_compiled_network_is_scored_at_any_batch_size(divergence: str) -> None:
    model, x = wrapped(compiled), some_data(7)
    options = dict(rtol=0.1, atol=0.1, divergence=divergence, probes=4)
    ReverseSampler(SDE, model, "ddim", steps=2).sample((4, 2), seed=0)
    truth = log_prob(a_model(), x, **estimated(**options)).nats
    for size in (7, 3):
        got = log_prob(model, x, batch_size=size, **estimated(**options)).nats
        assert torch.allclose(got, truth, atol=1e-5)


@pytest.mark.parametrize("wrap", [compiled, parallel])
def test_a_wrapped_network_is_saved_as_the_one_inside(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = wrapped(wrap, classes=3)
    plain = load(save(model, tmp_path / "a"))
    assert isinstance(plain, Preconditioned) and isinstance(plain.net, MLP)
    cond = {"label": torch.tensor([0, 1, 2])}
    x = some_data()
    assert torch.allclose(plain(0.5, x, cond).eps, model(0.5, x, cond).eps, atol=1e-6)
    again = load(tmp_path / "a", net=wrap(MLP(2, width=16, depth=1, classes=3)))
    assert torch.allclose(again(0.5, x, cond).eps, model(0.5, x, cond).eps, atol=1e-6)
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        ReverseSampler(SDE, model).sample((3, 2), cond={"label": torch.tensor([1, 2, 3])})


@pytest.mark.parametrize("wrap", [compiled, parallel])
def test_a_wrapped_network_is_trained_and_copied(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    truth = Trainer(a_model(), some_data(9), steps=2).fit()
    got = Trainer(wrapped(wrap), some_data(9), steps=2, out=tmp_path / "run").fit()
    read = load(tmp_path / "run")
    for a, b, c in zip(truth.parameters(), got.parameters(), read.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5) and torch.equal(b, c)


# Weights of complex numbers


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(9, dtype=torch.complex64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=16)
        return out


def test_complex_weights_are_trained_saved_and_scored(tmp_path: Path) -> None:
    model, x = Preconditioned(Spectral(), SDE), torch.randn(20, 1, 16)
    trained = Trainer(model, x, steps=3, optim=Optim(batch_size=8), out=tmp_path / "run").fit()
    assert isinstance(trained, Preconditioned)
    again = load(tmp_path / "run", net=Spectral())
    assert torch.equal(again(0.5, x).eps, trained(0.5, x).eps)
    assert ReverseSampler(SDE, trained, steps=3).sample((2, 1, 16), seed=0).dtype == torch.float32
    assert log_prob(trained, x[:2], tolerances=Tolerances(0.1, 0.1)).nats.isfinite().all()
    again = Trainer(model, x, steps=4, optim=Optim(batch_size=8), out=tmp_path / "run")
    again.fit(resume=True)
