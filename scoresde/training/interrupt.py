"""Signals that end a run: recorded on arrival, handled between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, final

__all__ = ["SIGNALS", "Interrupts"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@final
class Interrupts:
    """Records SIGTERM and SIGINT, so that a run can save a checkpoint before it ends.

    Schedulers that reclaim a machine (preemption, time limits) send SIGTERM and later SIGKILL;
    Ctrl-C sends SIGINT. Inside the `with`, the first signal is recorded in `caught` and its
    original handler is restored at once, so a second one acts as usual. All handlers are restored
    at the end. Outside the main thread, where Python allows no handlers, nothing is recorded.

    Example:
        >>> with Interrupts() as interrupts:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interrupts.caught == signal.SIGTERM
        True
    """

    def __init__(self, active: bool = True) -> None:
        self.caught: int | None = None
        self.active = active and threading.current_thread() is threading.main_thread()
        self._former: dict[int, Any] = {}  # as signal.getsignal types handlers

    def __enter__(self) -> Interrupts:
        if self.active:
            for number in SIGNALS:
                former = signal.getsignal(number)
                if former is not None and former is not signal.SIG_IGN:  # None: not set by Python
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
        """Act as the signal would have, for SIGTERM by SystemExit(143)."""
        for other in list(self._former):
            self._give_back(other)
        if number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_DFL:
            raise SystemExit(128 + number)
        signal.raise_signal(number)
        # If the handler returned, or another process relayed the signal, stop here as well.
        raise SystemExit(128 + number)
