"""Calibration: the solver and grid of a given number of steps that suit one model best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scoresde.calibration.result import Calibration

if TYPE_CHECKING:
    from scoresde.calibration.search import calibrate, calibrate_each

__all__ = ["Calibration", "calibrate", "calibrate_each"]


def __getattr__(name: str) -> Any:  # Any: whichever of the two functions
    """The search, which a sampler that only reads a calibration does not load."""
    if name not in ("calibrate", "calibrate_each"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scoresde.calibration import search

    return getattr(search, name)
