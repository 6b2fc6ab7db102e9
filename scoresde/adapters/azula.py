"""Denoisers of azula as score models, and score models as denoisers of azula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from scoresde._check import instance, need, refuse, wrong_type
from scoresde._tensor import wide
from scoresde.adapters.network import Called, tensor_of
from scoresde.adapters.schedule import ScheduleSDE
from scoresde.model import Preconditioned, ScoreModel
from scoresde.sde import AffineSDE, as_affine, fingerprint, same_schedule

__all__ = ["from_azula", "to_azula"]


def from_azula(
    denoiser: Any,  # of azula, which is optional
    sde: AffineSDE | None = None,
    *,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """A `Denoiser` of azula, denoiser(x_t, t, **cond) with .mean, as a score model.

    Its schedule becomes a `ScheduleSDE` with the same alpha and sigma. azula's schedules keep
    noise of `sigma_min` at t = 0, and its `VPSchedule` is not `VPSDE`: alpha(1) = 0.001.

    Args:
        denoiser: a `Denoiser`, or an object with a `schedule` that is called in the same way.
        sde: an SDE of the same schedule, in closed form; by default that of the denoiser.
        null: the values that mean "no condition", by name.

    Raises:
        TypeError: the denoiser is not callable or has no schedule.
        ValueError: `sde` has another schedule; the message says where they differ.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> class Unit:  # the denoiser of N(0, 1) data
        ...     def schedule(self, t):
        ...         return torch.ones_like(t), 0.001 + t
        ...
        ...     def __call__(self, x, t):
        ...         return SimpleNamespace(mean=x / (1 + (0.001 + t[:, None]) ** 2))
        >>> round(from_azula(Unit()).score(0.999, torch.ones(1, 2))[0, 0].item(), 6)
        -0.5
    """
    schedule: Any = getattr(denoiser, "schedule", None)
    if not callable(denoiser) or not callable(schedule):
        remedy = "pass a denoiser of azula, with its schedule"
        raise wrong_type("denoiser", "a Denoiser of azula", denoiser, remedy)
    own: AffineSDE = ScheduleSDE(schedule)
    if sde is not None:
        as_affine("sde", sde, "leave it out, for that of the denoiser")
        remedy = "leave sde out, for the schedule of the denoiser"
        same_schedule(sde, fingerprint(own), "sde", "denoiser", remedy, refuse)
        own = sde

    def call(azula: Callable[..., Any], x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return tensor_of(azula(x, t, **cond), "mean", "denoiser")

    return Preconditioned(Called(denoiser, call, casts=True), own, "x0", "t", null=null or {})


def to_azula(model: ScoreModel) -> Any:  # of azula, which is optional
    """A score model as a `Denoiser` of azula, which its samplers take.

    Times are scaled to [0, 1], as azula has them: t T here. Conditions are keyword arguments.

    Args:
        model: a score model of an affine SDE.

    Raises:
        ImportError: azula is not installed.
        TypeError: the SDE is not affine.
    """
    instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
    sde = as_affine("model.sde", model.sde, "azula's schedules are alpha and sigma")
    denoise, noise = need("azula.denoise", ""), need("azula.noise", "")

    class SDESchedule(noise.Schedule):  # type: ignore[misc, name-defined]  # of azula
        """alpha and sigma of an SDE, at times of [0, 1]."""

        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            times = wide(t) * sde.T
            return sde.alpha(times).to(t), sde.sigma(times).to(t)

    class ScoreDenoiser(denoise.Denoiser):  # type: ignore[misc, name-defined]  # of azula
        """x_0hat of a score model."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.schedule = SDESchedule()

        def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Any:  # of azula
            times = (wide(t) * sde.T).expand(x_t.shape[0])
            return denoise.DiracPosterior(mean=model(times, x_t, cond or None).x0)

    return ScoreDenoiser()
