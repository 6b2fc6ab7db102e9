"""Arrays that a command reads from a .npz file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["numbers_in", "read_npz"]


def read_npz(argument: str, file: Path, remedy: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a .npz file by name.

    Args:
        argument: the argument that names the file.
        file: the file.
        remedy: the remedy in errors, which says how to write such a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another format, was cut short, or contains Python objects.
    """
    import zipfile
    import zlib

    import numpy as np

    from scoresde._check import fail, refuse

    if not file.is_file():
        raise FileNotFoundError(f"{argument}: expected a .npz file, got {str(file)!r}; {remedy}")
    if not zipfile.is_zipfile(file):
        got = f"{str(file)!r}, a file of another kind or one that was cut short"
        raise refuse(argument, "a whole .npz file", got, remedy)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        got = "Python objects" if "pickle" in str(error) else f"{type(error).__name__}: {error}"
        expected = f"a whole .npz file of arrays, not {file.name} as it is"
        raise fail(argument, expected, got, remedy) from error


def numbers_in(
    arrays: Mapping[str, np.ndarray[Any, Any]], name: str, argument: str, remedy: str
) -> np.ndarray[Any, Any]:
    """The array of this name, which must have real numbers.

    Raises:
        TypeError: it has none.
        ValueError: there is no such array, or it is empty.
    """
    from scoresde._check import fail, wrong_type

    if name not in arrays:
        raise fail(argument, f"an array {name}", list(arrays), remedy)
    array = arrays[name]
    if array.dtype.kind not in "biuf":
        raise wrong_type(argument, f"an array {name} of real numbers", array, remedy)
    if array.size == 0:
        raise fail(argument, f"numbers in the array {name}", array, remedy)
    return array
