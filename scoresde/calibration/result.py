"""The result of a calibration: solver, grid, errors, cost, and the model it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, instance
from scoresde._html import Shown, rounded
from scoresde.model import ScoreModel
from scoresde.schedule.grid import Grid
from scoresde.sde import SDE, AffineSDE, same_schedule
from scoresde.sde.fingerprint import model_hashes
from scoresde.solvers.exponential import Adams, LearnedAdams

__all__ = ["Calibration", "Cost", "Errors", "name_of"]

_FORMAT, _VERSION = "scoresde calibration", 3


@final
@dataclass(frozen=True)
class Errors:
    """Distances between endpoints and exact endpoints over sqrt(D), for a set of trajectories.

    With noise they are Wasserstein distances between the distributions of endpoints and of those
    of a fine run along random directions; `rms` is the sliced Wasserstein distance.

    Args:
        typical: the geometric mean.
        median, rms: the median and the root mean square.
    """

    typical: float
    median: float
    rms: float

    @classmethod
    def of(cls, errors: Tensor) -> Errors:
        """The errors of distances, one for each trajectory or direction, (P,)."""
        errors = errors.cpu().double()
        tiny = torch.finfo(torch.float64).tiny
        typical = errors.clamp_min(tiny).log().mean().exp()
        rms = errors.square().mean().sqrt()
        return cls(float(typical), float(errors.median()), float(rms))


@final
@dataclass(frozen=True)
class Cost:
    """The cost of a calibration.

    Args:
        trajectories: the number of trajectories.
        rows: the number of network evaluations, each of one state.
        calls: the number of batched calls in which they were made.
        gradients: the number of evaluations that were also differentiated; each costs about two
            more.
    """

    trajectories: int
    rows: int
    calls: int
    gradients: int

    @property
    def evaluations(self) -> int:
        """Network evaluations of single states, of which a differentiated one counts as three."""
        return self.rows + 2 * self.gradients

    @property
    def nfe(self) -> float:
        """Network evaluations per trajectory."""
        return self.rows / self.trajectories


@final
@dataclass(frozen=True, repr=False)
class Calibration(Shown):
    """A solver and a grid calibrated for one model, with their errors and the cost.

    Attributes:
        grid: the grid from T to t_end.
        solver: the solver on this grid, with factors if they were learned.
        method: the method by which the nodes were placed.
        start_grid, start_solver: the start, which is the automatic choice of solver and grid at
            this eta.
        training, held: errors on the trajectories that were used, and on those held back, which
            selected the result among the start, the nodes and the nodes with factors.
        training_before, held_before: these errors at the start.
        reference_error: the estimated error of the exact endpoints; with noise, the distance of
            two samples of the fine run, below which no error can be seen.
        cost: the network evaluations.
        note: empty, or a fallback and its reason.
        fingerprint: the fingerprint of the schedule and the model, for `check`.
        eta: the stochasticity of the process, 0 for the probability flow.
    """

    grid: Grid
    solver: Adams | LearnedAdams
    method: str
    start_grid: Grid
    start_solver: Adams
    training: Errors
    held: Errors
    training_before: Errors
    held_before: Errors
    reference_error: float
    cost: Cost
    note: str
    fingerprint: Mapping[str, Any]
    eta: float = 0.0

    @property
    def name(self) -> str:
        """The name under which a model carries it: "10", or with noise "eta=1 with 10"."""
        return name_of(self.steps, self.eta)

    @property
    def kept(self) -> bool:
        """Whether solver and grid are those of the start, with nothing better found."""
        return self.solver == self.start_solver and self.grid == self.start_grid

    @property
    def steps(self) -> int:
        """The number of steps, and of network calls without the final denoising."""
        return self.grid.steps

    @property
    def gain(self) -> float:
        """The error of the start over that of the result, on the held-back trajectories.

        They also selected the result, so it is a little above the gain on new trajectories.
        """
        return self.error_before / max(self.error, 1e-300)

    @property
    def error(self) -> float:
        """The error on the held-back trajectories: the geometric mean of the distances.

        With noise it is the sliced Wasserstein distance.
        """
        return self.held.rms if self.eta else self.held.typical

    @property
    def error_before(self) -> float:
        """The same error of the start."""
        return self.held_before.rms if self.eta else self.held_before.typical

    @property
    def facts(self) -> dict[str, object]:
        """The result, its errors and its cost, name -> value, for a table."""
        return {
            "solver": repr(self.solver),
            "steps": self.steps,
            "eta": self.eta or None,
            "times": self.grid.facts["times"],
            "placed by": self.method,
            "error before": rounded(self.error_before),
            "error after": f"{rounded(self.error)}, {self.gain:.3g} times less",
            "error of the reference": rounded(self.reference_error),
            "network evaluations": f"{self.cost.rows:,}, {self.cost.gradients:,} differentiated",
            "note": self.note or None,
        }

    def __repr__(self) -> str:
        errors = f"error {self.error_before:.3g} -> {self.error:.3g}"
        return f"Calibration({self.solver!r}, {self.grid!r}, {self.method!r}, {errors})"

    @property
    def _reference(self) -> str:
        if self.eta:
            return f"two samples of the fine run are {self.reference_error:.2g} apart"
        return f"error of the reference {self.reference_error:.1g}"

    def check(self, sde: SDE, model: ScoreModel | None = None, solver: object = None) -> None:
        """Raise a ValueError unless this is the calibration of this SDE, model and solver.

        A model is compared by its classes, plain settings and weights, in float64; a bare function
        only by its name. An argument that is None is not compared.
        """
        anew = "calibrate anew, or pass calibration.grid to use the nodes all the same"
        instance("sde", sde, AffineSDE, anew)
        same_schedule(sde, self.fingerprint["schedule"], "sde", "calibration", anew)
        if model is not None:
            mine = model_hashes(model.calibrated)
            for part, value in self.fingerprint["model"].items():
                if mine[part] != value:
                    raise fail("model", f"the calibrated model's {part} {value}", mine[part], anew)
        if solver is not None and solver != self.solver:
            raise fail("solver", f"the calibrated one, {self.solver!r}", solver, anew)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as JSON values; `from_dict` restores it to the last bit."""
        return {"format": _FORMAT, "version": _VERSION, **json.loads(json.dumps(asdict(self)))}

    @staticmethod
    def outdated(saved: object) -> bool:
        """Whether these are the values of a calibration of another version."""
        if not isinstance(saved, Mapping) or saved.get("format") != _FORMAT:
            return False
        return saved.get("version") != _VERSION

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Calibration:
        """Restore a calibration from the values of `to_dict`.

        Raises:
            TypeError, ValueError: this is not a saved calibration, or one of another version.
        """
        instance("saved", saved, Mapping, "pass what to_dict gave")
        kind = saved.get("format"), saved.get("version")
        remedy = "pass the result of Calibration.to_dict of this version"
        if kind != (_FORMAT, _VERSION):
            raise fail("saved", f"a {_FORMAT!r} of version {_VERSION}", kind, remedy)
        made = {}
        for name in cls.__dataclass_fields__:
            if name not in saved:
                raise fail("saved", f"an entry {name!r}", sorted(saved), remedy)
            try:
                made[name] = _BACK.get(name, lambda value: value)(saved[name])
            except (TypeError, ValueError, KeyError) as error:
                raise fail("saved", f"a {name} ({error})", saved[name], remedy) from error
        return cls(**made)

    def __str__(self) -> str:
        lines = (
            f"{self.solver!r}, {self.steps} steps ({self.method})",
            f"held-back trajectories: {self.error_before:.2g} -> {self.error:.2g} "
            f"({self.gain:.2g} times less); {self._reference}",
            f"{self.cost.rows} network evaluations, {self.cost.gradients} of them differentiated",
            self.note,
        )
        return "\n".join(line for line in lines if line)


def name_of(steps: int, eta: float) -> str:
    """The name under which a model carries a calibration; "steps" follows it in a sentence."""
    return f"eta={eta:g} with {steps}" if eta else str(steps)


def _grid_back(saved: Any) -> Grid:
    return Grid(tuple(tuple(segment) for segment in saved["segments"]))


def _solver_back(saved: Any) -> Adams | LearnedAdams:
    if "base" not in saved:
        return Adams(**saved)
    factors = (tuple(saved[name]) for name in ("scales", "slopes", "spreads"))
    return LearnedAdams(Adams(**saved["base"]), *factors)


_BACK: dict[str, Callable[[Any], Any]] = {
    "grid": _grid_back,
    "start_grid": _grid_back,
    "solver": _solver_back,
    "start_solver": lambda saved: Adams(**saved),
    "training": lambda saved: Errors(**saved),
    "held": lambda saved: Errors(**saved),
    "training_before": lambda saved: Errors(**saved),
    "held_before": lambda saved: Errors(**saved),
    "cost": lambda saved: Cost(**saved),
}
