"""The network evaluations of a calibration, planned so that they stay within a budget.

The unit is one network evaluation of one state; one that is differentiated counts as three, or as
four where the network is evaluated again in place of keeping its activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scoresde._check import fail, positive_int

__all__ = [
    "CHECKED",
    "FEW",
    "GRAPH",
    "RANKED",
    "REPEATS",
    "TRIED",
    "Effort",
    "affordable",
    "efforts",
    "fine_steps",
    "pilots",
    "reference_cost",
    "rounds",
    "split",
]

FEW = 8
"""The number of trajectories of the ranking, and of the path that is kept."""

CHECKED = 4
"""The number of trajectories on which the gradient is checked."""

RANKED = 5
"""The number of candidates that are run, beside the start."""

GRAPH = 2**20
"""Values of states in a graph above which the network's activations are not kept."""

REPEATS = 8
"""The number of trajectories of each condition with noise; batches hold whole conditions."""

TRIED = 11
"""The number of candidates that are run with noise: each solver on each grid, and the start."""

_NOISY_ROUNDS = 60
_LEADERS = 2  # the number of candidates whose nodes are optimised
_FEWEST = 8  # the least number of iterations for which a second leader is worth its cost


@dataclass(frozen=True)
class Effort:
    """How much is done for one number of steps.

    Attributes:
        leaders: the number of candidates whose nodes are optimised.
        short: the iterations for each of them.
        iterations: the iterations of the joint optimisation.
        batch: the trajectories of an iteration.
        ranked: the trajectories on which candidates are ranked with noise; 0 without noise.
    """

    leaders: int
    short: int
    iterations: int
    batch: int
    ranked: int = 0

    def cost(self, steps: int, train: int, held: int, dim: int) -> int:
        """The network evaluations, at most, beside those of the reference."""
        rate, checking = (4 if n * dim * steps > GRAPH else 3 for n in (self.batch, CHECKED))
        gradients = rate * self.batch * (self.leaders * self.short + self.iterations)
        ranking = FEW * (RANKED + 2) + (4 + checking) * CHECKED
        if self.ranked:
            ranking = self.ranked * TRIED
        tested = (2 * self.leaders + 1) * train + 2 * train + 3 * held
        return steps * (gradients + ranking + tested)


def pilots(dim: int, noisy: bool = False) -> int:
    """The number of trajectories by default: 24, and up to 96 for samples of few values.

    Two thirds of them are optimised on. The error of a trajectory of few values vanishes by
    chance more often, so it takes more of them to say something about a solver. With noise,
    distributions are compared in place of trajectories, which takes 768, or 3072.
    """
    if noisy:
        return 768 if dim >= 16 else 3072
    return 3 * min(32, max(8, 128 // dim))


def rounds(dim: int, steps: int, noisy: bool = False) -> int:
    """The iterations of the joint optimisation by default.

    For samples of few values they are in proportion to 1 / N, so that every number of steps costs
    alike: few steps gain most by more iterations, on two moons down to half of the error. With
    noise each iteration sees only a sample of the distribution, which takes more of them.
    """
    if noisy:
        return _NOISY_ROUNDS
    return 24 if dim >= 16 else min(96, max(24, 480 // steps))


def fine_steps(steps: int) -> int:
    """The steps of the reference by default, for so many steps of the solver."""
    return 2 * (2 * steps + 12)


def reference_cost(trajectories: int, fine: int, noisy: bool = False) -> int:
    """The evaluations of a fine run and of what tells its error, at most.

    That is a coarser run of a few trajectories, or with noise and conditions a second fine run of
    those that are held back.
    """
    if noisy:
        return (trajectories + trajectories // 2) * fine
    return trajectories * fine + min(FEW, trajectories) * (fine // 2)


def affordable(
    counts: Sequence[int], dim: int, budget: int | None, noisy: bool = False
) -> tuple[list[int], int]:
    """The numbers of steps that can be calibrated within a budget, and of trajectories for it.

    The first numbers of steps are taken, in rising order; rather than one less, fewer
    trajectories are taken, down to 24, or with noise to a quarter.
    """
    for n in counts:
        positive_int("steps", n, "the number of steps is a whole number above 0")
    most = pilots(dim, noisy)
    least = most // 4 if noisy else 24
    wholes = sorted({most, max(24, most // 2), least}, reverse=True)
    for many in range(len(counts), 0, -1):
        fine = fine_steps(counts[many - 1])
        for whole in wholes:
            try:
                efforts(counts[:many], None, split(whole, noisy), fine, budget, dim, noisy)
            except ValueError:
                continue
            return list(counts[:many]), whole
    return [], least


def split(trajectories: int, noisy: bool = False) -> tuple[int, int]:
    """The numbers of trajectories that are optimised on, and of those held back."""
    train = 2 * trajectories // 3
    if noisy:
        train -= train % REPEATS
    return train, trajectories - train


def efforts(
    counts: Sequence[int],
    iterations: int | None,
    trajectories: tuple[int, int],
    fine: int,
    budget: int | None,
    dim: int,
    noisy: bool = False,
) -> tuple[dict[int, Effort], int]:
    """The efforts for each number of steps, and the evaluations of all, within a budget.

    Args:
        counts: the numbers of steps.
        iterations: the iterations of the joint optimisation, by default those of `rounds`; fewer
            are made if the budget requires it, by the same share for each number of steps.
        trajectories: the numbers of those that are optimised on and of those held back.
        fine: the steps of the reference.
        budget: the most evaluations, or None.
        dim: the number of values of a state.
        noisy: whether the process has noise.

    Raises:
        ValueError: the budget is too small for any search.
    """
    train, held = trajectories
    batch = min(train, max(FEW, train // 4))
    if noisy:
        batch -= batch % REPEATS
    ranked = min(train, 256) if noisy else 0  # whole conditions, as `train` is
    asked = {n: rounds(dim, n, noisy) if iterations is None else iterations for n in counts}
    most = max(asked.values())
    plans = [(_LEADERS, r) for r in range(most, min(_FEWEST, most) - 1, -1)]
    plans += [(1, r) for r in range(min(_FEWEST, most) - 1, 3, -1)]
    total = 0
    for leaders, repeats in plans:
        made = {}
        for n, whole in asked.items():
            own = max(min(4, whole), whole * repeats // most)
            made[n] = Effort(leaders, max(3, own // 4), own, batch, ranked)
        total = reference_cost(train + held, fine, noisy)
        total += 0 if noisy else FEW * counts[-1]
        total += sum(effort.cost(n, train, held, dim) for n, effort in made.items())
        if budget is None or total <= budget:
            return made, total
    remedy = "raise it, or take fewer steps or trajectories"
    raise fail("budget", f"at least {total} network evaluations", budget, remedy)
