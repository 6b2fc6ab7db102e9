"""Samples that are items of a source, files or a data set, read at each access."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail
from scoresde.data.base import LazyData
from scoresde.data.layouts import IMAGES, layout_of, told_layout
from scoresde.data.pictures import CHANNELS, pixels
from scoresde.data.rows import ArrayRows, Rows, ScaledRows
from scoresde.data.scaling import ends_of
from scoresde.data.units import levels_up_to, meaning_of
from scoresde.quantisation import Quantisation

__all__ = ["BYTES", "ArrayItems", "PictureItems", "Source", "arrays_of"]

BYTES = Quantisation(256)


class Source(Protocol):
    """A source of items."""

    @property
    def names(self) -> Sequence[str] | None:
        """The identities of the samples in any order; None if their content is the identity."""

    @property
    def opened(self) -> bool:
        """Whether each access opens its item, so that several threads may read at once."""

    def __len__(self) -> int: ...

    def item(self, number: int) -> Any:  # an array, a picture, or an invalid object
        """The item of this number."""

    def called(self, number: int) -> str:
        """The name of an item in messages."""


class _Items(Rows):
    """The rows of a source; `_one` is the shape of a sample."""

    source: Source
    _one: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.source), *self._one)

    def identity(self, rows: Tensor) -> list[bytes]:
        names = self.source.names
        if names is None:
            return super().identity(rows)
        return [names[row % len(names)].encode() for row in rows.tolist()]


@final
class ArrayItems(_Items):
    """Items that are arrays of one shape, or numbers.

    Args:
        source: the source of the items.
        layout, quantisation, dtype, whole, numbers: see `ArrayRows`.
        channels: see `layout_of`.
    """

    def __init__(
        self,
        source: Source,
        layout: str = "auto",
        quantisation: Quantisation | None = None,
        dtype: torch.dtype = torch.float32,
        whole: bool = False,
        numbers: bool = False,
        channels: str | None = None,
    ) -> None:
        self.source, self.parallel = source, source.opened
        first = self._array(0)
        self.kind, self.byte, self.raw = first.dtype.kind, first.dtype == np.uint8, first.shape
        shape = (len(source), *first.shape)
        self.layout = layout_of(shape, layout, "layout", channels=channels, byte=self.byte)
        self.quantisation = quantisation
        self._dtype = dtype
        self._how = whole, numbers
        self._one = self._made(first[None], source.called(0)).shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def _array(self, number: int) -> np.ndarray[Any, Any]:
        array = np.asarray(self.source.item(number))
        if array.dtype.kind not in "iubf" or not array.size:
            expected = "an array of integers or floats"
            raise fail(self.source.called(number), expected, array, "repair it or leave it out")
        return array

    def _made(self, arrays: np.ndarray[Any, Any], name: str) -> Tensor:
        return ArrayRows(arrays, self.layout, self.quantisation, self._dtype, name, *self._how)[:]

    def read(self, rows: Tensor) -> Tensor:
        arrays = [self._array(number) for number in rows.tolist()]
        for number, array in zip(rows.tolist(), arrays, strict=True):
            if array.shape != self.raw:
                expected = f"an array of shape {self.raw}, as {self.source.called(0)}"
                remedy = "cut it, pad it or leave it out"
                raise fail(self.source.called(number), expected, array, remedy)
        if not arrays:
            return torch.empty((0, *self._one), dtype=self._dtype, device="cpu")
        try:
            return self._made(np.stack(arrays), "the items")
        except ValueError:  # repeated for the single item
            for number, array in zip(rows.tolist(), arrays, strict=True):
                self._made(array[None], self.source.called(number))
            raise


@final
class PictureItems(_Items):
    """Items that are pictures of Pillow, followed by their mirror images if `flip` is set.

    Args:
        source: the source of the items.
        size: (H, W) of the samples.
        mode: "L", "RGB" or "RGBA".
        flip: whether the mirror images follow.
        background: grey level behind transparent pictures.
        resize: whether pictures of another size are resized and cropped, or refused.
        skipped: the names of items that were left out, for the user.
        quantisation: with fewer than 256 levels, these levels are spaced evenly over the grey
            values 0 ... 255 of the pictures.
    """

    dtype = torch.float32

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        mode: str,
        flip: bool = False,
        background: int | None = None,
        resize: bool = True,
        skipped: tuple[str, ...] = (),
        quantisation: Quantisation = BYTES,
    ) -> None:
        self.source, self.parallel = source, source.opened
        self.size = size
        self.mode = mode
        self.flip = flip
        self.background = background
        self.resize = resize
        self.skipped = skipped
        self.quantisation = quantisation
        self._one = (CHANNELS[mode], *size)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.source) * (1 + self.flip), *self._one)

    def read(self, rows: Tensor) -> Tensor:
        levels = torch.empty((len(rows), *self._one), dtype=torch.uint8, device="cpu")
        for place, row in enumerate(rows.tolist()):
            mirrored, number = divmod(row, len(self.source))
            made = self._levels(number)
            levels[place] = made.flip(-1) if mirrored else made
        if self.quantisation.levels != BYTES.levels:  # fewer, which were spread over 0 ... 255
            levels = levels.double().mul((self.quantisation.levels - 1) / 255).round()
        return self.quantisation.encode(levels)

    def _levels(self, number: int) -> Tensor:
        name, size = self.source.called(number), self.size if self.resize else None
        try:
            picture = self.source.item(number)
            if not hasattr(picture, "getchannel"):
                raise fail(name, "an image", picture, "leave it out")
            with picture if self.source.opened else nullcontext():
                made = pixels(picture, size, self.mode, self.background, name)
        except (OSError, SyntaxError) as error:
            remedy = "delete it; image_folder(verify=True) skips such files"
            raise fail(name, "an image", f"{error}", remedy) from error
        if made.shape != self._one:
            expected = f"levels of shape {self._one}, as of {self.source.called(0)}"
            raise fail(name, expected, made, "pass size=, e.g. size=64")
        return made


def arrays_of(
    source: Source,
    name: str,
    layout: str = "auto",
    quantisation: Quantisation | None = None,
    standardise: bool | str = "auto",
    *,
    channels: str | None = None,
) -> LazyData:
    """Data of items that are arrays, in model units, without labels; see `npy`."""
    exact = ArrayItems(source, layout, None, torch.float64, numbers=True, channels=channels)
    if not exact.byte and channels is None:
        told_layout((len(source), *exact.raw), layout, exact.layout, name)
    floats, whole, scaling = exact.kind == "f", False, None
    if quantisation is None and (floats or standardise is True):
        quantisation, scaling = meaning_of(exact, exact.layout, standardise, name, floats=floats)
        whole = quantisation is not None
    elif quantisation is None:
        quantisation = Quantisation(_levels(exact, name))
    rows: Rows = ArrayItems(source, exact.layout, quantisation, whole=whole)
    if scaling is not None:
        rows = ScaledRows(exact, scaling, torch.float32)
    return LazyData(rows, {}, quantisation, name, scaling=scaling)


def _levels(exact: ArrayItems, name: str) -> int:
    """The number of levels, inferred from the values of integers."""
    if exact.kind == "b":
        return 2
    low, high = ends_of(exact)
    if float(low.min()) < 0:
        remedy = "shift them to start at 0, or pass standardise=True, which takes them as numbers"
        raise fail(name, "levels from 0", float(low.min()), remedy)
    return levels_up_to(int(high.max()), image=exact.layout in IMAGES, byte=exact.byte)
