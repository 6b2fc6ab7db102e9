"""What the theme leaves out for readers who use the keyboard or hear a page."""

from __future__ import annotations

import re

DIALOG = 'data-md-component="search" role="dialog"'
SCROLLS = re.compile(r'(<table|<math(?= [^>]*display="block"))')


def on_post_page(output: str, **kwargs: object) -> str:
    """Name the dialog of the search, and let the keyboard scroll tables and formulas.

    They may be wider than a page. Code may be too; for it there is docs/focus.js.
    """
    output = output.replace(DIALOG, f'{DIALOG} aria-label="Search"')
    return SCROLLS.sub(r'\1 tabindex="0"', output)
