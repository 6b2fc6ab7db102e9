"""The errors of solvers and grids, estimated from exact trajectories without network calls.

Along an exact trajectory the states and the predictions are known as functions of lambda. The run
of a solver on some nodes differs from it by an error e_i at node i. To first order in e the
prediction at a node changes by J e_i, so the recurrence of the solver gives e_(i+1) from the exact
states, the exact predictions and J. The Jacobian J of the network is replaced by that of isotropic
Gaussian data, whose standard deviation is taken as half that of the data, since data on a manifold
are narrower than their spread in most directions. The estimate ranks solvers and grids; it does
not replace a run.
"""

from __future__ import annotations

import numpy as np

from scoresde.calibration.trajectories import Array, Path
from scoresde.sde import AffineSDE
from scoresde.solvers.exponential.adams import Adams
from scoresde.solvers.exponential.coefficients import Segment, table

__all__ = ["ErrorEstimate"]

_NARROW = 0.5


class ErrorEstimate:
    """Estimates of a solver's errors along a path.

    Args:
        sde: the schedule.
        path: exact trajectories on a fine grid.
        scale: the standard deviation of the data.
    """

    def __init__(self, sde: AffineSDE, path: Path, scale: float = 1.0) -> None:
        self.sde, self.scale = sde, _NARROW * scale
        self.log_snr = path.log_snr
        norm = np.array([np.hypot(n.alpha, n.sigma) for n in path.nodes])
        states = path.x.flatten(2).cpu().double().numpy()
        self.x = states / norm[:, None, None]
        v = path.v.flatten(2).cpu().double().numpy()
        self.v = np.concatenate([v, v[-1:]])  # the last node has no prediction

    def loss(self, solver: Adams, log_snr: Array) -> float:
        """The mean logarithm of the estimated errors over sqrt(D)."""
        nodes = tuple(self.sde.at(self.sde.time_of(float(at))) for at in log_snr)
        segment = Segment(nodes, self.sde.time_of, 0.0)
        alpha, sigma = segment.alpha, segment.sigma
        x = self._at(segment.log_snr, self.x) * np.hypot(alpha, sigma)[:, None, None]
        v = self._at(segment.log_snr[:-1], self.v)
        told = _coordinate(solver.parametrisation, x[:-1], v, alpha[:-1], sigma[:-1])
        change = self._jacobian(solver.parametrisation, alpha, sigma)
        error, feedback = np.zeros_like(x[0]), []
        for i, row in enumerate(table(segment, solver)):
            feedback.append(told[i] + change[i] * error)
            state = row.state_coef * (x[i] + error)
            for j, weight in enumerate(row.weights):
                state = state + weight * feedback[i - j]
            error = state - x[i + 1]
        size = np.linalg.norm(error, axis=1) / np.sqrt(error.shape[1])
        value = float(np.log(np.maximum(size, 1e-300)).mean())
        return value if np.isfinite(value) else np.inf

    def _at(self, log_snr: Array, values: Array) -> Array:
        """Values at other log-SNRs, by cubic interpolation through four nodes of the path."""
        lam = self.log_snr
        if len(lam) < 4:
            first = np.abs(lam[None, :] - log_snr[:, None]).argmin(1)
            out: Array = values[first]
            return out
        first = np.clip(np.searchsorted(lam, log_snr) - 2, 0, len(lam) - 4)
        near = first[:, None] + np.arange(4)
        grid = lam[near]
        weights = np.ones_like(grid)
        for j in range(4):
            for other in set(range(4)) - {j}:
                gap = grid[:, j] - grid[:, other]
                weights[:, j] *= (log_snr - grid[:, other]) / gap
        out = np.einsum("nk,nkpd->npd", weights, values[near])
        return out

    def _jacobian(self, kind: str, alpha: Array, sigma: Array) -> Array:
        """The derivative of a coordinate of the prediction of Gaussian data, (N,)."""
        variance = (alpha * self.scale) ** 2 + sigma**2
        x0, eps = alpha * self.scale**2 / variance, sigma / variance
        told = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}
        return told[kind]


def _coordinate(kind: str, x: Array, v: Array, alpha: Array, sigma: Array) -> Array:
    """A coordinate of predictions as v, (N, P, D)."""
    a, s = alpha[:, None, None], sigma[:, None, None]
    norm = a**2 + s**2
    x0, eps = (a * x - s * v) / norm, (s * x + a * v) / norm
    told: dict[str, Array] = {"x0": x0, "eps": eps, "v": v, "flow": eps - x0}
    return told[kind]
