"""Exponential Adams methods: the engine of the multistep solvers."""

from scoresde.solvers.exponential.adams import Adams

__all__ = ["Adams"]
