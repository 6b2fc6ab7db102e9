"""Denoising score matching."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from scoresde._check import fail, finite, floating, instance
from scoresde._tensor import Scalar, expand, lincomb, state_dtype
from scoresde.cond import Cond, check_cond, without
from scoresde.losses.drawn import Drawn, affine_of, moved
from scoresde.losses.times import TIME, TimeSampler
from scoresde.losses.weightings import WEIGHTING, weighting_of
from scoresde.model import ScoreModel, summary_of
from scoresde.node import Node
from scoresde.prediction import COORDINATES

__all__ = ["dsm_loss"]


def dsm_loss(
    model: ScoreModel,
    x0: Tensor,
    *,
    weighting: str | Callable[[Node], Scalar] = WEIGHTING,
    time: TimeSampler | None = None,
    cond: Cond = None,
    cond_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Denoising score matching: w(t) |score_theta(t, x_t) + eps / sigma(t)|^2 for each sample.

    The error is computed in the model's own coordinate and scaled to that of the weighting, so
    nothing is divided by a small alpha or sigma. Vincent 2011; Song et al. 2021 (arXiv
    2011.13456), eq. 7.

    Args:
        model: the score model, of an affine SDE.
        x0: (B, *D) data in model units.
        weighting: a key of `WEIGHTINGS`, or w(node) on the squared error of eps.
        time: the distribution of times. The default `TIME` is log-normal around the scale of
            the data, if the model has it, with low discrepancy within the batch.
        cond: conditions, name -> (B, ...).
        cond_dropout: the probability that a sample's conditions are replaced by the model's
            `null`. Of several, a random part is replaced with the same probability again, so that
            samples can be drawn given any of them.
        generator: a CPU generator; the global one by default.

    Returns:
        (B,) losses, means over the dimensions; call `.mean()` for a training loss.

    Raises:
        TypeError, ValueError: x0 is not floating or is empty, the SDE is not affine, a name is
            unknown, or a probability is outside [0, 1].

    Example:
        >>> from scoresde import VPSDE, GaussianMixture
        >>> oracle = GaussianMixture(torch.zeros(1, 2), torch.ones(1)).under(VPSDE())
        >>> dsm_loss(oracle, torch.randn(8, 2)).shape
        torch.Size([8])
    """
    instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
    sde = affine_of(model.sde)
    if floating("x0", x0).ndim < 2 or x0.numel() == 0:
        raise fail("x0", "a non-empty batch of shape (B, *D)", x0, "add a batch axis")
    kind, weigh = weighting_of(weighting)
    time = TIME if time is None else time
    instance("time", time, TimeSampler, "pass LogNormalTime(), UniformTime(), ...")
    data = summary_of(model)
    scale = getattr(model, "sigma_data", None) if data is None else data.std
    if scale:
        time = time.fitted(scale)
    if generator is not None:
        instance("generator", generator, torch.Generator, "pass torch.Generator()")
    x0, cond = x0.to(state_dtype(x0.dtype)), check_cond(model, cond, len(x0), x0.device)
    _check_dropout(model, cond, cond_dropout)
    drawn, importance = time.sample(sde, len(x0), generator)
    node = Drawn(sde, drawn, x0)
    eps = _normal_like(x0, generator)
    x = lincomb((node.alpha, x0), (node.sigma, eps))
    prediction = model.predict(node, x, _drop(model, cond, cond_dropout, generator))
    p, q = COORDINATES[prediction.kind](node)
    value = prediction.value.to(x0.dtype)
    target = eps if prediction.kind == "eps" else lincomb((q, eps), (p, x0))
    error = mse_loss(value, target, reduction="none").flatten(1).mean(1)
    scale = prediction.coefficients(kind)[1]
    for factor in (weigh(node) * scale**2, importance):
        if isinstance(factor, Tensor):
            error = error * moved(factor, error).to(error.dtype).flatten()
        elif factor is not None and factor != 1.0:
            error = error * factor
    return error


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return torch.randn_like(x)
    return moved(torch.randn(x.shape, generator=generator, device="cpu", dtype=x.dtype), x)


def _check_dropout(model: ScoreModel, cond: Cond, probability: float) -> None:
    if not 0.0 <= finite("cond_dropout", probability, "pass e.g. 0.1") <= 1.0:
        raise fail("cond_dropout", "a probability in [0, 1]", probability, "pass e.g. 0.1")
    missing = sorted(set(cond or {}) - set(model.nulls))
    if missing and probability:
        remedy = "name the value that means 'no condition' in Preconditioned(..., null=...)"
        raise fail("cond", f"conditions among {sorted(model.nulls)}", missing, remedy)


def _drop(
    model: ScoreModel, cond: Cond, probability: float, generator: torch.Generator | None
) -> Cond:
    """Replace conditions of a sample by the model's `null`.

    All of them with this probability, and of several a random part with the same probability
    again: from 1 to all but 1 are left, every number and every choice equally often. A mask goes
    with its set.
    """
    if not cond or probability == 0.0:
        return cond
    n = next(iter(cond.values())).shape[0]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device="cpu")

    stems = {name: name.removesuffix("_mask") for name in cond}
    stems = {name: stem if stem in cond else name for name, stem in stems.items()}
    several = list(dict.fromkeys(stems.values()))
    u = uniform(n, 1)
    gone = (u < probability).expand(n, len(several))
    if len(several) > 1:
        part = (u >= probability) & (u < 2 * probability)
        left = 1 + (uniform(n, 1) * (len(several) - 1)).long()
        gone = gone | (part & (uniform(n, len(several)).argsort(1).argsort(1) >= left))
    empty = without(cond, model.nulls)

    def replaced(name: str, value: Tensor) -> Tensor:
        drop = gone[:, several.index(stems[name])]
        return torch.where(expand(moved(drop, value), value), empty[name], value)

    return {name: replaced(name, value) for name, value in cond.items()}
