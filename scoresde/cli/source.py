"""The data of a command: a name or a path, and the options of its loader."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoresde.cli.common import key_values, say
from scoresde.cli.flags import build
from scoresde.cli.messages import FLAGS, in_flags, options_of
from scoresde.options import Pictures, Table

if TYPE_CHECKING:
    from scoresde.data import Data, LazyData
    from scoresde.summary import DataSummary

__all__ = ["load_source", "parts"]

TEXTS = (
    "channels",
    "coding",
    "missing",
    "split",
    "mode",
    "layout",
    "key",
    "label",
    "labels",
    "delimiter",
    "decimal",
)
NAMES = ("columns", "drop", "categories", "condition", "class_names")
TABLES = (".csv", ".tsv", ".parquet", ".pq")
WHOLE = ("source", "folder", "path", "images", "x", "data")
"""The arguments of the loaders that are the data."""


def load_source(
    source: str, options: Sequence[str] | None, like: DataSummary | None = None
) -> Data | LazyData:
    """`load_data` with options as KEY=VALUE pairs.

    Args:
        source: the data set.
        options: the pairs.
        like: the summary of the data whose columns, categories and scaling a table has.

    Raises:
        FileNotFoundError, TypeError, ValueError: an option does not exist (the message names the
            nearest one), the source is the folder of a run, or `load_data` raises the error.
    """
    import inspect

    from scoresde._check import choice
    from scoresde.cli.opened import is_run
    from scoresde.data import load_data
    from scoresde.data.load import NAMED

    given: dict[str, Any] = key_values("data-option", options)
    groups = {"pictures": Pictures, "table": Table}
    every = inspect.signature(load_data).parameters
    own = [name for name in every if name not in ("source", "like", *groups)]
    known = own + [field.name for group in groups.values() for field in fields(group)]
    for name, value in given.items():
        choice("--data-option", name, known)
        if name in TEXTS and not (name == "labels" and isinstance(value, bool)):
            given[name] = str(value)
        elif name in NAMES and not isinstance(value, dict):
            given[name] = _names(value)
        elif name == "bounds":
            given[name] = _bounds(value)
        elif name == "size" and isinstance(value, str | list):
            given[name] = _sides(value)
    if source not in NAMED and is_run(Path(source).expanduser()):
        run, config = shlex.quote(source), shlex.quote(str(Path(source) / "config.json"))
        raise ValueError(
            f"DATA: expected a data set, got {source!r}, the folder of a trained model; to go on "
            f"with its training: scoresde train --config {config} --resume; "
            f"to start from its weights: scoresde train DATA --init-from {run}; to train on "
            f"samples of it, draw them first: scoresde sample {run} --out samples"
        )
    flags = options_of("data-option", known, WHOLE)
    with in_flags(flags, plain=True):
        made: dict[str, Any] = {name: build(group, given) for name, group in groups.items()}
        if Path(source).suffix.lower() in TABLES:
            made["like"] = like
        found = load_data(source, **{n: v for n, v in given.items() if n in own}, **made)
    # Rows are read later, and their errors are translated in the same way.
    FLAGS.set({**flags, **FLAGS.get({})})
    return found


def _names(value: Any) -> list[str]:
    """Read names with commas between them, or a list; a column may have the name 0."""
    names = [v for v in value.split(",") if v.strip()] if isinstance(value, str) else value
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _bounds(value: Any) -> Any:  # of json, which the loader checks
    """Read bounds as in age:0:120,income:0:, where an end that is left out is no bound."""
    if not isinstance(value, str):
        return value
    found: dict[str, list[float | None]] = {}
    for part in value.split(","):
        name, *ends = part.rsplit(":", 2)
        try:
            low, high = (float(end) if end.strip() else None for end in ends)
        except ValueError:
            raise ValueError(
                "--data-option bounds: expected NAME:LOW:HIGH, several with commas, where LOW or "
                f"HIGH may be left out, as in age:0:120,income:0:, got {part!r}"
            ) from None
        found[name] = [low, high]
    return found


def _sides(value: str | list[Any]) -> tuple[int, ...]:
    try:
        return tuple(int(side) for side in (value.split("x") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise ValueError(
            f"--data-option size: expected a side, or two as in 32x48, got {value!r}"
        ) from None


def parts(
    whole: Data | LazyData, holdout: float
) -> tuple[Data | LazyData, Data | LazyData | None]:
    """Split the data for training and validation by a hash of each sample, for all seeds alike.

    Args:
        whole: the data set.
        holdout: the fraction of the second part. With fewer than 1 / holdout samples none is held
            out, with a warning.

    Raises:
        ValueError: `holdout` is not in [0, 1).
    """
    from scoresde._check import fail
    from scoresde.data import hold_out

    if not 0 <= holdout < 1:
        raise fail("holdout", "a share from 0 up to 1", holdout, "pass e.g. 0.05, or 0 for none")
    if holdout and holdout * len(whole) < 1:
        say(
            f"warning: none of {len(whole)} samples is held out for validation, which needs "
            f"{math.ceil(1 / holdout)} at --holdout {holdout:g}"
        )
    return hold_out(whole, holdout)
