"""Pictures that commands write: samples as a grid or a scatter, losses as curves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

from scoresde.cli.common import say

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde.model import ScoreModel
    from scoresde.quantisation import Quantisation
    from scoresde.training import Trainer

__all__ = ["Pictures", "draw", "draw_losses", "drawable", "why_not"]

STEPS = 20  # enough for a preview


def drawable(shape: Sequence[int]) -> bool:
    """Whether samples of this shape have a picture; see `scoresde.plot.samples`."""
    from scoresde.plot.picture import drawable as known

    return known(shape)


def why_not(shape: Sequence[int]) -> str:
    """The reason why samples of this shape have no picture."""
    sizes = "x".join(map(str, shape))
    return (
        f"images of 1, 3 or 4 channels and points in the plane are drawn, samples of {sizes} not"
    )


def draw(
    x: Tensor,
    file: Path,
    *,
    quantisation: Quantisation | None = None,
    columns: int | None = None,
    title: str | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Write samples (N, *D) as a PNG: images side by side, or points in the plane."""
    from scoresde import plot

    file.parent.mkdir(parents=True, exist_ok=True)
    low, high = (-1.0, 1.0) if quantisation is None else (quantisation.low, quantisation.high)
    figure = plot.samples(x, columns=columns, title=title, labels=labels, low=low, high=high)
    plot.save(figure, file)


@final
class Pictures:
    """The callback of a training run that draws samples of the averaged model.

    All pictures have the same noise, so that they show the changes of the model. With classes,
    each column shows one class.

    Args:
        folder: the folder of the pictures, `<step>.png`.
        shape: the shape of a sample.
        quantisation: the range of the pixels.
        classes: the numbers of the classes with samples, () for none.
        names: the names of all classes, if they are known.
    """

    def __init__(
        self,
        folder: Path,
        shape: Sequence[int],
        quantisation: Quantisation | None,
        classes: Sequence[int],
        names: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.shape = tuple(shape)
        self.quantisation = quantisation
        self.classes = tuple(classes)
        self.names = [names[k] if names else str(k) for k in self.classes]
        self.possible = drawable(shape)

    def __call__(self, step: int, model: ScoreModel) -> None:
        import torch

        from scoresde.sampler import ReverseSampler
        from scoresde.summary import DataRangeWarning

        count = len(self.classes)
        columns = count if 2 <= count <= 16 else 8
        n = 2000 if len(self.shape) == 1 else 8 * columns
        turns = torch.tensor(self.classes)[torch.arange(n) % count] if count else None
        cond = None if turns is None else {"label": turns}
        say(f"step {step}: drawing {n} samples for a picture")
        sampler = ReverseSampler(model.sde, model, steps=STEPS)
        try:
            with warnings.catch_warnings():  # a model in training may be far from the data
                warnings.simplefilter("ignore", DataRangeWarning)
                x = sampler.sample((n, *self.shape), seed=0, cond=cond, batch_size=256)
        except ValueError as error:  # a picture that cannot be drawn does not stop the run
            say(f"no picture at step {step}: {error}")
            return
        file = self.folder / f"{step:09d}.png"
        draw(
            x,
            file,
            quantisation=self.quantisation,
            columns=columns,
            title=f"step {step}",
            labels=self.names if columns == count else (),
        )


def draw_losses(trainer: Trainer, file: Path) -> None:
    """Write the losses of a run as curves over its steps."""
    from scoresde import plot

    curves = {"training": [(step, loss) for step, loss, _ in trainer.history]}
    curves["validation"] = [(row.step, row.loss) for row in trainer.validations]
    known = {k: ([s for s, _ in v], [loss for _, loss in v]) for k, v in curves.items() if v}
    if known:
        plot.save(plot.curve(known, logy=True), file)
