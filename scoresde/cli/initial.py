"""`scoresde train --init-from`: start a run from the weights of another run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoresde.cli.build import INFERRED, build_sde, count_classes
from scoresde.cli.common import key_values, say
from scoresde.cli.config import Call
from scoresde.cli.messages import in_flags
from scoresde.cli.opened import run_of

if TYPE_CHECKING:
    from scoresde.data import Data, LazyData
    from scoresde.model import Preconditioned
    from scoresde.summary import DataSummary

__all__ = ["initial"]


def initial(
    call: Call, run: Path, read: Callable[[DataSummary | None], Data | LazyData]
) -> tuple[Preconditioned, Data | LazyData]:
    """Return the averaged model of another run, and the data in its units and class numbers.

    The network, the SDE and the parametrisation are those of the run. They replace the options of
    this call, so that its config.json records them.

    Args:
        call: the options of the call.
        run: the other run.
        read: reads the data; its argument is the summary of those of the run.

    Raises:
        FileNotFoundError, ValueError: there is no such run; the data have another shape, other
            columns or another number of classes; an option of this call contradicts the run.
    """
    from scoresde.training import load
    from scoresde.training.files import checkpoint_folder
    from scoresde.training.matching import in_units_of

    with in_flags({"path": "--init-from {}"}):
        model: Preconditioned = load(run)  # type: ignore[assignment]
    given = read(model.data)
    known = _options(model) | {"preset": run_of(checkpoint_folder(run)).get("preset", "small")}
    _agree(call, run, known)
    call.values.update({name: value for name, value in known.items() if value is not None})
    if given.scaling is None or not given.scaling.columns:
        _fits(run, model.net.config, tuple(given.x.shape[1:]))  # type: ignore[arg-type]
    with in_flags({}, plain=True):  # of a table the columns are compared, which says more
        whole = in_units_of(given, model.data, raw=True)
    return model, _classes(run, model, whole)


def _options(model: Preconditioned) -> dict[str, Any]:
    """The options of `train` that build this model."""
    from scoresde.nets import NETS
    from scoresde.sde import SDES

    sde, net = model.sde, model.net
    fields: Mapping[str, Any] = {n: getattr(sde, n) for n in sde.__dataclass_fields__}  # type: ignore[attr-defined]
    config: Mapping[str, Any] = net.config  # type: ignore[assignment]
    return {
        "sde": next((name for name, kind in SDES.items() if kind is type(sde)), None),
        "sde_option": [f"{name}={json.dumps(value)}" for name, value in fields.items()],
        "net": next((name for name, kind in NETS.items() if kind is type(net)), None),
        "net_option": [f"{k}={json.dumps(v)}" for k, v in config.items() if k not in INFERRED],
        "predicts": model.predicts,
        "net_time": model.time if isinstance(model.time, str) else None,
        "sigma_data": model.sigma_data,
    }


def _agree(call: Call, run: Path, known: Mapping[str, Any]) -> None:
    """Raise a ValueError if an option of the call contradicts the run."""
    for name, own in known.items():
        asked = call.values[name]
        if name not in call.given or asked in ("auto", own):
            continue
        if name == "sde_option":
            same = build_sde(known["sde"], asked) == build_sde(known["sde"], own)
        elif name == "net_option":
            have, want = key_values("net-option", own), key_values("net-option", asked)
            differ = {k: v for k, v in want.items() if have.get(k) != v}
            asked, own, same = differ, {k: have.get(k) for k in differ}, not differ
        else:
            same = False
        if not same:
            raise ValueError(
                f"{name}: expected {own}, as in {run}, got {asked}; leave it out, or leave "
                "--init-from out to train a new network"
            )


def _fits(run: Path, config: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    dims = len(shape) - 1
    own = {"dim": shape[0], "channels": shape[0], "dims": dims, "size": list(shape[1:])}
    differ = [k for k in own if k in config and _plain(config[k]) != own[k]]
    if dims != (0 if "dim" in config else config.get("dims", 2)) or differ:
        its = ", ".join(
            f"{k}={config[k]}" for k in ("dim", "channels", "dims", "size") if k in config
        )
        raise ValueError(
            f"DATA: expected samples that the network of {run} takes ({its}), got the shape "
            f"{shape}; bring them to this shape, e.g. by --data-option size= or mode=, or leave "
            "--init-from out"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _classes(run: Path, model: Preconditioned, whole: Data | LazyData) -> Data | LazyData:
    """Return the data with the class numbers of the model, which are matched by name.

    If the numbers of classes agree, classes without a match get the numbers that are not used.
    """
    own = int(model.net.config.get("classes", 0))  # type: ignore[union-attr, operator]
    count = count_classes(whole)
    if not count:
        return whole
    seen = model.data
    names = () if seen is None else seen.class_names
    if names and set(whole.class_names) <= set(names) and whole.class_names:
        return whole.with_classes(names)
    if count != own:
        remedy = "--unconditional leaves them out" if not own else "take data with as many classes"
        raise ValueError(
            f"DATA: expected {own or 'no'} classes, as in {run}, got {count}; {remedy}, or leave "
            "--init-from out"
        )
    if seen is None or not names or not whole.class_names:
        return whole
    new = iter([name for name in whole.class_names if name not in names])
    order = [name if name in whole.class_names else next(new) for name in names]
    say(f"the classes {', '.join(names)} of {run} become {', '.join(order)}")
    model.data = replace(seen, class_names=tuple(order))
    return whole.with_classes(order)
