"""The Fokker-Planck equation: densities on cells without sampling, and its form for scores."""

from scoresde.fokker_planck.box import Density
from scoresde.fokker_planck.evolve import FokkerPlanck
from scoresde.fokker_planck.residual import score_fpe_residual

__all__ = ["Density", "FokkerPlanck", "score_fpe_residual"]
