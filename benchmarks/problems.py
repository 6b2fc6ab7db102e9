"""Problems whose answers are known, with no network and, but for B3's SDEs, no sampling noise.

- B1: three Gaussians in 2-D; endpoints of the probability flow from 64 fixed starts.
- B2: a Gaussian in 3072-D with the spectrum of natural images. Every linear scheme, stochastic
  or not, is read off by unit impulses: exact W2.
- B3: three Gaussians in 1-D, smooth and stiff; W2 between quantiles.
- B4: 100 narrow Gaussians in 64-D and 10 in 3072-D; endpoints as in B1.
- B5: exact log-densities and exact bits per dimension.
- `drawn(seed)`: a Gaussian or mixture, an SDE and 8 to 96 starts, all drawn at random.

Endpoints are compared with DOP853 at a tolerance of 1e-13 in the clock lambda = log(alpha /
sigma), kept in results/.cache. Both it and the peers see the exact denoiser at any level of noise,
through nodes scaled to alpha^2 + sigma^2 = 1: an affine SDE enters by its log-SNR alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import BarycentricInterpolator
from scipy.special import ndtr
from torch import Tensor

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    Gaussian,
    GaussianMixture,
    Grid,
    LinearSDE,
    ReverseSampler,
    ScoreModel,
    SubVPSDE,
)
from scoresde.node import AffineNode, Node
from scoresde.noise import Noise
from scoresde.schedule.grid import GRIDS
from scoresde.sde import AffineSDE
from scoresde.solvers import Adams

__all__ = [
    "ANCHORS",
    "FAMILIES",
    "Denoiser",
    "Draws",
    "Drawn",
    "FromDraws",
    "Impulses",
    "Normals",
    "Problem",
    "b1",
    "b2",
    "b3",
    "b4",
    "discrete",
    "drawn",
    "likelihood",
]

CACHE = Path(__file__).parent / "results" / ".cache"

FAMILIES: dict[str, AffineSDE] = {
    "vp": VPSDE(),
    "ve": VESDE(0.002, 80.0),
    "cosine": CosineSDE(),
    "subvp": SubVPSDE(),
    "flow": FlowSDE(),
}

_B1, _B2 = (6, 12, 24, 48, 96), (6, 10, 20, 50, 100, 1000)

ANCHORS: dict[tuple[str, str, str], tuple[tuple[int, ...], tuple[float, ...]]] = {
    ("B1", "log_snr", "ddim"): (_B1, (3.7e-1, 1.7e-1, 7.9e-2, 3.8e-2, 1.9e-2)),
    ("B1", "log_snr", "dpmpp_2m"): (_B1, (1.3e-1, 4.5e-2, 1.1e-2, 2.9e-3, 7.8e-4)),
    ("B1", "log_snr", "dpmpp_3m_reference"): (_B1, (2.9e-1, 1.6e-2, 5.8e-3, 1.2e-3, 2.2e-4)),
    ("B1", "log_snr", "unipc_3"): (_B1, (3.1e-1, 3.7e-2, 5.3e-3, 3.4e-4, 1.5e-5)),
    ("B1", "log_snr", "unipc_3_eps"): (_B1, (7.7e-2, 1.5e-2, 4.2e-3, 3.7e-4, 1.5e-5)),
    ("B1", "karras", "edm_heun"): (_B1, (2.3, 5.0e-1, 9.1e-2, 1.8e-2, 3.9e-3)),
    ("B1", "quadratic", "ipndm_3"): (_B1, (1.6e-2, 7.9e-3, 2.1e-3, 4.1e-4, 9.7e-5)),
    ("B1", "quadratic", "unipc_3_eps"): (_B1, (2.5e-1, 1.5e-2, 6.4e-4, 6.8e-5, 6.6e-6)),
    ("B1", "uniform", "unipc_3"): (_B1[:3], (3.3, 2.5, 1.2)),
    ("B2", "log_snr", "ancestral"): (_B2, (0.23, 0.17, 0.099, 0.044, 0.023, 2.4e-3)),
    ("B2", "log_snr", "em_lambda"): (_B2, (2.8, 0.15, 0.082, 0.040, 0.021, 2.3e-3)),
    ("B2", "log_snr", "dpmpp_2m_sde"): (_B2, (0.025, 0.027, 0.015, 3.0e-3, 7.6e-4, 7.6e-6)),
    ("B2", "log_snr", "sa_p2"): (_B2, (0.20, 0.15, 0.043, 6.5e-3, 1.6e-3, 1.5e-5)),
    ("B2", "log_snr", "dpmpp_3m_sde"): (_B2, (0.41, 0.11, 0.014, 1.2e-3, 2.6e-4, 2.5e-6)),
    ("B2", "log_snr", "sa_p2c2"): (_B2, (0.21, 0.15, 0.030, 2.2e-3, 2.9e-4, 3e-7)),
    ("B2", "log_snr", "sa_p3c4"): (_B2, (0.42, 0.097, 0.010, 9.9e-4, 2.5e-4, 2.5e-6)),
    ("B2", "log_snr", "sa_p2c2_half"): (_B2, (0.13, 0.059, 0.0088, 3.6e-4, 5e-6, 9e-7)),
    ("B2", "log_snr", "ddim"): (_B2, (0.16, 0.11, 0.056, 0.023, 0.012, 1.2e-3)),
    ("B2", "log_snr", "dpmpp_2m"): (_B2, (0.012, 0.017, 6.3e-3, 1.1e-3, 2.8e-4, 2.8e-6)),
    ("B2", "log_snr", "ab_2"): (_B2, (0.085, 0.047, 0.012, 1.9e-3, 4.8e-4, 4.7e-6)),
    ("B2", "log_snr", "dpmpp_3m"): (_B2, (0.092, 0.014, 1.1e-3, 7.8e-5, 2.0e-5, 1.9e-7)),
    ("B2", "log_snr", "unipc_3"): (_B2, (0.085, 0.014, 1.8e-4, 1.5e-5, 1.3e-6, 1.8e-10)),
    ("B2", "karras", "edm_heun"): (_B2, (0.87, 0.25, 0.055, 7.9e-3, 1.9e-3, 1.8e-5)),
}
"""(problem, grid, algorithm) -> network calls and errors, computed apart from this code."""


def unit_node(log_snr: float) -> Node:
    """The point of a schedule with alpha^2 + sigma^2 = 1 at this log-SNR."""
    alpha = math.exp(-0.5 * np.logaddexp(0.0, -2.0 * log_snr))
    sigma = math.exp(-0.5 * np.logaddexp(0.0, 2.0 * log_snr))
    return AffineNode(0.0, 0.0, alpha, sigma, log_snr, 0.0)


class Denoiser:
    """The exact E[x_0 | y] at y = x_0 + sigma eps, y = x/alpha: what every peer is handed.

    It counts its calls, and keeps the dtype in which it was called last.
    """

    def __init__(self, model: ScoreModel) -> None:
        self.model, self.calls = model, 0
        self.dtype: torch.dtype | None = None

    def __call__(self, y: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        self.dtype = y.dtype
        node = unit_node(-math.log(sigma))
        return self.model.predict(node, node.alpha * y.double()).x0.to(y.dtype)


class Draws(Protocol):
    """Standard normals by key: the same key, the same numbers."""

    def __call__(self, like: Tensor, key: Hashable) -> Tensor: ...


class Normals:
    """Independent standard normals; a key that returns gets what it had."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.seen: dict[Hashable, Tensor] = {}

    def __call__(self, like: Tensor, key: Hashable) -> Tensor:
        if key not in self.seen:
            made = torch.randn(like.shape, dtype=torch.float64, generator=self.generator)
            self.seen[key] = made
        return self.seen[key].to(like.dtype)


class Impulses:
    """Rows of a batch as unit vectors of noise space, one row per key; the last row their sum.

    A first run on any batch finds the keys; `rows` then says how large the batch must be.
    """

    def __init__(self) -> None:
        self.row_of: dict[Hashable, int] = {}
        self.listening = True

    @property
    def rows(self) -> int:
        """The start, one per key, and the sum of all."""
        return 2 + len(self.row_of)

    def __call__(self, like: Tensor, key: Hashable) -> Tensor:
        row = self.row_of.setdefault(key, 1 + len(self.row_of))
        out = torch.zeros_like(like)
        if not self.listening:
            out[row] = out[-1] = 1.0
        return out


@dataclass(frozen=True)
class FromDraws(Noise):
    """Draws as a noise source of scoresde: independent increments, one key per interval."""

    draws: Draws
    name: str = "steps"
    segment: int = 0
    seed: int = 0
    first: int = 0

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        return self.draws(like, (self.name, self.segment, now.t, nxt.t))

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        return self.draws(like, (self.name, self.segment, at, at, *number))

    def stream(self, name: str) -> FromDraws:
        return replace(self, name=name)

    def on_segment(self, segment: int) -> FromDraws:
        return replace(self, segment=segment)

    def from_sample(self, first: int) -> FromDraws:
        return self


@dataclass(frozen=True, eq=False)
class Problem:
    """Data under an SDE, where to stop, and how far an answer is from the truth.

    Attributes:
        name: "B1", ...; the same problem under another SDE has the same name.
        family: a key of `FAMILIES`.
        data: the distribution of x_0.
        kind: "endpoints" (pathwise, RMS and median), "spectrum" (exact W2 of a Gaussian) or
            "quantiles" (W2 in 1-D).
        starts: states at T divided by sqrt(alpha^2 + sigma^2), (B, D), float64.
        t_end: where to stop.
    """

    name: str
    family: str
    data: Gaussian | GaussianMixture
    kind: str
    starts: Tensor
    t_end: float

    @property
    def sde(self) -> AffineSDE:
        return FAMILIES[self.family]

    @cached_property
    def model(self) -> ScoreModel:
        """The exact score."""
        return self.data.under(self.sde)

    def grid(self, name: str, steps: int) -> Grid:
        """A named grid from T to t_end."""
        return GRIDS[name](self.sde, steps, t_end=self.t_end)

    def norm(self, t: float) -> float:
        """sqrt(alpha^2 + sigma^2)."""
        node = self.sde.at(t)
        return math.hypot(node.alpha, node.sigma)

    @cached_property
    def truth(self) -> Tensor:
        """Where the exact flow takes the starts, divided by sqrt(alpha^2 + sigma^2)."""
        if self.kind == "quantiles":
            q = quantiles(self.data, self.sde, self.t_end, len(self.starts))
            return q[:, None] / self.norm(self.t_end)
        return _endpoints(self)

    def error(self, x: Tensor) -> dict[str, float]:
        """How far states at t_end are from the truth: the headline, RMS and median.

        The headline is the RMS distance, but in B4, where it counts little more than how many
        starts end in another component, the median; distances there are over sqrt(D).
        """
        got = x.double() / self.norm(self.t_end)
        if not bool(got.isfinite().all()):
            return dict.fromkeys(("error", "rms", "median"), math.inf)
        if self.kind == "quantiles":
            got = got.sort(0).values
        gap = (got - self.truth).norm(dim=1)
        if self.data.dim > 2:
            gap = gap / math.sqrt(self.data.dim)
        rms, median = float(gap.square().mean().sqrt()), float(gap.median())
        return {"error": median if self.data.dim > 2 else rms, "rms": rms, "median": median}

    @cached_property
    def floor(self) -> float:
        """What an exact sampler would score by chance: RMS over 20 sets of exact samples."""
        if self.kind != "quantiles":
            return 0.0
        exact = self.data.marginal(self.sde, self.t_end)
        sets = [exact.sample(len(self.starts), seed=s) for s in range(20)]
        return math.sqrt(sum(self.error(x)["rms"] ** 2 for x in sets) / len(sets))


def _endpoints(problem: Problem) -> Tensor:
    """dx/dlambda = -alpha sigma v on states of unit size, from T to t_end, cached."""
    sde = problem.sde
    ends = [float(sde.log_snr(t)) for t in (sde.T, problem.t_end)]
    data = problem.data
    spec = [problem.starts, data.means, data.variances, data.weights]
    digest = hashlib.sha256(repr(ends).encode())
    for part in spec:
        digest.update(part.double().numpy().tobytes())
    path = CACHE / f"{problem.name}-{problem.family}-{digest.hexdigest()[:12]}.pt"
    if path.exists():
        return torch.load(path)
    shape = problem.starts.shape

    def slope(lam: float, x: np.ndarray) -> np.ndarray:
        node = unit_node(lam)
        v = problem.model.predict(node, torch.from_numpy(x).reshape(shape)).value
        return (-node.alpha * node.sigma * v).flatten().numpy()

    start = problem.starts.flatten().numpy()
    out = solve_ivp(slope, ends, start, method="DOP853", rtol=1e-13, atol=1e-13)
    truth = torch.from_numpy(out.y[:, -1].copy()).reshape(shape)
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save(truth, path)
    return truth


def quantiles(data: GaussianMixture, sde: AffineSDE, t: float, n: int) -> Tensor:
    """x_t at the probabilities (i + 1/2)/n of a 1-D mixture, by bisection."""
    marginal = data.marginal(sde, t)
    means, std = marginal.means[:, 0].double(), marginal.variances.double().sqrt()
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    low = torch.full_like(u, float((means - 40 * std).min()))
    high = torch.full_like(u, float((means + 40 * std).max()))
    for _ in range(100):
        middle = (low + high) / 2
        cdf = (torch.special.ndtr((middle[:, None] - means) / std) * marginal.weights).sum(1)
        low, high = torch.where(cdf < u, middle, low), torch.where(cdf < u, high, middle)
    return (low + high) / 2


def _normal_starts(n: int, dim: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, dim)))


def _isotropic(means: Tensor, std: float, weights: Tensor | None = None) -> GaussianMixture:
    variances = torch.full((len(means),), std**2, dtype=torch.float64)
    return GaussianMixture(means, variances, weights)


def b1(family: str = "vp") -> Problem:
    """Three Gaussians in 2-D."""
    means = torch.tensor([[1.0, 0.6], [-0.8, 1.0], [0.1, -1.1]], dtype=torch.float64)
    data = _isotropic(means, 0.25, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    starts = _normal_starts(64, 2)
    return Problem("B1", family, data, "endpoints", starts, FAMILIES[family].t_end)


SPECTRUM = torch.arange(1, 3073, dtype=torch.float64) ** -1.5
SPECTRUM *= 0.25 / SPECTRUM.mean()
"""Variances of B2 along its principal axes."""


def b2(family: str = "vp", points: int = 64) -> Problem:
    """A Gaussian in 3072-D, held by its variances at Chebyshev points in their logarithm."""
    ends = SPECTRUM.log()[[-1, 0]]
    x = torch.cos(torch.pi * (torch.arange(points, dtype=torch.float64) + 0.5) / points)
    variances = (ends.mean() + (ends[1] - ends[0]) / 2 * x).exp()
    data = Gaussian(torch.zeros(points, dtype=torch.float64), variances)
    sde = FAMILIES[family]
    start = data.marginal(sde, sde.T).covariance.sqrt()
    node = sde.at(sde.T)
    starts = start[None] / math.hypot(node.alpha, node.sigma)
    return Problem("B2", family, data, "spectrum", starts, sde.t_end)


def spectral_w2(problem: Problem, variances: Tensor) -> float:
    """Exact W2 / sqrt(3072) from the variances that a scheme gives B2's directions, (D,)."""
    if not bool(torch.isfinite(variances).all()):
        return math.inf
    clean = problem.data.covariance
    excess = variances / problem.data.marginal(problem.sde, problem.t_end).covariance - 1
    node = problem.sde.at(problem.t_end)
    at = BarycentricInterpolator(clean.log().numpy(), excess.numpy())(SPECTRUM.log().numpy())
    true = (node.alpha**2 * SPECTRUM + node.sigma**2).sqrt().numpy()
    # sqrt(1 + e) - 1 without cancellation
    at = np.maximum(at, -1.0)
    gap = true * at / (np.sqrt(1.0 + at) + 1.0)
    return float(np.sqrt(np.mean(gap**2))) / problem.norm(problem.t_end)


def b3(family: str = "vp", std: float = 0.25, points: int = 2000) -> Problem:
    """Three Gaussians in 1-D, to the smallest time; stiff at std = 0.02."""
    means = torch.tensor([[-1.2], [0.3], [1.4]], dtype=torch.float64)
    data = _isotropic(means, std, torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64))
    sde = FAMILIES[family]
    node = sde.at(sde.T)
    starts = quantiles(data, sde, sde.T, points)[:, None] / math.hypot(node.alpha, node.sigma)
    name = "B3" if std == 0.25 else "B3-stiff"
    return Problem(name, family, data, "quantiles", starts, sde.t_min)


def b4(dim: int = 64, std: float = 0.05, family: str = "vp") -> Problem:
    """Narrow Gaussians around points of [-1, 1]^D; "B4-memory" at std = 0.01."""
    count, n = (100, 64) if dim < 1000 else (10, 16)
    means = np.random.default_rng(1).standard_normal((count, dim)) * 0.5
    data = _isotropic(torch.from_numpy(means.clip(-1, 1)), std)
    name = f"B4-{dim}" if std == 0.05 else f"B4-{dim}-memory"
    return Problem(name, family, data, "endpoints", _normal_starts(n, dim), FAMILIES[family].t_end)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A problem drawn at random: data under an SDE, and what a sampler should return.

    Attributes:
        seed: that it was drawn with.
        family: of the SDE: a name of ours, or "linear" for a schedule of the user's own.
        kind: of the data: "gauss", "iso", "diag" or "narrow", the last three mixtures.
        sde, data: the problem.
        starts: standard normals, (B, D), of which a sampler's prior is made.
    """

    seed: int
    family: str
    kind: str
    sde: AffineSDE
    data: GaussianMixture
    starts: Tensor

    @cached_property
    def model(self) -> ScoreModel:
        """The exact score, which knows the spread of the data."""
        return self.data.under(self.sde)

    def sample(self, sampler: ReverseSampler) -> Tensor:
        """What a sampler makes of the starts, after its final denoising."""
        return sampler.sample(
            self.starts.shape, x_init=self.sde.sample_prior(self.starts), noise="independent"
        )

    @cached_property
    def truth(self) -> Tensor:
        """What the exact flow to t_end and an exact final denoising make of the starts.

        In closed form for a Gaussian; for a mixture by 1500 steps of fifth order, which agree
        with 3000 to 1e-8 or better.
        """
        sde, end = self.sde, self.sde.t_end
        if self.kind == "gauss":
            gauss = Gaussian(self.data.means[0], self.data.variances[0])
            x = gauss.flow(sde, sde.sample_prior(self.starts), sde.T, end)
            return self.model.predict(sde.at(end), x).x0
        fine = Adams(4, 5, "v")
        return self.sample(
            ReverseSampler(sde, self.model, fine, eta=0, steps=1500, grid="tapered")
        )

    def error(self, x: Tensor) -> float:
        """RMS distance of the samples from the truth, in standard deviations of the data."""
        std = self.model.data_scale[0]
        gap = float((x - self.truth).square().mean().sqrt()) / std
        return gap if math.isfinite(gap) else math.inf


def _between(r: np.random.Generator, low: float, high: float) -> float:
    """Uniform in the logarithm."""
    return math.exp(r.uniform(math.log(low), math.log(high)))


def _drawn_sde(r: np.random.Generator) -> tuple[str, AffineSDE]:
    family = str(r.choice(["vp", "subvp", "ve", "cosine", "edm", "flow", "linear"]))
    if family in ("vp", "subvp"):
        kind = VPSDE if family == "vp" else SubVPSDE
        return family, kind(_between(r, 0.02, 0.3), r.uniform(8.0, 30.0))
    if family == "ve":
        return family, VESDE(_between(r, 0.002, 0.02), _between(r, 15.0, 150.0))
    if family == "cosine":
        return family, CosineSDE(_between(r, 0.004, 0.02), r.uniform(0.985, 0.998))
    if family == "edm":
        return family, EDMSDE(_between(r, 0.001, 0.01), _between(r, 20.0, 150.0))
    if family == "flow":
        return family, FlowSDE(1.0 - _between(r, 1e-4, 1e-2))
    power, total, T, scale = (
        r.uniform(0.0, 3.0),
        r.uniform(6.0, 14.0),
        _between(r, 0.5, 5.0),
        r.uniform(0.5, 1.5),
    )

    def beta(t: float) -> float:
        return (0.1 + total * (power + 1.0) * (t / T) ** power) / T

    end = (2e-3 if power > 1 else 5e-4) * T
    own = LinearSDE(
        lambda t: -0.5 * beta(float(t)), lambda t: scale * beta(float(t)) ** 0.5, T=T, t_end=end
    )
    return family, own


def _drawn_data(r: np.random.Generator, kind: str, dim: int) -> GaussianMixture:
    """Of standard deviation 0.25 to 2; the components of a mixture 0.005 to 0.7 of that."""
    if kind == "gauss":
        falling = np.arange(1, dim + 1.0) ** -r.uniform(0.0, 3.0)
        variances = falling if r.random() < 0.6 else np.exp(r.uniform(math.log(1e-4), 0.0, dim))
        means = r.standard_normal((1, dim)) * r.choice([0.0, 0.3])
        variances, weights = variances[None] / variances.mean(), np.ones(1)
    else:
        count = int(r.integers(2, 9))
        means = r.standard_normal((count, dim))
        weights = r.dirichlet(np.full(count, 3.0)) + 1e-3
        if kind == "iso":
            spread = np.exp(r.uniform(-0.5, 0.5, count))
            variances = np.full(count, _between(r, 0.02, 0.6) ** 2) * spread
        elif kind == "narrow":
            variances = np.full(count, _between(r, 0.005, 0.08) ** 2)
        else:
            variances = np.exp(r.uniform(math.log(3e-3), math.log(0.5), (count, dim)))
    weights = weights / weights.sum()
    each = variances if variances.ndim == 2 else np.repeat(variances[:, None], dim, 1)
    means = means - weights @ means
    scale = _between(r, 0.25, 2.0) / math.sqrt((weights @ (each + means**2)).mean())
    means = means * scale + r.choice([0.0, 0.0, 0.3]) * r.standard_normal(dim)
    return GaussianMixture(*(torch.from_numpy(a) for a in (means, variances * scale**2, weights)))


def drawn(seed: int) -> Drawn:
    """A problem drawn at random, in 1 to 768 dimensions, under any family of SDEs."""
    r = np.random.default_rng(seed)
    family, sde = _drawn_sde(r)
    dim = int(r.choice([1, 1, 2, 2, 2, 3, 4, 8, 8, 16, 32, 64, 128, 256, 768]))
    kind = str(r.choice(["gauss", "iso", "iso", "diag", "narrow"]))
    data = _drawn_data(r, kind, dim)
    rows = 96 if dim <= 4 else 48 if dim <= 64 else 12
    starts = torch.from_numpy(np.random.default_rng(seed + 10**6).standard_normal((rows, dim)))
    return Drawn(seed, family, kind, sde, data, starts)


def likelihood(dim: int) -> Gaussian | GaussianMixture:
    """B5 (i): data whose log-density at t_end is `data.marginal(sde, t_end).log_prob`."""
    if dim == 3072:
        return Gaussian(torch.zeros(dim, dtype=torch.float64), SPECTRUM)
    means = np.random.default_rng(2).standard_normal((5, dim))
    return _isotropic(torch.from_numpy(means), 0.3)


def discrete(std: float = 0.25) -> tuple[np.ndarray, float]:
    """B5 (ii): masses of the 256 bins of [-1, 1] under a 1-D mixture, and its bits/dim."""
    means, weights = np.array([-0.6, 0.1, 0.7]), np.array([0.3, 0.5, 0.2])
    edges = np.linspace(-1, 1, 257)
    cdf = (ndtr((edges[:, None] - means) / std) * weights).sum(1)
    masses = np.diff(cdf)
    masses /= masses.sum()
    return masses, float(-(masses * np.log2(masses)).sum())
