"""The figures: what they show is what was given, and nothing global is left behind."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from scoresde import plot

RNG = np.random.default_rng(0)


def canvas(figure: Figure) -> np.ndarray[Any, Any]:
    return np.asarray(figure.axes[0].images[0].get_array())


def cells(figure: Figure, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Mean colour (rows, columns, 3) of the middle of every cell of a mosaic."""
    image = canvas(figure)
    down, across = image.shape[0] / rows, image.shape[1] / columns
    return np.array(
        [
            [image[int((r + 0.4) * down), int((c + 0.4) * across)] for c in range(columns)]
            for r in range(rows)
        ]
    )


def test_no_display_no_pyplot_and_nothing_heavy_on_import() -> None:
    script = (
        "import sys, scoresde.plot, scoresde.metrics, scoresde.data, scoresde.quantisation\n"
        "heavy = {'matplotlib', 'sklearn', 'scipy', 'ot'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "scoresde.plot.curve({'a': ([0, 1], [1.0, 2.0])})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_style_ends_with_the_call_even_in_an_error() -> None:
    before = matplotlib.rcParams.copy()
    plot.scatter({"a": RNG.normal(size=(9, 2))})
    with pytest.raises(ValueError, match="that of the steps"):
        plot.curve({"a": ([0, 1], [1.0])})
    assert matplotlib.rcParams == before


# Images


def test_images_stand_row_by_row_in_their_own_grey() -> None:
    values = np.linspace(-1, 1, 6)
    x = np.broadcast_to(values[:, None, None, None], (6, 1, 8, 8))
    shown = cells(plot.image_grid(x, columns=4), 2, 4)
    assert np.allclose(shown[0], ((values[:4] + 1) / 2)[:, None])
    assert np.allclose(shown[1, :2], ((values[4:] + 1) / 2)[:, None])
    assert (shown[1, 2:] == 1).all()  # what is left of the last row is paper


def test_an_image_is_neither_turned_nor_mirrored() -> None:
    x = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    image = canvas(plot.image_grid(x, low=0, high=3))[..., 0]
    quarter = image.shape[0] // 4
    assert image[quarter, quarter] == 0
    assert image[quarter, -quarter] == pytest.approx(1 / 3)
    assert image[-quarter, quarter] == pytest.approx(2 / 3)
    assert image[-quarter, -quarter] == 1


def test_colours_are_kept_values_clipped_and_nan_is_red() -> None:
    x = torch.zeros(3, 3, 4, 4)
    x[0] = torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    x[1] = 7.0
    x[2] = math.nan
    shown = cells(plot.image_grid(x, columns=3), 1, 3)[0]
    assert np.allclose(shown[0], [1.0, 0.5, 0.0])
    assert np.allclose(shown[1], 1.0)
    assert shown[2, 0] > 0.8 > 0.2 > shown[2, 1]


def test_trajectories_have_a_row_per_sample_and_a_column_per_time() -> None:
    nodes, samples = 51, 3
    value = np.linspace(-1, 1, nodes)[:, None] * np.array([1.0, 0.5, 0.0])
    path = np.broadcast_to(value[..., None, None, None], (nodes, samples, 1, 8, 8))
    times = np.linspace(1, 0, nodes)
    figure = plot.trajectories(path, times=times, columns=6)
    chosen = [0, 10, 20, 30, 40, 50]
    expected = (value[chosen].T + 1) / 2
    assert np.allclose(cells(figure, samples, 6)[..., 0], expected)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["t = 1.00", "0.80", "0.60", "0.40", "0.20", "0.00"]
    last = plot.trajectories(path, columns=1)
    assert np.allclose(cells(last, samples, 1)[:, 0, 0], (value[-1] + 1) / 2)


# Points


def test_all_panels_share_square_limits_that_hold_every_point() -> None:
    clouds = {"small": RNG.normal(size=(50, 2)), "wide": 4 * RNG.normal(size=(80, 2)) + 3}
    figure = plot.scatter(clouds)
    limits = {axes.get_xlim() for axes in figure.axes} | {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 1
    low, high = limits.pop()
    points = np.concatenate(list(clouds.values()))
    assert low < points.min()
    assert high > points.max()
    assert not any(axes.get_xlabel() for axes in figure.axes)
    for axes, cloud in zip(figure.axes, clouds.values(), strict=True):
        assert np.array_equal(axes.collections[0].get_offsets(), cloud)


def test_points_outside_the_limits_are_counted() -> None:
    cloud = np.array([[0.0, 0.0], [0.0, 5.0], [-5.0, 0.0], [np.nan, 0.0]])
    (axes,) = plot.scatter({"a": cloud}, limits=(-1, 1)).axes
    assert axes.get_xlabel() == "3 of 4 outside"


def test_paths_run_from_rings_to_dots() -> None:
    path = torch.as_tensor(RNG.normal(size=(7, 4, 2)).cumsum(axis=0))
    (axes,) = plot.paths_2d(path, background=RNG.normal(size=(30, 2)), title="flow").axes
    assert np.array_equal(axes.lines[2].get_xydata(), path[:, 2])
    by_label = {dots.get_label(): dots.get_offsets() for dots in axes.collections}
    assert np.array_equal(by_label["start"], path[0])
    assert np.array_equal(by_label["end"], path[-1])


# Curves


def test_smoothing_is_the_weighted_mean_of_the_past() -> None:
    steps, values = np.array([0.0, 1.0, 3.0, 10.0]), np.array([4.0, np.nan, 1.0, 2.0])
    figure = plot.curve({"loss": (steps, values)}, smooth=2.0)
    raw, smooth = figure.axes[0].lines
    assert np.array_equal(raw.get_ydata(), values, equal_nan=True)
    weight = np.exp((steps[None] - steps[:, None]) / 2.0) * (steps[None] <= steps[:, None])
    weight[:, 1] = 0
    expected = weight @ np.nan_to_num(values) / weight.sum(axis=1)
    assert np.allclose(smooth.get_ydata(), expected, rtol=1e-12)


def test_series_logged_at_different_intervals_are_smoothed_alike() -> None:
    fine, coarse = np.arange(0.0, 1000.0), np.arange(0.0, 1000.0, 20.0)
    series = {"fine": (fine, np.exp(-fine / 500)), "coarse": (coarse, np.exp(-coarse / 500))}
    lines = plot.curve(series, smooth=100).axes[0].lines
    fine_mean, coarse_mean = (np.asarray(line.get_ydata()) for line in lines[1::2])
    assert fine_mean[980] == pytest.approx(coarse_mean[49], rel=0.03)
    assert [line.get_label() for line in lines[1::2]] == ["fine", "coarse"]


# Quality against NFE

SOLVERS = {
    "ddim": (1, 3), "dpm++2m": (2, 12), "unipc": (2.5, 20), "heun": (2, 30),
    "euler-maruyama": (0.6, 4), "ancestral": (0.8, 4), "rk45": (4, 9000), "sa-solver": (2, 10),
}  # fmt: skip


@pytest.mark.parametrize("counts", [(5, 10, 20, 50, 100), (20,)])
def test_labels_cover_neither_each_other_nor_the_frame(counts: tuple[int, ...]) -> None:
    rows = [
        (name, nfe, 0.0045 + 0.3 * scale * nfe**-order)
        for nfe in reversed(counts)
        for name, (order, scale) in SOLVERS.items()
    ]
    figure = plot.quality_against_nfe(rows, floor=0.0045)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {*SOLVERS, "real data against real data"}
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i]), axes.texts[i].get_text()
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1


def test_each_solver_has_its_points_by_rising_nfe_and_a_label_of_its_colour() -> None:
    rows = [("a", 20, 0.1), ("b", 10, 0.3), ("a", 10, 0.2), ("a", 40, 0.05)]
    (axes,) = plot.quality_against_nfe(rows, floor=0.01).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert np.asarray(axes.lines[0].get_xydata()).tolist() == [[10, 0.2], [20, 0.1], [40, 0.05]]
    assert np.asarray(axes.lines[1].get_xydata()).tolist() == [[10, 0.3]]
    assert set(np.asarray(axes.lines[2].get_ydata())) == {0.01}
    labels = {text.get_text(): text.get_color() for text in axes.texts}
    assert labels["a"] == axes.lines[0].get_color() != labels["b"] == axes.lines[1].get_color()


# Files


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")])
def test_save_makes_folders_and_writes_by_suffix(tmp_path: Path, name: str, magic: bytes) -> None:
    path = plot.save(plot.image_grid(np.zeros((2, 4, 4))), tmp_path / "new" / "deep" / name)
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_a_failed_save_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    class Broken(Figure):
        def savefig(self, fname: Any, **_: Any) -> None:
            Path(fname).write_bytes(b"half")
            raise RuntimeError("disk full")

    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk full"):
        plot.save(Broken(), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


C = RNG.normal(size=(6, 2))
I = RNG.normal(size=(6, 1, 4, 4))  # noqa: E741


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plot.image_grid(C), ValueError, ["x:", "(6, 2)", "channels"]),
        (lambda: plot.image_grid(I[:0]), ValueError, ["x:", "(0, 1, 4, 4)", "computed"]),
        (lambda: plot.image_grid(np.zeros((2, 5, 4, 4))), ValueError, ["x:", "(2, 5, 4, 4)", "C"]),
        (lambda: plot.image_grid(I, columns=0), ValueError, ["columns", "got 0", "above 0"]),
        (lambda: plot.image_grid(I, low=1), ValueError, ["high", "low = 1", "range of the data"]),
        (lambda: plot.trajectories(I[0]), ValueError, ["path", "(1, 4, 4)", "K, B, C, H, W"]),
        (lambda: plot.trajectories(I, times=[0.0]), ValueError, ["times", "6 numbers", "[0.0]"]),
        (lambda: plot.scatter({}), ValueError, ["panels", "{}", "title"]),
        (lambda: plot.scatter(C), TypeError, ["panels", "Mapping", "title"]),  # type: ignore[arg-type]
        (lambda: plot.scatter({"a": I}), ValueError, ["panels['a']", "(6, 1, 4, 4)", "(N, 2)"]),
        (
            lambda: plot.scatter({"a": C}, limits=(1, 1)),
            ValueError,
            ["limits", "(1, 1)", "(-3, 3)"],
        ),
        (lambda: plot.scatter({"a": C * np.nan}), ValueError, ["points", "none", "diverged"]),
        (lambda: plot.paths_2d(C), ValueError, ["path", "(6, 2)", "(K, B, 2)"]),
        (lambda: plot.curve({}), ValueError, ["series", "{}", "(steps, values)"]),
        (lambda: plot.curve({"a": (C[:, 0], C)}), ValueError, ["series['a']", "(6, 2)", "(K,)"]),
        (lambda: plot.curve({"a": ([1, 0], [1, 1])}), ValueError, ["series['a']", "fall", "sort"]),
        (
            lambda: plot.curve({"a": ([0, 1], [1, 1])}, smooth=-1),
            ValueError,
            ["smooth", "got -1", ">= 0"],
        ),
        (lambda: plot.quality_against_nfe([]), ValueError, ["rows", "[]", "measure"]),
        (
            lambda: plot.quality_against_nfe([("a", 10, 0.1), ("b", 10, math.nan)]),
            ValueError,
            ["rows[1]", "quality", "'b'", "nan", "leave out"],
        ),
        (
            lambda: plot.quality_against_nfe([("a", 10, 0.1)], floor=0.0),
            ValueError,
            ["floor", "0.0", "None"],
        ),
        (lambda: plot.save(Figure(), "a.pgn"), ValueError, ["suffix", "'pgn'", "'png'"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_many_curves_are_told_apart_and_their_names_stand_beside_them() -> None:
    steps = np.arange(5)
    figure = plot.curve({f"run {i}": (steps, steps + i) for i in range(20)})
    (axes,) = figure.axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 20
    assert axes.get_legend() is None
    assert [text.get_text() for text in figure.legends[0].texts][:2] == ["run 0", "run 1"]
    few = plot.curve({f"run {i}": (steps, steps + i) for i in range(3)})
    assert few.axes[0].get_legend() is not None
    assert not few.legends


def test_a_notebook_shows_a_figure_without_pyplot() -> None:
    import pickle

    figure = plot.image_grid(np.zeros((4, 8, 8)))
    data = figure._repr_png_()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert pickle.loads(pickle.dumps(figure))._repr_png_() == data


def test_images_of_four_channels_lie_on_white() -> None:
    x = np.full((1, 4, 8, 8), -1.0)
    x[:, 3, :, :4] = 1.0  # black and opaque on the left, transparent on the right
    (picture,) = plot.image_grid(x).axes[0].images
    shown = np.asarray(picture.get_array())
    assert shown[4, 4].tolist() == [0, 0, 0] and shown[4, -4].tolist() == [1, 1, 1]


def test_the_columns_of_a_grid_have_labels() -> None:
    axes = plot.image_grid(np.zeros((6, 8, 8)), columns=3, labels=["a", "b", "c"]).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="labels: expected 3 texts"):
        plot.image_grid(np.zeros((6, 8, 8)), columns=3, labels=["a"])


def test_an_axis_of_less_than_a_decade_has_several_ticks() -> None:
    axes = plot.curve({"loss": (np.arange(9), np.linspace(0.9, 0.3, 9))}, logy=True).axes[0]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


@pytest.mark.filterwarnings("error")
def test_the_spread_of_one_sample_has_no_column() -> None:
    one, many = np.zeros((2, 1, 8, 8)), np.zeros((2, 1, 1, 8, 8))
    axes = plot.reconstructions(one, one, np.full_like(one, np.nan), many).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["measured", "mean", "sample 1"]
