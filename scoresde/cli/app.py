"""The table of the commands, and the function that runs one of them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from scoresde.cli.common import guarded, say
from scoresde.cli.config import Call, written
from scoresde.cli.flags import flags_of
from scoresde.cli.loaders import loader_help, loader_options

__all__ = ["COMMANDS", "command", "run"]

COMMANDS = {
    "train": "train.Train",
    "sample": "sample.Sample",
    "likelihood": "likelihood.Likelihood",
    "encode": "encode.Encode",
    "decode": "encode.Decode",
    "interpolate": "interpolate.Interpolate",
    "reconstruct": "reconstruct.Reconstruct",
    "compare": "compare.Compare",
    "calibrate": "calibrate.Calibrate",
    "doctor": "doctor.Doctor",
    "inspect": "inspect.Inspect",
    "export": "export.Export",
    "import": "importing.Import",
    "push": "hub.Push",
    "pull": "hub.Pull",
}
"""Each command and its dataclass, which has the options as fields and a method `run`."""

USAGE = """usage: scoresde [-h] [--version] [--traceback] COMMAND ...

Score-based generative models: train them, sample from them, judge them, look into them.

{commands}

  -h, --help    Show this text; behind a command, the help of that command.
  --version     Print the version.
  --traceback   Show where an error comes from.

Exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 ended by a signal."""


def command(name: str) -> Any:
    """The dataclass of a command, with `EXAMPLES` and a method `run`."""
    module, _, kind = COMMANDS[name].partition(".")
    return getattr(import_module(f"scoresde.cli.{module}"), kind)


def run(arguments: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        SystemExit: after a help text, and after an error with its exit code.
    """
    words = list(arguments)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if not words or words[0] in ("-h", "--help"):
        print(USAGE.format(commands=_summaries()))
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"scoresde {version('scoresde')}")
        raise SystemExit(0)
    name = words.pop(0)
    if name not in COMMANDS:
        _unknown(name)
    kind = command(name)
    with guarded(written(flags_of(kind)), traceback):
        try:
            call = Call.read(kind, name, words)
        except SystemExit as end:
            if end.code == 0:  # after the help, which tyro has printed
                print(_examples(kind))
            else:
                _hint(kind, words)
            raise
        if call.moved:
            where = call.values["out"]
            say(f"--out: {where}, where its config.json is, and no longer {call.moved}")
        call.command(kind).run(call)


def _unknown(name: str) -> NoReturn:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else "scoresde --help lists them"
    print(f"scoresde: no such command: {name!r}; {remedy}", file=sys.stderr)
    raise SystemExit(2)


def _hint(kind: Any, words: Sequence[str]) -> None:
    """Say how to pass an option of the loader that was given as a flag of its own."""
    if "data_option" not in flags_of(kind):
        return
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    for name in loader_options():
        if name not in flags_of(kind) and flags & {f"--{name}", f"--{name.replace('_', '-')}"}:
            say(f"{name} is an option of the loader: pass --data-option {name}=VALUE")


def _summaries() -> str:
    first = {name: (command(name).__doc__ or "").partition("\n")[0] for name in COMMANDS}
    return "\n".join(f"  {name:13} {text}" for name, text in first.items())


def _examples(kind: Any) -> str:
    """The examples, which the help of a command shows below the flags."""
    loaders = f"{loader_help()}\n\n" if "data_option" in flags_of(kind) else ""
    return f"{loaders}Examples:\n\n{kind.EXAMPLES.strip()}"
