"""Files that appear whole or not at all, their hashes and locks; nothing else renames files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = [
    "create",
    "digest",
    "explained",
    "flush",
    "link_folder",
    "lock",
    "previous",
    "read_json",
    "remove",
    "replacing",
    "sha256",
    "sweep",
    "unwritten",
    "write",
    "write_json",
]

_LEFT = re.compile(r"\.(.+)\.(previous|[0-9a-f]{8}\.tmp(\.[^.]*)?)")
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Yield the path at which to write a file or a folder, which then takes the name `place`.

    It is written under a hidden name beside `place`, flushed to the disk and renamed. After an
    error nothing of it is left, and what stood at `place` is intact. A process that is killed may
    leave a half-written one behind, which `sweep` removes. A folder that is replaced stands
    whole under the name `previous(place)` between the two renames that this takes.

    Args:
        place: of the file, or of the folder of files; missing folders above it are made.
    """
    half = _hidden(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield half
        if half.is_dir():
            for file in sorted(half.iterdir()):
                flush(file)
        flush(half)
        if place.is_dir():
            _swap(half, place)
        else:
            os.replace(half, place)
        flush(place.parent)
    except BaseException:
        if half.is_dir():
            shutil.rmtree(half, ignore_errors=True)
        else:
            half.unlink(missing_ok=True)
        raise
    _drop_previous(place)


def _swap(half: Path, place: Path) -> None:
    """Rename a folder to the name of another one, which is kept under the name `previous`."""
    _drop_previous(place)
    os.replace(place, previous(place))
    try:
        os.replace(half, place)
    except BaseException:
        os.replace(previous(place), place)
        raise


def _hidden(place: Path) -> Path:
    """A new name beside a place; it has the ending of the place, by which writers go."""
    return place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp{place.suffix}")


def previous(place: Path) -> Path:
    """Where the folder that stood at `place` is while it is being replaced."""
    return place.with_name(f".{place.name}.previous")


def _drop_previous(place: Path) -> None:
    """Remove the folder that stood at `place` before the one that stands there now."""
    if place.is_dir():
        shutil.rmtree(previous(place), ignore_errors=True)


def sweep(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """Remove what killed processes left behind in a folder; return what was half-written.

    Args:
        folder: where to look, not in its sub-folders; it may be missing.
        names: of the files and folders that were being written; None for any.
    """
    halves = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _LEFT.fullmatch(place.name)
        if match is None or (names is not None and match[1] not in names):
            continue
        if match[2] == "previous":
            _drop_previous(folder / match[1])
        elif place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            halves.append(place)
        else:
            place.unlink(missing_ok=True)
            halves.append(place)
    return halves


def write(place: Path, content: bytes) -> None:
    """Write a file of this content; it appears whole or not at all."""
    with replacing(place) as half:
        half.write_bytes(content)


def create(place: Path, content: bytes) -> None:
    """Write a file if there is none; of processes that do so at once, the first one wins."""
    half = _hidden(place)
    half.write_bytes(content)
    flush(half)
    try:
        os.link(half, place)  # which fails if it is there, as a rename would not
    except (FileExistsError, FileNotFoundError):
        pass  # another process was first, and may have removed this one as left over
    except OSError:  # a file system without links
        os.replace(half, place)
    half.unlink(missing_ok=True)
    flush(place.parent)


def link_folder(source: Path, place: Path) -> None:
    """Give a folder of files a second name, at which it shares its files where the disk can."""
    with replacing(place) as half:
        half.mkdir()
        for file in source.iterdir():
            try:
                os.link(file, half / file.name)
            except OSError:  # a file system without links
                shutil.copy2(file, half / file.name)


def remove(place: Path) -> None:
    """Remove a file or a folder, if it is there; a half-removed folder never keeps its name."""
    if place.is_dir():
        gone = _hidden(place)
        os.replace(place, gone)
        shutil.rmtree(gone)
    else:
        place.unlink(missing_ok=True)


def flush(place: Path) -> None:
    """Make the disk hold the content of a file, or the names in a folder."""
    posix = os.name == "posix"
    if not posix and place.is_dir():  # elsewhere a folder cannot be opened
        return
    handle = os.open(place, os.O_RDONLY if posix else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(file: IO[bytes], byte: int) -> bool:
    """Lock one byte of an open file for as long as the process lives; False if another has it.

    Where there are no locks, on Windows and on some file systems, the answer is True.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


# JSON and hashes


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else; the message is the reason, for that of the caller.
    """
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no json ({error})") from error
    if not isinstance(found, dict):
        raise ValueError("no json object")
    return found


def write_json(place: Path, value: object) -> None:
    """Write a value as a JSON file, which appears whole or not at all."""
    write(place, json.dumps(value, indent=1).encode())


def digest(value: object) -> str:
    """The SHA-256 of a value that JSON holds, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    """The SHA-256 of the content of a file, read in pieces."""
    found = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            found.update(block)
    return found.hexdigest()


# Errors of the system, explained


@contextmanager
def explained(argument: str, place: Path, intact: str, again: str) -> Iterator[None]:
    """Raise an error of the system as `unwritten` of a place."""
    try:
        yield
    except OSError as error:
        raise unwritten(argument, place, error, intact, again) from error


def unwritten(
    argument: str, place: Path, error: Exception, intact: str = "", again: str = "resume"
) -> OSError:
    """The error of a place that cannot be written to, of the same kind as that of the system.

    Args:
        argument: which one names the place.
        place: a file or a folder.
        error: what the system said.
        intact: what is still there, for the message.
        again: what to do once the fault is removed.
    """
    number = getattr(error, "errno", None) or errno.EIO
    remedy = f"free some space, raise the quota or choose another disk, and {again}"
    if number in DENIED:
        remedy = (
            f"mend the permissions or choose a folder that this user may write to, and {again}"
        )
    got = f"{type(error).__name__}: {error}"
    kept = f"{intact}: " if intact else ""
    return OSError(number, f"{argument}: expected to write {place}, got {got}; {kept}{remedy}")
