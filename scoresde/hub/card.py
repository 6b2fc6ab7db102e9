"""Model cards: what is known about a saved model, as the README.md of its repository."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde._check import fail, instance, listed
from scoresde.metrics import Comparison
from scoresde.summary import last_part
from scoresde.training.checkpoint import load_weights, saved_calibrations
from scoresde.training.description import families, networks
from scoresde.training.files import known_shape, open_folder

__all__ = ["model_card"]

_SETTINGS = """
objective weighting time lr schedule weight_decay clip ema_width ema precision cond_dropout augment
"""


def model_card(
    run: str | os.PathLike[str],
    *,
    repo_id: str | None = None,
    metrics: Comparison | None = None,
    license: str | None = None,
) -> str:
    """The model card of a run or a checkpoint, in Markdown with the metadata of the hub.

    It is written from the folder alone: schedule, network, data, objective, validation loss,
    calibrations with their errors on held-back trajectories, and how the model is used. What the
    folder does not hold is said to be unknown, and no quality is claimed without `metrics`.

    Args:
        run: the folder of a run, whose `checkpoint` is read, or of a checkpoint.
        repo_id: the repository, for the example of use, e.g. "user/model".
        metrics: what `compare_sets` found for samples of this model; each metric stands beside
            its floor, the same metric between halves of real data.
        license: its identifier on the hub, e.g. "mit"; by default none is named.

    Raises:
        FileNotFoundError, ValueError: see `scoresde.load`; the licence is no identifier.
        TypeError: `metrics` is no `Comparison`.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE, Preconditioned, save
        >>> from scoresde.nets import MLP
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = save(Preconditioned(MLP(2, width=8), VPSDE()), f"{folder}/model")
        ...     card = model_card(place, repo_id="user/model")
        >>> "VPSDE(beta_min=0.1, beta_max=20.0)" in card, "Its quality was not measured" in card
        (True, True)
    """
    weights, config = load_weights(run)
    return card_of(config, open_folder(run)[0], weights, repo_id, metrics, license)


def card_of(
    config: Mapping[str, Any],
    folder: Path,
    weights: Mapping[str, Tensor],
    repo_id: str | None,
    metrics: Comparison | None,
    license: str | None,
) -> str:
    """The card of a config that was read from a folder, with its weights; see `model_card`."""
    if metrics is not None:
        instance("metrics", metrics, Comparison, "pass what compare_sets returned")
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        expected = "an identifier of the hub, of lower-case letters, digits, '.' and '-'"
        raise fail("license", expected, license, 'pass e.g. "mit" or "cc-by-4.0"')
    parts = [
        _metadata(license),
        f"# {_title(config)}",
        _model(config, sum(value.numel() for value in weights.values())),
        _use(config, repo_id),
        _data(config),
        _training(config),
        _quality(metrics),
        _calibrations(config, folder),
    ]
    return "\n\n".join(parts) + "\n"


def data_name(config: Mapping[str, Any]) -> str:
    """The name of the data of a checkpoint; of a path its last part, which tells no folder."""
    return last_part(str((config.get("data") or {}).get("name") or ""))


def _plain(text: object) -> str:
    """A name as one line of text in Markdown, in which it formats nothing."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", line)


def _metadata(license: str | None) -> str:
    lines = ["---", "library_name: scoresde"]
    lines += [f"license: {license}"] if license else []
    lines += ["tags:", "- scoresde", "- score-based-generative-model", "- diffusion", "---"]
    return "\n".join(lines)


def _title(config: Mapping[str, Any]) -> str:
    name = data_name(config)
    return f"Score model of {_plain(name)}" if name else "Score model"


def _call(entry: Mapping[str, Any], options: str) -> str:
    """A class of the config with its arguments, as code; long ones by their length."""
    shown = [
        f"{k}=<{len(v)} values>" if isinstance(v, list | dict) and len(v) > 12 else f"{k}={v!r}"
        for k, v in (entry[options] or {}).items()
    ]
    return f"`{_code(entry['class'])}({_code(', '.join(shown))})`"


def _model(config: Mapping[str, Any], count: int) -> str:
    settings = config["model"]
    named = isinstance(settings["time"], str)
    told = f"`{settings['time']}`" if named else "the step of a chain"
    shape = _shape(config)
    rows = {
        "SDE": _call(config["sde"], "fields"),
        "network": f"{_call(config['net'], 'config')}, {count:,} numbers in its weights",
        "predicts": f"`{settings['predicts']}`, told {told} as its time",
        "one sample": " x ".join(map(str, shape)) if shape else "of a shape that is not noted",
        "written by": f"scoresde {config.get('library', 'of an unknown version')}",
    }
    return _table(("model", ""), list(rows.items()))


def _shape(config: Mapping[str, Any]) -> Sequence[int]:
    noted = (config.get("data") or {}).get("shape")
    found = known_shape(config["net"]["config"] or {}, config.get("extra") or {}, {})
    return tuple(noted or found or ())


def _conditions(config: Mapping[str, Any]) -> list[str]:
    options = config["net"]["config"] or {}
    return [*(["label"] if options.get("classes") else []), *(options.get("conditions") or {})]


def _use(config: Mapping[str, Any], repo_id: str | None) -> str:
    names = [
        *(["net"] if config["net"]["class"] not in networks() else []),
        *(["sde"] if config["sde"]["class"] not in families() else []),
    ]
    own = "".join(f", {name}={name}" for name in names)
    imports = (
        ["from scoresde import ReverseSampler", "from scoresde.hub import from_hub"]
        if repo_id
        else ["from scoresde import ReverseSampler, load"]
    )
    call = f'from_hub("{repo_id}"{own})' if repo_id else f'load("FOLDER"{own})'
    shape = "".join(f", {n}" for n in _shape(config)) or ", ..."
    cond = ", cond=cond" if _conditions(config) else ""
    lines = ["## Use", "", "```python", *imports]
    lines += [
        "",
        f"model = {call}",
        'sampler = ReverseSampler(model.sde, model, "auto", steps=20)',
    ]
    if _conditions(config) == ["label"]:  # the classes in turns; other conditions are the reader's
        lines[3:3] = ["import torch"]
        classes = config["net"]["config"]["classes"]
        lines.append(f'cond = {{"label": torch.arange(16) % {classes}}}')
    lines += [f"samples = sampler.sample((16{shape}), seed=0{cond})", "```", ""]
    if cond:
        known = ", ".join(f"`{_code(name)}`" for name in _conditions(config))
        lines.append(f"`cond` has the conditions, name -> one for each sample: {known}.")
    if names:
        given = " and ".join(f"`{name}`" for name in names)
        lines.append(f"The classes are not those of scoresde: you pass {given}, made as it was.")
    if config["net"]["class"] == "DiffusersUNet":
        lines.append("The network is built by diffusers: `pip install diffusers`.")
    summary = "; `model.data` has the summary of the data" if config.get("data") else ""
    lines.append(f"Samples are in model units{summary}.")
    return "\n".join(lines)


def _code(name: object) -> str:
    """Text between backticks, in a line or in a cell of a table."""
    return " ".join(str(name).split()).replace("`", "'").replace("|", "\\|")


def _data(config: Mapping[str, Any]) -> str:
    data, levels = config.get("data"), config.get("quantisation")
    known = {}
    if levels:
        known["levels"] = f"{levels['levels']} from {levels['low']:g} to {levels['high']:g}"
    if not data:
        unknown = "The folder does not say on which data the model was trained."
        table = f"\n\n{_table(('data', ''), list(known.items()))}" if known else ""
        return f"## Data\n\n{unknown}{table}"
    rows = known | {
        "name": _plain(data_name(config) or "unnamed"),
        "samples": f"{data['count']:,}",
        "in model units": f"mean {data['mean']:.3g}, standard deviation {data['std']:.3g}, "
        f"from {data['low']:.3g} to {data['high']:.3g}",
    }
    if data["scaling"]:
        rows["units"] = "scaled from those of the data; `model.data.scaling` takes samples back"
    if data["classes"]:
        names = data["class_names"] or [str(k) for k in range(data["classes"])]
        counts = data["class_counts"] or [None] * len(names)
        shown = [
            _plain(name) + (f" ({n:,})" if n is not None else "")
            for name, n in zip(names, counts, strict=True)
        ]
        rows["classes"] = f"{data['classes']}: {listed(shown, 20)}"
    return "## Data\n\n" + _table(("data", ""), list(rows.items()))


def _training(config: Mapping[str, Any]) -> str:
    training, extra = config.get("training") or {}, config.get("extra") or {}
    run, choices = training.get("run") or {}, training.get("choices") or {}
    step, rows = training.get("step", extra.get("step")), []
    if step is not None:
        rows.append(("step", f"{step:,}"))
    if run:
        total = run["batch_size"] * run["accumulate"] * run["processes"]
        rows += [("samples in a step", f"{total:,}"), ("seed", str(run["seed"]))]
    rows += [
        (f"`{name}`", f"`{_code(choices[name])}`")
        for name in _SETTINGS.split()
        if choices.get(name) is not None
    ]
    validations = training.get("validations") or []
    loss = validations[-1][1] if validations else extra.get("validation")
    if loss is not None:
        rows.append(("validation loss", f"{loss:.4f}, at times drawn as in training"))
    if not rows:
        return "## Training\n\nThe folder does not say how the model was trained."
    return "## Training\n\n" + _table(("training", ""), rows)


def _quality(metrics: Comparison | None) -> str:
    if metrics is None:
        remedy = "`scoresde.metrics.compare_sets` measures it, with the floor of each metric"
        return f"## Quality\n\nIts quality was not measured; {remedy}."
    about = (
        f"Of {metrics.count:,} samples. The column of real halves is the floor of each metric, "
        "the same metric between two halves of real data."
    )
    return f"## Quality\n\n{about}\n\n{metrics}".rstrip()


def _calibrations(config: Mapping[str, Any], folder: Path) -> str:
    found = saved_calibrations(config, folder)
    if not found:
        return "## Calibration\n\nIt is calibrated for no number of steps."
    rows = [
        (name, f"{c.error_before:.3g}", f"{c.error:.3g}", f"{c.gain:.2g}")
        for name, c in found.items()
    ]
    about = (
        'Solver and times of few steps, found for this model, which `solver="auto"` uses. Errors '
        "are distances to the exact endpoints over sqrt(D) on trajectories that were held back; "
        'those with an eta, of `solver="auto_sde"`, are sliced Wasserstein distances from a '
        "fine run."
    )
    head = ("steps", "error before", "error", "times less")
    return f"## Calibration\n\n{about}\n\n{_table(head, rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
