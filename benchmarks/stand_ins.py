"""Importing a library whose other parts need packages that are not installed.

k-diffusion and deepinv import torchvision, readers of data sets and plots when they are imported.
Their denoisers and samplers do not use these, so stand-ins take their place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

__all__ = ["standing_in"]


class _Anything(ModuleType):
    """A module that has every name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class _StandIn(MetaPathFinder, Loader):
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in self.packages else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def standing_in(*packages: str) -> Iterator[None]:
    """Within it, those of the packages that are missing can be imported, and have every name."""
    missing = tuple(name for name in packages if find_spec(name) is None)
    finder = _StandIn(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for module in [name for name in sys.modules if name.partition(".")[0] in missing]:
            del sys.modules[module]
