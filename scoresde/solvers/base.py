"""The solver protocol, the plan of a run, and the one loop over the segments of a schedule.

`integrate` is the only loop over segments; between two segments it adds noise to the state by the
exact transition. Schemes on a fixed grid are in `scoresde.solvers.step`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, nonnegative, show, wrong_type
from scoresde._html import Shown
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, Process, ReverseSDE, eta_value
from scoresde.schedule.grid import Grid, Schedule
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.run import OnStep, Run, Tally, Watch, check_hook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Coefficients",
    "Orders",
    "Plan",
    "Solution",
    "Solver",
    "Unfinished",
    "UnfinishedWarning",
    "integrate",
]

Coefficients: TypeAlias = tuple[tuple[Any, ...], ...]
"""For each segment one row per step, of the type that the solver's `step` reads, or `Held`."""


@final
@dataclass(frozen=True)
class Orders:
    """Orders of convergence of a scheme; None where it does not converge or does not apply.

    Args:
        ode: global order on the probability flow.
        weak: order of the moments on the reverse SDE.
        strong: order of the paths on the reverse SDE.
    """

    ode: float | None = None
    weak: float | None = None
    strong: float | None = None


class Solver(ABC):
    """Integrates a process along a schedule. Frozen: it can be shared, reused and compared.

    Attributes:
        serves: "ode", "sde" or "any", the processes it can integrate.
        needs: the class of SDE that it requires.
        forward: whether it can also integrate the forward SDE, which has no predictions.
        differentiable: whether gradients pass through its steps.
    """

    serves: ClassVar[str] = "any"
    needs: ClassVar[type] = SDE
    forward: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @property
    @abstractmethod
    def orders(self) -> Orders:
        """Declared orders of convergence; the tests measure them."""

    def check(self, sde: SDE, stochastic: bool) -> None:
        """Raise a TypeError or ValueError if this solver cannot serve the process."""
        if not isinstance(sde, self.needs):
            remedy = "EulerMaruyama, SciPySolver and TorchSDESolver need only f, g and the score"
            expected = f"an {self.needs.__name__} for {type(self).__name__}"
            raise wrong_type("sde", expected, sde, remedy)
        if stochastic and self.serves == "ode":
            remedy = "set eta=0 for the probability flow, or use an SDE solver (EulerMaruyama)"
            raise fail("eta", f"0 for {type(self).__name__}, which serves ODEs", "eta > 0", remedy)
        if not stochastic and self.serves == "sde":
            remedy = "set eta > 0, or use an ODE solver (Heun)"
            raise fail("eta", f"more than 0 for {type(self).__name__}", 0, remedy)

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        """Raise a ValueError if this solver cannot serve this schedule at this stochasticity."""
        return

    def prepare(self, schedule: Schedule, eta: Eta | None) -> Coefficients:
        """The coefficients of all steps, in float64: for each segment one row per step."""
        return tuple(() for _ in schedule.segments)

    def tally(self, x: Tensor, t: float) -> Tally | None:
        """The counts at the start of a solve of x: (B, *D) at time t, or None without counts."""
        return None

    @abstractmethod
    def solve_segment(
        self, run: Run, x: Tensor, nodes: tuple[Node, ...], rows: tuple[Any, ...]
    ) -> Tensor:
        """Return the state at the last node of a segment.

        Args:
            run: the process, the noise of the segment and the hooks.
            x: the state at the first node, (B, *D).
            nodes: the nodes of the segment.
            rows: the coefficients of its steps.
        """

    @final
    def solve(
        self,
        process: Process,
        x: Tensor,
        grid: Grid,
        *,
        noise: Noise,
        on_step: OnStep | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """Integrate a process from x: (B, *D) at the first time of a grid to the last.

        Raises:
            TypeError, ValueError: an argument is not valid, or `Plan` refuses the combination;
                both are checked before any network call.
        """
        instance("process", process, Process, "pass ReverseSDE(sde, model) or ForwardSDE(sde)")
        instance("grid", grid, Grid, "pass Grid.of(times)")
        instance("noise", noise, Noise, "pass Independent(seed)")
        floating("x", x)
        check_hook(on_step)
        eta = process.eta if isinstance(process, ReverseSDE) else None
        plan = Plan(self, eta, Schedule(process.sde, grid))
        if process.stochastic:
            noise.check(grid.times)
        return integrate(plan, process, x, noise, on_step, keep_path)


@final
@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The solver, stochasticity and schedule of a run, checked against each other.

    Args:
        solver: the solver.
        eta: the stochasticity of the reverse process; None for the forward SDE.
        schedule: the grid with its nodes.
        denoise: whether the run ends with one Tweedie step x_0hat(x).
        grid_name: the name of the grid; "" for an explicit grid.
        why: the reason for an automatic choice; "" if the user chose.

    Attributes:
        coefficients: the coefficients of all steps, computed at the first use.

    Raises:
        TypeError, ValueError: the solver cannot serve the SDE, the stochasticity or the grid, or a
            segment has the wrong direction for the process.
    """

    solver: Solver
    eta: Eta | None
    schedule: Schedule
    denoise: bool = False
    grid_name: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        instance("solver", self.solver, Solver, "pass a solver such as Adams(1)")
        instance("schedule", self.schedule, Schedule, "pass Schedule(sde, grid)")
        eta, solver = self.eta, self.solver
        if eta is not None and not callable(eta):
            eta = nonnegative("eta", eta, "0 is the ODE, 1 the SDE")
            object.__setattr__(self, "eta", eta)
        solver.check(self.schedule.sde, self.stochastic)
        if eta is None and not solver.forward:
            expected = f"a ReverseSDE for {type(solver).__name__}"
            remedy = "EulerMaruyama and TorchSDESolver integrate the forward SDE"
            raise wrong_type("process", expected, "ForwardSDE", remedy)
        for before, after in pairwise(self.schedule.grid.segments):
            if before[-1] != after[0] and not isinstance(self.schedule.sde, AffineSDE):
                expected = "a single segment on an SDE that is not affine"
                raise wrong_type("grid", expected, self.schedule.sde, "drop the rest")
        for times in self.schedule.grid.segments:
            up = times[0] < times[-1]
            if eta is None and not up:
                got = f"a segment from {times[0]:g} down to {times[-1]:g}"
                raise fail("grid", "segments that run up in time", got, "reverse the grid")
            if up and eta is not None and self.stochastic:
                got = f"a segment from {times[0]:g} up to {times[-1]:g}"
                remedy = "set eta=0 to encode along the probability flow, or use simulate"
                raise fail("grid", "segments that run down in time for eta > 0", got, remedy)
            if callable(eta):
                for t in times:
                    eta_value(eta, t)
        solver.check_schedule(self.schedule, eta)

    @property
    def stochastic(self) -> bool:
        """Whether the process has noise."""
        return self.eta is None or callable(self.eta) or self.eta != 0.0

    @cached_property
    def coefficients(self) -> Coefficients:
        """The coefficients of all steps; see `Solver.prepare`."""
        return self.solver.prepare(self.schedule, self.eta)

    def __repr__(self) -> str:
        schedule, on = self.schedule, f" on {self.grid_name!r}" if self.grid_name else ""
        parts = [
            repr(self.solver),
            f"eta={self.eta!r}",
            f"{schedule.steps} steps from t={schedule.start.t:g} to t={schedule.end.t:g}{on}",
            *(["up and down again"] if len(schedule.segments) > 1 else []),
            repr(schedule.sde),
            f"denoise={self.denoise}",
            *([f"why={self.why!r}"] if self.why else []),
        ]
        return f"Plan({', '.join(parts)})"

    @property
    def facts(self) -> dict[str, object]:
        """What the plan is, name -> value, for a table; None for what does not apply."""
        schedule = self.schedule
        again = ", up and down again" if len(schedule.segments) > 1 else ""
        return {
            "solver": repr(self.solver),
            "eta": "none, the forward SDE" if self.eta is None else repr(self.eta),
            "steps": f"{schedule.steps} from t={schedule.start.t:g} to {schedule.end.t:g}{again}",
            "grid": self.grid_name or "explicit times",
            "SDE": repr(schedule.sde),
            "final denoising": "yes" if self.denoise else "no",
            "chosen since": self.why or None,
        }


@final
@dataclass(frozen=True, eq=False, repr=False)
class Solution(Shown):
    """The result of a solve.

    Attributes:
        x: the final state, (B, *D).
        plan: the solver, stochasticity and schedule.
        nfe: network evaluations per sample, counted at the process.
        path: the states at all nodes, (N + 1, B, *D), if requested.
        seed: the seed of the noise.
        status: "done", or the reason for which the solver stopped some samples early (see
            `AdaptiveODE`); x holds their last states.
        stats: other statistics of the solver.
    """

    x: Tensor
    plan: Plan
    nfe: int
    path: Tensor | None = None
    seed: int | None = None
    status: str = "done"
    stats: dict[str, Any] = field(default_factory=dict)  # each solver's own

    @classmethod
    def joined(cls, parts: Sequence[Solution], seed: int | None) -> Solution:
        """The solution of all samples from those of batches, which have one plan.

        Statistics of each sample are concatenated, others are listed; the status is the first one
        that is not "done".
        """
        paths = [part.path for part in parts if part.path is not None]
        stats: dict[str, Any] = {}
        for name in parts[0].stats:
            values = [part.stats[name] for part in parts]
            tensors = all(isinstance(value, Tensor) for value in values)
            stats[name] = torch.cat(values) if tensors else values
        return cls(
            x=torch.cat([part.x for part in parts]),
            plan=parts[0].plan,
            nfe=max(part.nfe for part in parts),
            path=torch.cat(paths, 1) if paths else None,
            seed=seed,
            status=next((part.status for part in parts if part.status != "done"), "done"),
            stats=stats,
        )

    @property
    def solver(self) -> Solver:
        """The solver of the plan."""
        return self.plan.solver

    @property
    def grid(self) -> Grid:
        """The grid of the plan."""
        return self.plan.schedule.grid

    def __repr__(self) -> str:
        path = "" if self.path is None else f", path={show(self.path)}"
        text = f"{self.grid.steps} steps, nfe={self.nfe}, {self.solver!r}, status={self.status!r}"
        return f"Solution({show(self.x)}{path}, {text})"

    @property
    def facts(self) -> dict[str, object]:
        """What came out, and the facts of the plan, name -> value, for a table."""
        return {
            "x": show(self.x),
            "path": None if self.path is None else show(self.path),
            "status": self.unfinished or self.status,
            "network evaluations": f"{self.nfe} for each sample",
            "seed": self.seed,
            **self.plan.facts,
        }

    def _picture(self) -> bytes | None:
        from scoresde.plot.picture import thumbnail  # for notebooks alone

        return thumbnail(self.x)

    def plot(
        self,
        *,
        most: int | None = None,
        title: str | None = None,
        low: float = -1.0,
        high: float = 1.0,
    ) -> Figure:
        """The samples as a picture, of images, volumes, points, signals or columns of a table.

        Args:
            most: the number of samples to draw, the first ones; by default 64 images or volumes,
                8 signals, and all points and rows.
            title: title of the figure.
            low, high: the values of an image that are drawn black and white.

        Raises:
            ValueError: samples of this shape have no picture; see `scoresde.plot.samples`.

        Example:
            >>> from scoresde import VPSDE, ReverseSampler
            >>> sampler = ReverseSampler(VPSDE(), lambda t, x: -x, "ddim", steps=5)
            >>> len(sampler.solve((100, 2), seed=0).plot().axes)
            1
        """
        from scoresde.plot.picture import samples

        most = 64 if most is None and self.x.ndim > 3 else most
        return samples(self.x, most=most, title=title, low=low, high=high)

    @property
    def unfinished(self) -> str:
        """The number of samples stopped early, the reason and the remedy; "" if all are done."""
        if self.status == "done":
            return ""
        reasons = {
            "budget": ("out of calls", "raise max_nfe, or loosen rtol and atol"),
            "underflow": ("with no step short enough", "loosen rtol and atol"),
        }
        name = type(self.solver).__name__
        why, remedy = reasons.get(self.status, (self.status, "see Solution.stats"))
        if not {"budget", "underflow", "t"} <= self.stats.keys():
            return f"{name} stopped before the end ({why}); {remedy}"
        rows = (self.stats["budget"] | self.stats["underflow"]).nonzero().flatten()
        at = [float(t) for t in self.stats["t"][rows].aminmax()]
        where = f"t = {at[0]:.6g}" + (f" to {at[1]:.6g}" if at[0] < at[1] else "")
        count = f"{len(rows)} of {len(self.x)} samples, first in row {int(rows[0])}"
        end = f"before t = {self.grid.end:g}"
        return f"{name} stopped {end} in {count}, at {where}, {why} ({self.status}); {remedy}"


class Unfinished(RuntimeError):
    """A solver stopped some samples before the end, and the caller requires finished ones.

    Attributes:
        solution: the last states, with `Solution.status` and `stats`, or None.
    """

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


class UnfinishedWarning(RuntimeWarning):
    """A result holds samples that a solver stopped before the end; its status names the reason."""


def integrate(
    plan: Plan,
    process: Process,
    x: Tensor,
    noise: Noise,
    on_step: OnStep | None = None,
    keep_path: bool = False,
    watch: Watch | None = None,
) -> Solution:
    """Solve all segments of a schedule, with any solver.

    Between two segments noise is added to the state by the exact transition of the SDE, and the
    solver restarts.

    Args:
        plan: the checked plan.
        process: the process of the SDE and stochasticity of the plan.
        x: the state at the first node, (B, *D).
        noise: the noise source, from which each segment gets a stream.
        on_step, keep_path: see `Solver.solve`.
        watch: see `Run`.
    """
    solver, calls, segments = plan.solver, process.nfe, plan.schedule.segments
    tally = solver.tally(x, segments[0][0].t)
    run = Run(process, noise, on_step, [x] if keep_path else None, tally, watch=watch)
    last = segments[0][0]
    for number, (nodes, rows) in enumerate(zip(segments, plan.coefficients, strict=True)):
        if number:
            run.noise = noise.on_segment(number)
            x = run.renoise(x, last, nodes[0])
        x = solver.solve_segment(run, x, nodes, rows)
        run.done, last = run.done + len(nodes) - 1, nodes[-1]
    return Solution(
        x=x,
        plan=plan,
        nfe=process.nfe - calls,
        path=None if run.path is None else torch.stack(run.path),
        status="done" if tally is None else tally.status,
        stats={**({} if tally is None else tally.stats()), **run.extra},
    )
