"""Samples as a picture, and the values of samples in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde import plot
from scoresde.plot.picture import drawable, thumbnail


@pytest.mark.parametrize(
    ("shape", "possible"),
    [((2,), True), ((3,), False), ((1, 8, 8), True), ((2, 8, 8), False), ((4, 8, 8), True)],
)
def test_points_and_images_have_a_picture(shape: tuple[int, ...], possible: bool) -> None:
    x = torch.rand(5, *shape)
    assert drawable(shape) == possible == (thumbnail(x) is not None)
    if possible:
        assert len(plot.samples(x).axes) == 1
    else:
        with pytest.raises(ValueError, match=r"x: expected images .* or points \(N, 2\), got"):
            plot.samples(x)


def test_the_first_samples_are_drawn() -> None:
    x = np.arange(20.0).reshape(10, 2)
    (dots,) = plot.samples(x, most=3, title="three").axes[0].collections
    assert dots.get_offsets().tolist() == x[:3].tolist()
    with pytest.raises(ValueError, match="most: expected"):
        plot.samples(x, most=0)
    labelled = plot.samples(np.zeros((6, 1, 8, 8)), columns=3, labels=["a", "b", "c"]).axes[0]
    assert [text.get_text() for text in labelled.get_xticklabels()] == ["a", "b", "c"]


def test_values_stand_in_order_and_those_that_are_not_finite_are_counted() -> None:
    axes = plot.likelihoods([3.0, math.nan, 1.0, -math.inf, 2.0], [0.1, 0.2, 0.3, 0.4, math.nan])
    axes = axes.axes[0]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert axes.get_xlabel() == "sample, in order; 2 of 5 without a value"
    lengths = [np.ptp(bar[:, 1]) for bar in axes.collections[0].get_segments()]
    assert lengths == pytest.approx([1.2, 0.0, 0.4])
    assert axes.texts[0].get_text() == "mean 2"


def test_values_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values: expected at least one that is finite"):
        plot.likelihoods([math.nan])
    with pytest.raises(ValueError, match=r"error: expected one number for each"):
        plot.likelihoods([1.0, 2.0], [0.1])
