"""Helpers of many tests: draws, means with errors, the files of a folder, the public names."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor

import scoresde


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(values: Tensor, truth: float) -> bool:
    """Whether the mean of independent values is within four of its standard errors."""
    return abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(len(values))


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def code_of(page: Path) -> list[CodeType]:
    """The Python blocks of a page, compiled so that an error names the page and the line in it."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL)
    placed = ("\n" * text[: block.start(1)].count("\n") + block[1] for block in found)
    return [compile(code, str(page), "exec", dont_inherit=True) for code in placed]


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
