"""Signals that end a run: noted when they come, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, final

__all__ = ["SIGNALS", "Interrupts"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@final
class Interrupts:
    """Notes SIGTERM and SIGINT, so that a run can save itself before it obeys.

    Schedulers that take a machine back (preemption, time limits) send SIGTERM and some time later
    SIGKILL; Ctrl-C sends SIGINT. Inside the `with`, the first of them is noted in `caught` and
    gives its handler back at once, so a second one is obeyed as usual. The former handlers stand
    again at the end. Outside the main thread, where Python takes no handlers, nothing is noted.

    Example:
        >>> with Interrupts() as interrupts:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interrupts.caught == signal.SIGTERM
        True
    """

    def __init__(self, active: bool = True) -> None:
        self.caught: int | None = None
        self.active = active and threading.current_thread() is threading.main_thread()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if self.active:
            for number in SIGNALS:
                former = signal.getsignal(number)
                if former is not None and former is not signal.SIG_IGN:  # None: not of Python
                    self._former[number] = former
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._former):
            self._give_back(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._give_back(number)

    def _give_back(self, number: int) -> None:
        signal.signal(number, self._former.pop(number))

    def obey(self, number: int) -> None:
        """What the signal would have done, SIGTERM as an orderly exit (143) of the interpreter."""
        for other in list(self._former):
            self._give_back(other)
        if number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_DFL:
            raise SystemExit(128 + number)
        signal.raise_signal(number)
        # In a process whose handler returns, or that was told by another one, the run ends too.
        raise SystemExit(128 + number)
