"""Figures that a notebook displays as the last line of a cell, with or without pyplot."""

from __future__ import annotations

import io
from typing import final

from matplotlib.figure import Figure

__all__ = ["ShownFigure"]


@final
class ShownFigure(Figure):
    """A figure of matplotlib with the PNG representation that IPython displays."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, facecolor="white")
        return file.getvalue()
