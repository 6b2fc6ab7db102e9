"""Solvers that choose their steps by an error estimate, for each sample on its own."""

from scoresde.solvers.adaptive.ode import AdaptiveODE
from scoresde.solvers.adaptive.sde import AdaptiveSDE

__all__ = ["AdaptiveODE", "AdaptiveSDE"]
