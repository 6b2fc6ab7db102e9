"""Functions that the commands share: exit codes for errors, output, folders and samplers."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from scoresde._io import set_aside
from scoresde.cli.messages import FLAGS, Flags, spelled

if TYPE_CHECKING:
    import torch

    from scoresde.model import ScoreModel
    from scoresde.sampler import ReverseSampler

__all__ = [
    "TRACEBACK",
    "as_program",
    "check_file",
    "check_folder",
    "claimed",
    "emit",
    "guarded",
    "is_first",
    "key_values",
    "make_sampler",
    "pick_device",
    "progress",
    "say",
    "watched",
]

TRACEBACK = "SCORESDE_TRACEBACK"
"""The environment variable that, if it is 1, makes errors show their traceback."""


# Errors


BAD_INPUT = (
    ValueError,
    TypeError,
    ImportError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
"""Errors that another command line can correct; with all others the run has failed."""

TOLD = (*BAD_INPUT, OSError, RuntimeError, FloatingPointError)
"""Errors that need no more than their message."""


@contextmanager
def guarded(flags: Flags, traceback: bool = False) -> Iterator[None]:
    """Turn errors into exit codes and a message on stderr, without traceback.

    The code is 2 for bad input (ValueError, TypeError, a missing file, folder, package or
    permission), 1 for a run that failed, and 130 for Ctrl-C. The message names arguments of the
    library by their flags.

    Args:
        flags: the flags of the arguments of the command.
        traceback: show the traceback in place of the message.
    """
    FLAGS.set(flags)
    try:
        yield
    except KeyboardInterrupt:
        _complain("interrupted")
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if traceback or os.environ.get(TRACEBACK, "") not in ("", "0"):
            raise
        if isinstance(error, BrokenPipeError):
            raise
        if isinstance(error, TOLD) and str(error):
            text = str(error)
            if isinstance(error, OSError) and error.strerror and error.filename is None:
                text = error.strerror  # without the number of the error before it
            _complain(spelled(text, FLAGS.get()))
        else:
            name = type(error).__name__
            _complain(f"{name}: {error}; `scoresde --traceback ...` shows where")
        raise SystemExit(2 if isinstance(error, BAD_INPUT) else 1) from None


def _complain(message: str) -> None:
    _write(f"scoresde: {message}")


def _write(line: str) -> None:
    """Write a line to stderr, above a progress bar if there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
    else:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def as_program() -> Iterator[None]:
    """Exit with 143 on SIGTERM and with 141 on a closed pipe, and show warnings in one line."""

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:  # as warnings calls it
        _complain(f"warning: {spelled(str(message), FLAGS.get({}))}")

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            yield
            sys.stdout.flush()
    except BrokenPipeError:  # `scoresde inspect RUN | head`: end as other programs do
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    finally:
        signal.signal(signal.SIGTERM, former or signal.SIG_DFL)


# Output


def is_first() -> bool:
    """Whether this is the first process of torchrun, or the only one."""
    rank = os.environ.get("RANK") or "0"
    if not rank.isdecimal():
        raise ValueError(
            f"RANK: expected a whole number in the environment, got {rank!r}; unset it, or start "
            "the processes with torchrun"
        )
    return int(rank) == 0


def counted(n: int, noun: str) -> str:
    """A number with its noun: 1 shard, 2 shards."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def say(message: str) -> None:
    """Write a line for people to stderr, from the first process."""
    if is_first():
        _write(message)


def emit(result: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Write the result to stdout, from the first process: one JSON object, or the text.

    Numbers that are not finite become null, since JSON has no NaN.
    """
    if is_first():
        print(json.dumps(_plain(result), allow_nan=False) if as_json else text, flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def progress(total: int, label: str, as_json: bool, unit: str = "samples") -> Any:
    """A progress bar on stderr, from the first process; none with --json."""
    from scoresde._progress import progress as shown

    return closing(shown(total, label, unit, shown=watched(as_json)))


def watched(as_json: bool) -> bool:
    """Whether this process shows its progress."""
    return not as_json and is_first()


def check_folder(out: Path, overwrite: bool) -> None:
    """Raise an error if `claimed` would; no file is created or removed.

    Raises:
        FileExistsError: the folder is not empty, or is a file.
    """
    if not is_first():
        return
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: expected a folder, got the file {str(out)!r}; name another")
    _check_writable(out)
    present = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if present:
        some = ", ".join(present[:4]) + (" ..." if len(present) > 4 else "")
        if not overwrite:
            raise FileExistsError(
                f"out: expected a new or empty folder, got {str(out)!r}, which holds {some}; "
                "name another, or pass --overwrite to replace it"
            )
        if "config.json" not in present:
            raise FileExistsError(
                f"out: expected a folder that scoresde made, got {str(out)!r}, which holds {some} "
                "and no config.json; it is not overwritten: name another"
            )


@contextmanager
def claimed(
    out: Path, overwrite: bool, stale: Sequence[str], result: str, *, resume: bool = False
) -> Iterator[Path]:
    """Create the folder of a run, which must be new or empty, and yield it.

    The files of an earlier run are removed at the end. If the block fails before there is a new
    result, they come back.

    Args:
        out: the folder to create.
        overwrite: accept a folder of an earlier run of `scoresde`, and replace its stale files.
        stale: names or patterns of the files and folders that the command writes.
        result: the one of them that is the result, and is written last.
        resume: accept the folder as it is.

    Raises:
        FileExistsError: the folder is not empty, or is a file; it is not changed.
    """
    with ExitStack() as stack:
        if is_first():
            if not (resume and out.is_dir()):
                check_folder(out, overwrite)
                stack.enter_context(set_aside(out, stale, result))
            elif (out / result).exists():  # what a killed process set aside is not needed
                stack.enter_context(set_aside(out, (), result))
            out.mkdir(parents=True, exist_ok=True)
        yield out


def _check_writable(folder: Path) -> None:
    """Raise an error if no file can be created in a folder, or the folder itself cannot be.

    So a command does not compute for hours what it cannot write.
    """
    place = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not place.is_dir():
        raise FileExistsError(
            f"out: expected a place in folders, got {str(folder)!r}, where {str(place)!r} is a "
            "file; name another"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(
            f"out: expected to write into {str(place)!r}, got no permission; correct the "
            "permissions, or name a folder that this user may write to"
        )


def check_file(out: Path, overwrite: bool) -> None:
    """Raise an error if a file must not be written there; no file is created.

    Raises:
        FileExistsError: the file exists; it is not changed.
    """
    if not is_first():
        return
    if out.is_dir():
        raise FileExistsError(f"out: expected a file, got the folder {str(out)!r}; name another")
    _check_writable(out.parent)
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"out: expected a new file, got {str(out)!r}, which exists; name another, or pass "
            "--overwrite to replace it"
        )


# From options to objects


def key_values(option: str, pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE pairs as a mapping; values that are not JSON are text.

    Raises:
        ValueError: a pair has no "=", or a key appears twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise ValueError(f"--{option}: expected KEY=VALUE, got {pair!r}; write e.g. width=64")
        if key in found:
            raise ValueError(f"--{option}: expected each key once, got {key!r} twice")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def pick_device(name: str | None = None) -> torch.device:
    """The device of a name; by default the accelerator if there is one, else the CPU.

    Under torchrun with CUDA each process takes the device of its local rank.

    Raises:
        ValueError: this machine has no such device.
    """
    import torch

    from scoresde._tensor import as_device

    if name is not None:
        return as_device(name, "leave it out for what there is")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def make_sampler(
    model: ScoreModel,
    *,
    solver: str = "auto",
    steps: int | None = None,
    grid: str | None = None,
    eta: float | None = None,
    folder: Path | None = None,
    t_end: float | None = None,
    denoise: bool | None = None,
) -> ReverseSampler:
    """Build the sampler from the options of a command.

    Args:
        model: the score model.
        solver: a name, or "calibration:NAME" for one saved in the checkpoint `folder`.
        steps, eta, t_end, denoise: see `ReverseSampler`.
        grid: a name, or times with commas between them.
        folder: the checkpoint that holds the calibrations.

    Raises:
        TypeError, ValueError: see `ReverseSampler`.
    """
    from scoresde.sampler import ReverseSampler

    kind, _, name = solver.partition(":")
    if kind != "calibration":
        nodes = None if grid is None else times_of(grid)
        return ReverseSampler(
            model.sde,
            model,
            solver,
            steps=steps,
            grid=nodes,
            eta=eta,
            t_end=t_end,
            denoise=denoise,
        )
    if folder is None or steps is not None or grid is not None or t_end is not None:
        raise ValueError(
            f"solver: expected {solver!r} of a checkpoint and by itself, got steps, grid or t_end "
            "besides; a calibration brings its own"
        )
    from scoresde._check import refuse
    from scoresde.training import load_calibration, read_config

    known = read_config(folder).get("calibrations") or {}
    if name not in known:
        remedy = f"scoresde calibrate {shlex.quote(str(folder))} --steps N makes one"
        names = ", ".join(known) or "none"
        raise refuse("solver", f"a calibration in {folder} (it has {names})", repr(name), remedy)
    calibration = load_calibration(folder, name)
    return ReverseSampler(model.sde, model, calibration, eta=eta, denoise=denoise)


def times_of(grid: str) -> str | list[float]:
    """The name of a grid, or its times."""
    if "," not in grid:
        return grid
    try:
        return [float(part) for part in grid.split(",")]
    except ValueError:
        raise ValueError(
            f"grid: expected a name or times with commas between them, got {grid!r}"
        ) from None
