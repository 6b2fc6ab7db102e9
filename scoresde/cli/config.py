"""Options from a file: TOML or JSON, read before the flags, written back into the run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scoresde._io import write
from scoresde.cli.common import say

__all__ = [
    "ABOUT",
    "ConfigFile",
    "given",
    "read_file",
    "say_where",
    "settings",
    "write_config",
]

ABOUT = "about"
"""The key under which a run's config.json says what it is; not an option."""

MOVED = " moved from"
"""The key, of no option, under which the former place of a moved folder is kept."""

OF_THE_CALL = frozenset({"config", "as_json", "overwrite", "resume", "auto_resume"})
"""Options that say how a command is called and not what it does: not in a file."""


def read_file(path: Path) -> dict[str, Any]:
    """The table of a .toml or .json file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, or not the format that the ending says.
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


def _read(ctx: typer.Context, path: Path | None) -> Path | None:
    """The callback of --config: the file's values become the defaults of the flags."""
    if path is None or ctx.resilient_parsing:
        return path
    try:
        table = read_file(path)
        ctx.default_map = _placed(_defaults(ctx, table, str(path)), table, path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    return path


def _defaults(ctx: typer.Context, table: Mapping[str, Any], path: str) -> dict[str, Any]:
    from scoresde._check import choice

    name, about = str(ctx.info_name), table.get(ABOUT, {})
    made_by = about.get("command", name) if isinstance(about, dict) else name
    if made_by != name:
        raise ValueError(f"config: {path} is of `scoresde {made_by}`, not of `scoresde {name}`")
    options = {p.name: p for p in ctx.command.params if p.name not in (None, *OF_THE_CALL)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key == ABOUT:
            continue
        option = choice(f"config: {path}", key.replace("-", "_"), [str(k) for k in options])
        if value is not None:
            several = bool(getattr(options[option], "multiple", False))
            found[option] = _listed(option, value) if several else _single(option, value)
    return found


def _placed(found: dict[str, Any], table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options of a folder's own config.json, with the folder where it is now for its --out.

    A folder may have been moved or renamed since it was written.
    """
    own, stored = path.parent, found.get("out")
    if path.name != "config.json" or ABOUT not in table or stored is None:
        return found
    if Path(stored).resolve() != own.resolve():
        found["out"] = str(own)
        found[MOVED] = stored
    return found


def say_where(ctx: typer.Context) -> None:
    """Say that --out is where the config.json lies, if it was written for another place."""
    stored = (ctx.default_map or {}).get(MOVED)
    if stored is not None and _source(ctx, "out") == "DEFAULT_MAP":
        say(f"--out: {ctx.params['out']}, where its config.json is, and no longer {stored}")


def given(ctx: typer.Context, name: str) -> bool:
    """Was this option given, by a flag or in a file?"""
    return ctx.params.get(name) is not None and _source(ctx, name) != "DEFAULT"


def _source(ctx: typer.Context, name: str) -> str:
    """Where the value of an option comes from: "COMMANDLINE", "DEFAULT_MAP" or "DEFAULT"."""
    return getattr(ctx.get_parameter_source(name), "name", "DEFAULT")


def _listed(name: str, value: Any) -> list[str]:
    """A table {"width": 64} or a list, as the flags that say the same: ["width=64"]."""
    if isinstance(value, dict):
        return [f"{key}={json.dumps(item)}" for key, item in value.items()]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _single(name: str, value: Any) -> Any:
    if isinstance(value, dict | list):
        raise ValueError(f"config: {name}: expected one value, got {value!r}")
    return value


def settings(ctx: typer.Context) -> dict[str, Any]:
    """All options of this call by name, defaults included, as a config file holds them."""
    found = {k: v for k, v in sorted(ctx.params.items()) if k not in OF_THE_CALL}
    return {k: str(v) if isinstance(v, os.PathLike) else v for k, v in found.items()}


def write_config(ctx: typer.Context, folder: Path, about: Mapping[str, Any] | None = None) -> Path:
    """Write `config.json` into a run's folder: `scoresde COMMAND --config` repeats the run.

    Args:
        ctx: of the command.
        folder: of the run; made if it is not there.
        about: anything that json holds, to be read by people and by other commands.
    """
    from importlib.metadata import version

    head = {"command": ctx.info_name, "version": version("scoresde"), **(about or {})}
    text = json.dumps({**settings(ctx), ABOUT: head}, indent=1, default=str)
    write(folder / "config.json", f"{text}\n".encode())
    return folder / "config.json"


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        help="A TOML or JSON file of options, by the names of the flags (batch_size = 64); flags "
        "go before it. The config.json of a run repeats the run.",
        is_eager=True,
        callback=_read,
        metavar="FILE",
        rich_help_panel="This call",
    ),
]
