"""The checkpoints of a run: the last ones, the best one, and the way back from a bad one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from scoresde._check import fail
from scoresde._io import remove, sweep
from scoresde.model import ScoreModel
from scoresde.quantisation import Quantisation
from scoresde.training.checkpoint import Training, load_training, save
from scoresde.training.files import Damaged, link
from scoresde.training.posthoc_ema import snapshot
from scoresde.training.update import Update

__all__ = ["Keeper"]


@final
class Keeper:
    """Writes and finds the checkpoints of a run.

    `checkpoint/` is the last one. With keep > 1, `checkpoints/<step>/` are the last `keep`, which
    share its files; `best/` is the model of the lowest validation loss, `snapshots/<step>/` are
    the averages for `posthoc_ema`. Each is whole or not there.

    Args:
        out: the folder of the run, or None to write nothing.
        keep: number of checkpoints.
        quantisation: of the data.
        fresh: a new run, which removes what another one left at its first write.
    """

    def __init__(
        self, out: Path | None, keep: int, quantisation: Quantisation | None, fresh: bool
    ) -> None:
        self.out = out
        self.keep = keep
        self.quantisation = quantisation
        self.fresh = fresh

    def sweep(self) -> None:
        """Remove what a killed process left half-written, and say so."""
        if self.out is None:
            return
        halves = sweep(self.out, ("checkpoint", "best"))
        halves += sweep(self.out / "checkpoints") + sweep(self.out / "snapshots")
        for half in halves:
            warnings.warn(
                f"{half} is a half-written checkpoint of a process that was killed: ignored "
                "and removed",
                stacklevel=5,
            )

    def save(self, update: Update, info: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step."""
        if self.out is None:
            return
        check_weights(update, info["step"])
        self._start()
        place = self.out / "checkpoint"
        state = Training(update.tensors(), info)
        save(_averaged(update), place, quantisation=self.quantisation, extra=extra, training=state)
        self._keep(info["step"])

    def _keep(self, step: int) -> None:
        """Give the checkpoint of this step its name among the last ones, and let the oldest go."""
        if self.out is not None and self.keep > 1:
            link(self.out / "checkpoint", self.out / "checkpoints" / f"{step:09d}")
            for old in self._kept()[self.keep :]:
                remove(old)

    def save_best(self, update: Update, extra: Mapping[str, Any]) -> None:
        """Write the model as the best one so far."""
        if self.out is not None:
            self._start()
            save(_averaged(update), self.out / "best", quantisation=self.quantisation, extra=extra)

    def snapshot(self, update: Update, step: int, run: Mapping[str, Any]) -> None:
        """Write the averages of power-function profiles."""
        if self.out is not None:
            self._start()
            snapshot(self.out / "snapshots", step, update.tracks, run)

    def find(self, model: ScoreModel) -> tuple[Path, dict[str, Tensor], Training]:
        """The last checkpoint that is intact; a damaged one is named in a warning.

        Raises:
            FileNotFoundError, ValueError: there is none, or it is of another model.
        """
        if self.out is None:
            raise fail("resume", "a folder to resume from", self.out, "pass out='runs/name'")
        places = [self.out / "checkpoint", *self._kept()]
        for place, other in zip(places, [*places[1:], None], strict=True):
            try:
                return (place, *load_training(place, model))
            except (Damaged, FileNotFoundError) as error:
                if other is None:
                    raise
                warnings.warn(f"{error}; resuming from {other} instead", stacklevel=6)
        raise fail("resume", "a checkpoint", str(self.out), "train anew")

    def go_on(self, place: Path, step: int) -> None:
        """Bring what is kept in order for a run that goes on from a step, found at `place`."""
        self.forget(step)
        if self.out is not None and place == self.out / "checkpoint" and place.is_dir():
            self._keep(step)  # a process may have been killed before it did

    def forget(self, step: int) -> None:
        """Remove checkpoints and snapshots of later steps, which the run will make anew."""
        if self.out is not None:
            for place in [*self._kept(), *_numbered(self.out / "snapshots")]:
                if int(place.name) > step:
                    remove(place)

    def _kept(self) -> list[Path]:
        return _numbered(self.out / "checkpoints")[::-1] if self.out is not None else []

    def _start(self) -> None:
        if self.fresh and self.out is not None:
            self.forget(-1)
            shutil.rmtree(self.out / "best", ignore_errors=True)
            self.fresh = False


def _numbered(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.name.isdigit())


def _averaged(update: Update) -> ScoreModel:
    average = update.model if update.ema is None else update.ema.module
    return average  # type: ignore[return-value]  # a copy of the model


def check_weights(update: Update, step: int) -> None:
    """Refuse weights that hold NaN or infinity."""
    if not all(bool(p.detach().isfinite().all()) for p in update.parameters):
        lr = update.optimizer.param_groups[0]["lr"]
        remedy = f"lower lr, now {lr:.3g}, or clip; the checkpoint before this one is intact"
        raise fail("model", "finite weights", f"NaN or infinity after step {step}", remedy)
