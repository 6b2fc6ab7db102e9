"""How objects show themselves: in one line of text, and in notebooks as a small table."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from html import escape

from scoresde._check import brief, held, show

__all__ = ["Shown", "rounded", "table"]


class Shown:
    """An object that is a line of text, and in a notebook a table of its `facts`.

    Example:
        >>> class Walk(Shown):
        ...     def __init__(self) -> None:
        ...         self.steps, self.step_size = 3, 0.123456
        >>> Walk(), Walk().facts
        (Walk(steps=3, step_size=0.123456), {'steps': 3, 'step size': '0.1235'})
    """

    __slots__ = ()

    @property
    def facts(self) -> Mapping[str, object]:
        """What the object is, name -> value, for a table; None for what does not apply."""
        return {
            name.replace("_", " "): rounded(value) if isinstance(value, float) else _text(value)
            for name, value in held(self).items()
        }

    def _picture(self) -> bytes | None:
        """A picture below the table, the content of a PNG file, or None."""
        return None

    def __repr__(self) -> str:
        return brief(self)

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self.facts, self._picture())


def _text(value: object) -> object:
    return value if isinstance(value, str | int) else show(value)


def table(title: str, rows: Mapping[str, object], png: bytes | None = None) -> str:
    """A table of names and values with its title, all escaped, and a picture below it.

    Args:
        title: the title of the table.
        rows: name -> value; rows with None are left out.
        png: the picture, the content of a PNG file, or None.

    Example:
        >>> table("Plan", {"steps": 10, "why": None})
        '<table><caption>Plan</caption><tr><th>steps</th><td>10</td></tr></table>'
    """
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    text = f"<table><caption>{escape(title)}</caption>{cells}</table>"
    if png is not None:
        data = base64.b64encode(png).decode("ascii")
        text += f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return text


def rounded(value: float, error: float | None = None) -> str:
    """A number for a table, and its standard error if one is passed; NaN is "unknown".

    Example:
        >>> rounded(-1.23456, 0.0123), rounded(2.0, math.nan), rounded(math.nan)
        ('-1.235 ± 0.012', '2 ± unknown', 'unknown')
    """
    if math.isnan(value):
        return "unknown"
    if error is None:
        return f"{value:.4g}"
    return f"{value:.4g} ± " + ("unknown" if math.isnan(error) else f"{error:.2g}")
