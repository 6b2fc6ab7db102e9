"""The averaged weights of the lowest validation loss, which a run with patience returns."""

from __future__ import annotations

from typing import final

from torch import Tensor

from scoresde._check import warn
from scoresde.model import ScoreModel
from scoresde.training.run_folder import RunFolder
from scoresde.training.state import State
from scoresde.training.update import Update

__all__ = ["Best"]


@final
class Best:
    """Keeps the averaged weights of the lowest validation loss in memory.

    Args:
        patience: number of validations in a row without a lower loss after which a run ends;
            with None nothing is kept.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.weights: dict[str, Tensor] | None = None

    def ends(self, state: State) -> bool:
        """Whether the patience of the run is spent."""
        return self.patience is not None and state.waited >= self.patience

    def keep(self, update: Update) -> None:
        """Keep the averaged weights of this step."""
        if self.patience is not None:
            found = update.averaged.state_dict()
            self.weights = {name: value.detach().clone() for name, value in found.items()}

    def resume(self, folder: RunFolder, state: State) -> None:
        """Read the weights that a run kept before it was interrupted, from `best/`.

        If they are missing, damaged, or of a later step than the checkpoint, the lowest loss is
        sought anew from here.
        """
        if self.patience is None or not state.validations:
            return
        found = folder.find_best(state.step)
        if found is None:
            state.forget_best()
            warn(
                f"{folder.best}: expected the model of the lowest validation loss until step "
                f"{state.step}, got none that is intact; the lowest loss counts from here"
            )
        else:
            self.weights = {f"net.{name}": value for name, value in found.items()}

    def given_to(self, model: ScoreModel) -> ScoreModel:
        """The model with the weights that were kept, if any."""
        if self.weights is not None:
            model.load_state_dict(self.weights)
        return model
