"""What a calibration found, what it promises, and which model it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, instance
from scoresde.model import ScoreModel
from scoresde.schedule.grid import Grid
from scoresde.sde import SDE, AffineSDE, same_schedule
from scoresde.sde.fingerprint import model_hashes
from scoresde.solvers.exponential.adams import Adams

__all__ = ["Calibration", "Cost", "Errors"]

_FORMAT, _VERSION = "scoresde calibration", 1


@final
@dataclass(frozen=True)
class Errors:
    """Distances of endpoints from exact ones over sqrt(D), over a set of trajectories.

    Args:
        typical: the geometric mean.
        median, rms: what they say.
    """

    typical: float
    median: float
    rms: float

    @classmethod
    def of(cls, errors: Tensor) -> Errors:
        """Of one distance per trajectory, (P,)."""
        errors = errors.double().cpu()
        tiny = torch.finfo(torch.float64).tiny
        typical = errors.clamp_min(tiny).log().mean().exp()
        rms = errors.square().mean().sqrt()
        return cls(float(typical), float(errors.median()), float(rms))


@final
@dataclass(frozen=True)
class Cost:
    """What a calibration took.

    Args:
        trajectories: trajectories.
        rows: network evaluations of one state each.
        calls: the batched calls in which they were made.
        gradients: how many of the evaluations were also differentiated, at about two more each.
    """

    trajectories: int
    rows: int
    calls: int
    gradients: int

    @property
    def nfe(self) -> float:
        """Network evaluations per trajectory."""
        return self.rows / self.trajectories


@final
@dataclass(frozen=True)
class Calibration:
    """A solver and a grid found for one model, what they promise, and what it cost.

    Attributes:
        grid: from T to t_end.
        solver: walks the grid, on the probability flow.
        method: by which the nodes were placed.
        start_grid, start_solver: the best of the named grids, from which it set out.
        training, held: errors on the trajectories that were used and on those held back.
        training_before, held_before: the same of the start.
        reference_error: the estimated error of what they are measured against.
        cost: network evaluations.
        note: empty, or what did not go as asked: a fallback and its reason.
        fingerprint: of the schedule and the model, for `check`.
    """

    grid: Grid
    solver: Adams
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

    @property
    def steps(self) -> int:
        """Steps, which are network calls but for a final denoising one."""
        return self.grid.steps

    def check(self, sde: SDE, model: ScoreModel | None = None, solver: object = None) -> None:
        """Raise a ValueError unless this is the calibration of this SDE, model and solver.

        Of a model its classes, plain settings and weights are compared, in float64; of a bare
        function only the name is known. None is not compared.
        """
        anew = "calibrate anew, or pass calibration.grid to use the nodes all the same"
        instance("sde", sde, AffineSDE, anew)
        same_schedule(sde, self.fingerprint["schedule"], "sde", "calibration", anew)
        if model is not None:
            mine = model_hashes(model)
            for part, value in self.fingerprint["model"].items():
                if mine[part] != value:
                    raise fail("model", f"the calibrated model's {part} {value}", mine[part], anew)
        if solver is not None and solver != self.solver:
            raise fail("solver", f"the calibrated one, {self.solver!r}", solver, anew)

    def to_dict(self) -> dict[str, Any]:
        """As what json holds; `from_dict` gives the same back, to the last bit."""
        return {"format": _FORMAT, "version": _VERSION, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Calibration:
        """Back from `to_dict`, through json or not.

        Raises:
            TypeError, ValueError: not a saved calibration, or of another version.
        """
        instance("saved", saved, Mapping, "pass what to_dict gave")
        kind = saved.get("format"), saved.get("version")
        remedy = "pass what Calibration.to_dict of this version gave"
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
        gain = self.held_before.typical / max(self.held.typical, 1e-300)
        lines = (
            f"{self.solver!r}, {self.steps} steps ({self.method})",
            f"held-back trajectories: {self.held_before.typical:.2g} -> {self.held.typical:.2g} "
            f"({gain:.2g} times less); reference good to {self.reference_error:.1g}",
            f"{self.cost.rows} network evaluations, as {self.cost.rows // self.steps} samples; "
            f"{self.cost.gradients} of them differentiated",
            self.note,
        )
        return "\n".join(line for line in lines if line)


def _grid_back(saved: Any) -> Grid:
    return Grid(tuple(tuple(segment) for segment in saved["segments"]))


_BACK: dict[str, Callable[[Any], Any]] = {
    "grid": _grid_back,
    "start_grid": _grid_back,
    "solver": lambda saved: Adams(**saved),
    "start_solver": lambda saved: Adams(**saved),
    "training": lambda saved: Errors(**saved),
    "held": lambda saved: Errors(**saved),
    "training_before": lambda saved: Errors(**saved),
    "held_before": lambda saved: Errors(**saved),
    "cost": lambda saved: Cost(**saved),
}
