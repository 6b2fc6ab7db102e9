"""Denoisers of sigma: k-diffusion's and EDM's conventions, and EDM's sampler written out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from foreign import Features, randn
from torch import Tensor, nn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    Gaussian,
    GaussianMixture,
    Heun,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    load,
    save,
)
from scoresde.adapters import from_azula, from_denoiser, from_edm, to_denoiser
from scoresde.noise import Independent
from scoresde.schedule import churn
from scoresde.schedule.grid import karras

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


class EDMPrecond(nn.Module):
    """Karras et al. 2022, eq. 7, as their code calls it: net(x, sigma, class_labels)."""

    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, label_dim: int = 0, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.model, self.label_dim, self.sigma_data = Features(), label_dim, sigma_data
        self.embed = nn.Parameter(randn(max(label_dim, 1), seed=5))

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
        s = self.sigma_data
        c_skip, c_out = s**2 / (sigma**2 + s**2), sigma * s / (sigma**2 + s**2).sqrt()
        c_in, c_noise = 1 / (s**2 + sigma**2).sqrt(), sigma.log() / 4
        raw = self.model(c_in * x, c_noise.flatten())
        if self.label_dim and class_labels is not None:
            raw = raw + (class_labels @ self.embed).view(-1, *[1] * (x.ndim - 1))
        return c_skip * x + c_out * raw


@pytest.mark.parametrize("sde", [EDMSDE(), VESDE()], ids=repr)
@pytest.mark.parametrize("sigma", [0.02, 1.0, 49.0])
def test_a_denoiser_is_told_sigma(sde: Any, sigma: float) -> None:
    net, x = EDMPrecond(), 10.0 * randn(3, 1, 4)
    told = torch.full((3,), sigma, dtype=torch.float64)
    expected = net(x, told)
    t = sde.time_of(-math.log(sigma))
    for model in (from_denoiser(net, sde), from_edm(net, sde)):
        torch.testing.assert_close(model(t, x).x0, expected, **EXACT)
        each = model(torch.full((3,), t, dtype=torch.float64), x)
        torch.testing.assert_close(each.x0, expected, **EXACT)
        torch.testing.assert_close(each.score, (expected - x) / sigma**2, rtol=1e-10, atol=1e-10)


def test_it_is_not_told_the_log_snr() -> None:
    """At VESDE the time is not sigma: a denoiser that is told t or log sigma answers otherwise."""
    net, x, sde = EDMPrecond(), randn(3, 1, 4), VESDE()
    ours = from_denoiser(net, sde)(0.5, x).x0
    for wrong in (0.5, abs(sde.log_snr(0.5))):
        other = net(x, torch.full((3,), wrong, dtype=torch.float64))
        assert float((other - ours).detach().abs().max()) > 1e-3


def test_the_same_network_preconditioned_here() -> None:
    net, x = EDMPrecond(), 3.0 * randn(3, 1, 4)
    here = Preconditioned(net.model, EDMSDE(), "edm", sigma_data=0.5)
    for t in (0.01, 1.0, 60.0):
        torch.testing.assert_close(from_edm(net)(t, x).x0, here(t, x).x0, **EXACT)


def test_labels_are_one_hot_there_and_numbers_here() -> None:
    net, x = EDMPrecond(label_dim=3), randn(3, 1, 4)
    model = from_edm(net)
    label = torch.tensor([2, -1, 0])
    hot = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    told = torch.full((3,), 2.0, dtype=torch.float64)
    torch.testing.assert_close(model(2.0, x, {"label": label}).x0, net(x, told, hot), **EXACT)
    torch.testing.assert_close(model(2.0, x).x0, net(x, told, 0 * hot), **EXACT)
    assert dict(model.nulls) == {"label": -1}
    sampler = ReverseSampler(model.sde, model, "ddim", steps=3)
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        sampler.sample((2, 1, 4), seed=0, cond={"label": torch.tensor([0, 3])})
    plain = from_edm(EDMPrecond())
    with pytest.raises(ValueError, match="label"):
        ReverseSampler(plain.sde, plain, "ddim", steps=3).sample(
            (3, 1, 4), seed=0, cond={"label": label}
        )


def edm_sampler(net: Any, x: Tensor, n: int, s_churn: float, draws: list[Tensor]) -> Tensor:
    """Algorithm 2 of Karras et al. 2022, with S_noise = 1, S_min = 0.05 and S_max = 50."""
    low, high, rho = 0.002, 80.0, 7.0
    ramp = [i / (n - 1) for i in range(n)]
    steps = [(high ** (1 / rho) + r * (low ** (1 / rho) - high ** (1 / rho))) ** rho for r in ramp]
    steps.append(0.0)
    for i in range(n):
        now, nxt = steps[i], steps[i + 1]
        gamma = min(s_churn / n, math.sqrt(2) - 1) if 0.05 <= now <= 50.0 else 0.0
        hat = now + gamma * now
        if gamma:
            x = x + math.sqrt(hat**2 - now**2) * draws.pop(0)
        d = (x - net(x, torch.full((len(x),), hat, dtype=x.dtype))) / hat
        ahead = x + (nxt - hat) * d
        if nxt:
            d_next = (ahead - net(ahead, torch.full((len(x),), nxt, dtype=x.dtype))) / nxt
            ahead = x + (nxt - hat) * (d + d_next) / 2
        x = ahead
    return x


@pytest.mark.parametrize("s_churn", [0.0, 4.0, 40.0])
def test_heun_with_18_nodes_is_the_sampler_of_edm(s_churn: float) -> None:
    """17 steps of Heun, and the denoising, which is their Euler step to sigma = 0.

    Their gamma is S_churn / 18, since they count the last step, and ours amount / 17.
    """
    net, n = EDMPrecond().requires_grad_(False), 18
    model = from_edm(net)
    grid = karras(model.sde, n - 1)
    assert (grid.start, grid.end) == (80.0, pytest.approx(0.002))
    grid = churn(model.sde, grid, s_churn * (n - 1) / n, t_min=0.05, t_max=50.0)
    x, noise = 80.0 * randn(4, 1, 8), Independent(7)
    again = range(1, len(grid.segments))
    draws = [noise.on_segment(k).stream("renoise").draw(x) for k in again]
    assert bool(draws) == bool(s_churn)
    expected = edm_sampler(net, x, n, s_churn, list(draws))
    sampler = ReverseSampler(model.sde, model, Heun("rho"), grid=grid)
    found = sampler.solve((4, 1, 8), x_init=x, noise=noise)
    assert found.nfe == 2 * n - 1
    assert float((found.x - expected).abs().max()) < 1e-6


def test_a_denoiser_is_saved_and_loaded(tmp_path: Path) -> None:
    """The weights and the conventions are stored; the code of the network is given to load."""
    net, x = EDMPrecond(label_dim=3), randn(3, 1, 4)
    model, label = from_edm(net, VESDE()), torch.tensor([2, -1, 0])
    folder = save(model, tmp_path / "edm")
    other = EDMPrecond(label_dim=3)
    with torch.no_grad():
        other.embed.zero_()
    again = load(folder, net=from_edm(other).net)
    expected = model(0.5, x, {"label": label}).x0
    assert torch.equal(again(0.5, x, {"label": label}).x0, expected)
    assert again.sde == VESDE() and dict(again.nulls) == {"label": -1}
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        again.admit({"label": torch.tensor([3, 0, 0])})
    for kind in (from_denoiser, from_edm):
        plain = kind(EDMPrecond())
        back = load(save(plain, tmp_path / "plain"), net=kind(EDMPrecond()).net)
        assert torch.equal(back(1.0, x).x0, plain(1.0, x).x0)
    with pytest.raises(ValueError, match=r"net: .* pass it through its adapter, e.g. load\("):
        load(folder)
    with pytest.raises(TypeError, match=r"net: expected a network in its adapter.*EDMPrecond"):
        load(folder, net=EDMPrecond(label_dim=3))
    with pytest.raises(ValueError, match=r"unexpected: module\.embed"):
        load(folder, net=from_edm(nn.Linear(1, 1)).net)


def test_a_denoiser_of_azula_is_saved_with_the_values_of_its_schedule(tmp_path: Path) -> None:
    class Azula(nn.Module):
        def __init__(self, floor: float = 0.001) -> None:
            super().__init__()
            self.inner, self.floor = Features(), floor

        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones_like(t), self.floor + t

        def forward(self, x: Tensor, t: Tensor) -> Any:
            return SimpleNamespace(mean=self.inner(x, t))

    model, x = from_azula(Azula()), randn(3, 1, 4)
    folder = save(model, tmp_path / "azula")
    again = from_azula(Azula())
    loaded = load(folder, net=again.net, sde=again.sde)
    assert torch.equal(loaded(0.5, x).x0, model(0.5, x).x0)
    other = from_azula(Azula(0.01))
    with pytest.raises(ValueError, match=r"sde: expected .* as in the checkpoint"):
        load(folder, net=other.net, sde=other.sde)


# The other way


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), EDMSDE()], ids=repr)
def test_a_score_model_as_denoiser(sde: Any) -> None:
    """The exact denoiser of a mixture, at x_0 + sigma eps, whatever the SDE of the model."""
    data = GaussianMixture(randn(3, 2).double(), torch.full((3,), 0.3, dtype=torch.float64))
    x, sigma = randn(5, 2, seed=3), torch.tensor([0.02, 0.3, 1.0, 5.0, 20.0]).double()
    expected = data.under(EDMSDE())(sigma, x).x0
    denoiser = to_denoiser(data.under(sde))
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoiser(x, 1.0)[2], expected[2], rtol=1e-9, atol=1e-9)
    assert denoiser.sigma_min < 0.02 and denoiser.sigma_max > 20.0


def test_there_and_back() -> None:
    net, x = EDMPrecond(), randn(3, 1, 4)
    model = from_edm(net)
    back = from_denoiser(to_denoiser(model))
    assert back.sde == model.sde
    for t in (0.002, 1.0, 80.0):
        torch.testing.assert_close(back(t, x).x0, model(t, x).x0, **EXACT)


# Bad input


def test_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "edm.pkl", str(tmp_path / "edm.pkl")):
        for make in (from_edm, from_denoiser):
            with pytest.raises(TypeError, match="a pickle can run any code when it is read"):
                make(path)  # type: ignore[operator]
    with pytest.raises(
        TypeError, match="got a table of ema, augment_pipe; pass the network in it"
    ):
        from_edm({"ema": 0, "augment_pipe": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="net: expected a network or a function"):
        from_edm(3)  # type: ignore[arg-type]


def test_other_faults_are_named() -> None:
    net = EDMPrecond()
    with pytest.raises(ValueError, match="an SDE with alpha = 1"):
        from_denoiser(net, VPSDE())
    with pytest.raises(TypeError, match="sde: expected an AffineSDE"):
        from_denoiser(net, SDE(lambda t, x: x, lambda t: 1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a tensor or an output with"):
        from_denoiser(lambda x, sigma: None)(1.0, randn(2, 2))
    with pytest.raises(ValueError, match="one value per entry of x"):
        from_denoiser(lambda x, sigma: x[:, :1])(1.0, randn(2, 2))
    with pytest.raises(ValueError, match=r"0.001 <= noise/signal <= 152"):
        to_denoiser(Gaussian(torch.zeros(2), torch.tensor(1.0)).under(VPSDE()))(randn(2, 2), 200.0)
    with pytest.raises(ValueError, match="sde: expected the model's own"):
        ReverseSDE(EDMSDE(0.01, 80.0), from_edm(net))


def test_the_range_of_noise_is_that_of_the_network() -> None:
    net = EDMPrecond()
    net.sigma_min, net.sigma_max = 0.01, 50.0  # type: ignore[misc]
    assert from_edm(net).sde == from_denoiser(net).sde == EDMSDE(0.01, 50.0)
    assert from_denoiser(lambda x, sigma: x).predicts == "x0"


def test_a_network_of_float32_gets_float32() -> None:
    """k-diffusion leaves the precision to the caller; EDM's networks convert for themselves."""
    net = EDMPrecond().float()
    found = from_denoiser(net)(1.0, randn(2, 1, 4)).x0
    assert found.dtype == torch.float64
    seen = []
    from_edm(lambda x, sigma: seen.append(x.dtype) or x)(1.0, randn(2, 1, 4))
    assert seen == [torch.float64]
