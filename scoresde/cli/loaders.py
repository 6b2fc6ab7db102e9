"""The options of the loaders in `--help`, read from the docstring of `load_data` itself."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from pathlib import Path

from scoresde.cli.flags import docs_of
from scoresde.options import Pictures, Table

__all__ = ["loader_help", "loader_options"]

TITLE = "Options of the loader, each given as --data-option KEY=VALUE:"


def loader_options() -> dict[str, str]:
    """The options of `--data-option`: the name of each -> its description.

    The texts are those of `scoresde.data.load_data` and of its groups of options. Its source is
    read, since an import would load torch for a help text.
    """
    file = Path(__file__).parents[1] / "data/load.py"
    body = ast.parse(file.read_text(encoding="utf-8")).body
    (load_data,) = (f for f in body if isinstance(f, ast.FunctionDef) and f.name == "load_data")
    groups = {"pictures": docs_of(Pictures), "table": docs_of(Table)}
    found: dict[str, str] = {}
    for names, text in _arguments(load_data).items():
        if names in groups:
            kind = text.partition(":")[0]
            found |= {name: f"{kind}: {about}" for name, about in groups[names].items()}
        elif names not in ("source", "like"):
            found |= dict.fromkeys(names.split(", "), text)
    return found


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
