"""The schedule of a run: its nodes, its grid, and the grids of restart sampling and of churn."""

from scoresde.node import Node
from scoresde.schedule.grid import Grid, churn, restart

__all__ = ["Grid", "Node", "churn", "restart"]
