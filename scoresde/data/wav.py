"""WAV files: recordings cut into windows, and signals written back."""

from __future__ import annotations

import os
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, instance, path_of, positive_int, refuse, warn
from scoresde._io import replacing
from scoresde.data.base import LazyData
from scoresde.data.files import classes_of_folders, files_below
from scoresde.data.rows import Rows, ScaledRows
from scoresde.data.scaling import scaling_of
from scoresde.data.units import checked_standardise

__all__ = ["WavRows", "wav", "write_wav"]

WIDTHS = (1, 2, 3, 4)
"""Bytes of a value: 8 bits without a sign, and 16, 24 and 32 bits with one."""


@final
@dataclass(frozen=True)
class Recording:
    """The header of a WAV file."""

    path: Path
    rate: int
    channels: int
    width: int
    frames: int


def wav(
    path: str | os.PathLike[str],
    window: int | None = None,
    *,
    labels: bool | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """A WAV file, or a folder of them, as signals (N, C, L) that are read on access.

    Each file is cut into windows that do not overlap; what is left at its end is not used. The
    values of PCM with 8, 16, 24 or 32 bits are amplitudes from -1 to 1, and each channel is
    standardised: `data.scaling.decode` gives amplitudes again, which `write_wav` writes. Nothing
    is resampled. A split may put windows of one recording into both parts.

    Args:
        path: the file, or the folder, whose sub-folders are searched too.
        window: L, the number of values of a signal in each channel; by default the length of all
            files of a folder, if they have one length.
        labels: whether the sub-folders name classes; by default if all files are in sub-folders.
        standardise: True or "auto" to subtract the mean of each channel and divide by its standard
            deviation; False keeps amplitudes.

    Returns:
        LazyData with x (N, C, L), and labels if there are sub-folders.

    Warns:
        UserWarning: files are shorter than a window and are left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a file is no WAV file of PCM, the rates or the numbers of channels differ (two
            files are named), the window is longer than every file, or there is none and the
            lengths differ.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_wav(folder / "a.wav", torch.sin(torch.arange(1000.0) / 5)[None], rate=8000)
        >>> data = wav(folder / "a.wav", window=64)
        >>> data
        LazyData(a: 15 x (1, 64) float32)
    """
    place = path_of("path", path)
    checked_standardise(standardise)
    if place.is_dir():
        names = files_below(place, {".wav"})
        if not names:
            raise fail("path", "a folder with .wav files", str(place), "check the path")
        files = [place / name for name in names]
    elif place.is_file():
        names, files = [place.name], [place]
    else:
        raise FileNotFoundError(f"no file or folder {place}")
    heads = [header(file) for file in files]
    _check_alike(heads)
    length = _window(heads, window)
    label, classes = classes_of_folders(names, labels if place.is_dir() else False)
    counts = [head.frames // length for head in heads]
    short = [head for head, count in zip(heads, counts, strict=True) if not count]
    if short:
        warn(
            f"{place.name}: {len(short)} of {len(heads)} files are shorter than {length} values "
            f"and are left out, first {short[0].path.name} with {short[0].frames}"
        )
    rows: Rows = WavRows(heads, names, length)
    scaling = None
    if standardise is not False:
        scaling = scaling_of(rows, "channel", place.name)
        rows = ScaledRows(rows, scaling, torch.float32)
    data = LazyData(rows, name=place.stem, scaling=scaling)
    if label is None:
        return data
    cond = {"label": label.repeat_interleave(torch.tensor(counts, device="cpu"))}
    return replace(data, cond=cond, classes=len(classes), class_names=classes)


def header(file: Path) -> Recording:
    """The header of a WAV file.

    Raises:
        ValueError: it is no WAV file of PCM.
    """
    with _opened(file) as sound:
        made = Recording(
            file,
            sound.getframerate(),
            sound.getnchannels(),
            sound.getsampwidth(),
            sound.getnframes(),
        )
    if made.width not in WIDTHS:
        raise fail(str(file), "8, 16, 24 or 32 bits", 8 * made.width, "convert it to 16 bits")
    return made


def _opened(file: Path) -> wave.Wave_read:
    try:
        return wave.open(str(file), "rb")
    except (wave.Error, EOFError, OSError) as error:
        remedy = "convert it to PCM with 16 bits, e.g. ffmpeg -i in.wav -c:a pcm_s16le out.wav"
        raise fail(str(file), "a WAV file of PCM", str(error) or "a short file", remedy) from error


def _check_alike(heads: Sequence[Recording]) -> None:
    first = heads[0]
    for head in heads[1:]:
        if head.rate != first.rate:
            got = f"{first.rate} Hz in {first.path} and {head.rate} Hz in {head.path}"
            remedy = "resample them to one rate first, or take the others out of the folder"
            raise refuse("path", "recordings of one rate", got, remedy)
        if head.channels != first.channels:
            got = f"{first.channels} in {first.path} and {head.channels} in {head.path}"
            raise refuse("path", "one number of channels", got, "mix them to mono first")


def _window(heads: Sequence[Recording], window: int | None) -> int:
    lengths = sorted({head.frames for head in heads})
    if window is None:
        if len(lengths) == 1 and len(heads) > 1:
            return lengths[0]
        got = f"None, for {len(heads)} files of {lengths[0]} to {lengths[-1]} values"
        remedy = f"pass the length of a signal, e.g. window={min(1024, max(1, lengths[-1] // 8))}"
        raise fail("window", "the number of values of a signal", got, remedy)
    length = positive_int("window", window)
    if length > lengths[-1]:
        expected = f"at most {lengths[-1]}, the length of the longest file"
        raise fail("window", expected, length, "pass a shorter one")
    return length


@final
class WavRows(Rows):
    """Windows of WAV files, as amplitudes (C, L) from -1 to 1.

    The identity of a window is the name of its file and its place in it.

    Args:
        heads: the headers of the files, which have one rate and one number of channels.
        names: the names of the files.
        window: the number of values of a window in each channel.
    """

    parallel = True
    dtype = torch.float32

    def __init__(self, heads: Sequence[Recording], names: Sequence[str], window: int) -> None:
        self.heads, self.names, self.window = tuple(heads), tuple(names), window
        counts = torch.tensor([head.frames // window for head in heads], device="cpu")
        self._ends = counts.cumsum(0)
        self._counts = counts

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self._ends[-1]), self.heads[0].channels, self.window)

    def _place(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The file of each window, and the number of the window in it."""
        files = torch.searchsorted(self._ends, rows, right=True)
        return files, rows - (self._ends - self._counts)[files]

    def read(self, rows: Tensor) -> Tensor:
        x = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype, device="cpu")
        files, places = self._place(rows)
        for number in sorted(set(files.tolist())):
            here = (files == number).nonzero().flatten().tolist()
            head = self.heads[number]
            with _opened(head.path) as sound:
                for row in here:
                    sound.setpos(int(places[row]) * self.window)
                    content = sound.readframes(self.window)
                    x[row] = torch.from_numpy(_amplitudes(content, head, self.window))
        return x

    def identity(self, rows: Tensor) -> list[bytes]:
        files, places = self._place(rows)
        pairs = zip(files.tolist(), places.tolist(), strict=True)
        return [f"{self.names[file]}#{place}".encode() for file, place in pairs]


def _amplitudes(content: bytes, head: Recording, window: int) -> np.ndarray[Any, Any]:
    """The values of a piece of a file as (C, L) float32 from -1 to 1."""
    if len(content) != window * head.channels * head.width:
        got = f"{len(content)} bytes of {window * head.channels * head.width}"
        raise fail(str(head.path), "as many values as its header says", got, "write it again")
    raw = np.frombuffer(content, np.uint8)
    if head.width == 1:
        values = (raw.astype(np.float32) - 128) / 128
    else:
        # The bytes of a value, lowest first, are the highest ones of 32 bits.
        wide = np.zeros((len(raw) // head.width, 4), np.uint8)
        wide[:, 4 - head.width :] = raw.reshape(-1, head.width)
        values = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return np.ascontiguousarray(values.reshape(window, head.channels).T)


def write_wav(path: str | os.PathLike[str], x: Tensor, rate: int) -> None:
    """Write a signal as a WAV file of 16 bits.

    Args:
        path: the file, which is replaced if it exists.
        x: (C, L) amplitudes from -1 to 1, such as one sample of `data.scaling.decode(samples)`.
            Values beyond are cut off, with a warning.
        rate: values a second.

    Raises:
        TypeError: `x` is not a tensor.
        ValueError: `x` has another shape or values that are not finite, or `rate` is not above 0.

    Example:
        >>> import tempfile
        >>> write_wav(Path(tempfile.mkdtemp()) / "a.wav", torch.zeros(2, 100), rate=8000)
    """
    place = path_of("path", path)
    hertz = positive_int("rate", rate)
    instance("x", x, Tensor, "use torch.as_tensor")
    if x.ndim != 2 or 0 in x.shape or not bool(x.isfinite().all()):
        raise fail("x", "finite amplitudes of shape (C, L)", x, "pass one signal: x[0]")
    levels = x.detach().cpu().double().T * 2.0**15
    beyond = float(((levels < -(2**15)) | (levels > 2**15)).double().mean())
    if beyond:
        warn(
            f"{place.name}: {100 * beyond:.2g} % of the values are beyond -1 to 1 and are cut off"
        )
    whole = levels.round().clamp(-(2**15), 2**15 - 1).numpy().astype("<i2")
    with replacing(place) as half, wave.open(str(half), "wb") as sound:
        sound.setnchannels(x.shape[0])
        sound.setsampwidth(2)
        sound.setframerate(hertz)
        sound.writeframes(np.ascontiguousarray(whole).tobytes())
