"""Samples of a data set, made ready for the model of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from scoresde._tensor import seeded
from scoresde.cli.common import say
from scoresde.cli.opened import Opened
from scoresde.cli.source import load_source, parts

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde.data import Data, LazyData, Scaling

__all__ = ["Holdout", "Samples", "Unconditional", "open_samples", "saved_scaling"]

Holdout = Annotated[
    float,
    typer.Option(
        help="Take only the share that `train --holdout` held out; 0 for all of the data.",
        rich_help_panel="Data",
    ),
]
Unconditional = Annotated[
    bool,
    typer.Option(
        "--unconditional",
        help="Ask the model without the labels of the data.",
        rich_help_panel="Data",
    ),
]


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of a data set in the units of a model, read piece by piece.

    Attributes:
        data: all of the data set.
        rows: the chosen ones, their numbers in the data set, in order.
        opened: the model.
        scaling: of the table that the model was trained on, None for other data.
        labelled: hand the labels to the model.
    """

    data: Data | LazyData
    rows: Tensor
    opened: Opened
    scaling: Scaling | None
    labelled: bool

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples by their numbers in the data set and their conditions, for the model."""
        part = self.data[rows]
        x = part.x
        if self.scaling is not None and part.scaling is not None:
            x = self.scaling.encode(part.scaling.decode(x.double())).to(x.dtype)
        device = self.opened.device
        cond = {"label": part.cond["label"].to(device)} if self.labelled else {}
        return x.to(device), cond

    def batches(self, size: int) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
        """(number of the first one among the chosen, x, cond), `size` at a time."""
        for start in range(0, len(self), size):
            yield start, *self.take(self.rows[start : start + size])


def saved_scaling(opened: Opened) -> Scaling | None:
    """How the columns of the table that the model was trained on became model units."""
    saved: dict[str, Any] | None = opened.about.get("scaling")
    if saved is None:
        return None
    import torch

    from scoresde.data import Scaling

    mean, std = (torch.tensor(saved[key], dtype=torch.float64) for key in ("mean", "std"))
    return Scaling(mean, std, tuple(saved["columns"]))


def open_samples(
    opened: Opened,
    source: str,
    options: Sequence[str] | None,
    *,
    limit: int | None = None,
    seed: int = 0,
    holdout: float = 0.0,
    unconditional: bool = False,
) -> Samples:
    """The samples of a data set for a model, at most `limit` of them, drawn without replacement.

    Raises:
        FileNotFoundError, TypeError, ValueError: as `load_data`; the data are not of the shape,
            levels, columns or classes that the model was trained on.
    """
    import torch

    from scoresde._check import fail, positive_int

    data: Data | LazyData = load_source(source, options)
    if holdout:
        held_out = parts(data, holdout)[1]
        if held_out is None:
            remedy = "leave --holdout out, to take all of the data"
            expected = f"a share of {len(data)} samples that is one or more"
            raise fail("holdout", expected, holdout, remedy)
        data = held_out
    wanted, shape = opened.any_shape(), tuple(data.x.shape[1:])
    if tuple(None if a is None else b for a, b in zip_longest(wanted, shape)) != wanted:
        sizes = "x".join("any" if size is None else str(size) for size in wanted)
        remedy = "take the data that it was trained on, or the same --data-option"
        raise fail("data", f"samples of shape {sizes}, those of the model", shape, remedy)
    if data.contract != opened.contract:
        remedy = "give the data the levels and range that the model was trained on"
        raise fail("data", f"levels {opened.contract}, those of the model", data.contract, remedy)
    labelled = not unconditional and opened.classes > 0 and "label" in data.cond
    names = opened.about.get("class_names") or ()
    if labelled and names and data.class_names:
        data = data.with_classes(names)
    if labelled:
        highest = int(data.cond["label"].max())
        if highest >= opened.classes or int(data.cond["label"].min()) < 0:
            remedy = "renumber them, or pass --unconditional"
            raise fail("data", f"labels from 0 to {opened.classes - 1}", highest, remedy)
    scaling = saved_scaling(opened)
    own = getattr(data, "scaling", None)
    if scaling is not None and (own is None or own.columns != scaling.columns):
        got = None if own is None else own.columns
        remedy = "pass a table with these columns, in this order"
        raise fail("data", f"a table with the columns {scaling.columns}", got, remedy)
    if own is not None and scaling is None:
        say(
            f"the run of {opened.folder} does not say how its table became model units: this "
            "one is standardised by its own mean and standard deviation"
        )
    rows = torch.arange(len(data))
    if limit is not None and positive_int("limit", limit) < len(data):
        generator = seeded(seed)
        rows = torch.randperm(len(data), generator=generator, device="cpu")[:limit].sort().values
    return Samples(data, rows, opened, scaling, labelled)
