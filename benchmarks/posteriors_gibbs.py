"""Exact posteriors of sparse increments by Gibbs sampling, for `posteriors_sparse.py`.

y = A z + std n with independent entries of z. A chain of each of N measurements runs beside the
others; A is the same for all.

Laplace(1) entries are normal with variances tau, which are exponential with mean 2 (Park and
Casella 2008, "The Bayesian lasso"). A sweep draws z given tau, all entries at once, and tau given
z. For f = n^2 of a normal n and T = |z| + f/2 + sqrt(f^2/4 + f |z|), tau is T with the probability
T / (T + |z|) and otherwise z^2 / T: the inverse Gaussian of 1/tau (Michael, Schucany and Haas
1976) in a form that holds at z = 0 as well.

Bernoulli-Laplace entries are 0 with the probability 1 - share and Laplace(1) otherwise. Here a
sweep has three parts: the entries that are not 0 are drawn at once, as before; then each entry is
drawn given all others, where the odds of 0 and the two halves of the Laplace density are in closed
form; then neighbours are exchanged, by Metropolis, since a jump of a random walk could otherwise
move only by two jumps at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

__all__ = ["Array", "chains"]

Array = NDArray[np.float64]

_FLAT = 1e-8
"""The least curvature of the likelihood of an entry; that of the prior is about 1."""

_REACH = 3
"""The largest distance over which entries are exchanged."""


def chains(
    A: Array, y: Array, std: float, share: float, sweeps: int, warm: int, seed: int
) -> Iterator[Array]:
    """The states after each sweep, (N, D); `warm` sweeps come before the first.

    Args:
        A: (M, D).
        y: (N, M).
        std: the standard deviation of the noise, more than 0.
        share: the probability that an entry is not 0; 1 for Laplace entries.
        sweeps: the number of states.
        warm: the number of sweeps before them, which start at 0.
        seed: the seed.
    """
    chain = _Chain(A, y, std, share, seed)
    for number in range(warm + sweeps):
        chain.sweep()
        if number >= warm:
            yield chain.z.copy()


class _Chain:
    """N chains, with q = A^T (y - A z) where entries are drawn one by one."""

    def __init__(self, A: Array, y: Array, std: float, share: float, seed: int) -> None:
        self.A, self.y, self.std, self.share = A, y, std, share
        self.draws = np.random.default_rng(seed)
        self.gram = A.T @ A
        self.z = np.zeros((len(y), A.shape[1]))
        if share == 1.0:
            self.z = self.draws.laplace(size=self.z.shape)

    def sweep(self) -> None:
        self._block()
        if self.share < 1.0:
            q = (self.y - self.z @ self.A.T) @ self.A
            for place in range(self.z.shape[1]):
                self._entry(place, q)
            reach = int(self.draws.integers(1, _REACH + 1))
            for place in range(self.z.shape[1] - reach):
                self._exchange(place, place + reach, q)

    def _block(self) -> None:
        """The entries that are not 0, given their variances given the present entries.

        For u ~ N(0, diag(tau)) and n the noise, u + diag(tau) A^T S^-1 (y - A u - std n), with
        S = A diag(tau) A^T + std^2, has the law of z given y.
        """
        size = np.abs(self.z)
        f = self.draws.standard_normal(size.shape) ** 2
        large = size + f / 2 + np.sqrt(f * f / 4 + f * size)
        first = self.draws.random(size.shape) * (large + size) < large
        tau = np.where(first, large, size * size / np.maximum(large, 1e-300))
        if self.share < 1.0:
            tau = np.where(self.z == 0.0, 0.0, tau)
        u = np.sqrt(tau) * self.draws.standard_normal(tau.shape)
        noise = self.std * self.draws.standard_normal(self.y.shape)
        S = (self.A * tau[:, None]) @ self.A.T + self.std**2 * np.eye(len(self.A))
        w = np.linalg.solve(S, (self.y - u @ self.A.T - noise)[..., None])[..., 0]
        self.z = u + tau * (w @ self.A)

    def _entry(self, i: int, q: Array) -> None:
        """Entry i given the others."""
        h = max(self.gram[i, i] / self.std**2, _FLAT)
        c = 1.0 / math.sqrt(h)
        m = (q[:, i] + self.gram[i, i] * self.z[:, i]) / (self.std**2 * h)
        logs = np.stack([log_ndtr(sign * m / c - c) - sign * m for sign in (1.0, -1.0)])
        slab = np.logaddexp(*logs) + 0.5 * c * c + math.log(0.5 * c * math.sqrt(2.0 * math.pi))
        odds = math.log(self.share / (1.0 - self.share)) + slab + 0.5 * h * m * m
        u = self.draws.random((3, len(m)))
        active = np.log(u[0]) - np.log1p(-u[0]) < odds
        sign = np.where(np.log(u[1]) - np.log1p(-u[1]) < logs[0] - logs[1], 1.0, -1.0)
        # the size of an entry of this sign is normal about sign m - c^2, and positive
        centre = sign * m - c * c
        below = ndtri_exp(np.log(u[2]) + log_ndtr(centre / c))
        new = np.where(active, sign * np.maximum(centre - c * below, 0.0), 0.0)
        q -= self.gram[i] * (new - self.z[:, i])[:, None]
        self.z[:, i] = new

    def _exchange(self, i: int, j: int, q: Array) -> None:
        """Entries i and j, exchanged if Metropolis accepts."""
        gap = self.z[:, j] - self.z[:, i]
        along = self.gram[i] - self.gram[j]
        change = gap * (q[:, i] - q[:, j]) - 0.5 * gap**2 * (along[i] - along[j])
        u = np.log(self.draws.random(len(gap)))
        gap = np.where(u * self.std**2 < change, gap, 0.0)
        q -= along * gap[:, None]
        self.z[:, i] += gap
        self.z[:, j] -= gap
