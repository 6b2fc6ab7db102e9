"""`scoresde inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoresde.cli.common import Json, Model, emit
from scoresde.cli.opened import Opened, open_checkpoint

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EXAMPLES", "inspect", "report"]

EXAMPLES = """Examples:

scoresde inspect runs/moons

scoresde inspect runs/moons/best

scoresde inspect runs/moons --json
"""


def inspect(model: Model, as_json: Json = False) -> None:
    """Say what is in a checkpoint, and verify it.

    The SDE and its schedule, the network and its size, what it predicts and how it is told the
    time, the step it was saved at, the average of the weights, the levels of the data, classes,
    calibrations; and the size and SHA-256 of every file. Nothing is ever unpickled. A checkpoint
    that is damaged, half-copied or of a newer version is refused with what is wrong and exit
    code 2.
    """
    opened = open_checkpoint(model, "cpu")
    found = report(opened)
    emit(found, _text(found), as_json)


def report(opened: Opened) -> dict[str, Any]:
    """All that is known of a checkpoint, with every file read and its hash compared.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged; the weights hold NaN.
    """
    config, model = opened.config, opened.model
    files = _verified(opened.folder, config["files"])
    _check_finite(model.net, opened.folder)
    training = config.get("training") or {}
    contract, extra = opened.contract, config.get("extra") or {}
    sde = model.sde
    return {
        "folder": str(opened.folder),
        "version": config.get("library"),
        "sde": repr(sde),
        "time": {"t_min": sde.t_min, "t_end": sde.t_end, "T": sde.T},
        "log_snr": {"t_end": sde.log_snr(sde.t_end), "T": sde.log_snr(sde.T)},
        "schedule": _fingerprint(config["schedule"]),
        "network": type(model.net).__name__,
        "network_options": getattr(model.net, "config", None),
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "dtype": str(next(model.net.parameters()).dtype).removeprefix("torch."),
        "predicts": model.predicts,
        "told": model.time if isinstance(model.time, str) else repr(model.time),
        "sigma_data": model.sigma_data,
        "shape": _shape(opened),
        "classes": opened.classes,
        "class_names": opened.about.get("class_names") or [],
        "contract": None if contract is None else contract.to_dict(),
        "step": training.get("step", extra.get("step")),
        "average": _average(training),
        "resumable": bool(training),
        "run": training.get("run"),
        "validation": _validation(training, extra),
        "calibrations": sorted(config.get("calibrations") or {}),
        "extra": extra,
        "files": files,
    }


def _verified(folder: Path, files: Mapping[str, Any]) -> dict[str, Any]:
    """The files of a checkpoint, once their sizes and hashes have been found as they should be."""
    from scoresde.training.files import read

    for name in files:
        read(folder, {"files": files}, name)
    return {name: dict(entry) for name, entry in files.items()}


def _check_finite(net: nn.Module, folder: Path) -> None:
    for name, value in net.state_dict().items():
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"{folder}: expected finite weights, got NaN or infinity in {name}; the run that "
                "wrote it diverged: take an earlier checkpoint"
            )


def _fingerprint(schedule: Mapping[str, Any]) -> str:
    """A short hash of the schedule's values, equal for equal schedules."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(schedule, sort_keys=True).encode()).hexdigest()[:16]


def _shape(opened: Opened) -> tuple[int, ...] | None:
    try:
        return opened.shape()
    except ValueError:
        return None


def _average(training: Mapping[str, Any]) -> str | None:
    if not training:
        return None
    updates = training.get("ema_updates", 0)
    return f"exponential, {updates} updates" if training["run"].get("ema") else "none: raw weights"


def _validation(training: Mapping[str, Any], extra: Mapping[str, Any]) -> float | None:
    rows = training.get("validations")
    if rows:
        return float(sum(rows[-1][1]) / len(rows[-1][1]))
    return extra.get("validation")


def _text(found: Mapping[str, Any]) -> str:
    options = found["network_options"] or {}
    sizes = ", ".join(f"{k}={v}" for k, v in options.items())
    contract = found["contract"]
    levels = "not discrete" if contract is None else "{levels} from {low:g} to {high:g}"
    shape = found["shape"]
    rows: dict[str, Any] = {
        "checkpoint": found["folder"],
        "sde": found["sde"],
        "times": "t_min {t_min:.4g}, t_end {t_end:.4g}, T {T:.4g}".format(**found["time"]),
        "log-SNR": "{t_end:.3f} at t_end, {T:.3f} at T".format(**found["log_snr"]),
        "schedule": f"{found['schedule']} (fingerprint)",
        "network": f"{found['network']}({sizes})",
        "size": f"{found['parameters']:,} parameters of {found['dtype']}",
        "predicts": f"{found['predicts']}, told {found['told']} as its time",
        "sample": "of any size" if shape is None else "x".join(map(str, shape)),
        "classes": _classes(found["classes"], found["class_names"]),
        "levels": levels if contract is None else levels.format(**contract),
        "step": found["step"] if found["step"] is not None else "unknown",
        "average": found["average"] or "not noted",
        "resumable": "yes" if found["resumable"] else "no: the model alone",
    }
    if found["validation"] is not None:
        rows["validation"] = f"{found['validation']:.4f}"
    rows["calibrated"] = ", ".join(found["calibrations"]) or "no"
    lines = [f"{name:12}{value}" for name, value in rows.items()]
    lines += [
        f"{'intact' if i == 0 else '':12}{name}, {entry['bytes']:,} bytes, "
        f"sha256 {entry['sha256'][:16]}..."
        for i, (name, entry) in enumerate(found["files"].items())
    ]
    lines.append(f"{'written by':12}scoresde {found['version']}")
    return "\n".join(lines)


def _classes(count: int, names: list[str]) -> str:
    listed = f": {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}" if names else ""
    return f"{count}{listed}" if count else "none"
