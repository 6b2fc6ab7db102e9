"""The gap between a model's map from noise to data and the optimal-transport map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, need, positive_int, same_shape, wrong_type
from scoresde._html import Shown, rounded
from scoresde._progress import progress as progress_of
from scoresde._tensor import ordinary
from scoresde.metrics.frechet import trace_of_root
from scoresde.model import ScoreModel
from scoresde.noise import Independent
from scoresde.sampler import ReverseSampler
from scoresde.sampler.plan import check_shape
from scoresde.sde import AffineSDE

__all__ = ["TransportGap", "transport_gap"]

Source: TypeAlias = "ReverseSampler | ScoreModel | Callable[[Tensor], Tensor] | Sequence[Tensor]"

LARGEST = 8192  # the most points of an assignment problem: 512 MB, and minutes
KINDS = "pass a sampler, a score model, a function of z, or a pair of tensors (z, x)"


@final
@dataclass(frozen=True, eq=False, repr=False)
class TransportGap(Shown):
    """The cost of a coupling of noise and data in excess of the optimal one of the same points.

    All values are in the squared unit of the data, summed over the dimensions.

    Attributes:
        couplings: (K,), the mean of |x - z|^2 in each batch.
        gaps: (K,), `couplings` minus the cost of the optimal pairing of the batch's points; >= 0.
        ceiling: the mean of |x - z|^2 over all points minus Gelbrich's lower bound on the cost of
            any coupling, from means and covariances; at least the mean of `gaps`.
        ceiling_error: its standard error, by the jackknife over batches; NaN for one batch.
        points: n, the number of points in a batch.
        dim: D, the number of entries of a point.
    """

    couplings: Tensor
    gaps: Tensor
    ceiling: float
    ceiling_error: float
    points: int
    dim: int

    @property
    def coupling(self) -> float:
        """The mean of |x - z|^2."""
        return float(self.couplings.mean())

    @property
    def gap(self) -> float:
        """The cost of the coupling minus that of the optimal one, the mean over batches."""
        return float(self.gaps.mean())

    @property
    def optimal(self) -> float:
        """The mean cost of the optimal pairing of a batch."""
        return float((self.couplings - self.gaps).mean())

    @property
    def standard_error(self) -> float:
        """The standard error of `gap` over the batches; NaN for one batch."""
        count = len(self.gaps)
        return float(self.gaps.std()) / math.sqrt(count) if count > 1 else math.nan

    @property
    def relative(self) -> float:
        """The share of the coupling's cost that the optimal pairing saves."""
        return self.gap / self.coupling if self.coupling > 0 else 0.0

    @property
    def facts(self) -> dict[str, object]:
        """The gap and its bounds with their errors, name -> value, for a table."""
        return {
            "gap": rounded(self.gap, self.standard_error),
            "ceiling": rounded(self.ceiling, self.ceiling_error),
            "mean squared distance": rounded(self.coupling),
            "batches": f"{len(self.gaps)} of {self.points} points in {self.dim} dimensions",
        }

    def __repr__(self) -> str:
        return (
            f"TransportGap(gap={self.gap:.4g} +- {self.standard_error:.2g}, "
            f"ceiling={self.ceiling:.4g} +- {self.ceiling_error:.2g}, "
            f"coupling={self.coupling:.4g}, batches={len(self.gaps)}, points={self.points}, "
            f"dim={self.dim})"
        )


@ordinary
def transport_gap(
    source: Source,
    shape: Sequence[int] | None = None,
    *,
    batches: int = 8,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> TransportGap:
    """The gap between a map from noise to data and the optimal-transport map.

    For x = T(z), z ~ N(0, I), the gap is E|T(z) - z|^2 - W_2^2, with W_2^2 the least E|x' - z|^2
    over all couplings of the laws of z and x. It is 2 max E<z, x'> - 2 E<z, T(z)>, so it is
    invariant to shifts of the points and scales with z: the optimality of a map is unaffected by
    normalising the prior to unit variance. The probability flow is optimal in one dimension (it
    is monotone) and for a Gaussian (its covariances at all times commute), but not in general;
    for a stochastic sampler only the two ends of its paths count.

    W_2^2 between the n points z and the n points x of a batch is computed exactly: by sorting if
    D = 1, otherwise as an assignment problem (1600 points take seconds). Few points allow few
    pairings, so the gap of a batch is biased: its expectation is below the true gap and
    increases to it with n (W_2^2 is convex in the two laws). In high dimension, where points are
    far apart, it may be 0. `ceiling` is an upper bound: no coupling costs less than
    |m_z - m_x|^2 + tr(C_z + C_x - 2 (C_z C_x)^(1/2)). It equals the gap if T is linear and may
    otherwise be far above. Its estimate is too low unless all batches together have many more
    points than D.

    Args:
        source: one of
            a `ReverseSampler` under an affine SDE: z is the start of a sample divided by
            sigma(T), x its end, as in `sample` with this seed;
            a `ScoreModel`: the same with `ReverseSampler(model.sde, model)`, the probability flow;
            a function T(z: (n, *D)) -> (n, *D);
            pairs (z, x), each (N, *D), which are divided into batches in their order.
        shape: (n, *D) of one batch; omitted for pairs, where n is N / batches.
        batches: K, the number of batches; several give the standard error.
        seed: the seed of z and of the sampler's noise.
        dtype, device: those of z; by default those of the sampler's model, or torch's.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Raises:
        TypeError: the source is none of these, or the SDE of a sampler is not affine.
        ValueError: the shape is missing or superfluous, points do not pair up or are not finite,
            the batches do not divide N, or n is below 2, or above 8192 with D > 1.

    Source: Khrulkov et al. 2022 (arXiv 2202.07477) compare the two maps; Lavenant and
    Santambrogio 2022 (Appl. Math. Lett. 133) show that they differ; Gelbrich 1990 (Math. Nachr.
    147) has the bound.

    Example:
        >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> result = transport_gap(lambda z: z @ quarter.T, (400, 2), batches=4)
        >>> 3.0 < result.gap < result.ceiling < 4.5  # the exact gap is 4
        True
        >>> transport_gap(lambda z: z**3, (400, 1), batches=4).gap
        0.0
    """
    count = positive_int("batches", batches)
    if isinstance(source, Sequence):
        points = _given(source, shape, count)
    else:
        points = _made(source, shape, count, seed, dtype, device)
    pairs, found = [], []
    with closing(progress_of(count, "transport_gap", "batches", shown=progress)) as bar:
        for z, x in points:
            pairs.append((z, x))
            found.append(_gap(z, x))
            bar.update()
    couplings = torch.stack([(x - z).square().sum(1).mean() for z, x in pairs])
    ceiling, error = _ceiling(pairs)
    size, dim = pairs[0][0].shape
    return TransportGap(couplings, torch.stack(found), ceiling, error, size, dim)


def _given(
    source: Sequence[Tensor], shape: Sequence[int] | None, batches: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of given pairs."""
    if len(source) != 2:
        raise fail("source", "two tensors (z, x)", f"{len(source)} of them", KINDS)
    if shape is not None:
        raise fail("shape", "none beside pairs", shape, "leave it out: the pairs have a shape")
    z, x = floating("z", source[0]), floating("x", source[1])
    same_shape("x", x, z, "pass one z for each x")
    if z.ndim < 2 or len(z) % batches:
        expected = f"shape (N, *D) with N a multiple of batches = {batches}"
        raise fail("z", expected, z, "drop some pairs, or change batches")
    cut = zip(z.chunk(batches), x.chunk(batches), strict=True)
    for pair in cut:
        yield _rows(*pair)


def _made(
    source: Source,
    shape: Sequence[int] | None,
    batches: int,
    seed: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of z with their images under the map or sampler."""
    if isinstance(source, ScoreModel):
        source = ReverseSampler(source.sde, source)
    if not isinstance(source, ReverseSampler) and not callable(source):
        raise wrong_type("source", "a map from noise to data", source, KINDS)
    if shape is None:
        raise fail("shape", "(n, *D) of one batch", None, "pass for example (1000, 2)")
    size = check_shape(shape)
    if isinstance(source, ReverseSampler):
        remedy = "its prior is not known to be normal: pass pairs (z, x)"
        instance("source.sde", source.sde, AffineSDE, remedy)
    noise = Independent(seed)
    for first in range(0, batches * size[0], size[0]):
        draw = noise.from_sample(first)
        if isinstance(source, ReverseSampler):
            x = source.sample(size, seed=seed, first=first, dtype=dtype, device=device)
            z = draw.prior(x)
        else:
            z = draw.prior(torch.empty(size, dtype=dtype, device=device))
            with torch.no_grad():
                x = floating("source(z)", source(z))
            same_shape("source(z)", x, z, "map (n, *D) to the same shape")
        yield _rows(z, x)


def _rows(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A batch as finite float64 rows (n, D), on the CPU."""
    z, x = (points.detach().cpu().double().flatten(1) for points in (z, x))
    n, dim = z.shape
    if n < 2 or dim == 0:
        raise fail("z", "at least 2 points a batch, with entries", z, "pass larger batches")
    if n > LARGEST and dim > 1:
        remedy = "take smaller batches, and more of them"
        raise fail("z", f"at most {LARGEST} points a batch where D > 1", z, remedy)
    for name, points in (("z", z), ("x", x)):
        if not bool(points.isfinite().all()):
            raise fail(name, "finite numbers", "NaN or infinity", "find where the map diverged")
    return z, x


def _gap(z: Tensor, x: Tensor) -> Tensor:
    """Mean of |x_i - z_i|^2 less that of the optimal pairing: 2 mean <z_i, x_pi(i) - x_i>."""
    z = z - z.mean(0)  # leaves the pairing unchanged and reduces rounding in the products
    if z.shape[1] == 1:
        better, z = x.sort(0).values - x[z.argsort(0)[:, 0]], z.sort(0).values
    else:
        solve = need("scipy.optimize", "").linear_sum_assignment
        better = x[torch.as_tensor(solve((z @ x.T).numpy(), maximize=True)[1])] - x
    # The identity is one of the pairings, so a negative value is rounding.
    return (2 * (z * better).sum(1).mean()).clamp_min(0.0)


def _ceiling(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The gap to Gelbrich's bound over all pairs, and its standard error by the jackknife."""
    count = len(pairs)
    value = _linear_gap(pairs)
    if count == 1:
        return value, math.nan
    without = torch.tensor([_linear_gap([*pairs[:k], *pairs[k + 1 :]]) for k in range(count)])
    return value, math.sqrt((count - 1) / count * (without - without.mean()).square().sum())


def _linear_gap(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """2 tr (C_z C_x)^(1/2) - 2 tr C_zx, which is Gelbrich's bound."""
    z, x = (torch.cat(points) for points in zip(*pairs, strict=True))
    z, x = (points - points.mean(0) for points in (z, x))
    factor_z, factor_x = (torch.linalg.qr(points, mode="r").R for points in (z, x))
    overlap = trace_of_root(factor_z, factor_x) - (z * x).sum()
    return max(0.0, float(2 * overlap / len(z)))
