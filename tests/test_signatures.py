"""No public callable takes more than 16 arguments: options that belong together are an object."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from shared import public

MOST = 16


def arguments(value: Any) -> int:
    """The number of arguments, without `self`."""
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):  # a protocol or an alias has no signature
        return 0
    return len([name for name in parameters if name != "self"])


def test_no_public_signature_is_longer_than_a_reader_can_hold() -> None:
    pytest.importorskip("tyro")
    found = {name: arguments(value) for name, value in public()}
    assert len(found) > 300
    assert {name: n for name, n in found.items() if n > MOST} == {}


def test_the_count_sees_a_long_one() -> None:
    def long(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q): ...  # noqa: E741

    assert arguments(long) == 17
