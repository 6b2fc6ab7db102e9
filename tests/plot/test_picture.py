"""Samples as a picture, and the values of samples in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde import plot
from scoresde.plot.picture import drawable, thumbnail


@pytest.mark.parametrize(
    ("shape", "alone"),
    [((2,), True), ((3,), False), ((1, 8, 8), True), ((4, 8, 8), True), ((2, 16), False)],
)
def test_points_and_images_are_pictures_by_themselves(shape: tuple[int, ...], alone: bool) -> None:
    assert drawable(shape) == alone


@pytest.mark.parametrize("shape", [(2,), (1,), (12,), (1, 16), (5, 16), (3, 8, 8), (1, 4, 8, 8)])
def test_samples_of_most_shapes_have_a_picture(shape: tuple[int, ...]) -> None:
    x = torch.rand(5, *shape)
    picture = thumbnail(x)
    assert picture is not None and len(picture) < 80_000
    assert plot.samples(x).axes


@pytest.mark.parametrize("shape", [(13,), (2, 8, 8), (2, 4, 8, 8), (1, 2, 3, 4, 5)])
def test_samples_without_a_picture_are_refused(shape: tuple[int, ...]) -> None:
    x = torch.rand(5, *shape)
    assert thumbnail(x) is None
    with pytest.raises(ValueError, match=r"x: expected images, volumes, points.* got"):
        plot.samples(x)


def test_signals_stand_below_each_other_on_common_axes() -> None:
    x = np.arange(60.0).reshape(3, 2, 10)
    x[0, 0, 0] = math.nan
    panels = plot.signals(x, title="three").axes
    assert [len(panel.lines) for panel in panels] == [2, 2, 2]
    assert panels[2].lines[1].get_ydata().tolist() == x[2, 1].tolist()
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert panels[0].get_ylim()[0] < 1.0 and panels[0].get_ylim()[1] > 59.0
    assert panels[0].get_title() == "three"
    assert len(plot.samples(np.zeros((20, 1, 9))).axes) == 8
    assert len(plot.samples(np.zeros((20, 1, 9)), most=11).axes) == 11
    with pytest.raises(ValueError, match=r"x: expected at least one value that is finite"):
        plot.signals(np.full((1, 1, 4), math.nan))
    with pytest.raises(ValueError, match=r"x: expected shape \(N, C, L\) or \(N, L\)"):
        plot.signals(np.zeros(4))


def test_each_column_of_a_table_has_a_histogram_of_its_finite_values() -> None:
    x = np.random.default_rng(0).normal(size=(300, 5))
    x[:7, 1] = math.inf
    panels = plot.columns_of(x).axes
    counts = [sum(bar.get_height() for bar in panel.patches) for panel in panels]
    assert counts == [300, 293, 300, 300, 300]
    assert panels[1].get_xlabel() == "7 not finite"
    with pytest.raises(ValueError, match=r"x: expected shape \(N, D\) with D of at most 12"):
        plot.columns_of(np.zeros((4, 13)))
    with pytest.raises(ValueError, match=r"x: expected a finite value in every column"):
        plot.columns_of(np.full((4, 3), math.nan))


def test_the_middle_slice_of_a_volume_is_drawn() -> None:
    x = np.full((1, 1, 5, 8, 8), -1.0)
    x[:, :, 2] = 1.0
    (picture,) = plot.samples(x).axes[0].images
    assert np.asarray(picture.get_array()).min() == 1.0


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


@pytest.mark.parametrize("shape", [(0, 2), (4, 0), (4, 1, 0), (4, 0, 3), (4, 1, 0, 5)])
def test_samples_without_values_have_no_picture_in_a_notebook(shape: tuple[int, ...]) -> None:
    assert thumbnail(torch.zeros(shape)) is None
