"""Values of a schedule by which another one is told apart."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from scoresde._check import fail
from scoresde.sde.base import SDE, AffineSDE

__all__ = ["fingerprint", "same_schedule", "same_sde"]


def fingerprint(sde: SDE) -> dict[str, list[float]]:
    """Values of the schedule at fixed times.

    Values and not their hash: they agree to rounding between machines, and a difference can be
    shown.
    """
    times = [sde.t_min + (sde.T - sde.t_min) * k / 16 for k in range(17)]
    nodes = [sde.at(t) for t in times]
    names = ("t", "log_snr", "alpha") if isinstance(sde, AffineSDE) else ("t", "g")
    return {name: [float(getattr(n, name)) for n in nodes] for name in names}


def same_schedule(
    sde: SDE,
    saved: Mapping[str, list[float]],
    argument: str,
    origin: str,
    remedy: str,
    error: Callable[[str, str, Any, str], Exception] = fail,
) -> None:
    """Raise unless the SDE has the schedule of a saved fingerprint, which is of `origin`."""
    mine = fingerprint(sde)
    if {k: len(v) for k, v in mine.items()} != {k: len(v) for k, v in saved.items()}:
        expected = f"a schedule of {', '.join(saved)}, as in the {origin}"
        raise error(argument, expected, f"one of {', '.join(mine)}", remedy)
    for name, values in saved.items():
        for t, a, b in zip(saved["t"], values, mine[name], strict=True):
            if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) and a != b:
                where = f"{name} = {a:.8g} at t = {t:.6g}, as in the {origin}"
                raise error(argument, where, f"{b:.8g} ({type(sde).__name__})", remedy)


def same_sde(a: SDE, b: SDE) -> bool:
    """Whether two SDEs are equal or, as a copy or one of another process is, mean the same.

    Affine SDEs do if their schedules agree to 1e-6; of others the drift cannot be compared by
    values, so they do if they are pickled alike.
    """
    if a is b or a == b:
        return True
    try:
        same_schedule(a, fingerprint(b), "sde", "other", "")
        affine = isinstance(a, AffineSDE) and isinstance(b, AffineSDE)
        return affine or pickle.dumps(a) == pickle.dumps(b)
    except (ValueError, TypeError, AttributeError, pickle.PicklingError):
        return False
