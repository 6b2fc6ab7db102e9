"""The reference: one page for each room of the package, from its `__all__` and docstrings.

The rooms are read as syntax trees, so the site is built without an import of the package. A room
without a place in `GROUPS` is an error, so the reference is complete.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`(?:scoresde\.(?:[a-z_]\w*\.)?)?(\w+?)(?:(?<=\w)\.[a-z_]\w*)*(\(.*\))?`")

GROUPS = {
    "SDEs and schedules": "sde schedule node noise process",
    "Models": "model prediction nets oracles conditioned analytic_start cond ddpm",
    "Guidance and posteriors": "guidance measurement posterior smc",
    "Solvers and samplers": "solvers sampler calibration",
    "Likelihoods and densities": "likelihood fokker_planck",
    "Data": "data columns quantisation summary",
    "Training": "training losses options",
    "Evaluation": "metrics comparison doctor plot",
    "Elsewhere": "adapters hub export cli",
}
"""Group -> rooms, in the order of the navigation."""


@cache
def rooms() -> list[str]:
    """The rooms with public names, in the order of `GROUPS`.

    Raises:
        ValueError: a room has no place, or a place has no room.
    """
    placed = [room for group in GROUPS.values() for room in group.split()]
    package = ROOT / "scoresde"
    public = {file.stem for file in package.glob("*.py") if not file.stem.startswith("_")}
    public |= {file.parent.name for file in package.glob("*/__init__.py")}
    if set(placed) != public:
        missing, extra = sorted(public - set(placed)), sorted(set(placed) - public)
        raise ValueError(
            f"GROUPS in docs/hooks/reference.py: rooms without a place are {missing}, places "
            f"without a room {extra}; add or remove them there"
        )
    return placed


@cache
def _tree(room: str) -> ast.Module:
    path = ROOT / "scoresde" / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def summary(room: str) -> str:
    """The docstring of a room."""
    return ast.get_docstring(_tree(room)) or ""


def names(room: str) -> list[str]:
    """The public names of a room, its `__all__`."""
    for node in _tree(room).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"scoresde/{room}: expected an __all__")


@cache
def places() -> dict[tuple[str, str], str]:
    """(room, name) -> where the reference shows it: in the room that defines it, if it is public.

    A function in a module of its own name is named in full, since its short name is the module.
    """
    known, found = {room: names(room) for room in rooms()}, {}
    for room, own in known.items():
        origin = {
            alias.asname or alias.name: node.module
            for node in ast.walk(_tree(room))
            if isinstance(node, ast.ImportFrom)
            and node.module is not None
            and node.module.startswith("scoresde.")
            for alias in node.names
        }
        for name in own:
            module = origin.get(name, f"scoresde.{room}")
            home = module.split(".")[1]
            if name not in known.get(home, []):
                home = room
            full = module.endswith(f".{name}") and home == room
            found[room, name] = f"{module}.{name}" if full else f"scoresde.{home}.{name}"
    return found


def top_level() -> dict[str, str]:
    """Name -> room, for the names of `from scoresde import ...`."""
    for node in ast.parse((ROOT / "scoresde/__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ROOMS":
            table: dict[str, str] = ast.literal_eval(node.value)
            return {name: room for room, own in table.items() for name in own.split()}
    raise ValueError("scoresde/__init__.py: expected the table _ROOMS")


def identifiers() -> dict[str, str]:
    """Name -> where the reference shows it, for names that only one room shows."""
    found: dict[str, set[str]] = {}
    for (_, name), place in places().items():
        found.setdefault(name, set()).add(place)
    return {name: at.pop() for name, at in found.items() if len(at) == 1}


def linked(code: str, known: dict[str, str]) -> str:
    """Code with its backticks as a link to the reference, if it is a name of the package.

    A short word alone, such as `label`, may be an argument, a command or a column: it is linked
    only if it is called, as `load(run)`, or comes with its room.
    """
    found = NAME.fullmatch(code)
    if found is None or found[1] not in known:
        return code
    plain = found[1].islower() and "_" not in found[1] and not found[2] and "." not in code
    return code if plain else f"[{code}][{known[found[1]]}]"


def page(room: str) -> str:
    """The page of a room in Markdown."""
    lines = [f"# scoresde.{room}", "", _escaped(summary(room)), ""]
    shown = {name: places()[room, name] for name in names(room)}
    here = {name: place for name, place in shown.items() if place.split(".")[1] == room}
    for name, place in shown.items():
        if name not in here:
            lines += [f"[`{name}`][{place}] is that of `scoresde.{place.split('.')[1]}`.", ""]
    for place in here.values():
        lines += [f"::: {place}", ""]
    return "\n".join(lines)


def overview() -> str:
    """The first page of the reference: what the top level exports, and the rooms."""
    exported = top_level()
    lines = ["# Reference", "", "The names of `from scoresde import ...`:", ""]
    for room in sorted(set(exported.values()), key=rooms().index):
        own = [name for name, home in exported.items() if home == room]
        links = ", ".join(f"[`{name}`][{places()[room, name]}]" for name in own)
        lines.append(f"- {links}")
    lines += ["", "All else is imported from its room:", ""]
    for group, members in GROUPS.items():
        lines += [f"## {group}", "", "| room | what it has |", "| --- | --- |"]
        for room in members.split():
            first = _escaped(summary(room)).split("\n\n")[0].replace("\n", " ")
            lines.append(
                f"| [`scoresde.{room}`]({room}.md) | {first.replace('|', chr(92) + '|')} |"
            )
        lines.append("")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    from docs.hooks.docstrings import escaped  # which itself links names by this module

    return escaped(text, {})


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    groups = [
        {group: [f"reference/{room}.md" for room in members.split()]}
        for group, members in GROUPS.items()
    ]
    assert config.nav is not None
    section = next(entry for entry in config.nav if "Reference" in entry)
    section["Reference"] += groups
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/index.md", content=overview()))
    for room in rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=page(room)))
    return files
