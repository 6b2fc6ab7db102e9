"""Importing a part of a library whose other parts need packages that are not installed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks.stand_ins import standing_in

__all__ = ["library"]


def library(name: str, *packages: str) -> Any:
    """A module of another library, with stand-ins for those of `packages` that are missing.

    The calling test module is skipped if the library itself is not installed.
    """
    top = name.partition(".")[0]
    if find_spec(top) is None:
        pytest.skip(f"pip install {top.replace('_', '-')}", allow_module_level=True)
    with standing_in(*packages):
        return importlib.import_module(name)
