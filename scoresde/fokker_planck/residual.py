"""The residual of a score model in the Fokker-Planck equation of the score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._check import choice, fail, finite, floating, instance, positive_int
from scoresde._tensor import Scalar, expand, ordinary, seeded, uncompiled, wide
from scoresde.cond import Cond, check_cond
from scoresde.model import ScoreModel

__all__ = ["score_fpe_residual"]

DIVERGENCES = ("exact", "hutchinson")


@uncompiled()
@ordinary
def score_fpe_residual(
    model: ScoreModel,
    t: Scalar,
    x: Tensor,
    cond: Cond = None,
    *,
    divergence: str = "exact",
    probes: int = 1,
    seed: int = 0,
    create_graph: bool = False,
) -> Tensor:
    """The residual of a score model in the Fokker-Planck equation of the score, at points.

    The gradient in x of the logarithm of the Fokker-Planck equation states that the scores of all
    marginals of one diffusion satisfy

        d s/dt = grad [g^2/2 (div s + |s|^2) - <f, s> - div f],

    and the residual is the left side minus the right, per unit of time and of x. It is zero for
    the exact score of any data; for a network it shows where in (t, x) its scores are not those of
    a diffusion. All derivatives are automatic, in the precision of x and the model
    (use `model.double()` for small residuals).

    Args:
        model: a score model of any SDE, smooth in t and x.
        t: a time, or one per sample (B,).
        x: (B, *D).
        cond: conditions for the model.
        divergence: "exact", D derivatives of the score; "hutchinson" estimates both divergences
            by Rademacher probes, without bias, at a cost that does not depend on D.
        probes: the number of Hutchinson probes that are averaged.
        seed: the seed of the probes.
        create_graph: keep the graph, to train with the residual as a regulariser.

    Returns:
        The residual, (B, *D).

    Raises:
        TypeError: the model is not a score model, or x is not of floating point.
        ValueError: the divergence is unknown, x is empty, or the result is not finite.

    References: Lai et al. 2023 (arXiv 2210.04296), the score FPE.

    Example:
        >>> from scoresde import VPSDE, GaussianMixture
        >>> data = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]))
        >>> x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        >>> bool(score_fpe_residual(data.under(VPSDE()), 0.3, x).abs().max() < 1e-8)
        True
    """
    instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
    choice("divergence", divergence, DIVERGENCES)
    count = positive_int("probes", probes)
    if floating("x", x).ndim < 2 or x.numel() == 0:
        raise fail("x", "a non-empty batch of shape (B, *D)", x, "add a batch axis")
    cond = check_cond(model, cond, len(x), x.device)
    with torch.enable_grad():
        state = x.detach().requires_grad_()
        time = _times(t, x).requires_grad_()
        node = model.sde.at(time, like=state)
        s, f = model.predict(node, state, cond).score, model.sde.drift(node, state)
        directions = _directions(state, divergence, count, seed)
        div_s, div_f = _divergence(s, state, directions), _divergence(f, state, directions)
        g2 = expand(node.g.reshape(len(x)), div_s) ** 2
        inner = g2 / 2 * (div_s + (s * s).flatten(1).sum(1)) - (f * s).flatten(1).sum(1) - div_f
        right = _gradient(inner.sum(), state, create_graph)
        residual = _in_time(s, time, create_graph) - right
    if not bool(torch.isfinite(residual).all()):
        remedy = "keep t inside (0, T), where the score and its derivatives are finite"
        raise fail("t", "times and points with a finite residual", "NaN or infinity", remedy)
    return residual if create_graph else residual.detach()


def _times(t: Scalar, x: Tensor) -> Tensor:
    """One time per sample, (B,), in the precision of schedules."""
    if not isinstance(t, Tensor):
        t = finite("t", t, "pass a time in [0, T]")
    elif t.shape not in ((), (len(x),)):
        raise fail("t", f"a float, () or ({len(x)},), one per sample", t, "check the batch")
    else:
        t = t.detach().to(x.device)
    times: Tensor = wide(torch.zeros(len(x), device=x.device)) + t
    return times


def _directions(x: Tensor, divergence: str, probes: int, seed: int) -> Tensor:
    """Directions v, (K, B or 1, *D), with which div s is the sum of <v, J v>."""
    if divergence == "exact":
        eye = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return eye.reshape(-1, 1, *x.shape[1:])
    generator = seeded(seed)
    size = (len(x), probes, *x.shape[1:])  # probes of a sample do not depend on later samples
    signs = 2.0 * torch.randint(2, size, generator=generator, device="cpu") - 1.0
    directions: Tensor = signs.transpose(0, 1).to(x) / math.sqrt(probes)
    return directions


def _divergence(field: Tensor, x: Tensor, directions: Tensor) -> Tensor:
    """sum over v of <v, J v> per sample, (B,), differentiable."""
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    if not field.requires_grad:
        return total
    for v in directions:
        v = v.expand_as(x)
        product = _gradient((field * v).sum(), x, True)
        total = total + (product * v).flatten(1).sum(1)
    return total


def _gradient(value: Tensor, x: Tensor, create_graph: bool) -> Tensor:
    """The gradient of `value`, or zeros if it does not depend on x."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (out,) = torch.autograd.grad(
        value, x, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(x) if out is None else out


def _in_time(s: Tensor, time: Tensor, create_graph: bool) -> Tensor:
    """ds/dt for the time of each sample: the derivative in u of sum_b d<u_b, s_b>/dt_b."""
    u = torch.zeros_like(s, requires_grad=True)
    return _gradient(_gradient((s * u).sum(), time, True).sum(), u, create_graph).to(s)
