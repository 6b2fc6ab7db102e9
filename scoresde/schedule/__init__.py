"""The schedule of a run: its grid and nodes, and the grids that add noise."""

from scoresde.node import Node
from scoresde.schedule.grid import Grid, Schedule
from scoresde.schedule.restart import churn, resampling, restart

__all__ = ["Grid", "Node", "Schedule", "churn", "resampling", "restart"]
