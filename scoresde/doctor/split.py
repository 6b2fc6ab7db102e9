"""The error of samples, split into its causes.

Five runs start from the same noise, and each of them lacks one more error:

    0  the sampler as it is
    1  without discretisation: an accurate solver of the same process
    2  without truncation: it ends at t_min
    3  without a mismatch of the prior: it starts from x_T of the truth, alpha x_0 + sigma z
    4  without an error of the score: the exact score

With d_i the squared 2-Wasserstein distance between Gaussians fitted to the samples of runs i and
4, the part of a cause is d_i - d_(i+1). The parts telescope, so their sum is d_0, the total.
A part is what its cause costs beside those that are removed later, and it is negative where the
cause makes up for another.

All runs share their noise, and the moments of the start are matched to those of its law. What
chance is left in the distances is said by standard errors, of a jackknife over ten groups of the
samples (Efron and Stein, Annals of Statistics 9 (1981)). A group that is left out unmatches the
moments of the start, so where the runs are nearly linear in it the errors are stated too large.
The standard errors fall as 1/sqrt(n).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive, positive_int, wrong_type
from scoresde._html import Shown, rounded
from scoresde._progress import progress as progress_of
from scoresde._tensor import check_data, lincomb, ordinary
from scoresde.metrics.frechet import FeatureMoments
from scoresde.model import ScoreModel
from scoresde.noise import Independent
from scoresde.oracles import Gaussian, GaussianMixture
from scoresde.sampler import ReverseSampler
from scoresde.sde import AffineSDE, as_affine
from scoresde.solvers import AdaptiveODE, ShARK, Solution

__all__ = ["CAUSES", "ErrorSplit", "split_error"]

Truth: TypeAlias = "Gaussian | GaussianMixture | Tensor"

CAUSES = ("discretisation", "truncation", "prior", "score")
"""The causes in the order in which they are removed."""

GROUPS = 10
"""The number of groups of samples, each of which is left out once for the standard errors."""


@final
@dataclass(frozen=True, kw_only=True)
class ErrorSplit(Shown):
    """The squared distance of samples from the truth, by its causes.

    All values are squared 2-Wasserstein distances of Gaussians, in the squared unit of the data,
    summed over the dimensions.

    Attributes:
        discretisation: of the steps of the solver.
        truncation: of the noise that is left at t_end.
        prior: of the start from N(0, prior_std^2) in place of x_T.
        score: of the model.
        total: the distance between the samples and those of the run without these errors.
        measured: the distance of the samples from the moments of the truth, less that of the run
            without errors. It differs from the total by the chance in both alone.
        floor: the distance of the run without errors from the moments of the truth.
        calls: network evaluations per sample of the sampler.
        standard_errors: cause, or "total" -> the standard error; NaN with fewer than 4 samples.
    """

    discretisation: float
    truncation: float
    prior: float
    score: float
    total: float
    measured: float
    floor: float
    calls: int
    standard_errors: Mapping[str, float]

    @property
    def facts(self) -> dict[str, object]:
        """The parts and the total with their standard errors, name -> value, for a table."""
        errors = self.standard_errors
        shown: dict[str, object] = {k: rounded(v, errors[k]) for k, v in self.parts.items()}
        shown |= {"total": rounded(self.total, errors["total"])}
        shown |= {"measured": rounded(self.measured), "floor": rounded(self.floor)}
        return {**shown, "calls": self.calls}

    @property
    def parts(self) -> dict[str, float]:
        """Cause -> its part of the total."""
        return {name: getattr(self, name) for name in CAUSES}

    @property
    def worst(self) -> str:
        """The cause with the largest part."""
        return max(CAUSES, key=lambda name: self.parts[name])

    def to_dict(self) -> dict[str, Any]:
        """The values by name, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """The parts with their standard errors as text, and their shares of the total."""
        errors = self.standard_errors
        total = rounded(self.total, errors["total"])
        lines = [f"{'total':15}{total} (measured {rounded(self.measured)})"]
        for name, part in self.parts.items():
            share = f" ({100 * part / self.total:.0f} %)" if self.total > 0.0 else ""
            lines.append(f"{name:15}{rounded(part, errors[name])}{share}")
        return "\n".join(lines)


@ordinary
def split_error(
    sampler: ReverseSampler,
    truth: Truth,
    *,
    n: int = 2000,
    seed: int = 0,
    tolerance: float = 1e-6,
    fine_steps: int = 400,
    batch_size: int | None = None,
    progress: bool = False,
) -> ErrorSplit:
    """Split the error of samples into discretisation, truncation, prior and score.

    See the module for the five runs and the distances. The accurate solver of the probability flow
    is `AdaptiveODE`; of a reverse SDE it is `ShARK` at many steps along the same Brownian path.

    Args:
        sampler: the sampler, under an affine SDE.
        truth: a `Gaussian` or `GaussianMixture`; or data (M, *D). Then run 4 is the data
            themselves, with x_T made of them, and the part of the score contains what chance
            adds to a distance between two sets (`floor`).
        n: the number of samples; of data at most M. Raise it where the standard errors are too
            large beside the parts.
        seed: of all noise.
        tolerance: the relative and absolute tolerance of the accurate solver of the flow.
        fine_steps: the number of steps of that of the SDE.
        batch_size: the number of samples solved at a time; all by default.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the SDE is not
            affine, or the sampler fails.

    Example:
        >>> from scoresde import VPSDE
        >>> truth = Gaussian(torch.tensor([2.0]), torch.tensor([0.1]))
        >>> sampler = ReverseSampler(VPSDE(), truth.under(VPSDE()), "euler", steps=10)
        >>> split = split_error(sampler, truth, n=500)
        >>> split.worst, abs(sum(split.parts.values()) - split.total) < 1e-12
        ('discretisation', True)
    """
    instance("sampler", sampler, ReverseSampler, "pass ReverseSampler(sde, model, ...)")
    sde = as_affine("sampler.sde", sampler.sde, "x_T given the truth needs a closed form")
    count = positive_int("n", n)
    positive("tolerance", tolerance)
    positive_int("fine_steps", fine_steps)
    x0, exact = _truth(truth, sde, count, seed)
    end = sampler.grid.end
    last = min(sde.t_min or end, end)
    node, z = sde.at(sde.T), Independent(seed).prior(x0)
    if not isinstance(truth, Tensor):
        x0, z = _matched(x0, z, _moments(truth))
    prior, start = sde.prior_std * z, lincomb((node.alpha, x0), (node.sigma, z))
    runs = _Runs(sampler, x0, seed, tolerance, fine_steps, batch_size)
    accurate = [(sampler.model, end, prior), (sampler.model, last, prior)]
    accurate += [(sampler.model, last, start)]
    accurate += [] if exact is None else [(exact, last, start)]
    with closing(progress_of(1 + len(accurate), "split_error", "runs", shown=progress)) as bar:
        coarse = runs.solve(sampler, prior)
        made = [coarse.x]
        for model, t_end, x_init in accurate:
            bar.update()
            made.append(runs.accurate(model, t_end, x_init))
        bar.update()
    made += [x0] if exact is None else []
    parts = _parts(made)
    measured, floor = parts["total"], _between_halves(x0)
    if not isinstance(truth, Tensor):
        known = _moments(truth)
        first, last_of = (FeatureMoments.of(made[k].flatten(1)) for k in (0, 4))
        floor = last_of.frechet(known)
        measured = first.frechet(known) - floor
    errors = _standard_errors(made)
    return ErrorSplit(
        **parts, measured=measured, floor=floor, calls=coarse.nfe, standard_errors=errors
    )


def _parts(made: Sequence[Tensor]) -> dict[str, float]:
    """The parts and their total, by name, of the samples (n, *D) of the five runs."""
    moments = [FeatureMoments.of(x.flatten(1)) for x in made]
    d = [one.frechet(moments[4]) for one in moments[:4]] + [0.0]
    parts = {name: d[k] - d[k + 1] for k, name in enumerate(CAUSES)}
    return {**parts, "total": d[0]}


def _standard_errors(made: Sequence[Tensor]) -> dict[str, float]:
    """The standard errors of `_parts`, by leaving out one group of the samples at a time."""
    n = len(made[0])
    groups = min(GROUPS, n)
    if n < 4:
        return dict.fromkeys((*CAUSES, "total"), math.nan)
    number = torch.arange(n, device=made[0].device) % groups
    without = [_parts([x[number != g] for x in made]) for g in range(groups)]
    values = {name: torch.tensor([one[name] for one in without]) for name in without[0]}
    return {
        name: math.sqrt((groups - 1) * float(value.var(correction=0)))
        for name, value in values.items()
    }


def _truth(truth: object, sde: AffineSDE, n: int, seed: int) -> tuple[Tensor, ScoreModel | None]:
    """Samples of the truth in float64, and its exact model; None for data."""
    if isinstance(truth, Gaussian | GaussianMixture):
        return truth.sample(n, seed=seed).double(), truth.under(sde)
    if not isinstance(truth, Tensor):
        remedy = "pass a Gaussian, a GaussianMixture, or data (M, *D)"
        raise wrong_type("truth", "the law of the data", truth, remedy)
    x0 = check_data(truth)[:n].double()
    if len(x0) < 4:
        raise fail("truth", "at least 4 samples", truth, "a covariance needs more")
    return x0, None


def _matched(x0: Tensor, z: Tensor, law: FeatureMoments) -> tuple[Tensor, Tensor]:
    """Data and noise (n, D), moved so that their moments are those of their laws exactly.

    Together they have the means m and 0, the covariances of the law and I, and are uncorrelated.
    What chance adds to these moments is removed, and all else of the samples is kept. Too few
    samples are returned unchanged.
    """
    both = torch.cat([x0, z], 1)
    n, dim = both.shape
    if n < 2 * dim + 2:
        return x0, z
    both = both - both.mean(0)
    factor = torch.linalg.cholesky(both.T @ both / (n - 1))
    white: Tensor = torch.linalg.solve_triangular(factor, both.T, upper=False).T
    half = dim // 2
    return white[:, :half] @ law.factor + law.mean, white[:, half:]


@final
@dataclass(frozen=True, eq=False)
class _Runs:
    """The runs, which share the noise of one seed."""

    sampler: ReverseSampler
    x0: Tensor
    seed: int
    tolerance: float
    fine_steps: int
    batch_size: int | None

    def solve(self, sampler: ReverseSampler, x_init: Tensor) -> Solution:
        """A run of a sampler, along one Brownian path for all of them if it is stochastic."""
        stochastic = sampler.plan.stochastic
        return sampler.solve(
            tuple(self.x0.shape),
            seed=self.seed,
            noise="path" if stochastic else "independent",
            x_init=x_init,
            batch_size=self.batch_size,
            dtype=torch.float64,
            device=self.x0.device,
        )

    def accurate(self, model: ScoreModel, t_end: float, x_init: Tensor) -> Tensor:
        """The samples of a model by the accurate solver."""
        plan = self.sampler.plan
        flow = not plan.stochastic
        solver = AdaptiveODE("dopri5", self.tolerance, self.tolerance) if flow else ShARK()
        made = ReverseSampler(
            self.sampler.sde,
            model,
            solver,
            steps=1 if flow else self.fine_steps,
            t_end=t_end,
            eta=plan.eta,
            denoise=plan.denoise,
        )
        return self.solve(made, x_init).x


def _moments(truth: Gaussian | GaussianMixture) -> FeatureMoments:
    """The exact mean and covariance of a law."""
    law = truth.mixture if isinstance(truth, Gaussian) else truth
    weights, means = law.weights.double(), law.means.double()
    mean = weights @ means
    spread = means - mean
    covariance = torch.einsum("k,kde->de", weights, law.full_covariances())
    covariance = covariance + (weights[:, None] * spread).T @ spread
    values, vectors = torch.linalg.eigh(covariance)
    return FeatureMoments(2, mean, (vectors * values.clamp_min(0.0).sqrt()).T)


def _between_halves(x0: Tensor) -> float:
    """A quarter of the distance of two halves of data: that of all of them from their law."""
    first, second = x0.flatten(1)[::2], x0.flatten(1)[1::2]
    return FeatureMoments.of(first).frechet(FeatureMoments.of(second)) / 4
