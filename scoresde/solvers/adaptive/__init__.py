"""Solvers that choose the steps of each sample by its own error estimate."""

from scoresde.solvers.adaptive.ode import AdaptiveODE
from scoresde.solvers.adaptive.sde import AdaptiveSDE

__all__ = ["AdaptiveODE", "AdaptiveSDE"]
