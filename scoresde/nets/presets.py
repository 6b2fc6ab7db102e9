"""Presets of the sizes of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoresde._check import choice

__all__ = ["sized"]


def sized(
    preset: str,
    presets: Mapping[str, Mapping[str, Any]],  # Any: values of JSON
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The sizes that are given, and those of the preset where one is None.

    Raises:
        ValueError: there is no such preset; the message lists them.

    Example:
        >>> sized("small", {"small": {"width": 8, "depth": 2}}, {"width": None, "depth": 3})
        {'width': 8, 'depth': 3}
    """
    own = presets[choice("preset", preset, presets)]
    return {name: own[name] if value is None else value for name, value in given.items()}
