"""The folder of a run: names of its files, and the checkpoints in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from scoresde._check import diverged, fail, warn
from scoresde._html import Shown
from scoresde._io import previous, remove, sweep
from scoresde.model import ScoreModel
from scoresde.quantisation import Quantisation
from scoresde.training.checkpoint import Training, load_training, load_weights, save
from scoresde.training.files import CONFIG, Damaged, link
from scoresde.training.posthoc_ema import snapshot
from scoresde.training.update import Update

__all__ = ["RunFolder"]


@final
class RunFolder(Shown):
    """The folder of a run, with the names of everything in it.

    `checkpoint/` is the last checkpoint. With keep > 1, `checkpoints/<step>/` are the last `keep`,
    which share its files; `best/` is the model of the lowest validation loss, `snapshots/<step>/`
    are the averages for `posthoc_ema`. Each of them is written atomically.

    Args:
        path: the folder.
        keep: number of checkpoints to keep.
        quantisation: the levels of the data, for the checkpoints.

    Attributes:
        checkpoint, checkpoints, best, snapshots, samples, tensorboard: folders in it.
        history, validation, curves, config: files in it.
    """

    def __init__(
        self, path: Path, *, keep: int = 1, quantisation: Quantisation | None = None
    ) -> None:
        self.path = path
        self.keep = keep
        self.quantisation = quantisation
        self.checkpoint, self.checkpoints = path / "checkpoint", path / "checkpoints"
        self.best, self.snapshots = path / "best", path / "snapshots"
        self.samples, self.tensorboard = path / "samples", path / "tensorboard"
        self.history, self.validation = path / "history.csv", path / "validation.csv"
        self.curves, self.config = path / "loss.png", path / CONFIG
        self._new = self._fresh = False

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r}, keep={self.keep})"

    @property
    def stale(self) -> list[str]:
        """Patterns of the names that a new run in this folder must remove.

        The config is not among them, since the next run replaces it.
        """
        folders = (self.checkpoint, self.checkpoints, self.best, self.snapshots, self.samples)
        files = (self.tensorboard, self.history, self.validation, self.curves)
        return [f".{self.checkpoint.name}.*", *(place.name for place in folders + files)]

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint, or a remainder of one, from which a run can resume."""
        places = (self.checkpoint, previous(self.checkpoint), self.checkpoints)
        return any(place.is_dir() for place in places)

    def returned(self, patient: bool) -> Path | None:
        """The folder of the model that a run returns, with patience or without; None for none."""
        if not patient:
            return self.checkpoint
        return self.best if self.best.is_dir() else None

    def start(self, fresh: bool) -> None:
        """Prepare for writing: remove half-written checkpoints with a warning.

        Args:
            fresh: whether the run is new; it removes the files of another run at its first write.

        Warns:
            UserWarning: there are such files, or half-written checkpoints.
        """
        self._new = self._fresh = fresh
        if fresh and self.checkpoint.exists():
            warn(
                f"out: {self.path} has the checkpoint of an earlier run, which the first of this "
                "run replaces; fit(resume=True) goes on from it, and another folder keeps it"
            )
        halves = sweep(self.path, (self.checkpoint.name, self.best.name))
        for half in halves + sweep(self.checkpoints) + sweep(self.snapshots):
            warn(
                f"{half} is a half-written checkpoint of a process that was killed: ignored "
                "and removed"
            )

    def save(self, update: Update, info: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """Write the checkpoint of the step that `info` names.

        Raises:
            Diverged: the weights contain NaN or infinity.
            OSError: it cannot be written; the one before it is intact.
        """
        _check_weights(update, info["step"])
        self._clear()
        state = Training(update.tensors(), info)
        model = update.averaged
        save(model, self.checkpoint, quantisation=self.quantisation, extra=extra, training=state)
        self._keep(info["step"])

    def save_best(self, update: Update, extra: Mapping[str, Any]) -> None:
        """Write the model as the best one so far."""
        self._clear()
        save(update.averaged, self.best, quantisation=self.quantisation, extra=extra)

    def snapshot(self, update: Update, step: int, run: Mapping[str, Any]) -> None:
        """Write a snapshot of the averages with power-function profiles."""
        self._clear()
        snapshot(self.snapshots, step, update.tracks, run)

    def find(self, model: ScoreModel) -> tuple[Path, dict[str, Tensor], Training]:
        """The last intact checkpoint; a warning names damaged ones.

        Raises:
            FileNotFoundError, ValueError: there is none, or it is one of another model.
        """
        places = [self.checkpoint, *self._kept()]
        for place, other in zip(places, [*places[1:], None], strict=True):
            try:
                return (place, *load_training(place, model))
            except (Damaged, FileNotFoundError) as error:
                if other is None:
                    raise
                warn(f"{error}; resuming from {other} instead")
        raise fail("resume", "a checkpoint", str(self.path), "train anew")

    def find_best(self, step: int) -> dict[str, Tensor] | None:
        """The weights in `best/`; None if it is missing, damaged or of a later step than this."""
        try:
            weights, config = load_weights(self.best)
        except (Damaged, FileNotFoundError):
            return None
        return weights if config["extra"].get("step", step + 1) <= step else None

    def go_on(self, place: Path, step: int) -> None:
        """Prepare the folder for a run that resumes from the checkpoint of a step at `place`."""
        self._forget(step)
        if place == self.checkpoint and place.is_dir():
            self._keep(step)  # the process may have been killed before this

    def clear_logs(self) -> None:
        """Remove the logs of another run before the first ones of a new one."""
        if self._new:
            shutil.rmtree(self.tensorboard, ignore_errors=True)
            for file in (self.history, self.validation):
                file.unlink(missing_ok=True)

    def _keep(self, step: int) -> None:
        """Link the checkpoint of this step among the last ones, and remove the oldest."""
        if self.keep > 1:
            link(self.checkpoint, self.checkpoints / f"{step:09d}")
            for old in self._kept()[self.keep :]:
                remove(old)

    def _forget(self, step: int) -> None:
        """Remove checkpoints and snapshots of later steps, which the run will write again."""
        for place in [*self._kept(), *_numbered(self.snapshots)]:
            if int(place.name) > step:
                remove(place)

    def _kept(self) -> list[Path]:
        return _numbered(self.checkpoints)[::-1]

    def _clear(self) -> None:
        """Remove the files of another run before the first write of a new one."""
        if self._fresh:
            self._forget(-1)
            shutil.rmtree(self.best, ignore_errors=True)
            self._fresh = False


def _numbered(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.name.isdigit())


def _check_weights(update: Update, step: int) -> None:
    """Raise if weights contain NaN or infinity."""
    if not all(bool(p.detach().isfinite().all()) for p in update.parameters):
        lr = update.optimizer.lr
        remedy = f"lower lr, now {lr:.3g}, or clip; the checkpoint before this one is intact"
        got = f"NaN or infinity after step {step}"
        raise diverged("model", "finite weights", got, remedy)
