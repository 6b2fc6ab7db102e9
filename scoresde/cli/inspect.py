"""`scoresde inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde._io import digest
from scoresde.cli.calibrate import summary
from scoresde.cli.common import emit
from scoresde.cli.config import Call
from scoresde.cli.flags import argument
from scoresde.cli.opened import open_checkpoint, run_about

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Inspect", "report"]


@final
@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what is in a checkpoint, and verify it.

    It prints the SDE and its schedule, the network and its size, what it predicts and how it is
    told the time, the step it was saved at, the average of the weights, the levels of the data,
    classes, calibrations, and the size and SHA-256 of every file. Nothing is ever unpickled. A
    checkpoint that is damaged, half-copied or of a newer version is refused with what is wrong and
    exit code 2.
    """

    EXAMPLES: ClassVar[str] = """
scoresde inspect runs/moons
scoresde inspect runs/moons/best
scoresde inspect runs/moons --json
"""

    model: Path = argument("MODEL")
    json: bool = False

    def run(self, call: Call) -> None:
        """Inspect."""
        from scoresde.training.files import checkpoint_folder

        found = report(checkpoint_folder(self.model))
        emit(found, _text(found), self.json)


def report(folder: Path) -> dict[str, Any]:
    """Describe a checkpoint, after every file is read and its hash compared.

    A custom network or SDE, which a checkpoint cannot rebuild, is given by its name.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged, tensors do not fit the
            network, or the weights hold NaN.
    """
    from scoresde.training import read_config
    from scoresde.training.checkpoint import saved_calibrations
    from scoresde.training.description import families, networks
    from scoresde.training.files import known_shape

    config = read_config(folder)
    weights = _verified(folder, config["files"])
    net, sde, settings = config["net"], config["sde"], config["model"]
    count = sum(value.numel() for value in weights.values())
    if (
        net["class"] in networks() and sde["class"] in families()
    ):  # check that the tensors fit, and find the trained ones
        count = sum(p.numel() for p in open_checkpoint(folder, "cpu").model.net.parameters())
    training, extra = config.get("training") or {}, config.get("extra") or {}
    about, options = run_about(folder), net.get("config") or {}
    data = config.get("data") or {}
    return {
        "folder": str(folder),
        "version": config.get("library"),
        "sde": sde["class"],
        "sde_options": sde.get("fields"),
        **_times(families().get(sde["class"]), sde.get("fields")),
        "schedule": digest(config["schedule"])[:16],
        "network": net["class"],
        "network_options": options,
        "parameters": count,
        "dtype": ", ".join(
            sorted({str(v.dtype).removeprefix("torch.") for v in weights.values()})
        ),
        "predicts": settings["predicts"],
        "told": settings["time"] if isinstance(settings["time"], str) else "the step of a chain",
        "sigma_data": settings["sigma_data"],
        "shape": known_shape(options, extra, about),
        "classes": options.get("classes", 0),
        "class_names": data.get("class_names") or [],
        "class_counts": data.get("class_counts") or [],
        "quantisation": config.get("quantisation"),
        "data": {**data, "quantisation": config.get("quantisation")} if data else None,
        "step": training.get("step", extra.get("step")),
        "average": _average(training),
        "resumable": bool(training),
        "run": training.get("run"),
        "validation": _validation(training, extra),
        "calibrations": {
            name: summary(made) for name, made in saved_calibrations(config, folder).items()
        },
        "extra": extra,
        "files": {name: dict(entry) for name, entry in config["files"].items()},
    }


def _verified(folder: Path, files: Mapping[str, Any]) -> dict[str, Tensor]:
    """Check the sizes and hashes of all files, and return the weights."""
    from scoresde.training.files import read

    tensors = {name: read(folder, {"files": files}, name) for name in files}
    for name, value in tensors.get("model.safetensors", {}).items():
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"{folder}: expected finite weights, got NaN or infinity in {name}; the run that "
                "wrote it diverged: take an earlier checkpoint"
            )
    return tensors["model.safetensors"]


def _times(made: Any, fields: Mapping[str, Any] | None) -> dict[str, Any]:
    """The ends of the time and of the log-SNR of an SDE family."""
    if made is None or fields is None:
        return {"time": None, "log_snr": None}
    sde = made(**fields)
    return {
        "time": {"t_min": sde.t_min, "t_end": sde.t_end, "T": sde.T},
        "log_snr": {"t_end": sde.log_snr(sde.t_end), "T": sde.log_snr(sde.T)},
    }


def _average(training: Mapping[str, Any]) -> str | None:
    if not training:
        return None
    updates = training.get("ema_updates", 0)
    return f"exponential, {updates} updates" if training["run"].get("ema") else "none: raw weights"


def _validation(training: Mapping[str, Any], extra: Mapping[str, Any]) -> float | None:
    rows = training.get("validations")
    if rows:
        return float(rows[-1][1])
    return extra.get("validation")


def _text(found: Mapping[str, Any]) -> str:
    quantisation, shape = found["quantisation"], found["shape"]
    levels = "not discrete" if quantisation is None else "{levels} from {low:g} to {high:g}"
    rows: dict[str, Any] = {
        "checkpoint": found["folder"],
        "sde": f"{found['sde']}({_listed(found['sde_options'])})",
    }
    if found["time"] is not None:
        rows["times"] = "t_min {t_min:.4g}, t_end {t_end:.4g}, T {T:.4g}".format(**found["time"])
        rows["log-SNR"] = "{t_end:.3f} at t_end, {T:.3f} at T".format(**found["log_snr"])
    if found["data"] is not None:
        rows |= _data_rows(found["data"])
    rows |= {
        "schedule": f"{found['schedule']} (fingerprint)",
        "network": f"{found['network']}({_listed(found['network_options'])})",
        "size": f"{found['parameters']:,} parameters of {found['dtype']}",
        "predicts": f"{found['predicts']}, told {found['told']} as its time",
        "sample": "of any size" if shape is None else "x".join(map(str, shape)),
        "classes": _classes(found),
        "levels": levels if quantisation is None else levels.format(**quantisation),
        "step": found["step"] if found["step"] is not None else "unknown",
        "average": found["average"] or "not noted",
        "resumable": "yes" if found["resumable"] else "no: the model alone",
    }
    if found["validation"] is not None:
        rows["validation"] = f"{found['validation']:.4f}"
    gains = [f"{name} ({c['gain']:.2g} times)" for name, c in found["calibrations"].items()]
    rows["calibrated"] = f"for {', '.join(gains)} steps; less error" if gains else "no"
    lines = [f"{name:12}{value}" for name, value in rows.items()]
    lines += [
        f"{'intact' if i == 0 else '':12}{name}, {entry['bytes']:,} bytes, "
        f"sha256 {entry['sha256'][:16]}..."
        for i, (name, entry) in enumerate(found["files"].items())
    ]
    lines.append(f"{'written by':12}scoresde {found['version']}")
    return "\n".join(lines)


def _listed(options: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k}={_short(v)}" for k, v in (options or {}).items())


def _short(value: object) -> object:
    """A value of the config; the betas of a chain by their number and ends."""
    if isinstance(value, list) and len(value) > 12:
        return f"[{len(value)} values from {value[0]:.3g} to {value[-1]:.3g}]"
    return value


def _classes(found: Mapping[str, Any]) -> str:
    """The number and names of the classes, with the number of samples of each if it is known."""
    total, names, counts = (found[key] for key in ("classes", "class_names", "class_counts"))
    if not total:
        return "none"
    shown = [names[k] if names else str(k) for k in range(min(10, len(names or counts)))]
    if counts:
        shown = [f"{name} ({counts[k]:,})" for k, name in enumerate(shown)]
    more = " ..." if len(names or counts) > 10 else ""
    return f"{total}{': ' if shown else ''}{', '.join(shown)}{more}"


def _data_rows(data: Mapping[str, Any]) -> dict[str, str]:
    """The training data, and the units of the samples."""
    rows = {
        "data": f"{data['name'] or 'unnamed'}, {data['count']:,} samples; in model units mean "
        f"{data['mean']:.3g}, standard deviation {data['std']:.3g}, "
        f"from {data['low']:.3g} to {data['high']:.3g}"
    }
    scaling = data["scaling"]
    if scaling is not None and "parts" in scaling:
        from scoresde._check import listed
        from scoresde.columns import TableScaling

        rows["columns"] = listed(list(map(str, TableScaling.from_dict(scaling).parts)), 12)
    elif scaling is not None and scaling["columns"]:
        triples = zip(scaling["columns"], scaling["mean"], scaling["std"], strict=True)
        shown = [f"{name} ({mean:.4g} +- {std:.3g})" for name, mean, std in triples]
        rows["columns"] = ", ".join(shown[:12]) + (" ..." if len(shown) > 12 else "")
    elif scaling is not None:
        plain = isinstance(scaling["mean"], float)
        rows["scaling"] = (
            f"x = (value - {scaling['mean']:.4g}) / {scaling['std']:.4g}"
            if plain
            else "of each entry by its own mean and standard deviation"
        )
    return rows
