"""Docstrings as Markdown: their plain text is escaped, and names of the package become links.

The docstrings are written to be read in an editor. There `x: (B, *D)` and `[f - g^2 score] dt`
mean themselves, and a name in backticks is a name. This extension of griffe, which mkdocstrings
loads, keeps both meanings on the site.
"""

from __future__ import annotations

import re
from typing import Any

from docs.hooks.reference import identifiers, linked

try:
    import griffe
except ImportError:  # the other hooks use `escaped` without it
    griffe = None

SECTION = re.compile(r"^(Args|Attributes|Raises|Warns|Returns|Example):$")
NAMED = ("Args", "Attributes", "Raises", "Warns")
ENTRY = re.compile(
    r"^(    [A-Za-z][\w, ]*:)(.*)$"
)  # the names of arguments, as griffe looks them up
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
SPECIAL = re.compile(r"([*_>\[\]$\\])")


def escaped(text: str, links: dict[str, str]) -> str:
    """The text of a docstring in Markdown, outside of code.

    Args:
        text: the docstring without common indentation.
        links: name -> identifier in the reference, for names in backticks.
    """
    lines: list[str] = []
    block: list[str] = []
    section, before, head = "", "", ""

    def flush() -> None:
        if block:
            lines.extend((head + _inline("\n".join(block), links)).split("\n"))
            block.clear()

    for line in text.split("\n"):
        if line[:1].strip():
            found = SECTION.match(line)
            section = found[1] if found else ""
        code = section == "Example" or (
            not section
            and line.startswith("    ")
            and (not before.strip() or before[:4] == "    ")
        )
        entry = ENTRY.match(line) if section in NAMED else None
        if code or SECTION.match(line):
            flush()
            lines.append("Examples:" if line == "Example:" else line)
        elif entry is not None:
            flush()
            head, rest = entry.groups()
            block.append(rest)
        else:
            head = head if block else ""
            block.append(line)
        before = line
    flush()
    return "\n".join(lines)


def _inline(text: str, links: dict[str, str]) -> str:
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        text_of_it = SPECIAL.sub(r"\\\1", part).replace("<", "&lt;")
        parts[i] = linked(part, links) if i % 2 else text_of_it
    return "".join(parts)


if griffe is not None:

    class House(griffe.Extension):
        """Escapes the docstrings of the package while griffe reads them."""

        def __init__(self) -> None:
            self.links = identifiers()

        def on_instance(self, *, obj: Any, **kwargs: object) -> None:
            if obj.docstring is not None:
                text = obj.docstring.value
                links = {k: v for k, v in self.links.items() if k != obj.name}
                obj.docstring.value = escaped(text, links)
