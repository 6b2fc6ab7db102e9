"""Pages of a report: one HTML file of text, tables and embedded figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "embedded", "rendered"]


class Picture(NamedTuple):
    """An embedded image: its width in pixels, its source and its caption."""

    width: int
    source: str
    text: str


def rendered(template: str, values: Mapping[str, object]) -> str:
    """A template as text, with these values.

    Templates extend `page.html` and take macros from `macros.html`, which stand beside this file.

    Args:
        template: its path in the package, such as "comparison/report.html".
        values: the values of its names.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    folder, _, name = template.partition("/")
    places = [PackageLoader("scoresde", place) for place in (folder, "plot")]
    made = Environment(
        loader=ChoiceLoader(places), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return made.get_template(name).render(values)


def embedded(figure: Figure, kind: str, text: str) -> Picture:
    """A figure as an image inside the page.

    Args:
        figure: the figure.
        kind: "svg" or "png".
        text: its caption.
    """
    import matplotlib

    file = io.BytesIO()
    # Text is drawn as outlines, since the reader may not have the font.
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        figure.savefig(file, format=kind, dpi=144, facecolor="white")
    mime = "svg+xml" if kind == "svg" else "png"
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width = round(figure.get_size_inches()[0] * 96)
    return Picture(width, f"data:image/{mime};base64,{data}", text)
