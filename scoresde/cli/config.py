"""Options from a TOML or JSON file, which the flags override, and which each run writes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from scoresde._io import write
from scoresde.cli.flags import Flag, build, flags_of, parse
from scoresde.cli.messages import ALIASES

__all__ = ["ABOUT", "Call", "read_file", "written"]

T = TypeVar("T")

ABOUT = "about"
"""The key of the description in the config.json of a run; it is not an option."""

OF_THE_CALL = frozenset({"config", "json", "overwrite", "resume", "auto_resume"})
"""Options of the call that do not change the result; a file cannot hold them."""


@final
@dataclass
class Call:
    """A command line that has been read.

    Attributes:
        name: the name of the command.
        options: its flags by name.
        values: the values of all flags by name, defaults included.
        given: the names of the flags that the command line or the file sets.
        moved: the --out of a config.json that has been moved since, or None.
    """

    name: str
    options: Mapping[str, Flag]
    values: dict[str, Any]
    given: frozenset[str]
    moved: str | None = None

    @classmethod
    def read(cls, kind: type, name: str, arguments: Sequence[str]) -> Call:
        """Read a command line, and the file that --config names.

        Raises:
            SystemExit: after the help, and after an error of the command line.
            OSError, TypeError, ValueError: the file does not exist, or an option in it is not
                valid.
        """
        options = flags_of(kind)
        below: dict[str, Any] = {}
        moved = None
        if path := _config_of(arguments):
            table = read_file(path)
            below = _defaults(name, options, table, str(path))
            if (own := _place(path, table, below)) is not None and not options["out"].is_in(
                arguments
            ):
                moved, below["out"] = below["out"], own
        values = parse(
            kind,
            arguments,
            below,
            prog=f"scoresde {name}",
            about=_about(kind),
        )
        if path and "data" in below and values["data"] == below["data"]:
            _check_data(name, path, below["data"], options["data"])
        given = {n for n, option in options.items() if option.is_in(arguments)} | below.keys()
        return cls(name, options, values, frozenset(given), moved and str(moved))

    def command(self, kind: type[T]) -> T:
        """The command with its values."""
        return build(kind, self.values)

    def settings(self) -> dict[str, Any]:
        """All options by name, defaults included, as a config file holds them."""
        found = {k: v for k, v in sorted(self.values.items()) if k not in OF_THE_CALL}
        return {k: str(v) if isinstance(v, os.PathLike) else v for k, v in found.items()}

    def write(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write `config.json` into a run's folder: `scoresde COMMAND --config` repeats the run.

        Args:
            folder: the folder of the run, which is created if it does not exist.
            about: a JSON value for people and for other commands.
        """
        from importlib.metadata import version

        head = {"command": self.name, "version": version("scoresde"), **(about or {})}
        text = json.dumps({**self.settings(), ABOUT: head}, indent=1, default=str)
        write(folder / "config.json", f"{text}\n".encode())


def _about(kind: type) -> str:
    """The docstring of a command, wrapped for the terminal."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    paragraphs = inspect.cleandoc(kind.__doc__ or "").replace("`", "").split("\n\n")
    # tyro joins lines that begin with a letter, and does not wrap them again.
    wrapped = (textwrap.indent(textwrap.fill(part, width), " ") for part in paragraphs)
    return "\n\n".join(wrapped)


def written(options: Mapping[str, Flag]) -> dict[str, str]:
    """The flag of each argument of the library, for the messages of a command."""
    found = {name: option.written for name, option in options.items()}
    return found | {name: found[own] for name, own in ALIASES.items() if own in found}


def read_file(path: Path) -> dict[str, Any]:
    """The table of a .toml or .json file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another ending, or is not of the format of its ending.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config: expected a .toml or .json file, got {str(path)!r}")
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"config: expected a file that ends in .toml or .json, got {str(path)!r}")
    try:
        table = _toml(path) if path.suffix == ".toml" else json.loads(path.read_bytes())
    except ValueError as error:  # of both readers
        raise ValueError(f"config: {path} is no {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f"config: expected a table of options in {path}, got {table!r}")
    return table


def _toml(path: Path) -> dict[str, Any]:
    from scoresde._check import need

    reader = need("tomllib" if sys.version_info >= (3, 11) else "tomli", "cli")
    table: dict[str, Any] = reader.loads(path.read_text(encoding="utf-8"))
    return table


def _config_of(arguments: Sequence[str]) -> Path | None:
    """The value of --config, which is read before the other flags."""
    words = list(arguments)
    for place, word in enumerate(words):
        if word == "--config" and place + 1 < len(words):
            return Path(words[place + 1])
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    return None


def _defaults(
    name: str, options: Mapping[str, Flag], table: Mapping[str, Any], path: str
) -> dict[str, Any]:
    from scoresde._check import choice

    about = table.get(ABOUT, {})
    made_by = about.get("command", name) if isinstance(about, dict) else name
    if made_by != name:
        raise ValueError(f"config: {path} is of `scoresde {made_by}`, not of `scoresde {name}`")
    known = [key for key in options if key not in OF_THE_CALL]
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key != ABOUT and value is not None:
            option = choice(f"config: {path}", key.replace("-", "_"), known)
            found[option] = options[option].of_file(value, path)
    return found


def _check_data(name: str, path: Path, data: object, option: Flag) -> None:
    """Refuse data that are no longer where the file says, as after a move to another machine."""
    from scoresde.data.load import NAMED

    if data is None or data in NAMED or Path(str(data)).expanduser().exists():
        return
    flag = option.written.removesuffix(" {}")
    place = "PLACE" if flag == "DATA" else f"{flag} PLACE"
    raise FileNotFoundError(
        f"{flag}: nothing at {str(data)!r}, where the data are by {path} (a relative path starts "
        f"from {Path.cwd()}); if they have moved, say where to: "
        f"scoresde {name} {place} --config {path} ..."
    )


def _place(path: Path, table: Mapping[str, Any], values: Mapping[str, Any]) -> Path | None:
    """The folder of a config.json that was written for another place, else None.

    A folder may have been moved or renamed since it was written, and its own --out with it.
    """
    if path.name != "config.json" or ABOUT not in table or values.get("out") is None:
        return None
    return None if Path(values["out"]).resolve() == path.parent.resolve() else path.parent
