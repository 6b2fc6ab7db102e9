"""The Gibbs samplers of sparse increments, against quadrature and closed forms."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.posteriors_gibbs import Array, chains

STD = 0.5
NEAR = np.linspace(-9.0, 9.0, 1801)


def drawn(A: Array, y: Array, std: float, share: float, seed: int = 0, many: int = 400) -> Array:
    """States of 100 chains with the same y, (N, D)."""
    kept = chains(A, np.tile(y, (100, 1)), std, share, many, 50, seed)
    return np.concatenate(list(kept))


def moments(A: Array, y: Array, std: float, share: float) -> tuple[Array, Array, Array]:
    """Mean, second moments and probabilities of 0 of two entries, by quadrature.

    Each entry has an atom at 0 of the weight 1 - share beside a density.
    """
    points = np.append(NEAR + 1e-9, 0.0)  # the last one is the atom
    weights = np.append(share * 0.5 * np.exp(-np.abs(NEAR)) * (NEAR[1] - NEAR[0]), 1.0 - share)
    z = np.array(list(itertools.product(points, repeat=2)))
    prior = np.outer(weights, weights).ravel()
    mass = prior * np.exp(-0.5 * ((y - z @ A.T) ** 2).sum(1) / std**2)
    mass /= mass.sum()
    return mass @ z, (mass[:, None] * z).T @ z, np.array([mass @ (z[:, i] == 0.0) for i in (0, 1)])


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize(
    ("rows", "y"),
    [([[1.0, 0.0], [1.0, 1.0]], [0.8, 1.9]), ([[1.0, 1.2]], [1.5]), ([[1.0, 0.0]], [-0.7])],
    ids=["walk", "one sum of two", "one is not seen"],
)
def test_two_entries_have_the_moments_of_quadrature(
    share: float, rows: list[list[float]], y: list[float]
) -> None:
    A, known = np.array(rows), np.array(y)
    mean, second, zero = moments(A, known, STD, share)
    z = drawn(A, known, STD, share)
    scale = np.sqrt(np.diag(second))
    assert np.abs((z.mean(0) - mean) / scale).max() < 0.03
    assert np.abs((z.T @ z / len(z) - second) / np.outer(scale, scale)).max() < 0.05
    assert np.abs((z == 0.0).mean(0) - zero).max() < 0.012


def test_the_odds_of_zero_are_those_of_the_closed_form() -> None:
    """One entry, seen itself: p(y) of the Laplace part is a difference of normal tails."""
    y, std, share = 1.1, 0.6, 0.2

    def tail(sign: float) -> float:
        inside = 0.5 * math.erfc(-(sign * y / std - std) / math.sqrt(2.0))
        return 0.5 * math.exp(0.5 * std**2 - sign * y) * inside

    slab = share * (tail(1.0) + tail(-1.0))
    spike = (1.0 - share) * math.exp(-0.5 * (y / std) ** 2) / (std * math.sqrt(2.0 * math.pi))
    z = drawn(np.ones((1, 1)), np.array([y]), std, share)
    assert abs((z == 0.0).mean() - spike / (slab + spike)) < 0.01


def test_a_faint_measurement_leaves_the_prior() -> None:
    for share in (1.0, 0.3):
        z = drawn(np.ones((1, 3)), np.zeros(1), 1e4, share, many=800)
        assert abs((z == 0.0).mean() - (1.0 - share)) < 0.01
        assert abs((z**2).mean() - 2.0 * share) < 0.06
        assert abs(np.abs(z).mean() - share) < 0.02


def test_a_jump_between_two_seen_places_is_where_the_prior_has_it() -> None:
    """Two ends of a walk of four steps are seen, with a jump: each step has it as often."""
    z = drawn(np.ones((1, 4)), np.array([3.0]), 0.05, 0.02)
    alone = (z != 0.0).sum(1) == 1
    assert alone.mean() > 0.9
    assert np.abs((z[alone] != 0.0).mean(0) - 0.25).max() < 0.03
