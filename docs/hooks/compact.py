"""Pages without the blanks that templates leave, and without tooltips that say nothing new."""

from __future__ import annotations

import re

BLANKS = re.compile(r"(<(pre|script|style|textarea)\b.*?</\2>)|\s*\n\s*", re.DOTALL)
TOOLTIP = re.compile(r' title="([^"]*)"')
NAMED_AS_SHOWN = re.compile(r'<span title="(?:[\w.]+\.)?(\w+)">\1</span>')


def on_post_page(output: str, **kwargs: object) -> str:
    """The page, up to a third shorter."""
    return compact(output)


def compact(html: str) -> str:
    """The same page: blank lines and indents go, except in blocks that show or use them.

    A tooltip that repeats the last name of what it is on, such as that of every type in a
    signature, goes too.
    """
    html = TOOLTIP.sub(lambda found: f' title="{" ".join(found[1].split())}"', html)
    html = NAMED_AS_SHOWN.sub(r"\1", html)
    return BLANKS.sub(lambda found: found[1] or "\n", html)
