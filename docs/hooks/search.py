"""The index of the search, which each page loads, without the long lists of the reference.

Of a name it holds the heading and the first two paragraphs, of a member of a class the first one,
so that a search finds what a name is.
Signatures, arguments and examples stay on the page; with them the index is more than twice as
large, and a search for a common argument finds a hundred functions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

HEADING = re.compile(r'(?=<h[1-6][^>]* class="doc doc-heading")')
BLOCK = re.compile(
    r"<(p|ul|table|pre|div class=\"(?:doc-signature |language-\w+ )?highlight\")(?=[ >])"
)
TITLE = re.compile(r'<p>\s*<span class="doc-section-title">')


def on_page_content(html: str, page: Page, **kwargs: object) -> str:
    """Exclude from the index what is long in the reference."""
    return shortened(html) if page.file.src_uri.startswith("reference/") else html


def shortened(html: str) -> str:
    """The same page, with a mark on what the search leaves out of each name."""
    before, *names = HEADING.split(html)
    return before + "".join(map(_marked, names))


def _marked(name: str) -> str:
    seen, most = 0, 2 if name.startswith("<h2") else 1

    def mark(found: re.Match[str]) -> str:
        nonlocal seen
        title = TITLE.match(name, found.start())  # such as "Raises:"
        seen += found[1] == "p" and title is None
        keep = found[1] == "p" and title is None and seen <= most
        return found[0] if keep else f"{found[0]} data-search-exclude"

    return BLOCK.sub(mark, name)
