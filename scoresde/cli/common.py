"""What the commands share: options, checkpoints, samplers, output, errors as exit codes."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from scoresde.cli.flags import Flags, flags_of, spelled

if TYPE_CHECKING:
    import torch

    from scoresde.model import ScoreModel
    from scoresde.sampler import ReverseSampler

__all__ = [
    "TRACEBACK",
    "BatchSize",
    "Device",
    "Eta",
    "GridName",
    "Json",
    "Model",
    "Overwrite",
    "Seed",
    "SolverName",
    "Steps",
    "as_program",
    "check_file",
    "check_folder",
    "claim_folder",
    "emit",
    "guarded",
    "is_first",
    "key_values",
    "make_sampler",
    "pick_device",
    "progress",
    "say",
]

P = ParamSpec("P")
R = TypeVar("R")

TRACEBACK = "SCORESDE_TRACEBACK"
"""The environment variable that, set to 1, has errors show where they come from."""


FLAGS: ContextVar[Flags] = ContextVar("FLAGS")
"""How the arguments of the command that runs are written; see `scoresde.cli.flags`."""


# Options that mean the same in every command

Model = Annotated[
    Path,
    typer.Argument(
        help="A run's folder, or a checkpoint: runs/x, runs/x/checkpoint, runs/x/best.",
        metavar="MODEL",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, mps ...; by default the accelerator if there is one.",
        rich_help_panel="This call",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object on stdout, and no progress bars.",
        rich_help_panel="This call",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what stands at --out; without it nothing is ever overwritten.",
        rich_help_panel="This call",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        help="The seed of all random numbers.", min=0, metavar="N", rich_help_panel="This call"
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        help="Samples at a time, which bounds the memory.",
        min=1,
        metavar="N",
        rich_help_panel="This call",
    ),
]
SolverName = Annotated[
    str,
    typer.Option(
        "--solver",
        help='A solver by name; "auto" is what was measured to do best with this many steps, '
        '"calibration:NAME" one that was saved with the model.',
        rich_help_panel="Solver",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Steps of the solver; 50 by default.", min=1, rich_help_panel="Solver"),
]
GridName = Annotated[
    str | None,
    typer.Option(
        "--grid",
        help="log_snr, uniform, quadratic, karras, sigmoid, or times: 1.0,0.5,0.1,0.001.",
        rich_help_panel="Solver",
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(
        help="Stochasticity: 0 the probability flow, 1 the reverse SDE; the solver's own if "
        "not given.",
        min=0.0,
        rich_help_panel="Solver",
    ),
]


# Errors


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """The command with errors as exit codes: a message on stderr, no traceback.

    2 for bad input (ValueError, TypeError, a missing file, folder, package or permission), 1 for a
    run that failed, 130 for Ctrl-C. `--traceback` or SCORESDE_TRACEBACK=1 shows the traceback.
    Arguments of the library are named by the flags that they come from.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        flags = flags_of(command)
        FLAGS.set(flags)
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(128 + signal.SIGINT) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort | typer.BadParameter):
                raise
            if _wants_traceback() or isinstance(error, BrokenPipeError):
                raise
            if isinstance(error, (*BAD_INPUT, OSError, RuntimeError, FloatingPointError)) and str(
                error
            ):
                _complain(spelled(str(error), FLAGS.get(flags)))
            else:
                name = type(error).__name__
                _complain(f"{name}: {error}; `scoresde --traceback ...` shows where")
            raise typer.Exit(2 if isinstance(error, BAD_INPUT) else 1) from None

    return run


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
"""What a user can mend by another command line; all else is a run that failed."""


def _wants_traceback() -> bool:
    return os.environ.get(TRACEBACK, "") not in ("", "0") or "--traceback" in sys.argv


def _complain(message: str) -> None:
    _write(f"scoresde: {message}")


def _write(line: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
    else:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def as_program() -> Iterator[None]:
    """SIGTERM as an orderly exit (143), a reader that left as 141, warnings in one line."""

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        _complain(f"warning: {spelled(str(message), FLAGS.get({}))}")

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            yield
            sys.stdout.flush()
    except BrokenPipeError:  # `scoresde inspect RUN | head`: as other programs end there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    finally:
        signal.signal(signal.SIGTERM, former or signal.SIG_DFL)


# Output


def is_first() -> bool:
    """Is this the first of the processes of torchrun, or the only one?"""
    rank = os.environ.get("RANK") or "0"
    if not rank.isdecimal():
        raise ValueError(
            f"RANK: expected a whole number in the environment, got {rank!r}; unset it, or start "
            "the processes with torchrun"
        )
    return int(rank) == 0


def say(message: str) -> None:
    """A line for people, on stderr, by the first process."""
    if is_first():
        _write(message)


def emit(result: Mapping[str, Any], text: str, as_json: bool) -> None:
    """The result on stdout, by the first process: one JSON object, or the text.

    Numbers that are not finite become null, which JSON has and NaN it has not.
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
    """Progress on stderr, by the first process; none with --json."""
    from scoresde._progress import progress as shown

    return closing(shown(total, label, unit, shown=watched(as_json)))


def watched(as_json: bool) -> bool:
    """Is the progress of this process shown?"""
    return not as_json and is_first()


def check_folder(out: Path, overwrite: bool) -> None:
    """Raise unless `claim_folder` would take the folder; nothing is made or removed.

    Raises:
        FileExistsError: something stands there.
    """
    if not is_first():
        return
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: expected a folder, got the file {str(out)!r}; name another")
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


def claim_folder(
    out: Path, overwrite: bool, stale: Iterable[str] = (), *, resume: bool = False
) -> Path:
    """The folder of a run, new or empty, or an error.

    Args:
        out: the folder; it is made.
        overwrite: take a folder that a run of `scoresde` made, and remove what is stale there.
        stale: names or patterns of the files and folders that the command writes.
        resume: take the folder as it is.

    Raises:
        FileExistsError: something stands there, and is left untouched.
    """
    if not is_first():
        return out
    if not (resume and out.is_dir()):
        check_folder(out, overwrite)
        for place in [place for name in stale for place in out.glob(name)]:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    out.mkdir(parents=True, exist_ok=True)
    return out


def check_file(out: Path, overwrite: bool) -> None:
    """Raise unless a file may be written there; nothing is made.

    Raises:
        FileExistsError: something stands there, and is left untouched.
    """
    if not is_first():
        return
    if out.is_dir():
        raise FileExistsError(f"out: expected a file, got the folder {str(out)!r}; name another")
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"out: expected a new file, got {str(out)!r}, which exists; name another, or pass "
            "--overwrite to replace it"
        )


# From options to objects


def key_values(option: str, pairs: Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE pairs as a mapping; values are read as JSON where they are JSON, else as text.

    Raises:
        ValueError: a pair without "=", or a key twice.
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
    """The device of that name; by default the accelerator if there is one, else the CPU.

    Under torchrun with CUDA each process takes the device of its local rank.

    Raises:
        ValueError: there is no such device on this machine.
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
    """The sampler that the options of a command mean.

    Args:
        model: the score model.
        solver: a name, or "calibration:NAME" for one saved in the checkpoint `folder`.
        steps, eta, t_end, denoise: as of `ReverseSampler`.
        grid: a name, or times with commas between them.

    Raises:
        TypeError, ValueError: as `ReverseSampler`.
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
    from scoresde.training import load_calibration

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
