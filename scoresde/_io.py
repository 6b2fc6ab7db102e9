"""Atomic writes, hashes and locks of files; no other module renames files."""

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
    "set_aside",
    "sha256",
    "sweep",
    "unwritten",
    "write",
]

_LEFT = re.compile(r"\.(.+)\.(previous|[0-9a-f]{8}\.tmp(\.[^.]*)?)")
CONFIG = "config.json"
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Yield the path at which to write a file or a folder, which is then renamed to `place`.

    It is written under a hidden name beside `place`, flushed to the disk and renamed. After an
    error it is removed, and the content of `place` is intact. A process that is killed may leave
    a half-written one behind, which `sweep` removes. Replacing a folder takes two renames; between
    them the old folder is complete under the name `previous(place)`.

    Args:
        place: the path of the file or folder; missing parent folders are created.
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
    """Rename a folder to the name of another one, which gets the name `previous`."""
    _drop_previous(place)
    os.replace(place, previous(place))
    try:
        os.replace(half, place)
    except BaseException:
        os.replace(previous(place), place)
        raise


def _hidden(place: Path) -> Path:
    """A new name beside a place, with the same suffix, which writers may depend on."""
    return place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp{place.suffix}")


def previous(place: Path) -> Path:
    """The path of the folder at `place` while it is being replaced."""
    return place.with_name(f".{place.name}.previous")


def _drop_previous(place: Path) -> None:
    """Remove the folder that was replaced at `place`."""
    if place.is_dir():
        shutil.rmtree(previous(place), ignore_errors=True)


def sweep(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """Remove the remainders of killed processes in a folder; return the half-written ones.

    Args:
        folder: the folder, without its sub-folders; it may be missing.
        names: the names of the files and folders that were being written; None for any.
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
    """Write a file atomically."""
    with replacing(place) as half:
        half.write_bytes(content)


def create(place: Path, content: bytes) -> None:
    """Write a file if there is none; of several processes that do so, the first one wins."""
    half = _hidden(place)
    half.write_bytes(content)
    flush(half)
    try:
        os.link(half, place)  # fails if the file exists, unlike a rename
    except (FileExistsError, FileNotFoundError):
        pass  # another process was first, and may have removed this file as a remainder
    except OSError:  # a file system without links
        os.replace(half, place)
    half.unlink(missing_ok=True)
    flush(place.parent)


def link_folder(source: Path, place: Path) -> None:
    """Give a folder a second name that shares its files if the file system has links."""
    with replacing(place) as half:
        half.mkdir()
        for file in source.iterdir():
            try:
                os.link(file, half / file.name)
            except OSError:  # a file system without links
                shutil.copy2(file, half / file.name)


def remove(place: Path) -> None:
    """Remove a file or a folder if it exists; a partly removed folder never has its name."""
    if place.is_dir():
        gone = _hidden(place)
        os.replace(place, gone)
        shutil.rmtree(gone)
    else:
        place.unlink(missing_ok=True)


@contextmanager
def set_aside(folder: Path, names: Collection[str], result: str) -> Iterator[None]:
    """Keep the files of a folder until there are new ones to replace them.

    They are renamed into the hidden folder `.replaced`, which is removed at the end. After an
    error they come back, unless the new result is there. A process that is killed leaves that
    folder behind, and the next one treats it in the same way.

    Args:
        folder: the folder; it may be missing.
        names: names or patterns of the files and folders that are to be replaced.
        result: the name of the file or folder whose existence says that there is a new result.
    """
    aside = folder / ".replaced"
    _end_aside(aside, folder / result)
    old = sorted({place for name in names for place in folder.glob(name)})
    if old:
        aside.mkdir()
        for place in old:
            os.replace(place, aside / place.name)
        if (folder / CONFIG).is_file():  # which stays, so that the folder is known as one of ours
            shutil.copy2(folder / CONFIG, aside / CONFIG)
    try:
        yield
    finally:
        _end_aside(aside, folder / result)


def _end_aside(aside: Path, result: Path) -> None:
    """Remove the files that were set aside if there is a new result, else bring them back."""
    if not aside.is_dir():
        return
    if not result.exists():
        for place in aside.iterdir():
            remove(aside.parent / place.name)
            os.replace(place, aside.parent / place.name)
    shutil.rmtree(aside)


def flush(place: Path) -> None:
    """Flush the content of a file, or the names in a folder, to the disk."""
    posix = os.name == "posix"
    if not posix and place.is_dir():  # elsewhere a folder cannot be opened
        return
    handle = os.open(place, os.O_RDONLY if posix else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(file: IO[bytes], byte: int) -> bool:
    """Lock a byte of an open file for the life of the process; False if it is locked.

    It returns True where locks do not exist, on Windows and on some file systems.
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
    """The object in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not contain an object; the message is the reason, for the caller.
    """
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no json ({error})") from error
    if not isinstance(found, dict):
        raise ValueError("no json object")
    return found


def digest(value: object) -> str:
    """The SHA-256 of a value of JSON, independent of the order of its keys."""
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
    """Re-raise an error of the system as `unwritten`."""
    try:
        yield
    except OSError as error:
        raise unwritten(argument, place, error, intact, again) from error


def unwritten(
    argument: str, place: Path, error: Exception, intact: str = "", again: str = "resume"
) -> OSError:
    """The error of a place that is not writable, of the same class as that of the system.

    Args:
        argument: the argument that names the place.
        place: a file or a folder.
        error: the error of the system.
        intact: a note on existing files, for the message.
        again: the action after the fault is removed.
    """
    number = getattr(error, "errno", None) or errno.EIO
    remedy = f"free some space, raise the quota or choose another disk, and {again}"
    if number in DENIED:
        remedy = (
            f"correct the permissions or choose a folder that this user may write to, and {again}"
        )
    got = f"{type(error).__name__}: {error}"
    kept = f"{intact}: " if intact else ""
    return OSError(number, f"{argument}: expected to write {place}, got {got}; {kept}{remedy}")
