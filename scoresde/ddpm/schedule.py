"""A chain's betas as a schedule in continuous time, and what its networks are told as a time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, finite, instance, positive, positive_int, wrong_type
from scoresde._tensor import Scalar, Time, log, log1p, over, wide, xp
from scoresde.node import Node
from scoresde.schedule.grid import make_grid
from scoresde.sde import AffineSDE

__all__ = [
    "CONVENTIONS",
    "ChainSDE",
    "ChainTime",
    "as_betas",
    "as_variance",
    "betas_of",
    "cosine_betas",
    "linear_betas",
]


def as_betas(betas: object) -> tuple[float, ...]:
    """Betas as a tuple of at least two floats in (0, 1), the last one at most 1, or an error."""
    remedy = "pass beta_1 ... beta_N, e.g. torch.linspace(1e-4, 0.02, 1000)"
    if getattr(betas, "ndim", 1) != 1:
        raise fail("betas", "a 1-D sequence", betas, remedy)
    if isinstance(betas, str) or not (hasattr(betas, "tolist") or isinstance(betas, Sequence)):
        raise wrong_type("betas", "a 1-D sequence of numbers", betas, remedy)
    values: Any = betas.tolist() if hasattr(betas, "tolist") else betas
    numbers = tuple(finite("betas", beta, remedy) for beta in values)
    if len(numbers) < 2:
        raise fail("betas", "at least two steps", betas, remedy)
    for i, beta in enumerate(numbers, 1):
        if not (0.0 < beta < 1.0 or (beta == 1.0 and i == len(numbers))):
            remedy = "beta is a step's fresh variance; many betas at once overshoot: see from_sde"
            expected = "a number strictly between 0 and 1 (1 at the last step alone)"
            raise fail(f"betas, step {i}", expected, beta, remedy)
    return numbers


def level_gap(beta: float) -> float:
    """-log(1 - beta), what a step adds to -log abar; infinite where it leaves nothing."""
    return math.inf if beta == 1.0 else -math.log1p(-beta)


@lru_cache(maxsize=32)
def _levels(betas: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """-log abar_0 ... -log abar_N, and the gaps between them."""
    gaps = tuple(map(level_gap, betas))
    return tuple(accumulate(gaps, initial=0.0)), gaps


@lru_cache(maxsize=32)
def _tables(betas: tuple[float, ...], like: torch.device | None) -> tuple[Any, Any]:
    """The same as tensors on a device, or as arrays."""
    if like is None:
        import numpy as np

        return tuple(np.array(v) for v in _levels(betas))  # type: ignore[return-value]
    kind = torch.float32 if like.type == "mps" else torch.float64
    total, gaps = (torch.tensor(v, dtype=kind, device=like) for v in _levels(betas))
    return total, gaps


def _piecewise(
    gap: Time, x: Time, last: Callable[[Any], Any], other: Callable[[Any, Any], Any]
) -> Time:
    """`last(x)` on a step whose gap is infinite, `other(x, gap)` on all others."""
    if isinstance(gap, float):
        return last(x) if math.isinf(gap) else other(x, gap)
    m = xp(gap)
    pure = m.isinf(gap)
    return m.where(pure, last(m.where(pure, x, 0.0)), other(x, m.where(pure, 1.0, gap)))


@final
@dataclass(frozen=True)
class ChainSDE(AffineSDE):
    """The VP-SDE through a DDPM chain: its marginals at t = i/N are those of step i, exactly.

    B(t) = -log abar is interpolated linearly between the nodes i/N, so beta(t) is constant on
    each step, -N log(1 - beta_i), and everything is closed: alpha = exp(-B/2), sigma^2 =
    1 - exp(-B). The rate jumps at the nodes, which integrators in the log-SNR do not see;
    schemes in time keep their order on grids that hold the nodes. A last step with beta_N = 1,
    which ends in pure noise, has an infinite B at its end: there alpha falls linearly instead.
    The first step is where the chain's knowledge ends, so t_min = t_end = 1/N, and the prior is
    the chain's, N(0, I).

    Args:
        betas: beta_1 ... beta_N, each in (0, 1), at least two; beta_N may be 1.

    Raises:
        TypeError: betas is not a sequence of numbers.
        ValueError: betas is not 1-D, has fewer than two entries or one outside (0, 1).

    Example:
        >>> sde = ChainSDE([0.1, 0.2, 0.5])
        >>> round(sde.alpha(2 / 3) ** 2, 12)
        0.72
    """

    betas: tuple[float, ...]

    T = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", as_betas(self.betas))

    def __repr__(self) -> str:
        return f"ChainSDE({len(self.betas)} betas from {self.betas[0]:g} to {self.betas[-1]:g})"

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """The time of the first step, 1/N."""
        return 1.0 / len(self.betas)

    @property
    def t_end(self) -> float:  # type: ignore[override]
        """Where sampling stops by default: the first step, from which one predicts x_0."""
        return self.t_min

    def _step(self, t: Time) -> tuple[Time, Time, Time]:
        """-log abar at the step's start, its gap, and the place within it in [0, 1]."""
        n, m = len(self.betas), xp(t)
        i: Any
        at = n * t
        # a node belongs to the step that it ends, also when n * (i / n) is rounded up
        if m is math:
            i = min(max(math.ceil(at - 1e-9) - 1, 0), n - 1)
            total, gaps = _levels(self.betas)
            return total[i], gaps[i], at - i
        if m is torch:
            i = (at - 1e-9).ceil().long().clamp(1, n) - 1
            total, gaps = _tables(self.betas, t.device)
        else:
            i = m.clip(m.ceil(at - 1e-9).astype(int), 1, n) - 1
            total, gaps = _tables(self.betas, None)
        return total[i], gaps[i], at - i

    def _ask(self, fn: Callable[[Any], Any], t: Time) -> Time:
        return fn(wide(t)).to(t.dtype) if isinstance(t, Tensor) else fn(t)

    @property
    def _pure(self) -> bool:
        """Whether the chain ends in pure noise."""
        return self.betas[-1] == 1.0

    def _total(self, t: Time) -> Time:
        start, gap, part = self._step(t)
        if not self._pure:
            return start + gap * part
        return start + _piecewise(gap, part, lambda x: -2 * log1p(-x), lambda x, g: g * x)

    def _rate(self, t: Time) -> Time:
        _, gap, part = self._step(t)
        n = len(self.betas)
        if not self._pure:
            return n * gap
        return _piecewise(gap, part, lambda x: over(2.0 * n, 1.0 - x), lambda x, g: n * g)

    def _variance(self, t: Time) -> Time:
        total = self._total(t)
        return -xp(total).expm1(-total)

    def log_alpha(self, t: Time) -> Time:
        return self._ask(lambda u: -self._total(u) / 2, t)

    def sigma(self, t: Time) -> Time:
        return self._ask(lambda u: xp(u).sqrt(self._variance(u)), t)

    def log_snr(self, t: Time) -> Time:
        return self._ask(lambda u: -(self._total(u) + log(self._variance(u))) / 2, t)

    def rate(self, t: Time) -> Time:
        return self._ask(lambda u: -self._rate(u) / 2, t)

    def g(self, t: Time) -> Time:
        return self._ask(lambda u: xp(u).sqrt(self._rate(u)), t)

    def time_of(self, log_snr: Time) -> Time:
        return self._ask(self._time_of, log_snr)

    def _time_of(self, log_snr: Time) -> Time:
        n, m = len(self.betas), xp(log_snr)
        i: Any
        if m is math:  # B = log(1 + exp(-2 lambda)), and its place among the levels
            x = -2 * log_snr
            b = max(x, 0.0) + math.log1p(math.exp(-abs(x)))
            total, gaps = _levels(self.betas)
            i = min(max(bisect_right(total, b) - 1, 0), n - 1)
        elif m is torch:
            b = torch.logaddexp(-2 * log_snr, torch.zeros_like(log_snr))
            total, gaps = _tables(self.betas, log_snr.device)
            i = (torch.searchsorted(total, b, right=True) - 1).clamp(0, n - 1)
        else:
            b = m.logaddexp(-2 * log_snr, 0.0)
            total, gaps = _tables(self.betas, None)
            i = m.clip(m.searchsorted(total, b, side="right") - 1, 0, n - 1)
        if not self._pure:
            return (i + (b - total[i]) / gaps[i]) / n
        rest = b - total[i]
        part = _piecewise(gaps[i], rest, lambda y: -m.expm1(-y / 2), lambda y, g: y / g)
        return (i + part) / n

    @property
    def prior_std(self) -> float:
        """1: the chain starts from N(0, I)."""
        return 1.0

    @property
    def longer(self) -> str:
        n = len(self.betas)
        if n >= 1000:
            return "larger betas"
        return f"betas larger by a factor, 1000/{n} for those of 1000 steps: DDPM.linear({n})"


CONVENTIONS: dict[str, Callable[[int], tuple[float, float]]] = {
    "i": lambda n: (n, 0.0),
    "i-1": lambda n: (n, -1.0),
    "i/N": lambda n: (1.0, 0.0),
    "(N-1)t": lambda n: (n - 1.0, 0.0),
    "999t": lambda n: (999.0, 0.0),
    "1000(t-1/N)": lambda n: (1000.0, -1000.0 / n),
}
"""Name -> (a, b) of N: the network's time a t + b, at t = i/N.

- "i": steps counted from 1, as in the equations of Ho et al. 2020;
- "i-1": from 0, as in most code for discrete chains (timesteps 0 ... N - 1);
- "i/N": the time itself;
- "(N-1)t", "999t": the labels of Song et al. 2021 for discrete and continuous VP networks;
- "1000(t-1/N)": those of DPM-Solver for discrete networks ("i-1" at N = 1000).
"""


@final
@dataclass(frozen=True)
class ChainTime:
    """What a network of a discrete chain is told as its time: the `time` of `Preconditioned`.

    A network trained on step numbers becomes a score model of `ChainSDE`; between the steps it
    is told a fraction, which a sinusoidal embedding takes, and a table of embeddings does not
    unless `whole` rounds it to the nearest step's.

    Args:
        convention: a key of `CONVENTIONS`, e.g. "i-1" for timesteps 0 ... N - 1.
        steps: N, the length of the chain.
        whole: tell the time of the nearest step.

    Raises:
        TypeError, ValueError: an unknown convention, a length that is not a positive integer.

    Example:
        >>> time = ChainTime("i-1", 1000)
        >>> time(ChainSDE([0.01] * 1000).at(0.25))
        249.0
        >>> ChainTime.from_dict(time.to_dict()) == time
        True
    """

    convention: str
    steps: int
    whole: bool = False

    def __post_init__(self) -> None:
        choice("convention", self.convention, CONVENTIONS)
        object.__setattr__(self, "steps", positive_int("steps", self.steps, "the chain's length"))
        instance("whole", self.whole, bool, "True tells the nearest step's time")

    def __call__(self, node: Node) -> Scalar:
        """The network's time at a node: a float, or one for each sample."""
        a, b = CONVENTIONS[self.convention](self.steps)
        at = self.steps * node.t
        near = at.round() if isinstance(at, Tensor) else float(round(at))
        if self.whole:
            at = near
        elif isinstance(at, Tensor):  # times in float32 miss a whole step by rounding
            at = torch.where((at - near).abs() < 1e-3, near, at)
        elif abs(at - near) < 1e-3:
            at = near
        return a * at / self.steps + b

    def to_dict(self) -> dict[str, str | int | bool]:
        """The three fields, for a checkpoint or a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ChainTime:
        """The inverse of `to_dict`.

        Raises:
            TypeError: `fields` is not a mapping.
            ValueError: a field is missing or unknown, or its value does not do.
        """
        instance("fields", fields, Mapping, "pass what ChainTime.to_dict returned")
        expected = {"convention", "steps", "whole"}
        if set(fields) != expected:
            remedy = "pass what ChainTime.to_dict returned"
            raise fail("fields", "the keys convention, steps, whole", sorted(fields), remedy)
        return cls(fields["convention"], fields["steps"], fields["whole"])


def length(N: object) -> int:
    """N as an int of at least 2."""
    n = positive_int("N", N, "the number of steps of the chain")
    if n < 2:
        raise fail("N", "at least 2 steps", n, "a chain of one step has nothing in between")
    return n


HO = 1e-4, 0.02
"""The first and the last of the 1000 betas of Ho et al. 2020."""


def linear_betas(N: int, first: float | None, last: float | None) -> tuple[float, ...]:
    """N betas from first to last in equal steps; see `DDPM.linear`."""
    n = length(N)
    if first is None and last is None and n != 1000:
        whole = ChainSDE(linear_betas(1000, *HO))
        levels = [-2 * whole.log_alpha(i / n) for i in range(n + 1)]
        return tuple(-math.expm1(a - b) for a, b in pairwise(levels))
    first = positive("first", HO[0] if first is None else first)
    last = positive("last", HO[1] if last is None else last)
    return tuple(first + (last - first) * i / (n - 1) for i in range(n))


def cosine_betas(N: int, s: float, most: float) -> tuple[float, ...]:
    """1 - f(i/N)/f((i-1)/N), f(t) = cos^2(pi/2 (t + s)/(1 + s)), none above `most`."""
    n, s = length(N), positive("s", s, "the paper takes 0.008")
    u = [math.pi / 2 * (i / n + s) / (1 + s) for i in range(n + 1)]
    # 1 - cos^2 a / cos^2 b without the difference of nearly equal squares
    full = [math.sin(a - b) * math.sin(a + b) / math.cos(b) ** 2 for b, a in pairwise(u)]
    return tuple(min(beta, positive("most", most)) for beta in full)


def betas_of(
    sde: AffineSDE, N: int, grid: str | Sequence[float], t_end: float | None
) -> tuple[float, ...]:
    """The betas of the chain with the marginals of a VP SDE at N times; see `DDPM.from_sde`."""
    instance("sde", sde, AffineSDE, "a chain needs alpha and sigma; see LinearSDE")
    n = length(N)
    if isinstance(grid, str) and grid == "uniform" and t_end is None:
        times = [*(sde.T * i / n for i in range(1, n)), sde.T]
    elif isinstance(grid, str):
        times = list(make_grid(grid, sde, n - 1, t_end=t_end).times[::-1])
    else:
        times = [sde.check_time("grid", t) for t in grid]
        if len(times) != n or any(b <= a for a, b in pairwise([0.0, *times])):
            expected = f"{n} rising times above 0, one for each step"
            raise fail("grid", expected, grid, "sort them, or change N")
    nodes = [sde.at(t) for t in times]
    for node in nodes:
        square = node.alpha**2 + node.sigma**2
        if abs(square - 1) > 1e-9:
            remedy = "use VPSDE, CosineSDE or another SDE that preserves variance"
            got = f"{square:.6g} at t = {node.t:g}"
            raise fail("sde", "an SDE with alpha^2 + sigma^2 = 1", got, remedy)
    # -log abar = log(1 + exp(-2 lambda)): exact also where alpha is 1 to rounding
    levels = [0.0, *(math.log1p(math.exp(-2 * node.log_snr)) for node in nodes)]
    return tuple(-math.expm1(a - b) for a, b in pairwise(levels))


def as_variance(variance: object, n: int) -> str | float | tuple[float, ...]:
    """The choice of reverse variances of a chain of n steps, checked; see `DDPM`."""
    if isinstance(variance, str):
        return choice("variance", variance, ("small", "large"))
    remedy = f"pass 'small', 'large', a number in [0, 1], or {n} positive numbers"
    if not hasattr(variance, "__len__") or getattr(variance, "ndim", 1) == 0:
        v = finite("variance", variance, remedy)
        if not 0.0 <= v <= 1.0:
            raise fail("variance", "a number in [0, 1]", v, remedy)
        return v
    values: Any = variance
    numbers = tuple(positive("variance", v, remedy) for v in values)
    if len(numbers) != n:
        raise fail("variance", f"{n} numbers, one for each step", len(numbers), remedy)
    return numbers
