"""Conversion of floats from files to model units, with a message."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._check import fail, listed, warn
from scoresde.data.layouts import IMAGES
from scoresde.data.rows import CHUNK, Rows, chunks
from scoresde.data.scaling import ends_of, moments_of, scaling_of, unit_fault
from scoresde.quantisation import Quantisation
from scoresde.summary import Scaling

__all__ = ["checked_standardise", "levels_up_to", "meaning_of"]

ROWS, VALUES = 10_000, 2**25
"""The most rows, and about the most values, that are read to inspect a large file."""

DEPTHS = tuple(2**bits for bits in (8, 10, 12, 14, 16))
LEAST = 0.01
"""The least standard deviation of an entry, about that of the noise at the end of sampling."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a look at floats shows: their range, and the range and moments of each entry."""

    low: float
    high: float
    whole: bool
    mean: Tensor
    std: Tensor
    low_of: Tensor
    high_of: Tensor


def checked_standardise(value: Any) -> bool | str:
    """Check and return True, False or "auto"."""
    if isinstance(value, bool) or value == "auto":
        return value  # type: ignore[no-any-return]
    remedy = "True standardises, False keeps the values, 'auto' decides by the values"
    raise fail("standardise", "True, False or 'auto'", value, remedy)


def look(rows: Rows) -> Seen:
    """Range and moments of raw floats, for large data of evenly spaced rows."""
    width = max(1, math.prod(rows.shape[1:]))
    wanted = min(len(rows), ROWS, max(100, VALUES // width))
    chosen = torch.arange(wanted, device="cpu") * len(rows) // wanted
    lows, highs, wholes = list[Tensor](), list[Tensor](), list[bool]()

    def pieces() -> Iterator[Tensor]:
        for part in torch.split(chosen, max(1, CHUNK // width)):
            x = rows[part].double()
            lows.append(x.amin(dim=0))
            highs.append(x.amax(dim=0))
            wholes.append(bool((x == x.round()).all()))
            yield x

    known = moments_of(pieces())
    low_of, high_of = torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)
    low, high = float(low_of.min()), float(high_of.max())
    return Seen(low, high, all(wholes), known.mean, known.std, low_of, high_of)


def _picture_scaling(seen: Seen) -> Scaling | None:
    """[0, 1] or [0, 255] to [-1, 1], if floats of images fill one of these ranges."""
    if seen.low < 0:
        return None
    for top in (1.0, 255.0):
        # A field from 90 to 110 is also within 0 to 255, but does not fill this range.
        half = torch.tensor(top / 2, dtype=torch.float64, device="cpu")
        mean, std = float(seen.mean.mean()) / top * 2 - 1, _overall(seen) / top * 2
        if seen.high <= top and unit_fault(mean, std) is None:
            return Scaling(half, half)
    return None


def scaling_for(
    rows: Rows, standardise: bool | str, by: str, *, image: bool, name: str
) -> Scaling | None:
    """The map from raw floats to model units, or None if they are in model units.

    Args:
        rows: raw floats, preferably in float64.
        standardise: True, False (they are in model units) or "auto": pictures from 0 to 1 or from
            0 to 255 are mapped to [-1, 1], and any other data are standardised if they are
            obviously not in model units.
        by: the values that share a mean and a standard deviation; see `Data.standardised`.
        image: whether the floats may be pictures.
        name: the name of the data in messages.

    Raises:
        ValueError: an entry of vectors or a channel is constant, or a value is not finite.
    """
    if checked_standardise(standardise) is False:
        return None
    if standardise is True:
        return scaling_of(rows, by, name)
    seen = look(rows)
    _check_constant(rows, seen, name)
    if image and (scaling := _picture_scaling(seen)) is not None:
        top = 2 * float(scaling.std)
        _say(name, f"pictures of floats from 0 to {top:g}", "brought to [-1, 1]")
        return scaling
    fault = _fault(seen, vectors=rows.ndim == 2)
    if fault is None:
        return None
    scaling = scaling_of(rows, by, name)
    shares = {"all": "all values together", "channel": "each channel", "entry": "each entry"}
    _say(name, fault, f"standardised, {shares[by]}")
    return scaling


def meaning_of(
    exact: Rows, layout: str, standardise: bool | str, name: str, *, floats: bool = True
) -> tuple[Quantisation | None, Scaling | None]:
    """The meaning of numbers without a quantisation: levels for whole grey values, or a scaling.

    Args:
        exact: the numbers, unscaled.
        layout: a key of `LAYOUTS`.
        standardise: see `npy`.
        name: the name of the data in messages.
        floats: whether the numbers are stored as floats and not as integers.

    Returns:
        The quantisation and the scaling, of which at least one is None; both are None for numbers
        in model units.
    """
    image = layout in IMAGES
    if image and floats and checked_standardise(standardise) == "auto":
        levels = whole_levels(exact)
        if levels is not None:
            warn(
                f"{name}: pictures of floats that are whole numbers are taken as {levels} levels "
                "(standardise=False keeps them as they are)"
            )
            return Quantisation(levels), None
    by = "entry" if exact.ndim == 2 else "all" if layout == "ND" else "channel"
    return None, scaling_for(exact, standardise, by, image=image, name=name)


def whole_levels(rows: Rows) -> int | None:
    """The number of levels of pictures whose floats are whole numbers, or None.

    With a largest value up to 16 they are few levels, and from 128 to 255 bytes. Other whole
    numbers may be rounded measurements.
    """
    seen = look(rows)
    if not seen.whole or seen.low < 0 or not (1 < seen.high <= 16 or 128 <= seen.high <= 255):
        return None
    low, high = math.inf, -math.inf
    for piece in chunks(rows):
        if not bool((piece == piece.round()).all()):
            return None
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
    return levels_up_to(int(high), image=True) if low >= 0 and high <= 255 else None


def levels_up_to(largest: int, *, image: bool, byte: bool = False) -> int:
    """The number of levels of integers from 0 to `largest`.

    Images have the bit depth of a camera or a file (8, 10, 12, 14 or 16), even if they are dark,
    except those of up to 17 levels. Other bytes have 256 levels if a value is 128 or more.
    """
    if image and largest > 16:
        return next((depth for depth in DEPTHS if largest < depth), largest + 1)
    return 256 if byte and largest >= 128 else max(2, largest + 1)


def _check_constant(rows: Rows, seen: Seen, name: str) -> None:
    """Raise as `Data` does for constant entries of vectors and constant channels."""
    if rows.ndim == 3 or len(rows) < 2 or not bool(_joint(seen.low_of, seen.high_of).any()):
        return
    same = _joint(*ends_of(rows))  # of all rows, not only of those that were inspected
    if bool(same.any()):
        what = "entries" if rows.ndim == 2 else "channels"
        got = f"the same number everywhere in {listed(same.nonzero().flatten().tolist())}"
        remedy = "drop them (axis 1): there is nothing in them to model"
        raise fail(name, f"{what} that vary", f"{got} of {len(same)}", remedy)


def _joint(low: Tensor, high: Tensor) -> Tensor:
    """The indices of axis 1 with a single value."""
    return low.reshape(len(low), -1).amin(dim=1) == high.reshape(len(high), -1).amax(dim=1)


def _say(name: str, found: str, done: str) -> None:
    """Warn of a conversion, in one line."""
    warn(
        f"{name}: {found}; the data are {done}, and their scaling takes samples back "
        "(standardise=False keeps them as they are)"
    )


def _overall(seen: Seen) -> float:
    """The standard deviation of all values about their common mean."""
    spread = (seen.mean - seen.mean.mean()).square()
    return float((seen.std.square() + spread).mean().sqrt())


def _fault(seen: Seen, *, vectors: bool) -> str | None:
    """Why floats are obviously not in model units; vectors are judged by entry."""
    if not vectors:
        return unit_fault(float(seen.mean.mean()), _overall(seen))
    rms = float(seen.std.square().mean().sqrt())
    if (found := unit_fault(float(seen.mean.mean()), rms)) is not None:
        return found
    one = [(abs(float(m)), float(m), float(s)) for m, s in zip(seen.mean, seen.std, strict=True)]
    for place, (_, mean, std) in enumerate(one):
        if unit_fault(mean, max(std, 0.1)) is not None or std < LEAST:
            return f"entry {place} has mean {mean:.4g} and standard deviation {std:.4g}"
    return None
