"""Progress of long tasks: a bar on a terminal or in a notebook, lines in other output."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol, TextIO, final

__all__ = ["EVERY", "Lines", "Progress", "progress", "progress_or"]

EVERY = 10.0
"""Seconds between two lines in a file of output."""


class Progress(Protocol):
    """A display of progress.

    Attributes:
        total: the number of units, which may grow.
    """

    total: int

    def update(self, n: int = 1) -> object:
        """Add n units."""

    def set_postfix_str(self, s: str) -> object:
        """Show a text beside the count."""

    def close(self) -> object:
        """End the display."""


@final
class Lines:
    """A line every ten seconds: the completed share, the note, and the estimated time left.

    Args:
        total: number of units.
        label: name of the task.
        unit: name of the units, in the plural.
        initial: number of units completed before.
        file: the file of the lines.
    """

    def __init__(
        self, total: int, label: str, unit: str, initial: int = 0, file: TextIO | None = None
    ) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = self.initial = initial
        self.note = ""
        self.file = sys.stderr if file is None else file
        self.began = self.shown = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown >= EVERY:
            self.shown = now
            self._print(now)

    def set_postfix_str(self, s: str) -> None:
        self.note = s

    def close(self) -> None:
        pass

    def _print(self, now: float) -> None:
        made = self.done - self.initial
        left = (now - self.began) / made * (self.total - self.done) if made else None
        rest = "" if left is None or self.done >= self.total else f", {_clock(left)} left"
        note = f", {self.note}" if self.note else ""
        line = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}{note}{rest}"
        print(line, file=self.file, flush=True)


def progress(
    total: int, label: str, unit: str, *, shown: bool = True, initial: int = 0, position: int = 0
) -> Progress:
    """A display of progress: a tqdm bar on a terminal or in a notebook, else lines on stderr.

    The bar of a notebook is a widget if ipywidgets is installed, else one of text.

    Args:
        total: number of units.
        label: name of the task.
        unit: name of the units, in the plural.
        shown: whether to show anything.
        initial: number of units completed before.
        position: the line of the bar, if several processes have one each.
    """
    if shown and not _watched():
        return Lines(total, label, unit, initial)
    bar: Progress = _tqdm()(
        total=total, desc=label, unit=unit, initial=initial, position=position, disable=not shown
    )
    return bar


@contextmanager
def progress_or(given: bool | Progress, total: int, label: str, unit: str) -> Iterator[Progress]:
    """The display that a caller gave, which stays open, or a new one that is closed at the end.

    Args:
        given: whether to show a new display; or the display of a longer task.
        total, label, unit: of the new display, as in `progress`.

    Raises:
        TypeError: what was given is no display.
    """
    if isinstance(given, bool):
        with closing(progress(total, label, unit, shown=given)) as bar:
            yield bar
    elif callable(getattr(given, "update", None)):
        yield given
    else:
        remedy = "pass True, or a bar with update(n), such as one of tqdm"
        raise TypeError(f"progress: expected True, False or a bar, got {given!r}; {remedy}")


def _tqdm() -> Any:  # the class of the bars, which has no types
    """The bar of tqdm that suits the place; imported here, as it takes 30 ms."""
    if "ipykernel" not in sys.modules:
        from tqdm import tqdm

        return tqdm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets the bar is one of text
        from tqdm.auto import tqdm as suited
    return suited


def _watched() -> bool:
    """Whether stderr is a terminal, or the output of a cell in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
