"""Exponential Adams methods: the engine of the multistep solvers."""

from scoresde.solvers.exponential.adams import Adams
from scoresde.solvers.exponential.learned import LearnedAdams

__all__ = ["Adams", "LearnedAdams"]
