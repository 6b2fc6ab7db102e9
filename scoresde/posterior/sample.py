"""Samples of a posterior in one call, by the method that was measured to suit it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance, listed, positive_int, show, warn
from scoresde._html import Shown
from scoresde.cond import Cond, as_condition
from scoresde.measurement import Measurement
from scoresde.measurement.base import pairs
from scoresde.model import ScoreModel, summary_of
from scoresde.posterior.base import MeasuredModel
from scoresde.posterior.choice import CALLS, Choice, choose, known_bias
from scoresde.posterior.daps import DAPS
from scoresde.posterior.ddnm import DDNM
from scoresde.posterior.ddrm import DDRM
from scoresde.posterior.dps import DPS
from scoresde.posterior.gaussian import MMPS, TMPD, PiGDM
from scoresde.posterior.repaint import RePaint
from scoresde.sampler import ReverseSampler
from scoresde.schedule import resampling
from scoresde.schedule.grid import log_snr
from scoresde.sde import AffineSDE, as_affine
from scoresde.smc import Particles, TwistedSampler
from scoresde.solvers.base import Solver
from scoresde.summary import DataRangeWarning

__all__ = ["PosteriorSamples", "posterior"]

_SOLVER, _SAFE = "sa_solver_p2_v", "ancestral"
"""The solver of most methods, of second order with one call a step; and that of DPS, of first.

The likelihood of a curved operator can be too sharp for steps of second order.
"""

_FAR = 10.0
"""The spread of samples over that of the data from which on a run counts as diverged."""

_LENGTH, _TIMES = 5, 10
"""RePaint's resampling: every five steps ten times."""

_MODELS: dict[str, Callable[[ScoreModel, Measurement], MeasuredModel]] = {
    "mmps": MMPS,
    "pigdm": PiGDM,
    "tmpd": TMPD,
    "ddrm": DDRM,
    "dps": DPS,
    "ddnm": DDNM,
}


@final
@dataclass(frozen=True, eq=False, repr=False)
class PosteriorSamples(Shown):
    """Samples of p(x_0 | y), and what is known of their errors.

    Attributes:
        x: the samples, of equal weight: (n, *D), or (P, n, *D) for P measurements.
        mean, std: the posterior mean and standard deviation of each number, (*D) or (P, *D); those
            of the weighted particles if there are any, else of the samples, of which one alone
            has a standard deviation of NaN.
        method: the name of the method.
        why: why it was taken.
        bias: what is known of its bias.
        log_evidence, log_evidence_error: the estimate of log p(y) in nats and its standard error,
            () or (P,); None unless the method is "twisted".
        particles: the weighted particles of the method "twisted"; None for the others.
        steps: the steps of the solver.
        nfe: network calls of one sample, or of one particle.
        products: vector-Jacobian products of one sample, or of one particle.
        seed: the seed of the noise; None if it was drawn.
        several: whether there are P measurements, so that the axis of the samples is the second.
    """

    x: Tensor
    mean: Tensor
    std: Tensor
    method: str
    why: str
    bias: str
    log_evidence: Tensor | None
    log_evidence_error: Tensor | None
    particles: Particles | None
    steps: int
    nfe: int
    products: int
    seed: int | None
    several: bool

    @property
    def facts(self) -> dict[str, object]:
        """The method, its costs and its known bias, name -> value, for a table."""
        return {
            "x": show(self.x),
            "method": self.method,
            "chosen since": self.why,
            "bias": self.bias,
            "log evidence, nats": self._evidence or None,
            "steps": self.steps,
            "network evaluations": f"{self.nfe} for each sample",
            "vector-Jacobian products": f"{self.products} for each sample",
            "seed": self.seed,
        }

    @property
    def _evidence(self) -> str:
        if self.log_evidence is None or self.log_evidence_error is None:
            return ""
        values, errors = (
            v.flatten().tolist() for v in (self.log_evidence, self.log_evidence_error)
        )
        each = zip(values, errors, strict=True)
        return listed([f"{value:.3f} ± {error:.3f}" for value, error in each], 3)

    def _picture(self) -> bytes | None:
        from scoresde.plot.picture import thumbnail  # for notebooks alone

        return thumbnail(self.x[0] if self.several else self.x)

    def __repr__(self) -> str:
        evidence = f", log_evidence {self._evidence}" if self._evidence else ""
        return (
            f"PosteriorSamples({show(self.x)}, method={self.method!r}, steps={self.steps}, "
            f"nfe={self.nfe}, products={self.products}{evidence})\n  why: {self.why}\n"
            f"  bias: {self.bias}"
        )

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """A central interval of each number, which holds the share `level` of its posterior.

        The k-th smallest of n independent samples has the share k/(n + 1) below it on average, so
        the ends lie between the samples of the ranks (n + 1)(1 -+ level)/2 (Hyndman and Fan 1996,
        The American Statistician 50, definition 6). The quantiles of the samples themselves are
        too narrow: those of 30 samples hold 84 % where 90 % are meant.

        Args:
            level: between 0 and 1.

        Returns:
            The lower and upper ends, each of the shape of `mean`.

        Warns:
            UserWarning: there are too few samples for this level, and the interval from the
                smallest to the largest one holds less.
        """
        if not 0.0 < float(level) < 1.0:
            raise fail("level", "a number between 0 and 1", level, "0.9 is usual")
        dim = 1 if self.several else 0
        n = self.x.shape[dim]
        most, needed = (n - 1) / (n + 1), math.ceil(round(2 / (1 - level) - 1, 6))
        if n < needed:
            warn(
                f"{n} samples span {most:.0%} of the posterior on average, not "
                f"{level:.0%}; draw {needed} or more",
            )
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        ranks = (tails * (n + 1) - 1).clamp(0, n - 1)  # from 0
        ends = (ranks / max(n - 1, 1)).to(self.x.device)
        low, high = torch.quantile(self.x.double(), ends, dim=dim)
        return low.to(self.x), high.to(self.x)


def posterior(
    model: ScoreModel,
    measurement: Measurement,
    shape: Sequence[int] | None = None,
    *,
    method: str = "auto",
    n: int = 1000,
    calls: int = CALLS,
    steps: int | None = None,
    solver: str | Solver | None = None,
    seed: int | None = None,
    cond: Cond = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> PosteriorSamples:
    """Samples of p(x_0 | y) for a score model of p(x_0).

    For a linear operator with Gaussian noise the method "auto" takes "twisted", which is exact as
    its particles grow and gives the evidence, if `calls` suffice for 256 particles; otherwise
    "mmps", the score model that was closest to exact posteriors. For any other measurement it
    takes "daps", or "twisted" or "dps" if the model does not know its data; and for one without
    noise "repaint", if the operator selects entries, or else "ddnm". The result says what was
    taken, why, and how biased it is known to be.

    Args:
        model: the score model of the prior, under an affine SDE.
        measurement: the measurement. If it has no y, `cond` brings P of them.
        shape: (*D), the shape of one sample; by default that of the data of the model.
        method: "auto", or a name: "twisted" (`TwistedSampler`); "mmps", "pigdm", "tmpd", "ddrm",
            "dps", "daps", "ddnm", the classes of these names; "repaint", with every five steps
            made ten times.
        n: the samples of each posterior.
        calls: the network calls and vector-Jacobian products for each sample, about. It bounds
            the particles of "twisted" and the steps of the others.
        steps: the steps of the solver; by default what the calls allow, at most 100.
        solver: a stochastic solver of the reverse SDE, by name or as an object; "ancestral" by
            default for "dps", and "sa_solver_p2_v" for the others. "daps" takes none.
        seed: the seed of the noise; drawn from torch's global generator if None.
        cond: conditions of the model, name -> (P, ...) for P measurements, or (1, ...) if the
            measurement has a y; and the measurement itself, (P, *M), if it has none.
        batch_size: the samples or particles of one call of the network, all at once by default.
        dtype, device: those of the samples; by default those of the model.
        progress: show a bar.

    Raises:
        TypeError, ValueError: an argument is not valid, or the measurement breaks an assumption of
            the method, which the message names with the methods that serve.

    Warns:
        CollapsedWeights: few particles hold nearly all the weight.
        DataRangeWarning: samples are spread ten times as far as the data: the method diverged.

    Example:
        >>> from scoresde import VPSDE, Gaussian
        >>> from scoresde.measurement import Mask
        >>> prior = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> y = Measurement(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.1)
        >>> found = posterior(prior.under(VPSDE()), y, n=1000, seed=0)
        >>> found.method
        'twisted'
        >>> bool((found.mean - torch.tensor([0.990, 0.891])).abs().max() < 0.05)
        True
    """
    instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
    instance("measurement", measurement, Measurement, "pass Measurement(operator, y, noise)")
    sde = as_affine("model.sde", model.sde, "posteriors need E[x_0 | x_t], as affine SDEs give")
    n, calls = positive_int("n", n), positive_int("calls", calls)
    steps = None if steps is None else positive_int("steps", steps)
    sizes = _shape_of(model, shape)
    measured = measurement.shape(torch.zeros((1, *sizes)))
    cond = _tensors(cond)
    runs = _runs(measurement, cond, measured)
    count = math.prod(measured)
    chosen = choose(
        measurement,
        count,
        math.prod(sizes),
        n,
        method=method,
        calls=calls,
        steps=steps,
        variance_known=model.data_scale is not None,
        same_entries=measurement.y is not None or _alike(cond[measurement.name]),
    )
    if chosen.method == "daps" and solver is not None:
        remedy = "leave it out, or name a method that follows the reverse SDE, such as 'dps'"
        raise fail("solver", "None for 'daps', which has steps of its own", solver, remedy)
    if solver is None:
        solver = _SAFE if chosen.method == "dps" else _SOLVER
    call = _Call(
        model, measurement, chosen, solver, runs, n, sizes, seed, batch_size, dtype, device
    )
    if chosen.method == "twisted":
        return call.of_particles(cond, progress)
    repeated = {name: value.repeat_interleave(n, 0) for name, value in cond.items()}
    if chosen.method == "daps":
        return call.of_daps(repeated)
    return call.of_reverse_sde(sde, repeated, progress)


@final
@dataclass(frozen=True)
class _Call:
    """One call of `posterior`, with what all methods need."""

    model: ScoreModel
    measurement: Measurement
    chosen: Choice
    solver: str | Solver
    runs: int
    n: int
    sizes: tuple[int, ...]
    seed: int | None
    batch_size: int | None
    dtype: torch.dtype | None
    device: torch.device | str | None

    @property
    def several(self) -> bool:
        """Whether each posterior brings its own measurement."""
        return self.measurement.y is None

    @property
    def curved(self) -> bool:
        """Whether the measurement is not linear with Gaussian noise."""
        return not (self.measurement.linear and self.measurement.gaussian)

    def of_particles(self, cond: Cond, progress: bool) -> PosteriorSamples:
        """By the twisted sampler."""
        sampler = TwistedSampler(
            self.model,
            self.measurement,
            particles=self.chosen.particles,
            solver=self.solver,
            steps=self.chosen.steps,
            twist=self.chosen.twist,
        )
        found = sampler.sample(
            (self.runs, *self.sizes),
            seed=self.seed,
            cond=cond,
            batch_size=self.batch_size,
            dtype=self.dtype,
            device=self.device,
            progress=progress,
        )
        x, mean, std = found.resample(self.n, seed=found.seed), found.mean, found.std
        evidence, error = found.log_evidence, found.log_evidence_error
        if not self.several:
            x, mean, std, evidence, error = (v[0] for v in (x, mean, std, evidence, error))
        return PosteriorSamples(
            x=x,
            mean=mean,
            std=std,
            method="twisted",
            why=self.chosen.why,
            bias=known_bias("twisted", self.curved),
            log_evidence=evidence,
            log_evidence_error=error,
            particles=found,
            steps=self.chosen.steps,
            nfe=found.nfe,
            products=found.products,
            seed=found.seed,
            several=self.several,
        )

    def of_daps(self, cond: dict[str, Tensor]) -> PosteriorSamples:
        """By decoupled annealing."""
        x = DAPS(self.model, self.measurement, steps=self.chosen.steps).sample(
            (self.runs * self.n, *self.sizes),
            seed=self.seed,
            cond=cond or None,
            batch_size=self.batch_size,
            dtype=self.dtype,
            device=self.device,
        )
        return self._of_samples(x, self.chosen.steps, self.chosen.steps + 1, 0)

    def of_reverse_sde(
        self, sde: AffineSDE, cond: dict[str, Tensor], progress: bool
    ) -> PosteriorSamples:
        """By the reverse SDE with a posterior score model, or with the hook of RePaint."""
        hook, guided, grid = None, self.model, None
        steps: int | None = self.chosen.steps
        if self.chosen.method == "repaint":
            hook = RePaint(self.measurement, cond.pop(self.measurement.name, None))
            down = log_snr(sde, max(self.chosen.steps // _TIMES, _LENGTH))
            grid, steps = resampling(sde, down, length=_LENGTH, times=_TIMES), None
        else:
            guided = _MODELS[self.chosen.method](self.model, self.measurement)
        reverse = ReverseSampler(sde, guided, self.solver, steps=steps, grid=grid)
        solution = reverse.solve(
            (self.runs * self.n, *self.sizes),
            seed=self.seed,
            cond=cond or None,
            batch_size=self.batch_size,
            dtype=self.dtype,
            device=self.device,
            progress=progress,
            on_step=hook,
        )
        total = self.runs * self.n
        size = total if self.batch_size is None else self.batch_size
        products = round(getattr(guided, "vjps", 0) / math.ceil(total / size))  # of each batch
        return self._of_samples(solution.x, reverse.grid.steps, solution.nfe, products)

    def _of_samples(self, x: Tensor, steps: int, nfe: int, products: int) -> PosteriorSamples:
        """The result of a method without weights; x: (P n, *D)."""
        self._warn_of_divergence(x)
        x = x.reshape(self.runs, self.n, *self.sizes)
        mean = x.mean(1)
        std = x.std(1) if self.n > 1 else torch.full_like(mean, torch.nan)
        if not self.several:
            x, mean, std = x[0], mean[0], std[0]
        return PosteriorSamples(
            x=x,
            mean=mean,
            std=std,
            method=self.chosen.method,
            why=self.chosen.why,
            bias=known_bias(self.chosen.method, self.curved),
            log_evidence=None,
            log_evidence_error=None,
            particles=None,
            steps=steps,
            nfe=nfe,
            products=products,
            seed=self.seed,
            several=self.several,
        )

    def _warn_of_divergence(self, x: Tensor) -> None:
        """Say that a guided run has left the data, which the number of its steps may cause."""
        scale = self.model.data_scale
        spread = float(x.double().std(correction=0))
        if scale is not None and spread > _FAR * scale[0]:
            warn(
                f"method {self.chosen.method!r} diverged: samples have a standard deviation of "
                f"{spread:.3g}, the data one of {scale[0]:.3g}; take more steps, a larger noise, "
                "or the method 'twisted' with more calls",
                DataRangeWarning,
            )


def _shape_of(model: ScoreModel, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one sample, from the argument or from what the model knows of its data."""
    if shape is not None:
        return tuple(positive_int("shape", size) for size in shape)
    summary, scale = summary_of(model), model.data_scale
    if summary is not None:
        return tuple(summary.shape)
    if scale is not None:
        return (scale[1],)
    remedy = "pass the shape of one sample, such as (1, 28, 28)"
    raise fail("shape", "a shape, as the model does not know that of its data", None, remedy)


def _tensors(cond: Cond) -> dict[str, Tensor]:
    """The conditions of each posterior as tensors, (P, ...)."""
    given = {} if cond is None else cond
    instance("cond", given, Mapping, 'pass name -> tensor, e.g. {"y": y}')
    found = {}
    for name, value in given.items():
        tensor = as_condition(f"cond[{name!r}]", value)
        if tensor is None or tensor.ndim == 0:
            remedy = "conditions have one entry for each posterior along their first axis"
            raise fail(f"cond[{name!r}]", "a tensor of shape (P, ...)", value, remedy)
        found[name] = tensor
    return found


def _alike(y: Tensor) -> bool:
    """Whether the measurements y (P, *M) lack the same numbers."""
    missing = y.isnan()
    return bool((missing == missing[:1]).all())


def _runs(measurement: Measurement, cond: dict[str, Tensor], measured: tuple[int, ...]) -> int:
    """The number P of posteriors, whose measurements have the shape `measured`, (*M)."""
    runs = 1
    if measurement.y is None:
        if measurement.name not in cond:
            remedy = f'pass cond={{"{measurement.name}": y}} with y: (P, *M), or build it with y'
            raise fail("cond", f"the measurement {measurement.name!r}", list(cond), remedy)
        y = cond[measurement.name]
        runs = len(y)
        if tuple(pairs(y).shape) != (runs, *measured):
            expected = f"shape ({', '.join(map(str, ('P', *measured)))})"
            remedy = "one measurement for each posterior, along the first axis"
            raise fail(f"cond[{measurement.name!r}]", expected, y, remedy)
    for name, value in cond.items():
        if len(value) != runs:
            remedy = "one entry for each posterior; the samples of one share it"
            raise fail(f"cond[{name!r}]", f"a tensor with leading {runs}", value, remedy)
    return runs
