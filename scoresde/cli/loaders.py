"""The options of the loaders in `--help`, read from the docstring of `load_data` itself."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from pathlib import Path

__all__ = ["loader_help", "loader_options"]

TITLE = "Options of the loader, each given as --data-option KEY=VALUE:"


def loader_options() -> dict[str, str]:
    """What `--data-option` takes: the name of each option -> what it is.

    The texts are those of `scoresde.data.load_data` and of the functions that it refers to. Their
    files are read and not imported, because that would load torch for a help text.
    """
    functions = _functions()
    found = {}
    for names, text in _arguments(functions["load_data"]).items():
        if names == "source":
            continue
        where, _, rest = text.partition(", as of `")
        own = _arguments(functions[rest.partition("`")[0]]) if rest else {}
        each = {n: t for ns, t in own.items() for n in ns.split(", ")}
        for name in names.split(", "):
            more = each.get(name)
            found[name] = text if more is None else f"{where.removesuffix('.')}: {more}"
    return found


def _functions() -> dict[str, ast.FunctionDef]:
    """The functions of `scoresde.data` by name, unread."""
    folder = Path(__file__).parents[1] / "data"
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.py"))]
    return {
        node.name: node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def _arguments(function: ast.FunctionDef) -> dict[str, str]:
    """The entries below "Args:" of a docstring."""
    lines = (ast.get_docstring(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.split(r"\n(?=    \w)", "\n" + lines)[1:]
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {names: text for names, _, text in pairs}


def loader_help() -> str:
    """The options of the loaders as a part of a help text."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    entries = (_wrapped(names, text, width) for names, text in loader_options().items())
    return f"{TITLE}\n\n" + "\n".join(entries)


def _wrapped(names: str, text: str, width: int) -> str:
    plain = text.replace("`", "")
    body = textwrap.fill(plain, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {names}\n{body}"
