"""A chain's betas as a schedule in continuous time, and the time inputs of its networks."""

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

from scoresde._check import (
    choice,
    fail,
    finite,
    instance,
    keep,
    positive,
    positive_int,
    wrong_type,
)
from scoresde._tensor import (
    Scalar,
    Time,
    expm1,
    log,
    log1p,
    over,
    softplus,
    sqrt,
    wide,
    xp,
)
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
    """Return betas as a tuple of at least two floats in (0, 1), or raise; the last may be 1."""
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
    """-log(1 - beta), the increment of -log abar in a step; infinite for beta = 1."""
    return math.inf if beta == 1.0 else -math.log1p(-beta)


@lru_cache(maxsize=32)
def _levels(betas: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """-log abar_0 ... -log abar_N, and the gaps between them."""
    gaps = tuple(map(level_gap, betas))
    return tuple(accumulate(gaps, initial=0.0)), gaps


@lru_cache(maxsize=32)
def _converted(betas: tuple[float, ...], device: torch.device | None) -> tuple[Any, Any]:
    """The levels and gaps as tensors on a device, or as arrays."""
    if device is None:
        import numpy as np

        total, gaps = (np.array(v) for v in _levels(betas))
        return total, gaps
    kind = torch.float32 if device.type == "mps" else torch.float64
    first, second = (torch.tensor(v, dtype=kind, device=device) for v in _levels(betas))
    return first, second


# The arguments of the next functions are of any kind of Time, and so are their results.


def _tables(betas: tuple[float, ...], like: Any) -> tuple[Any, Any]:
    """The levels and gaps in the kind of `like`."""
    m = xp(like)
    if m is math:
        return _levels(betas)
    return _converted(betas, like.device if m is torch else None)


def _ceil(x: Any) -> Any:
    """The least integers that are not below x."""
    m = xp(x)
    if m is math:
        return math.ceil(x)
    return m.ceil(x).long() if m is torch else m.ceil(x).astype(int)


def _clip(i: Any, n: int) -> Any:
    """Integers moved into 0 ... n - 1."""
    m = xp(i)
    return min(max(i, 0), n - 1) if m is math else m.clip(i, 0, n - 1)


def _count(levels: Any, b: Any) -> Any:
    """The number of levels that are at most b."""
    m = xp(b)
    return bisect_right(levels, b) if m is math else m.searchsorted(levels, b, side="right")


def _piecewise(
    gap: Any, x: Any, last: Callable[[Any], Any], other: Callable[[Any, Any], Any]
) -> Any:
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
    each step, -N log(1 - beta_i), and everything has a closed form: alpha = exp(-B/2), sigma^2 =
    1 - exp(-B). The rate jumps at the nodes, which does not affect integrators in the log-SNR;
    schemes in time keep their order on grids that contain the nodes. B is infinite at the end of
    a last step with beta_N = 1, which ends in pure noise: there alpha is linear in t instead.
    Nothing is known below the first step, so t_min = t_end = 1/N, and the prior is that of the
    chain, N(0, I).

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
        """The first step, where sampling stops by default and x_0 is predicted."""
        return self.t_min

    def _step(self, t: Time) -> tuple[Time, Time, Time]:
        """-log abar at the start of the step, the gap of the step, and the position in [0, 1]."""
        n, (total, gaps) = len(self.betas), _tables(self.betas, t)
        at = n * t
        # A node belongs to the step that ends there, even when n * (i / n) is rounded up.
        i = _clip(_ceil(at - 1e-9) - 1, n)
        return total[i], gaps[i], at - i

    def _wide(self, fn: Callable[[Any], Any], t: Time) -> Time:
        """fn(t), which a tensor computes in float64 and returns in its dtype."""
        out: Time = fn(wide(t)).to(t.dtype) if isinstance(t, Tensor) else fn(t)
        return out

    @property
    def _pure(self) -> bool:
        """Whether the chain ends in pure noise."""
        return self.betas[-1] == 1.0

    def _total(self, t: Time) -> Time:
        start, gap, part = self._step(t)
        if not self._pure:
            return start + gap * part
        rise: Time = _piecewise(gap, part, lambda x: -2 * log1p(-x), lambda x, g: g * x)
        return start + rise

    def _rate(self, t: Time) -> Time:
        _, gap, part = self._step(t)
        n = len(self.betas)
        if not self._pure:
            return n * gap
        rate: Time = _piecewise(gap, part, lambda x: over(2.0 * n, 1.0 - x), lambda x, g: n * g)
        return rate

    def _variance(self, t: Time) -> Time:
        return -expm1(-self._total(t))

    def log_alpha(self, t: Time) -> Time:
        return self._wide(lambda u: -self._total(u) / 2, t)

    def sigma(self, t: Time) -> Time:
        return self._wide(lambda u: sqrt(self._variance(u)), t)

    def log_snr(self, t: Time) -> Time:
        return self._wide(lambda u: -(self._total(u) + log(self._variance(u))) / 2, t)

    def rate(self, t: Time) -> Time:
        return self._wide(lambda u: -self._rate(u) / 2, t)

    def g(self, t: Time) -> Time:
        return self._wide(lambda u: sqrt(self._rate(u)), t)

    def time_of(self, log_snr: Time) -> Time:
        return self._wide(self._time_of, log_snr)

    def _time_of(self, log_snr: Any) -> Any:  # any kind of Time
        n, (total, gaps) = len(self.betas), _tables(self.betas, log_snr)
        b = softplus(-2 * log_snr)  # B(t)
        i = _clip(_count(total, b) - 1, n)
        if not self._pure:
            return (i + (b - total[i]) / gaps[i]) / n
        rest = b - total[i]
        part = _piecewise(gaps[i], rest, lambda y: -expm1(-y / 2), lambda y, g: y / g)
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
"""Name -> (a, b) as functions of N: the network's time is a t + b, at t = i/N.

- "i": steps are counted from 1, as in the equations of Ho et al. 2020;
- "i-1": steps are counted from 0, as in most code for discrete chains (timesteps 0 ... N - 1);
- "i/N": the time itself;
- "(N-1)t", "999t": the labels of Song et al. 2021 for discrete and continuous VP networks;
- "1000(t-1/N)": those of DPM-Solver for discrete networks ("i-1" at N = 1000).
"""


@final
@dataclass(frozen=True)
class ChainTime:
    """The time input of a network of a discrete chain: the `time` of `Preconditioned`.

    A network trained on step numbers becomes a score model of `ChainSDE`. Between the steps its
    input is a fraction, which a sinusoidal embedding accepts; a table of embeddings needs `whole`,
    which rounds it to the nearest step.

    Args:
        convention: a key of `CONVENTIONS`, e.g. "i-1" for timesteps 0 ... N - 1.
        steps: N, the length of the chain.
        whole: pass the time of the nearest step.

    Raises:
        TypeError, ValueError: the convention is unknown or the length not a positive integer.

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
        keep(self, "steps", positive_int, "the chain's length")
        instance("whole", self.whole, bool, "True tells the nearest step's time")

    def __call__(self, node: Node) -> Scalar:
        """The network's time at a node: a float, or one for each sample."""
        a, b = CONVENTIONS[self.convention](self.steps)
        at: Scalar = self.steps * node.t
        if isinstance(at, Tensor):
            # rounding moves times in float32 off the steps
            near, step = (at - at.round()).abs() < 1e-3, at.round()
            at = step if self.whole else torch.where(near, step, at)
        elif self.whole or abs(at - round(at)) < 1e-3:
            at = float(round(at))
        return a * at / self.steps + b

    def to_dict(self) -> dict[str, str | int | bool]:
        """The three fields, for a checkpoint or a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ChainTime:  # values of JSON
        """The inverse of `to_dict`.

        Raises:
            TypeError: `fields` is not a mapping.
            ValueError: a field is missing, unknown or has an invalid value.
        """
        instance("fields", fields, Mapping, "pass what ChainTime.to_dict returned")
        expected = {"convention", "steps", "whole"}
        if set(fields) != expected:
            remedy = "pass what ChainTime.to_dict returned"
            raise fail("fields", "the keys convention, steps, whole", sorted(fields), remedy)
        return cls(fields["convention"], fields["steps"], fields["whole"])


def length(N: object) -> int:
    """Return N as an int of at least 2."""
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
    """1 - f(i/N)/f((i-1)/N), f(t) = cos^2(pi/2 (t + s)/(1 + s)), each at most `most`."""
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
    # -log abar = log(1 + exp(-2 lambda)): exact even where alpha rounds to 1
    levels = [0.0, *(math.log1p(math.exp(-2 * node.log_snr)) for node in nodes)]
    return tuple(-math.expm1(a - b) for a, b in pairwise(levels))


def as_variance(variance: object, n: int) -> str | float | tuple[float, ...]:
    """Check the choice of reverse variances of a chain of n steps; see `DDPM`."""
    if isinstance(variance, str):
        return choice("variance", variance, ("small", "large"))
    remedy = f"pass 'small', 'large', a number in [0, 1], or {n} positive numbers"
    if not hasattr(variance, "__len__") or getattr(variance, "ndim", 1) == 0:
        v = finite("variance", variance, remedy)
        if not 0.0 <= v <= 1.0:
            raise fail("variance", "a number in [0, 1]", v, remedy)
        return v
    values: Any = variance  # any sequence or array, checked below
    numbers = tuple(positive("variance", v, remedy) for v in values)
    if len(numbers) != n:
        raise fail("variance", f"{n} numbers, one for each step", len(numbers), remedy)
    return numbers
