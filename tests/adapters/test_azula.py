"""Denoisers of azula: a stand-in with its calling convention, and the library itself."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from foreign import Features, randn
from torch import Tensor, nn

from scoresde import VESDE, VPSDE, FlowSDE, GaussianMixture, ReverseSampler
from scoresde.adapters import from_azula, to_azula

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
X = randn(4, 2)
MIXTURE = GaussianMixture(randn(3, 2, seed=4), torch.full((3,), 0.2, dtype=torch.float64))


class Schedule:
    """As azula's VPSchedule: alpha(1) = 0.001, and noise of 0.001 at t = 0."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.exp(-6.907755278982137 * t**2)
        return alpha, torch.sqrt(1 - alpha**2 + 1e-6)


class Denoiser(nn.Module):
    """As azula's KarrasDenoiser: denoiser(x_t, t, **cond) with .mean."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.schedule = Features(2), Schedule()

    def forward(self, x_t: Tensor, t: Tensor, shift: Tensor | None = None) -> SimpleNamespace:
        alpha, sigma = (v.reshape(-1, *[1] * (x_t.ndim - 1)) for v in self.schedule(t))
        scale = alpha**2 + sigma**2
        raw = self.backbone(x_t * scale.rsqrt(), (sigma / alpha).log().flatten())
        mean = alpha / scale * x_t + sigma * scale.rsqrt() * raw
        return SimpleNamespace(mean=mean if shift is None else mean + shift)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.9, 1.0])
def test_the_mean_is_x0(t: float) -> None:
    denoiser = Denoiser()
    model = from_azula(denoiser)
    times = torch.full((4,), t, dtype=torch.float64)
    alpha, sigma = denoiser.schedule(times[:1])
    expected = denoiser(X, times).mean
    torch.testing.assert_close(model(t, X).x0, expected, **EXACT)
    torch.testing.assert_close(model(times, X).x0, expected, **EXACT)
    assert model.sde.alpha(t) == float(alpha) and model.sde.sigma(t) == float(sigma)
    score = (alpha * expected - X) / sigma**2
    torch.testing.assert_close(model.score(t, X), score, rtol=1e-8, atol=1e-8)


def test_conditions_and_precision() -> None:
    model = from_azula(Denoiser())
    torch.testing.assert_close(model(0.5, X, {"shift": X}).x0, model(0.5, X).x0 + X, **EXACT)
    sampler = ReverseSampler(model.sde, model, "ddim", steps=3)
    with pytest.raises(ValueError, match="did you mean 'shift'"):
        sampler.sample((4, 2), seed=0, cond={"shif": X})
    seen = []
    half = SimpleNamespace(schedule=Schedule())
    caller = type("D", (), {"schedule": Schedule(), "__call__": lambda s, x, t: _seen(seen, x)})
    from_azula(caller())(0.5, X)
    assert seen == [torch.float64]
    with pytest.raises(TypeError, match="denoiser: expected a Denoiser of azula"):
        from_azula(half)


def _seen(kinds: list[torch.dtype], x: Tensor) -> SimpleNamespace:
    kinds.append(x.dtype)
    return SimpleNamespace(mean=x)


def test_another_sde_is_refused_with_the_difference() -> None:
    with pytest.raises(ValueError, match=r"sde: expected .* = \S+ at t = \S+, as in the denoiser"):
        from_azula(Denoiser(), VPSDE())


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azula", None)
    monkeypatch.setitem(sys.modules, "azula.denoise", None)
    with pytest.raises(ImportError, match="pip install azula"):
        to_azula(MIXTURE.under(VPSDE()))
    with pytest.raises(TypeError, match="model: expected a ScoreModel"):
        to_azula(Denoiser())  # type: ignore[arg-type]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with the classes of azula that `to_azula` needs."""
    package, denoise, noise = (ModuleType(f"azula{n}") for n in ("", ".denoise", ".noise"))
    denoise.Denoiser, denoise.DiracPosterior = nn.Module, SimpleNamespace  # type: ignore[attr-defined]
    noise.Schedule = object  # type: ignore[attr-defined]
    for module in (package, denoise, noise):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), FlowSDE()], ids=repr)
def test_there_and_back(sde: Any, stand_in: None) -> None:
    model = MIXTURE.under(sde)
    back = from_azula(to_azula(model), None if sde.t_min else sde)
    for t in (0.1, 0.6, 1.0):
        at = t * sde.T
        torch.testing.assert_close(back(t, X).x0, model(at, X).x0, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(back.score(t, X), model.score(at, X), rtol=1e-8, atol=1e-8)


# The library itself


@pytest.fixture(scope="module")
def azula() -> Any:
    pytest.importorskip("azula", reason="pip install azula")
    return pytest.importorskip("azula.sample", reason="pip install azula")


SCHEDULES = ["VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule"]


class Backbone(nn.Module):
    """A network with the time of one batch or of each sample, as those of azula."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Features(2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.inner(x, t.expand(len(x)))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["SimpleDenoiser", "KarrasDenoiser"])
def test_a_denoiser_of_azula(azula: Any, name: str, kind: str) -> None:
    from azula import denoise, noise

    denoiser = getattr(denoise, kind)(Backbone(), getattr(noise, name)())
    model = from_azula(denoiser)
    for t in (0.0, 0.3, 0.8, 1.0):
        times = torch.full((4,), t, dtype=torch.float64)
        expected = denoiser(X, times).mean
        torch.testing.assert_close(model(t, X).x0, expected, **EXACT)
        torch.testing.assert_close(model(times, X).x0, expected, **EXACT)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_of_azula_is_ours_on_its_grid(azula: Any, name: str) -> None:
    from azula import denoise, noise

    denoiser = denoise.KarrasDenoiser(Backbone(), getattr(noise, name)()).requires_grad_(False)
    model, steps = from_azula(denoiser), 20
    start = float(model.sde.sigma(1.0)) * X
    expected = azula.DDIMSampler(denoiser, steps=steps, silent=True, dtype=torch.float64)(start)
    grid = [1 - k / steps for k in range(steps)] + [0.0]
    sampler = ReverseSampler(model.sde, model, "ddim", grid=grid, denoise=False)
    found = sampler.sample((4, 2), x_init=start)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=repr)
def test_a_sampler_of_azula_takes_our_model(azula: Any, sde: Any) -> None:
    """Its DDIM on an exact model is our DDIM on the same times."""
    model, steps = MIXTURE.under(sde), 20
    denoiser = to_azula(model)
    expected = azula.DDIMSampler(
        denoiser, start=1.0, stop=0.05, steps=steps, silent=True, dtype=torch.float64
    )(X)
    grid = [sde.T * (1 - 0.95 * k / steps) for k in range(steps + 1)]
    sampler = ReverseSampler(sde, model, "ddim", grid=grid, denoise=False)
    assert float((sampler.sample((4, 2), x_init=X) - expected).abs().max()) < 1e-5
