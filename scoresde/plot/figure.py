"""A figure that a notebook shows as the last line of a cell, whether pyplot is in use or not."""

from __future__ import annotations

import io
from typing import final

from matplotlib.figure import Figure

__all__ = ["ShownFigure"]


@final
class ShownFigure(Figure):
    """matplotlib's figure, with the picture that IPython asks an object for."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, facecolor="white")
        return file.getvalue()
