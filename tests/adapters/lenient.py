"""Importing a part of a library whose other parts need packages that are not installed.

k-diffusion and deepinv import torchvision, dataset readers and plots when they are imported. Their
denoisers and samplers do not use these, so stand-ins take their place.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest

__all__ = ["library"]


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


def library(name: str, *packages: str) -> Any:
    """A module of another library, with stand-ins for those of `packages` that are missing.

    The calling test module is skipped if the library itself is not installed.
    """
    top = name.partition(".")[0]
    if find_spec(top) is None:
        pytest.skip(f"pip install {top.replace('_', '-')}", allow_module_level=True)
    missing = tuple(p for p in packages if find_spec(p) is None)
    finder = _StandIn(missing)
    sys.meta_path.append(finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        for module in [m for m in sys.modules if m.partition(".")[0] in missing]:
            del sys.modules[module]
