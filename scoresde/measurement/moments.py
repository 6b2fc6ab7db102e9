"""The covariance of the measured numbers given x_t, written out, where they are few."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.measurement.denoised import Denoised
from scoresde.measurement.measurement import Measurement

__all__ = ["noise_matrix", "seen_jacobian"]


def seen_jacobian(measurement: Measurement, found: Denoised, y: Tensor) -> tuple[Tensor, Tensor]:
    """J^T A^T, and the symmetric positive part of A J A^T, by one product for each number of y.

    J of an exact score is alpha / sigma^2 times a covariance; that of a network need be neither
    symmetric nor positive.

    Args:
        measurement: a linear measurement.
        found: x_0hat; these are its last products.
        y: (B, *M), with m numbers each.

    Returns:
        (m, B, *D) in the precision of the state, and (B, m, m) in float64.
    """
    count = y[0].numel()
    units = torch.eye(count, dtype=y.dtype, device=y.device).reshape(count, 1, *y.shape[1:])
    pulled, rows = [], []
    for number, unit in enumerate(units):
        image = measurement.adjoint(unit.expand_as(y), y)
        pulled.append(found.pull(image, last=number == count - 1))
        rows.append(measurement.forward(pulled[-1], y).flatten(1).double())
    return torch.stack(pulled), _positive(torch.stack(rows, 1))


def noise_matrix(measurement: Measurement, y: Tensor) -> Tensor:
    """Sigma with the identity where y was not observed, (B, m, m) in float64."""
    count = y[0].numel()
    eye = torch.eye(count, dtype=y.dtype, device=y.device).reshape(count, 1, *y.shape[1:])
    columns = [measurement.apply_noise(unit.expand_as(y), y).flatten(1) for unit in eye]
    return torch.stack(columns, 2).double()


def _positive(matrix: Tensor) -> Tensor:
    """The symmetric positive semi-definite part of a batch of matrices, (B, m, m)."""
    matrix = (matrix + matrix.transpose(1, 2)) / 2
    if matrix.shape[1] == 1:
        return matrix.clamp_min(0.0)
    values, vectors = torch.linalg.eigh(matrix)
    positive: Tensor = (vectors * values.clamp_min(0.0)[:, None]) @ vectors.transpose(1, 2)
    return positive
