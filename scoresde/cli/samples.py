"""Samples of a data set in the units of the model of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, final

from scoresde.cli.common import key_values, say
from scoresde.cli.opened import Opened, run_of
from scoresde.cli.source import load_source, parts

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde.data import Data, LazyData
    from scoresde.summary import Units

__all__ = ["Samples", "open_samples"]


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of a data set in the units of a model, read piece by piece.

    Attributes:
        data: the whole data set.
        rows: the numbers of the chosen samples in the data set, in order.
        opened: the model.
        scaling: the scaling of the training data, None if they were not scaled.
        labelled: whether to pass the labels to the model.
        conditions: the other conditions that are passed to the model.
    """

    data: Data | LazyData
    rows: Tensor
    opened: Opened
    scaling: Units | None
    labelled: bool
    conditions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the conditions that are passed to the model."""
        return [*(["label"] if self.labelled else []), *self.conditions]

    def take(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the samples with these numbers in the data set, and their conditions."""
        part = self.data[rows]
        x, own = part.x, getattr(self.data, "scaling", None)
        if own != self.scaling and self.opened.data is not None:
            raw = x.double() if own is None else own.decode(x.double())
            x = (raw if self.scaling is None else self.scaling.encode(raw)).to(x.dtype)
        device = self.opened.device
        cond = {name: part.cond[name].to(device) for name in self.names}
        return x.to(device), cond

    def batches(self, size: int) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
        """Yield (position of the first chosen sample, x, cond), `size` samples at a time."""
        for start in range(0, len(self), size):
            yield start, *self.take(self.rows[start : start + size])


def open_samples(
    opened: Opened,
    source: str,
    options: Sequence[str] | None,
    *,
    limit: int | None = None,
    seed: int = 0,
    holdout: float = 0.0,
    unconditional: bool = False,
    without: str = "pass --unconditional",
) -> Samples:
    """Open the samples of a data set for a model, at most `limit`, drawn without replacement.

    `without` is the flag that leaves the labels out, for messages.

    Raises:
        FileNotFoundError, TypeError, ValueError: see `load_data`; the data do not have the shape,
            levels, columns or classes of the training data.
    """
    import torch

    from scoresde._check import fail, positive_int

    options, hint = _options_of_run(opened, source, list(options or ()))
    data: Data | LazyData = load_source(source, options, opened.data)
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
        remedy = f"take the data that it was trained on, or the same options{hint}"
        raise fail("data", f"samples of shape {sizes}, those of the model", shape, remedy)
    if data.quantisation != opened.quantisation:
        remedy = f"give the data the levels and range that the model was trained on{hint}"
        if opened.quantisation is None and not run_of(opened.folder):
            remedy = (
                "if the model was trained on a tensor in Python, save that tensor as .npy and "
                "name the file"
            )
        levels = "no levels" if opened.quantisation is None else f"levels {opened.quantisation}"
        raise fail("data", f"{levels}, as those of the model", data.quantisation, remedy)
    labelled = not unconditional and opened.classes > 0 and "label" in data.cond
    if labelled and opened.class_names and data.class_names:
        present = {data.class_names[k] for k in set(data.cond["label"].tolist())}
        unknown = sorted(present - set(opened.class_names))
        if unknown:
            expected = f"classes of the model ({', '.join(opened.class_names)})"
            remedy = f"name the classes as they are there, or {without}"
            raise fail("data", expected, ", ".join(unknown), remedy)
        data = data.with_classes(opened.class_names)
    if labelled:
        highest = int(data.cond["label"].max())
        if highest >= opened.classes or int(data.cond["label"].min()) < 0:
            remedy = f"renumber them, or {without}"
            raise fail("data", f"labels from 0 to {opened.classes - 1}", highest, remedy)
    scaling = None if opened.data is None else opened.data.scaling
    own = getattr(data, "scaling", None)
    columns = () if scaling is None else scaling.columns
    if columns and (own is None or own.columns != columns):
        got = None if own is None else own.columns
        remedy = f"pass a table with these columns{hint}"
        raise fail("data", f"a table with the columns {columns}", got, remedy)
    if own is not None and opened.data is None:
        say(
            f"the model in {opened.folder} does not say how its data became model units: these "
            "are standardised by their own mean and standard deviation"
        )
    rows = torch.arange(len(data))
    if limit is not None and positive_int("limit", limit) < len(data):
        from scoresde._tensor import seeded  # loads torch

        generator = seeded(seed)
        rows = torch.randperm(len(data), generator=generator, device="cpu")[:limit].sort().values
    known = () if unconditional else tuple(opened.conditions)
    absent = [name for name in known if name not in data.cond]
    if absent:
        say(f"the data have no condition {', '.join(absent)}: the model is not given it")
    taken = [name for name in known if name in data.cond]
    masks = [f"{name}_mask" for name in taken if f"{name}_mask" in data.cond]
    given = (*taken, *masks)
    return Samples(data, rows, opened, scaling, labelled, given)


def _options_of_run(opened: Opened, source: str, options: list[str]) -> tuple[list[str], str]:
    """Return the options of the loader, with those of the run if these are its data.

    An option of the call overrides that of the run.

    Returns:
        The options, and those of the run as a hint for a message, or "".
    """
    run = run_of(opened.folder)
    saved = run.get("data_option") or []
    pairs = (
        [f"{k}={json.dumps(v)}" for k, v in saved.items()] if isinstance(saved, dict) else saved
    )
    if not pairs:
        return options, ""
    listed = " ".join(f"--data-option {pair}" for pair in pairs)
    if not _same_place(source, str(run.get("data"))):
        if not options:
            say(
                f"{source} is not what the model was trained on; the options of that run: {listed}"
            )
        return options, f" ({listed})"
    known = key_values("data-option", options)
    added = [pair for pair in pairs if pair.partition("=")[0].replace("-", "_") not in known]
    if added:
        taken = " ".join(f"--data-option {pair}" for pair in added)
        say(f"{source} is read as it was for the training: {taken}")
    return [*added, *options], f" ({listed})"


def _same_place(one: str, other: str) -> bool:
    here, there = Path(one).expanduser(), Path(other).expanduser()
    return one == other or (here.exists() and here.resolve() == there.resolve())
