"""No public callable takes more than 16 arguments: options that belong together are an object."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import scoresde

MOST = 16


def public() -> Iterator[tuple[str, Any]]:
    """Every public function, class and method of the package, the command line among them."""
    for info in pkgutil.walk_packages(scoresde.__path__, "scoresde."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if getattr(value, "__module__", None) != info.name or not callable(value):
                continue
            yield f"{info.name}.{name}", value
            for key, method in vars(value).items() if inspect.isclass(value) else ():
                own = inspect.isfunction(method) or isinstance(method, (classmethod, staticmethod))
                own = own and getattr(value, key).__module__ == info.name  # not of matplotlib
                if own and not key.startswith("_"):
                    yield f"{info.name}.{name}.{key}", getattr(value, key)


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
