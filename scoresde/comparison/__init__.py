"""Solvers compared on a model of one's own: error, network evaluations, seconds, a report."""

from scoresde.comparison.measure import Reference, compare
from scoresde.comparison.result import Comparison
from scoresde.comparison.rows import Floor, Row

__all__ = ["Comparison", "Floor", "Reference", "Row", "compare"]
