"""Comparing schedules by their values, and models by their hashes."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from scoresde._check import fail, refuse
from scoresde._io import digest
from scoresde.sde.base import SDE, AffineSDE

__all__ = [
    "check_same_sde",
    "fingerprint",
    "model_hashes",
    "same_schedule",
    "same_sde",
    "weights_hash",
]


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
            if not _close(a, b):
                where = f"{name} = {a:.8g} at t = {t:.6g}, as in the {origin}"
                raise error(argument, where, f"{b:.8g} ({type(sde).__name__})", remedy)


def check_same_sde(sde: SDE, own: SDE) -> None:
    """Raise unless an SDE is that of a model, naming the first difference of their schedules."""
    if same_sde(own, sde):
        return
    got, remedy = repr(sde), "take the SDE that the model was trained for (model.sde)"
    mine, theirs = fingerprint(sde), fingerprint(own)
    if isinstance(sde, AffineSDE) and isinstance(own, AffineSDE):
        rows = [(name, k) for k in range(len(mine["t"])) for name in mine]
        differ = ((n, k) for n, k in rows if not _close(mine[n][k], theirs[n][k]))
        name, k = next(differ, ("t", 0))
        at = f" at t = {mine['t'][k]:.6g}" if name != "t" else ""
        got += f", with {name} = {mine[name][k]:.8g}{at} where the model has {theirs[name][k]:.8g}"
    raise refuse("sde", f"the model's own, {own!r}", got, remedy)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) or a == b


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


_APART = ("training", "calibrations")  # attributes that change no prediction


def model_hashes(model: nn.Module, weights: str | None = None) -> dict[str, str]:
    """SHA-256 of three aspects of a model: "classes", "weights" and "settings".

    The classes are those of its modules. The weights are all parameters and buffers in float64,
    so that they do not depend on the precision. The settings are the plain attributes of its
    modules except SDEs, whose schedules `same_schedule` compares; a function that is not a module
    contributes only its name.

    Args:
        model: the model.
        weights: the hash of its weights if it is known, for it takes the most time.
    """
    classes, settings = [], []
    for path, module in model.named_modules():
        classes.append([path, type(module).__qualname__])
        for name, value in sorted(vars(module).items()):
            if not (name.startswith("_") or name in _APART or isinstance(value, SDE)):
                settings.append([path, name, _plain(value)])
    known = weights_hash(model) if weights is None else weights
    return {"classes": digest(classes), "weights": known, "settings": digest(settings)}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers in float64, with their names and shapes."""
    found = hashlib.sha256()
    for name, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(_content(value))
    return found.hexdigest()


def _content(value: Tensor) -> bytes:
    wide = value.detach().cpu()
    wide = wide.double() if wide.is_floating_point() else wide
    return wide.contiguous().numpy().tobytes()


def _plain(value: Any) -> Any:  # in and out: whatever an attribute is, and whatever JSON holds
    """A value as JSON that is equal in every process; numbers and texts are unchanged."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    name = getattr(value, "__qualname__", type(value).__qualname__)  # a repr may contain addresses
    if isinstance(value, Tensor):
        return [name, list(value.shape), hashlib.sha256(_content(value)).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        return [name, {f.name: _plain(getattr(value, f.name)) for f in fields(value)}]
    return name
