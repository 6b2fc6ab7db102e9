"""How far samples are from held-out data: distances, class balance, memorisation, and a judge.

Every number here depends on how many samples it is computed from, and most are above zero even for
two halves of the same data. So none is worth quoting without the number of samples and the same
number for real data against real data; `Judge.compare` returns both.
"""

from scoresde.metrics.balance import Balance, class_balance
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.judge import Judge, Quality
from scoresde.metrics.neighbours import nearest_distance
from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "Balance",
    "Judge",
    "Quality",
    "class_balance",
    "frechet_distance",
    "nearest_distance",
    "sliced_wasserstein",
]
