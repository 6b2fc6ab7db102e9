"""Translate messages of the library for the command line: `steps=20` becomes `--steps 20`.

The library names its arguments as Python does. For each place where options become arguments (a
command, the loader of its data, a network) a table gives the flags of the arguments, and every
error and warning is translated here, and nowhere else.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["ALIASES", "FLAGS", "Flags", "in_flags", "options_of", "spelled"]

Flags = Mapping[str, str]
"""Argument -> its flag, with {} for the value: "--steps {}", "--data-option size={}"."""

FLAGS: ContextVar[Flags] = ContextVar("FLAGS")
"""The flags of the arguments of the current command."""

ALIASES = {
    "rtol": "tolerance",
    "atol": "tolerance",
    "labels": "label",
    "path": "model",
    "scale": "guidance",
    "interval": "guidance_interval",
    "solver": "solvers",
}
"""Arguments of the library -> the option of a command from which they come."""

VALUE = r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)|-?[\w.+-]*\w(?![\w(\0])|\.\.\.|(?=[,;) ]|$)"
"""The text after "name=": a literal, dots for any value, or nothing for the option itself."""

CALL = re.compile(r"\w\([^()]*\)")
"""Code, such as AdaptiveODE(rtol=1e-6), which is not translated."""

VERBS = "pass|give|lower|raise|lengthen|shorten|loosen|tighten|set|leave|change"
PYTHON = re.compile(
    r"\w\.\w+\(|\bmodel\.data\b|\bData\.of\b|\bdata\.(x|split)\b|\bQuantisation\b|\bimage_folder\b"
    r"|\btorch\.|\bscoresde\.\w|\[\.\.\.\]|\.float\(\)|\bleave like out\b|\bNone\b"
)
"""Remedies that are possible only in Python."""


def options_of(option: str, names: Iterable[str], whole: Iterable[str] = ()) -> dict[str, str]:
    """The flags of KEY=VALUE options, such as `--data-option`, and of arguments for the data."""
    return {name: f"--{option} {name}={{}}" for name in names} | dict.fromkeys(whole, "DATA")


@contextmanager
def in_flags(flags: Flags, *, plain: bool = False) -> Iterator[None]:
    """Replace the names of arguments by flags in errors and warnings from this block.

    Args:
        flags: the flag of each argument.
        plain: also remove the remedies that are possible only in Python.
    """
    heard: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as heard:
            yield
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (spelled(error.args[0], flags, plain=plain),)
        raise
    finally:
        for each in heard:
            text = spelled(str(each.message), flags, plain=plain)
            warnings.warn(text, each.category, stacklevel=3)


def spelled(message: str, flags: Flags, *, plain: bool = False) -> str:
    """Return the message with flags for the names of arguments; see `in_flags`."""
    if plain:
        message = _without_python(message)
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    if not names:
        return message
    free = r"(?<![\w.'\"`-])(?<!-option )"
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return f"\0{len(held) - 1}\0"

    def given(match: re.Match[str]) -> str:
        return _given(flags[match[1]], match[2])

    def bare(match: re.Match[str]) -> str:
        return match[1] + _bare(flags[match[2]])

    message = CALL.sub(hold, message)
    if "rtol" in flags and flags["rtol"] == flags.get("atol"):  # one option for both
        message = message.replace("rtol and atol", "rtol")
        if "max_nfe" not in flags:  # no option at all
            message = message.replace("raise max_nfe, or ", "")
    message = re.sub(rf"^()({names})(?=: )", bare, message)
    message = re.sub(rf"{free}({names})=({VALUE})", given, message)
    # "leave out" and "set to" are English, and model.net is code.
    after = rf"\b((?i:{VERBS}) )(?!out\b(?! out)|to\b)({names})\b(?![=:'(]|\.\w)"
    message = re.sub(after, bare, message)
    snake = "|".join(re.escape(name) for name in flags if "_" in name)
    if snake:
        message = re.sub(rf"{free}()({snake})\b(?![=:'\"(])", bare, message)
    return re.sub("\0(\\d+)\0", lambda match: held[int(match[1])], message)


def _bare(flag: str) -> str:
    return flag.removesuffix("{}").rstrip(" =")


def _given(flag: str, value: str) -> str:
    """A flag and its value as typed by a user: 32x48 for (32, 48), a,b for ['a', 'b']."""
    try:
        read = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        read = value
    if value in ("", "..."):
        return _bare(flag) if flag.endswith(" {}") else flag.format("")
    alone = flag.endswith(" {}")  # a switch, such as --overwrite, has no value
    if isinstance(read, bool):
        return _bare(flag) if alone and read else flag.format(str(read).lower())
    if isinstance(read, tuple | list):
        sizes = isinstance(read, tuple) and all(isinstance(item, int) for item in read)
        glue = "x" if sizes else ","
        read = glue.join(map(str, read))
    text = str(read)
    return flag.format(f"'{text}'" if not text or re.search(r"[\s;&|]", text) else text)


def _without_python(message: str) -> str:
    """Return the message without the remedies that are code."""
    head, mark, tail = message.partition("; ")
    pieces = re.split(r"(; |, or )", tail)
    kept = ""
    for link, text in zip(["", *pieces[1::2]], pieces[::2], strict=True):
        if not PYTHON.search(text):
            kept += (link if kept else "") + text
    return head + (mark + kept if kept else "")
