"""`scoresde calibrate`."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde.cli.common import emit, is_first, say, watched
from scoresde.cli.config import Call
from scoresde.cli.flags import argument, flag
from scoresde.cli.opened import Opened, open_checkpoint, source_of
from scoresde.cli.samples import open_samples

if TYPE_CHECKING:
    from scoresde.calibration import Calibration

__all__ = ["Calibrate", "gained", "summary"]


@final
@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Find the solver and grid of a few steps that suit a model best, and store them with it.

    Solver, grid and two factors for each step are optimised on trajectories of the model, a third
    of which is held back to check the result; with --eta, three factors on its samples. The
    result is stored in the checkpoint, and `scoresde sample` and solver="auto" (with noise
    "auto_sde") use it for this number of steps. `scoresde train` does this at its end within 3 %
    of its cost; more evaluations find a little more. If the model has classes, the trajectories
    have all of them in turn; if it has other conditions, they have those of samples of DATA, drawn
    at random.
    """

    EXAMPLES: ClassVar[str] = """
scoresde calibrate runs/digits
scoresde calibrate runs/digits --steps 6,8
scoresde calibrate runs/digits --steps 5 --eta 1
scoresde calibrate runs/digits --steps 10 --budget 50000 --seed 1
scoresde calibrate runs/houses houses.csv --data-option condition=price
"""

    model: Path = argument("MODEL")
    data: str | None = argument("DATA", None)
    """The data whose conditions the trajectories are given, by name or path as for scoresde train.
    By default those that the model was trained on; none are read for one without conditions."""
    data_option: list[str] = field(default_factory=list)
    steps: tuple[int, ...] | None = None
    """The numbers of steps, with commas between them; by default 5, 10 and 20, or with noise 5."""
    eta: float = 0.0
    """The noise: 0 for the probability flow, or that of a stochastic process, 1 for the reverse
    SDE. The result is then what `sample --solver auto_sde` uses for this number of steps."""
    budget: int | None = None
    """The most network evaluations in all; one that is differentiated counts as three. By default
    they are not limited, and about 1000 for each step, or 40,000 with noise."""
    shape: str | None = flag(None, metavar="SIZES")
    batch_size: int | None = None
    """The number of trajectories at a time. By default all of them are solved together."""
    seed: int = 0
    device: str | None = None
    json: bool = False

    def run(self, call: Call) -> None:
        """Calibrate."""
        from scoresde.calibration.budget import REPEATS, affordable
        from scoresde.calibration.search import calibrate_each
        from scoresde.process import ReverseSDE
        from scoresde.training.checkpoint import add_calibrations

        if not is_first():
            return
        opened = open_checkpoint(self.model, self.device)
        model, sizes = opened.model, opened.shape(self.shape)
        noisy = self.eta > 0
        counts = sorted(set(self.steps or ((5,) if noisy else (5, 10, 20))))
        _, trajectories = affordable(counts, math.prod(sizes), self.budget, noisy)
        each = REPEATS if noisy else 1
        cond = self._conditions(opened, trajectories // each)
        found = calibrate_each(
            ReverseSDE(model.sde, model, self.eta, cond),
            sizes,
            steps=counts,
            trajectories=None if cond else trajectories,
            budget=self.budget,
            batch_size=self.batch_size,
            seed=self.seed,
            progress=watched(self.json),
        )
        add_calibrations(opened.folder, model, {c.name: c for c in found.values()})
        rows = {c.name: summary(c) for c in found.values()}
        lines = [f"{n:4} steps: {gained(c)}" for n, c in found.items()]
        lines += [f"{n:4} steps: {c.note}" for n, c in found.items() if c.note and noisy]
        if noisy:
            apart = max(c.reference_error for c in found.values())
            lines.append(f"two sets of samples of the fine run are {apart:.2g} apart")
        spent = sum(c.cost.evaluations for c in found.values())
        lines.append(f"{spent:,} network evaluations; stored in {opened.folder}")
        result = {"folder": str(opened.folder), "evaluations": spent, "calibrations": rows}
        emit(result, "\n".join(lines), self.json)

    def _conditions(self, opened: Opened, count: int) -> dict[str, Any] | None:  # Any: a tensor
        """Conditions of so many trajectories: those of samples, or else all classes in turn."""
        import torch

        wanted = opened.conditions or self.data is not None
        source = source_of(opened, self.data) if wanted else None
        if source is None:
            if opened.conditions:
                run = shlex.quote(str(self.model))
                say(
                    f"{opened.folder} does not say what the model was trained on: the "
                    f"trajectories have no {', '.join(sorted(opened.conditions))}; to give them "
                    f"the conditions of data, name these: scoresde calibrate {run} DATA"
                )
            return opened.labels("all", count) if opened.classes else None
        samples = open_samples(opened, source, self.data_option, limit=count, seed=self.seed)
        turns = torch.arange(count, device="cpu") % len(samples)
        _, cond = samples.take(samples.rows[turns])
        return cond or None


def gained(calibration: Calibration) -> str:
    """What a calibration has gained, in a sentence."""
    before, after = calibration.error_before, calibration.error
    if calibration.kept:
        return f"the automatic choice is kept, with an error of {before:.2g}"
    return f"an error of {after:.2g}, where the automatic choice has {before:.2g}"


def summary(calibration: Calibration) -> dict[str, Any]:
    """A calibration as values of JSON, without its nodes."""
    return {
        "solver": repr(calibration.solver),
        "error": calibration.error,
        "error_before": calibration.error_before,
        "gain": calibration.gain,
        "evaluations": calibration.cost.evaluations,
        "note": calibration.note,
    }
