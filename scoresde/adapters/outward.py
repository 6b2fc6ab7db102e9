"""Score models in the conventions of other libraries: denoisers of sigma, and velocities."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import fail, instance
from scoresde._tensor import expand, wide
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE, as_affine

__all__ = ["ToDenoiser", "ToVelocity", "levels", "prediction_at", "to_denoiser", "to_velocity"]


def prediction_at(
    model: ScoreModel, x: Tensor, signal: Tensor, noise: Tensor, argument: str, cond: Cond = None
) -> Prediction:
    """The prediction at x = signal x_0 + noise eps, whatever the scale of the model's own SDE.

    The model is asked at the time of the same signal-to-noise ratio, for the state in its own
    scale; x_0 and eps of the answer are those of x.

    Args:
        model: a score model of an affine SDE.
        x: (B, *D).
        signal, noise: (B,), not both 0.
        argument: the name of the level in an error.
        cond: conditions for the model.

    Raises:
        ValueError: on a CPU, a ratio is outside those of the model.
    """
    sde: AffineSDE = model.sde  # type: ignore[assignment]  # as the callers have checked
    log_snr = signal.log() - noise.log()
    if log_snr.device.type == "cpu":
        low, high = (float(end) for end in log_snr.detach().aminmax())
        least, most = sde.log_snr(sde.T), sde.log_snr(sde.t_min)
        if not least - 1e-6 <= low <= high <= most + 1e-6:
            expected = "a level at which the model is defined, "
            expected += (
                f"{math.exp(-most):.3g} <= noise/signal <= {math.exp(min(-least, 700)):.3g}"
            )
            got = f"noise/signal from {math.exp(-high):.3g} to {math.exp(min(-low, 700)):.3g}"
            raise fail(argument, expected, got, "start and end within its schedule")
    times = sde.time_of(log_snr).clamp(sde.t_min, sde.T)
    node = sde.at(times, like=x)
    scale = torch.hypot(wide(sde.alpha(times)), wide(sde.sigma(times)))
    scale = scale / torch.hypot(signal, noise)
    return model.predict(node, expand(scale, x).to(x) * x, cond)


def levels(value: Tensor | float, x: Tensor) -> Tensor:
    """A level, or one a sample in any shape, as (B,) in float64."""
    column = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    column = column.float() if x.device.type == "mps" else column
    return wide(column.flatten().to(x.device)).expand(x.shape[0])


@final
class ToDenoiser(nn.Module):
    """A score model as denoiser(x, sigma, cond); see `to_denoiser`.

    Attributes:
        sigma_min, sigma_max: the noise levels of the model, at t_min and T.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        sde = as_affine("model.sde", model.sde, "a denoiser of sigma needs alpha and sigma")
        self.model = model
        first, last = sde.at(sde.t_min), sde.at(sde.T)
        self.sigma_min = first.sigma / first.alpha
        self.sigma_max = last.sigma / last.alpha if last.alpha else math.inf

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond = None) -> Tensor:
        """x_0hat at x: (B, *D) with noise of sigma, a number or (B,)."""
        noise = levels(sigma, x)
        return prediction_at(self.model, x, torch.ones_like(noise), noise, "sigma", cond).x0


@final
class ToVelocity(nn.Module):
    """A score model as a velocity of the straight path; see `to_velocity`."""

    def __init__(self, model: ScoreModel, time_first: bool) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        as_affine("model.sde", model.sde, "a velocity of the straight path needs alpha and sigma")
        self.model = model
        self.time_first = time_first

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond = None) -> Tensor:
        """u(x, t), or u(t, x), at x: (B, *D) and t, a number or (B,)."""
        if self.time_first:
            x, t = t, x  # type: ignore[assignment]  # the order of torchcfm
        signal = levels(t, x)
        prediction = prediction_at(self.model, x, signal, 1.0 - signal, "t", cond)
        return prediction.x0 - prediction.eps


def to_denoiser(model: ScoreModel) -> ToDenoiser:
    """A score model as denoiser(x, sigma, cond=None), which the samplers of k-diffusion take.

    x = x_0 + sigma eps, whatever the SDE of the model. Their `extra_args={"cond": {...}}` passes
    conditions.

    Args:
        model: a score model of an affine SDE.

    Raises:
        TypeError: the SDE is not affine.
        ValueError: when called, a noise level is outside those of the model.

    Example:
        >>> from scoresde import VPSDE, FunctionScore
        >>> denoiser = to_denoiser(FunctionScore(VPSDE(), lambda t, x: -x))  # of unit data
        >>> denoiser(torch.ones(1, 2, dtype=torch.float64), 2.0).round(decimals=6)
        tensor([[0.2000, 0.2000]], dtype=torch.float64)
    """
    return ToDenoiser(model)


def to_velocity(model: ScoreModel, *, time_first: bool = False) -> ToVelocity:
    """A score model as the velocity u(x, t) of the straight path from noise to data.

    x = t x_1 + (1 - t) x_0 with noise x_0 at t = 0 and data x_1 at t = 1, as in flow_matching and
    torchcfm, whatever the SDE of the model; u = E[x_1 - x_0 | x]. A model whose SDE ends before
    pure noise has no velocity near t = 0.

    Args:
        model: a score model of an affine SDE.
        time_first: whether it is called as u(t, x), as in torchcfm.

    Raises:
        TypeError: the SDE is not affine.
        ValueError: when called, a time is outside the noise levels of the model.

    Example:
        >>> from scoresde import FlowSDE, Gaussian
        >>> data = Gaussian(torch.ones(2).double(), torch.tensor(0.25).double())
        >>> to_velocity(data.under(FlowSDE(T=1.0)))(torch.zeros(1, 2).double(), 0.5)
        tensor([[1.6000, 1.6000]], dtype=torch.float64)
    """
    return ToVelocity(model, time_first)
