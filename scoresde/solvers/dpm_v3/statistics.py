"""Statistics of a model along its noise levels, which DPM-Solver-v3 uses.

With y = x / alpha and lambda = log(alpha / sigma) the probability flow is dy/dlambda =
-e^(-lambda) eps. For any function l of lambda with one value per dimension this is -(l y + f) with

    f = (sigma eps - l x) / alpha = e^(-lambda) eps - l y.

A solver integrates l exactly and interpolates f between its nodes, so f should depend on x as
little as possible, and its derivative along a trajectory should be close to s f + b with functions
s and b of lambda. In the mean square over x = alpha x_0 + sigma z with x_0 from the data:

    l = E[diag(sigma deps/dx)],                  minimises E ||df/dx||^2,
    s = Cov(f, f') / Var(f),  b = E[f'] - s E[f],    minimises E (f' - s f - b)^2,

where f' = d/dlambda (e^(-lambda) eps) - l' y + l e^(-lambda) eps is the derivative along the
flow (Zheng et al. 2023, arXiv 2310.13268, sec. 3.1 and 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, need, no_mask, positive_int
from scoresde._html import Shown
from scoresde._tensor import batches, lincomb, uncompiled, wide
from scoresde.cond import Cond, check_cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.sde import SDE, AffineSDE, same_sde

__all__ = ["Statistics"]

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_DEGREE = 5  # of the splines: four continuous derivatives suffice for orders up to 4
_FEWEST = 16  # data points, and nodes: fewer do not determine a variance, or a curve
_EXACT = 64  # dimensions up to which the whole diagonal is cheap
_RIDGE = 1e-8  # of Var(e^-lambda eps): s is 0, not a quotient of rounding errors, if f is constant


@final
@dataclass(frozen=True, eq=False, repr=False)
class Statistics(Shown):
    """Empirical model statistics: l, s and b as functions of lambda, one curve per dimension.

    Between the nodes of the table the curves are splines of degree 5, integrated in closed form,
    in float64 on the CPU. Make them with `from_model`, `from_data` or `from_moments`; save the
    four tensors (`tensors()`) and rebuild with `Statistics(sde, **tensors)`. Special cases are

    | l | s | b | DPMSolverV3 is |
    | --- | --- | --- | --- |
    | 1 | 0 | 0 | `Adams(1)`: DPM-Solver++, UniPC |
    | 0 | -1 | 0 | `Adams(1, 0, "eps")` |
    | sigma^2 / (alpha^2 + sigma^2) | -alpha^2 / (alpha^2 + sigma^2) | 0 | `Adams(1, 0, "v")` |

    Zheng et al. 2023 (arXiv 2310.13268), sec. 3 and appendix on the computation.

    Args:
        sde: the affine SDE for which they were computed.
        log_snr: the nodes lambda, (n,) with n >= 16, increasing.
        l, s, b: the values at the nodes, (n, *D).

    Raises:
        TypeError, ValueError: the SDE is not affine; the nodes do not increase; the tables do not
            fit the nodes or each other, or are not finite.

    Example:
        >>> from scoresde import VPSDE
        >>> Statistics.from_moments(VPSDE(), mean=(0.0, 1.0), std=(1.0, 0.5)).shape
        (2,)
    """

    sde: SDE
    log_snr: Tensor
    l: Tensor  # noqa: E741 (the letter of the paper)
    s: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        _affine(self.sde)
        for name in ("log_snr", "l", "s", "b"):
            value = floating(name, getattr(self, name)).detach().to("cpu", torch.float64)
            if not bool(torch.isfinite(value).all()):
                raise fail(name, "finite numbers", "NaN or infinity", "look at the model there")
            object.__setattr__(self, name, value)
        at, shape = self.log_snr, self.l.shape
        if at.ndim != 1 or len(at) < _FEWEST or not bool((at.diff() > 0).all()):
            remedy = "sort them and drop duplicates"
            raise fail("log_snr", f"at least {_FEWEST} increasing nodes, (n,)", at, remedy)
        if len(shape) < 2 or shape[0] != len(at):
            raise fail("l", f"shape ({len(at)}, *D), one row a node", self.l, "check the table")
        for name in ("s", "b"):
            if getattr(self, name).shape != shape:
                got = getattr(self, name)
                raise fail(name, f"shape {tuple(shape)}, that of l", got, "check the table")
        arrays = {name: value.numpy() for name, value in self.tensors().items()}
        object.__setattr__(self, "_arrays", arrays)  # read without tensor operations

    def __repr__(self) -> str:
        return f"Statistics({self.sde!r}, shape={self.shape}, nodes={len(self.log_snr)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape D of a sample."""
        return tuple(self.l.shape[1:])

    def tensors(self) -> dict[str, Tensor]:
        """The table, for saving: log_snr (n,), l, s and b (n, *D)."""
        return {name: getattr(self, name) for name in ("log_snr", "l", "s", "b")}

    @classmethod
    def from_moments(
        cls,
        sde: SDE,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        *,
        nodes: int = 256,
        t_end: float | None = None,
    ) -> Statistics:
        """The statistics of Gaussian data with independent dimensions, in closed form.

        For such data eps = sigma (x - alpha mu) / (alpha^2 std^2 + sigma^2), so l = sigma^2 /
        (alpha^2 std^2 + sigma^2), f = -mu l, s = 0 and b = f' = 2 mu l (1 - l): all steps are
        exact.

        Args:
            sde: an affine SDE.
            mean, std: those of the data, (*D).
            nodes: the number of nodes of the table, equally spaced in lambda from T to t_end.
            t_end: the time at which the table ends; by default that of the SDE.
        """
        for name, value in (("mean", mean), ("std", std)):
            no_mask(name, value)
        mu, sd = (torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in (mean, std))
        if mu.ndim == 0 or mu.shape != sd.shape:
            got = (tuple(mu.shape), tuple(sd.shape))
            raise fail("mean, std", "two of one shape (*D)", got, "one number a dimension")
        if bool((sd < 0).any()):
            raise fail("std", "numbers >= 0", float(sd.min()), "pass standard deviations")
        at = _levels(sde, nodes, t_end)
        # sigmoid of -2 (lambda + log std), which is 1 where std = 0
        l = torch.sigmoid(-2.0 * (at.reshape(-1, *[1] * mu.ndim) + sd.log()))  # noqa: E741
        return cls(sde, at, l, torch.zeros_like(l), 2.0 * mu * l * (1.0 - l))

    @classmethod
    def from_data(
        cls, sde: SDE, x0: Tensor, *, nodes: int = 256, t_end: float | None = None
    ) -> Statistics:
        """`from_moments` with the mean and standard deviation of data x0: (M, *D).

        It needs no model and assumes that the data are Gaussian, as noised data are at high noise.
        """
        _check_data(x0)
        data = x0.detach().to("cpu", torch.float64)
        return cls.from_moments(sde, data.mean(0), data.std(0), nodes=nodes, t_end=t_end)

    @classmethod
    def from_model(
        cls,
        model: ScoreModel,
        x0: Tensor,
        *,
        nodes: int = 64,
        t_end: float | None = None,
        probes: int | None = None,
        seed: int = 0,
        cond: Cond = None,
        batch_size: int | None = None,
    ) -> Statistics:
        """The statistics of a model over data x0: (M, *D), noised at each lambda.

        The noise and the probes are the same at every lambda, so the curves are smooth for any
        number of data: s and b contain the derivative of l, which would amplify the scatter of
        independent noise. The diagonal of deps/dx comes from vector-Jacobian products: with the
        unit vectors it is exact, with one Rademacher vector v per sample it is the mean of
        v (J^T v) (Hutchinson). The derivative along the flow is a difference of five points, of
        fourth order, with a spacing for the dtype of x0. A node costs five forward calls on all
        data and a backward call for each vector.

        Args:
            model: the model, through which autograd must be able to differentiate.
            x0: the data, with M >= 16; the paper uses 1024 to 4096.
            nodes: the number of nodes of the table, equally spaced in lambda from T to t_end.
            t_end: the time at which the table ends; by default that of the SDE.
            probes: the number of Rademacher vectors per sample; None means the exact diagonal up
                to 64 dimensions, and one vector above.
            seed: the seed of the noise.
            cond: conditions, M entries each.
            batch_size: the number of samples in a call of the model; all by default.

        Raises:
            TypeError, ValueError: the SDE is not affine, there are too few data, or the model has
                no gradient.

        Example:
            >>> from scoresde import VPSDE, Gaussian
            >>> data = Gaussian(torch.zeros(2), torch.tensor([1.0, 0.25]))
            >>> found = Statistics.from_model(data.under(VPSDE()), data.sample(64), nodes=16)
            >>> exact = Statistics.from_moments(VPSDE(), (0.0, 0.0), (1.0, 0.5), nodes=16)
            >>> bool((found.l - exact.l).abs().max() < 1e-5)
            True
        """
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        at = _levels(model.sde, nodes, t_end)
        _check_data(x0)
        cond = check_cond(model, cond, len(x0), x0.device)
        few = math.prod(x0.shape[1:]) <= _EXACT
        count = (0 if few else 1) if probes is None else positive_int("probes", probes)
        size = len(x0) if batch_size is None else positive_int("batch_size", batch_size)
        data, noise = x0.detach(), Independent(seed).stream("statistics")
        centre = wide(data).mean(0)
        survey = _Survey(model, data, cond, count, noise, size, centre)
        found = [survey.at(lam, float(at[0]), float(at[-1])) for lam in at.tolist()]
        diagonal, moments = (torch.stack(part) for part in zip(*found, strict=True))
        return cls(model.sde, at, diagonal, *_fit(at, diagonal, moments, centre.cpu()))

    def splines(self, dims: slice) -> tuple[Any, Any, Any, Any]:
        """l, L = int l, S = int s and b as functions of lambda: array (...) -> (..., dims)."""
        arrays: dict[str, Array] = self._arrays  # type: ignore[attr-defined]
        at = arrays["log_snr"]
        tables = (arrays[name].reshape(len(at), -1)[:, dims] for name in ("l", "s", "b"))
        l, s, b = (_spline(at, table) for table in tables)  # noqa: E741
        return l, l.antiderivative(), s.antiderivative(), b

    def check_sde(self, sde: SDE) -> None:
        """Raise a ValueError if the SDE is not that of the statistics."""
        if not same_sde(sde, self.sde):
            remedy = "compute new statistics with Statistics.from_model(model, x0)"
            raise fail("statistics", f"those of {sde!r}", f"those of {self.sde!r}", remedy)

    def check_range(self, times: Sequence[float], log_snr: Array) -> None:
        """Raise a ValueError if the table does not cover the grid."""
        low, high = self._arrays["log_snr"][[0, -1]].tolist()  # type: ignore[attr-defined]
        slack = 1e-9 * (high - low)
        for t, lam in zip(times, log_snr.tolist(), strict=True):
            if not low - slack <= lam <= high + slack:
                got = f"t = {t:g} with lambda = {lam:.6g}"
                remedy = "end the grid earlier, or make the statistics with a smaller t_end"
                raise fail("grid", f"lambda in [{low:.6g}, {high:.6g}], the table", got, remedy)


def _affine(sde: object) -> AffineSDE:
    remedy = "l, s and b are functions of the log-SNR; use LinearSDE or one of the families"
    instance("sde", sde, AffineSDE, remedy)
    return sde  # type: ignore[return-value]


def _check_data(x0: Tensor) -> None:
    floating("x0", x0)
    if x0.ndim < 2 or len(x0) < _FEWEST:
        expected = f"shape (M, *D) with M >= {_FEWEST}"
        raise fail("x0", expected, x0, "too few data for a variance; pass more samples")
    if not bool(torch.isfinite(x0).all()):
        raise fail("x0", "finite numbers", "NaN or infinity", "clean the data first")


def _levels(sde: SDE, nodes: int, t_end: float | None) -> Tensor:
    """Equally spaced lambda from T to t_end."""
    if positive_int("nodes", nodes) < _FEWEST:
        raise fail("nodes", f"at least {_FEWEST}", nodes, "64 are usual")
    affine = _affine(sde)
    end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    low, high = affine.log_snr(affine.T), affine.log_snr(end)
    if not low < high < math.inf:
        raise fail("t_end", "a time before T with a finite log-SNR", end, "pass 0 < t_end < T")
    if math.isinf(low):
        remedy = "the table would be infinite: make T smaller, or take unipc_3"
        raise fail("sde", "a finite log-SNR at T for DPM-Solver-v3", sde, remedy)
    return torch.linspace(low, high, nodes, dtype=torch.float64, device="cpu")


def _spline(at: Array, values: Array) -> Any:
    return need("scipy.interpolate", "").make_interp_spline(at, values, k=_DEGREE)


def _fit(at: Tensor, diagonal: Tensor, moments: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """s and b by least squares from the moments of y, G = e^-lambda eps and G' = dG/dlambda.

    With f = G - l y and f' = G' - l' y + l G every moment of f and f' is a moment of y, G and G'.
    The mean of the data is subtracted from y in the moments, so that the variances keep their
    digits.
    """
    nodes = at.numpy()
    slope = _spline(nodes, diagonal.flatten(1).numpy()).derivative()(nodes)
    l, dl = diagonal, torch.from_numpy(slope).reshape(diagonal.shape)  # noqa: E741
    y, g, dg, yy, yg, gg, ydg, gdg = moments.unbind(1)
    yy, yg, gg, ydg, gdg = yy - y * y, yg - y * g, gg - g * g, ydg - y * dg, gdg - g * dg
    f, df = g - l * (y + centre), dg - dl * (y + centre) + l * g
    variance = gg - 2.0 * l * yg + l**2 * yy
    covariance = gdg - dl * yg + l * gg - l * (ydg - dl * yy + l * yg)
    s = covariance / (variance.clamp_min(0.0) + _RIDGE * gg).clamp_min(1e-300)
    return s, df - s * f


@dataclass(frozen=True, eq=False)
class _Survey:
    """Evaluates a model at one noise level after the other, on the same data and noise."""

    model: ScoreModel
    x0: Tensor
    cond: Cond
    probes: int
    noise: Noise
    size: int
    centre: Tensor

    def at(self, lam: float, low: float, high: float) -> tuple[Tensor, Tensor]:
        """The mean of sigma diag(deps/dx), (*D), and the moments that `_fit` names, (8, *D)."""
        offsets, weights = _stencil(lam, low, high, torch.finfo(self.x0.dtype).eps ** 0.2)
        points = [self._node(lam + offset) for offset in offsets]
        diagonal: Any = 0.0
        moments: Any = 0.0
        for first, x0, cond in self._batches():
            noise = self.noise.from_sample(first)
            here = points[offsets.index(0.0)]
            z = noise.draw(x0, 0)
            rows, eps = self._diagonal(here, here.alpha * x0 + here.sigma * z, cond, noise)
            y, g = x0 + math.exp(-lam) * z, math.exp(-lam) * eps
            slopes = []
            for offset, weight, node in zip(offsets, weights, points, strict=True):
                along = g if offset == 0.0 else self._scaled(node, y - offset * g, cond)
                slopes.append((weight, along))
            dg = wide(lincomb(*slopes))
            y, g = wide(y) - self.centre, wide(g)
            products = (y, g, dg, y * y, y * g, g * g, y * dg, g * dg)
            moments = moments + torch.stack([p.sum(0) for p in products]).cpu()
            diagonal = diagonal + here.sigma * wide(rows).sum(0).cpu()
        return diagonal / len(self.x0), moments / len(self.x0)

    def _node(self, lam: float) -> Node:
        sde: Any = self.model.sde
        return sde.at(min(max(sde.time_of(lam), sde.t_min), sde.T))  # type: ignore[no-any-return]

    def _batches(self) -> Iterator[tuple[int, Tensor, Cond]]:
        for rows, cond in batches(len(self.x0), self.size, self.cond):
            yield rows.start, self.x0[rows], cond

    @torch.no_grad()
    def _scaled(self, node: Node, y: Tensor, cond: Cond) -> Tensor:
        """e^-lambda eps at x = alpha y."""
        return self.model.predict(node, node.alpha * y, cond).eps * math.exp(-node.log_snr)

    @uncompiled()
    @torch.enable_grad()
    def _diagonal(self, node: Node, x: Tensor, cond: Cond, noise: Noise) -> tuple[Tensor, Tensor]:
        """diag(deps/dx) of every sample, or an unbiased estimate of it; and eps."""
        x = x.detach().requires_grad_()
        prediction = self.model.predict(node, x, cond)
        if not prediction.value.requires_grad:
            remedy = "drop no_grad and detach from the model, or take Statistics.from_data"
            raise fail("model", "one that autograd differentiates by x", prediction.value, remedy)
        eps = prediction.eps
        total = torch.zeros_like(x)
        if not self.probes:
            size = math.prod(x.shape[1:])
            for d in range(size):
                (row,) = torch.autograd.grad(
                    eps.flatten(1)[:, d].sum(), x, retain_graph=d < size - 1
                )
                total.flatten(1)[:, d] = row.flatten(1)[:, d]
            return total, eps.detach()
        for k in range(self.probes):
            v = 1.0 - 2.0 * (noise.draw(x, 1 + k) < 0).to(x)
            (row,) = torch.autograd.grad((eps * v).sum(), x, retain_graph=k < self.probes - 1)
            total += v * row
        return total / self.probes, eps.detach()


def _stencil(lam: float, low: float, high: float, gap: float) -> tuple[list[float], list[float]]:
    """Five offsets around 0 that stay in [low, high], and their weights for a derivative."""
    gap = min(gap, (high - low) / 8.0)
    shift = min(max(-2, math.ceil((low - lam) / gap)), math.floor((high - lam) / gap) - 4)
    steps = np.arange(shift, shift + 5)
    unit = (np.arange(5) == 1).astype(float)
    weights = np.linalg.solve(np.vander(steps, increasing=True).T.astype(float), unit) / gap
    return [gap * float(k) for k in steps], weights.tolist()
