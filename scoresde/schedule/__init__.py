"""The schedule of a run: its grid and nodes, and the grids of restart sampling and of churn."""

from scoresde.node import Node
from scoresde.schedule.grid import Grid, Schedule
from scoresde.schedule.restart import churn, restart

__all__ = ["Grid", "Node", "Schedule", "churn", "restart"]
