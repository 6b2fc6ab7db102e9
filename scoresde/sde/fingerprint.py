"""Comparing schedules by their values."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping

from scoresde._check import fail
from scoresde.sde.base import SDE, AffineSDE

__all__ = ["fingerprint", "same_schedule", "same_sde"]


def fingerprint(sde: SDE) -> dict[str, list[float]]:
    """Values of the schedule at fixed times.

    They are stored as values and not as a hash, since machines agree on them only up to rounding
    and an error message can show the difference.
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
    error: Callable[[str, str, object, str], Exception] = fail,
) -> None:
    """Raise unless the SDE has the schedule of the fingerprint that `origin` saved."""
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
    """Whether two SDEs are equal, or equivalent as a copy in another process is.

    Affine SDEs are equivalent if their schedules agree to 1e-6. The drift of any other SDE cannot
    be compared by values, so two of them are equivalent if their pickles are equal.
    """
    if a is b or a == b:
        return True
    try:
        same_schedule(a, fingerprint(b), "sde", "other", "")
        affine = isinstance(a, AffineSDE) and isinstance(b, AffineSDE)
        return affine or pickle.dumps(a) == pickle.dumps(b)
    except (ValueError, TypeError, AttributeError, pickle.PicklingError):
        return False
