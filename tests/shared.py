"""What tests of many rooms share: draws, means with errors, and the content of a folder."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor


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
