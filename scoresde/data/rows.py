"""`Rows`: samples that are read on access."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import choice, fail, no_mask, path_of
from scoresde.data.layouts import LAYOUTS, arranged, arranged_shape
from scoresde.quantisation import Quantisation
from scoresde.summary import Scaling

__all__ = ["CHUNK", "ArrayRows", "Rows", "ScaledRows", "Subset", "chunks"]

CHUNK = 2**22
"""The number of values in one piece when all rows are read: 16 MiB of float32."""

PIECE = 2**18
"""The number of values encoded at once, since the indices of a table take 8 bytes each."""


class Rows(ABC):
    """N samples in model units that are read on access: the lazy form of a tensor (N, *D).

    Indexing reads: `rows[i]` is a tensor (*D); a slice, a mask or a tensor of n indices gives
    (n, *D). A row is the same at every access. A new format is one class with three members.

    Attributes:
        parallel: whether several threads may call `read` at once, so that a `Trainer` prefetches.
            The default is False: a shared file handle or cache could give one thread the rows of
            another.

    Example:
        >>> class Squares(Rows):
        ...     shape, dtype = (10, 1), torch.float32
        ...
        ...     def read(self, rows):
        ...         return (rows**2).float()[:, None]
        >>> Squares()[torch.tensor([2, 3])].tolist()
        [[4.0], [9.0]]
    """

    parallel: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(N, *D)."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors that are read."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """The samples of the given numbers, (n,) int64 in 0 ... N - 1, as (n, *D)."""

    def identity(self, rows: Tensor) -> list[bytes]:
        """The identity of samples in any order: their content, or a file name."""
        x = self.read(rows).contiguous().flatten(1)
        return [row.tobytes() for row in x.numpy()]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        """The device of the tensors that are read: always the CPU."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        if isinstance(index, int):
            return self.read(torch.tensor([range(len(self))[index]], device="cpu"))[0]
        return self.read(self.numbers(index))

    def numbers(self, index: Any) -> Tensor:
        """The row numbers, (n,) int64, that a slice, a mask or a tensor of indices selects.

        Raises:
            IndexError: an index is out of range, or the mask has the wrong length.
            ValueError: `index` is none of these.
        """
        if isinstance(index, slice):
            return torch.arange(*index.indices(len(self)), device="cpu")
        if isinstance(index, tuple):
            raise fail("index", "rows alone", index, "read first, then index: x[rows][:, 0]")
        no_mask("index", index)
        index = torch.as_tensor(index, device="cpu")
        if index.ndim != 1 or index.is_floating_point() or index.is_complex():
            remedy = "pass a slice, a mask (N,) or a 1-D tensor of indices"
            raise fail("index", "a selection of rows", index, remedy)
        index, size = index.cpu(), len(self)
        if index.dtype in (torch.bool, torch.uint8):
            if len(index) != size:
                raise IndexError(f"index: expected a mask of length {size}, got {len(index)}")
            chosen: Tensor = index.nonzero().flatten()
            return chosen
        # Avoid materialising arange(size), which may not fit into memory.
        wrong = (index < -size) | (index >= size)
        if wrong.any():
            raise IndexError(f"index: expected rows below {size}, got {int(index[wrong][0])}")
        return torch.where(index < 0, index + size, index).long()

    def take(self, index: slice | Tensor) -> Rows:
        """The rows of a slice, a mask or a tensor of indices, without reading them."""
        return Subset(self, self.numbers(index))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} x {self.shape[1:]})"


@final
class Subset(Rows):
    """Some rows of a `Rows`, in any order."""

    def __init__(self, base: Rows, rows: Tensor) -> None:
        inner = isinstance(base, Subset)
        self.base: Rows = base.base if isinstance(base, Subset) else base
        self.rows: Tensor = base.rows[rows] if inner else rows  # type: ignore[attr-defined]
        self.parallel = base.parallel

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.base.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def read(self, rows: Tensor) -> Tensor:
        return self.base.read(self.rows[rows])

    def identity(self, rows: Tensor) -> list[bytes]:
        return self.base.identity(self.rows[rows])


@final
class ScaledRows(Rows):
    """Rows that are converted to model units on access.

    The identity of a sample is its content before the scaling, which does not change when samples
    are added to the data set.

    Args:
        base: the rows in their original units, preferably in float64.
        scaling: the map to model units.
        dtype: the dtype of the samples; by default that of `base`.
    """

    def __init__(self, base: Rows, scaling: Scaling, dtype: torch.dtype | None = None) -> None:
        self.base = base
        self.scaling = scaling
        self.parallel = base.parallel
        self._dtype = base.dtype if dtype is None else dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def read(self, rows: Tensor) -> Tensor:
        return self.scaling.encode(self.base.read(rows).double()).to(self._dtype)

    def identity(self, rows: Tensor) -> list[bytes]:
        return self.base.identity(rows)


@final
class ArrayRows(Rows):
    """The rows of a numpy array, or of a memory-mapped .npy file.

    A file is mapped again at each access, so that its pages are released and the object can be
    pickled.

    Args:
        source: an array, or the path of a .npy file.
        layout: a key of `LAYOUTS`.
        quantisation: the levels of integers; floats are in model units already.
        dtype: the dtype of the samples.
        name: the name of the data in messages.
        whole: whether floats are whole numbers that represent levels.
        numbers: whether integers are numbers and not levels.
    """

    parallel = True

    def __init__(
        self,
        source: np.ndarray[Any, Any] | str | os.PathLike[str],
        layout: str = "ND",
        quantisation: Quantisation | None = None,
        dtype: torch.dtype = torch.float32,
        name: str = "x",
        whole: bool = False,
        numbers: bool = False,
    ) -> None:
        no_mask(name, source)
        self.source = source if isinstance(source, np.ndarray) else path_of("source", source)
        self.layout = choice("layout", layout, LAYOUTS)
        self.quantisation = quantisation
        self.name = name
        self._dtype = dtype
        raw = self.open()
        self.raw_dtype = raw.dtype
        self.integers = whole or (raw.dtype.kind in "iub" and not numbers)
        self._shape = arranged_shape(raw.shape, self.layout)
        self._table = None
        if self.integers and quantisation is not None and quantisation.levels <= 2**16:
            self._table = quantisation.encode(
                torch.arange(quantisation.levels, device="cpu"), dtype=dtype
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def open(self) -> np.ndarray[Any, Any]:
        """The stored array, memory-mapped if it is a file."""
        if isinstance(self.source, Path):
            mapped: np.ndarray[Any, Any] = np.load(self.source, mmap_mode="r", allow_pickle=False)
            return mapped
        return self.source

    def read(self, rows: Tensor) -> Tensor:
        stored = self.open()
        if len(rows):
            _announce(stored, rows)
        raw = stored[rows.numpy()]
        values = self._levels(raw, rows) if self.integers else self._floats(raw, rows)
        return arranged(values, self.layout)

    def _levels(self, raw: np.ndarray[Any, Any], rows: Tensor) -> Tensor:
        quantisation = self.quantisation or Quantisation(2)
        if self.raw_dtype.kind == "f" and not (raw == raw.round()).all():  # also if it is nan
            bad = int(rows[int((raw != raw.round()).reshape(len(raw), -1).any(axis=1).argmax())])
            remedy = "pass standardise=False, or repair the row"
            raise fail(self.name, "whole numbers", f"others in row {bad}", remedy)
        low, high = int(raw.min(initial=0)), int(raw.max(initial=0))
        if low < 0 or high >= quantisation.levels:
            got = low if low < 0 else high
            bad = int(rows[int((raw == got).reshape(len(raw), -1).any(axis=1).argmax())])
            expected = f"levels from 0 to {quantisation.levels - 1}"
            remedy = "shift them to start at 0, or pass the number of levels as levels="
            raise fail(self.name, expected, f"{got} in row {bad}", remedy)
        x = torch.empty(raw.shape, dtype=self.dtype, device="cpu")
        step = max(1, PIECE * len(raw) // max(1, raw.size))
        for start in range(0, len(raw), step):
            k = torch.from_numpy(raw[start : start + step].astype(np.int64))
            made = (
                quantisation.encode(k, dtype=self.dtype) if self._table is None else self._table[k]
            )
            x[start : start + step] = made
        return x

    def _floats(self, raw: np.ndarray[Any, Any], rows: Tensor) -> Tensor:
        values = torch.from_numpy(raw.astype(np.float64)).to(self.dtype)
        flat = values.reshape(len(values), -1)
        bad = ~flat.isfinite().all(dim=1)
        if bad.any():
            row = int(bad.nonzero()[0])
            value = flat[row][~flat[row].isfinite()][0].item()
            got = f"{value} in row {int(rows[row])}"
            raise fail(self.name, "finite numbers", got, "drop or repair the row")
        if self.quantisation is not None:
            half = self.quantisation.bin_width / 2
            low, high = self.quantisation.low - half, self.quantisation.high + half
            bad = ((flat < low) | (flat > high)).any(dim=1)
            if bad.any():
                row = int(bad.nonzero()[0])
                wrong = flat[row][(flat[row] < low) | (flat[row] > high)][0].item()
                expected = (
                    f"model units from {self.quantisation.low:g} to {self.quantisation.high:g}"
                )
                remedy = "rescale the floats, or pass the quantisation that they obey"
                raise fail(self.name, expected, f"{wrong:g} in row {int(rows[row])}", remedy)
        return values


def chunks(x: Tensor | Rows) -> Iterator[Tensor]:
    """Consecutive pieces (n, *D) of all rows, with about `CHUNK` values each."""
    width = max(1, int(np.prod(x.shape[1:], dtype=np.int64)))
    size = max(1, CHUNK // width)
    for start in range(0, len(x), size):
        yield x[start : start + size]


def _announce(stored: np.ndarray[Any, Any], rows: Tensor) -> None:
    """Announce scattered parts of a mapped file to the operating system.

    Otherwise each access reads megabytes around a page: reading 64 images of 12 kB from a file of
    2.5 GB took 1.5 s instead of 6 ms.
    """
    mapped = getattr(stored, "base", None)
    scattered = int(rows.max() - rows.min()) >= 4 * len(rows)
    if not scattered or not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_RANDOM"):
        return
    mapped.madvise(mmap.MADV_RANDOM)
    size = stored.strides[0]
    if stored.flags.c_contiguous and size > mmap.PAGESIZE:
        first = getattr(stored, "offset", 0) % mmap.ALLOCATIONGRANULARITY
        for row in rows.tolist():
            start = first + row * size
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)
