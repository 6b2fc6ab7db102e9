"""Callbacks of a run: Weights & Biases, MLflow, and the base of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

from scoresde._check import fail, need
from scoresde._html import Shown
from scoresde.model import ScoreModel

__all__ = ["Callback", "Callbacks", "MLflow", "PlainFunction", "WeightsAndBiases"]


class Callback(Shown):
    """Something that a `Trainer` tells of its run; the first process alone calls it.

    Every method does nothing here: override those that you need. A run that is repeated starts
    and ends its callbacks anew. An error in a callback ends the run.

    Example:
        >>> class Printer(Callback):
        ...     def scalars(self, step, values):
        ...         print(step, sorted(values))
        >>> Printer().scalars(50, {"loss": 0.3, "lr": 1e-3})
        50 ['loss', 'lr']
    """

    def start(self, step: int, settings: Mapping[str, object]) -> None:
        """The run begins, or goes on, after this number of steps, with these settings by name."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name: of a row of the history, or the losses of a validation.

        A row has "loss", "lr", "samples_per_second", "gradient_norm" and "skipped", a validation
        "validation" and "validation/0", "validation/1", ... for the parts of the time interval.
        """

    def model(self, step: int, model: ScoreModel) -> None:
        """The averaged model in eval mode, every `callback_every` steps; do not change it."""

    def sync(self) -> None:
        """A checkpoint is about to be written: what was told before should be on disk."""

    def end(self, failed: bool) -> None:
        """The run ends; `failed` says whether by an error or an interruption."""


Callbacks: TypeAlias = (
    Callable[[int, ScoreModel], object]
    | Callback
    | Sequence[Callable[[int, ScoreModel], object] | Callback]
    | None
)
"""A function of (step, averaged model), a `Callback`, several of both, or None."""


@final
class WeightsAndBiases(Callback):
    """Sends the settings and the numbers of a run to Weights & Biases.

    If `wandb.init` was called before, the numbers go to that run, which is left open; else a run
    begins and ends with the training.

    Args:
        project: the name of the project; by default that of wandb's own settings.
        name: the name of the run, which wandb makes up by default.
        id: the identity of a run of wandb that is to go on, for `fit(resume=True)`. Steps that
            it already has are not written again.

    Raises:
        ImportError: wandb is not installed.
        ValueError: at the start, if a run of wandb is open and one of the arguments was given.
    """

    def __init__(
        self, project: str | None = None, name: str | None = None, id: str | None = None
    ) -> None:
        self._wandb = need("wandb", "")
        self.project, self.name, self.id = project, name, id
        self._run: Any = None  # a run of wandb, which need not be installed
        self._own = False

    def start(self, step: int, settings: Mapping[str, object]) -> None:
        given = {"project": self.project, "name": self.name, "id": self.id}
        self._run, self._own = self._wandb.run, self._wandb.run is None
        if not self._own:
            _only_one("wandb.run", given, "leave them out, or call wandb.finish() before")
            self._run.config.update(dict(settings), allow_val_change=True)
            return
        resume = None if self.id is None else "allow"
        self._run = self._wandb.init(**given, config=dict(settings), resume=resume)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, failed: bool) -> None:
        if self._own:
            self._run.finish(exit_code=int(failed))


@final
class MLflow(Callback):
    """Sends the settings and the numbers of a run to MLflow.

    If `mlflow.start_run` was called before, the numbers go to that run, which is left open; else
    a run begins and ends with the training. `mlflow.set_tracking_uri` says where runs are stored.

    Args:
        experiment: the name of the experiment; by default the one that MLflow has set.
        name: the name of the run, which MLflow makes up by default.
        id: the identity of a run of MLflow that is to go on, for `fit(resume=True)`. It keeps its
            parameters, since MLflow refuses other values of them.

    Raises:
        ImportError: mlflow is not installed.
        ValueError: at the start, if a run of MLflow is open and one of the arguments was given.
    """

    def __init__(
        self, experiment: str | None = None, name: str | None = None, id: str | None = None
    ) -> None:
        self._mlflow = need("mlflow", "")
        self.experiment, self.name, self.id = experiment, name, id
        self._own = False

    def start(self, step: int, settings: Mapping[str, object]) -> None:
        given = {"experiment": self.experiment, "name": self.name, "id": self.id}
        self._own = self._mlflow.active_run() is None
        if not self._own:
            _only_one("mlflow.active_run()", given, "leave them out, or call mlflow.end_run()")
        else:
            if self.experiment is not None:
                self._mlflow.set_experiment(self.experiment)
            self._mlflow.start_run(run_id=self.id, run_name=self.name)
        if self.id is None:
            self._mlflow.log_params(dict(settings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def end(self, failed: bool) -> None:
        if self._own:
            self._mlflow.end_run(status="FAILED" if failed else "FINISHED")


@final
class PlainFunction(Callback):
    """A function of (step, averaged model) as a callback."""

    def __init__(self, function: Callable[[int, ScoreModel], object]) -> None:
        self.function = function

    def model(self, step: int, model: ScoreModel) -> None:
        self.function(step, model)


def _only_one(open_run: str, given: Mapping[str, str | None], remedy: str) -> None:
    """Refuse arguments of a new run while another one is open, which would get the numbers."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise fail(", ".join(names), f"none, since {open_run} is open", given, remedy)
