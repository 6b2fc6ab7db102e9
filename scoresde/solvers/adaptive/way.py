"""The progress of an adaptive solve of the probability flow."""

from __future__ import annotations

from typing import cast, final

from scoresde._progress import Progress
from scoresde.solvers.adaptive.base import Track
from scoresde.solvers.adaptive.ode import Flow

__all__ = ["Way"]


@final
class Way:
    """Shows the way in the angle that the samples of a batch have gone, in numbers of samples.

    Args:
        bar: the display.
    """

    def __init__(self, bar: Progress) -> None:
        self.bar, self.shown = bar, 0

    def __call__(self, track: Track) -> None:
        """Update the display after an attempt of a step."""
        flow = cast(Flow, track)
        start, end = (flow.angle.of(flow.segment[k]) for k in (0, -1))
        gone = (flow.u - start) / (end - start)
        self.to(int(float(gone.detach().sum()) + 1e-6))

    def to(self, samples: int) -> None:
        """Show that so many samples are done."""
        self.bar.update(samples - self.shown)
        self.shown = samples
