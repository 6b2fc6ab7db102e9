"""Figures of densities, marginals and bounds, and animations: they show what was given."""

import builtins
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from scoresde import plot

RNG = np.random.default_rng(0)
T = np.array([0.1, 0.3, 0.6, 1.0])
EDGES = np.linspace(-5.0, 5.0, 201)
X = (EDGES[1:] + EDGES[:-1]) / 2
P = norm.pdf(X, scale=T[:, None])


def test_the_style_ends_with_the_call() -> None:
    before = matplotlib.rcParams.copy()
    plot.density_evolution(T, X, P)
    plot.marginals(T, {"a": RNG.normal(size=(4, 9))})
    plot.bound_terms({"a": (0.1, [0.1, 0.2], 0.3)})
    with pytest.raises(ValueError, match="check how it was computed"):
        plot.density_evolution(T, X, -P)
    assert matplotlib.rcParams == before


# A density over time


@pytest.mark.parametrize("cells", [X, EDGES], ids=["centres", "edges"])
@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_the_heat_map_holds_the_density_where_and_when_it_is(cells: Any, order: int) -> None:
    times, density = T[::order], torch.as_tensor(P[::order].copy())
    figure = plot.density_evolution(times, cells, density)
    heat, side = figure.axes[:2]
    mesh: Any = heat.collections[0]
    where = mesh.get_coordinates()
    assert np.allclose(where[..., 0], np.broadcast_to(times, (200, 4)))
    assert np.allclose(where[..., 1], X[:, None])
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(200, 4), density.numpy().T)
    assert heat.get_xlim() == (times[0], times[-1])  # in walking order
    assert np.array_equal(np.asarray(side.lines[0].get_xydata()), np.stack([density[-1], X], 1))
    assert side.get_xlabel() == f"p at t = {times[-1]:.3g}"
    assert mesh.norm.vmin == 0
    assert mesh.norm.vmax == np.quantile(P, 0.998)


def test_paths_lie_over_the_map_at_their_own_times() -> None:
    at, walks = np.linspace(0.1, 1.0, 9), RNG.normal(size=(9, 3, 1))
    exact = norm.pdf(X)
    figure = plot.density_evolution(
        T, X, P, paths=walks, path_times=at, exact=exact, limits=(-3, 3), title="heat"
    )
    heat, side = figure.axes[:2]
    assert len(heat.lines) == 3
    for line, walk in zip(heat.lines, walks[..., 0].T, strict=True):
        assert np.array_equal(np.asarray(line.get_xydata()), np.stack([at, walk], 1))
    assert (heat.get_ylim(), heat.get_title()) == ((-3, 3), "heat")
    assert np.array_equal(np.asarray(side.lines[1].get_xdata()), exact)


# Marginals


def test_histograms_and_densities_are_those_of_the_panels_time() -> None:
    clouds = {"SDE": RNG.normal(size=(4, 3000)) * T[:, None], "ODE": RNG.normal(size=(4, 500, 1))}
    figure = plot.marginals(
        T, clouds, x=EDGES, densities={"equation": P, "exact": 2 * P}, bins=25, limits=(-2, 3)
    )
    assert [axes.get_title() for axes in figure.axes] == [f"t = {t:.3g}" for t in T]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "equation", "exact", "SDE", "ODE",
    ]  # fmt: skip
    for k, axes in enumerate(figure.axes):
        assert axes.get_xlim() == (-2, 3)
        (line,) = axes.lines
        assert np.array_equal(np.asarray(line.get_xydata()), np.stack([X, 2 * P[k]], 1))
        area = np.asarray(axes.collections[0].get_paths()[0].vertices)
        assert area[:, 1].max() == P[k].max()
        lost = 0
        patches: list[Any] = list(axes.patches)
        for stairs, cloud in zip(patches, clouds.values(), strict=True):
            values, edges, _ = stairs.get_data()
            inside = int(((cloud[k] >= -2) & (cloud[k] <= 3)).sum())
            # Normalised by all particles, not by those in sight.
            assert (values * np.diff(edges)).sum() == pytest.approx(inside / cloud[k].size)
            middle = (edges[5] <= cloud[k]) & (cloud[k] < edges[6])
            assert values[5] == pytest.approx(middle.mean() / 0.2)
            lost += cloud[k].size - inside
        assert axes.get_xlabel() == (f"{lost} of 3500 outside" if lost else "")
    assert figure.axes[0].get_xlabel() != figure.axes[3].get_xlabel() != ""


def test_densities_alone_and_particles_alone_are_enough() -> None:
    (axes,) = plot.marginals([0.3], {}, x=X, densities={"p": P[1:2]}).axes
    assert axes.get_xlim() == (X[0], X[-1])
    cloud = np.array([[1.0, 2.0, 4.0, np.nan]])
    (axes,) = plot.marginals([0.3], {"a": cloud}, title="few").axes
    assert axes.get_xlim() == (1, 4)
    assert axes.get_xlabel() == "1 of 4 outside"


# The bound


def test_terms_are_means_over_samples_in_bits_per_dimension() -> None:
    prior, steps, last = RNG.random(8), RNG.random((30, 8)) + 0.1, RNG.random(8)
    at = np.linspace(4, -4, 30)
    figure = plot.bound_terms({"N = 31": (prior, steps, last)}, dim=3, at={"N = 31": at})
    left, right = figure.axes
    unit = 3 * math.log(2)
    mean = steps.mean(axis=1) / unit
    assert np.allclose(np.asarray(left.lines[0].get_xydata()), np.stack([at, mean], 1))
    (band,) = left.collections
    error = steps.std(axis=1, ddof=1) / math.sqrt(8) / unit
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.max() == pytest.approx((mean + 2 * error).max())
    expected = np.array([prior.mean(), steps.sum(axis=0).mean(), last.mean()]) / unit
    found = [bar.get_height() for bar in right.patches]
    assert np.allclose(found, [*expected, expected.sum()])
    assert [text.get_text() for text in right.texts] == [f"{value:.3g}" for value in found]
    names = [text.get_text() for text in right.get_xticklabels()]
    assert names == ["prior", "all steps", "reconstruction", "bound"]
    assert (left.get_ylabel(), left.get_yscale()) == ("bits/dim", "log")


def test_chains_stand_side_by_side_in_one_colour_each_and_in_nats() -> None:
    chains = {f"N = {n}": (2e-5, 1 / np.arange(1.0, n) ** 8, -3.0) for n in (5, 10, 400)}
    left, right = plot.bound_terms(chains).axes
    assert (left.get_ylabel(), left.get_xlabel()) == ("nats", "step k")
    assert [line.get_label() for line in left.lines] == list(chains)
    assert np.array_equal(np.asarray(left.lines[1].get_xdata()), np.arange(1, 10))
    assert left.get_ylim()[0] == pytest.approx(1e-6 / 1.6)  # six decades, though 400^-8 is given
    colors = [line.get_color() for line in left.lines]
    for index, color in enumerate(colors):
        bars = right.patches[4 * index : 4 * index + 4]
        assert {matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars} == {color}
        assert bars[2].get_height() == -3
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in right.patches)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert right.texts[0].get_text() == "2e\N{MINUS SIGN}5"


def test_a_term_of_zero_or_below_makes_the_axis_linear() -> None:
    left, _ = plot.bound_terms({"a": (0.1, [0.1, -0.2, 0.3], 0.3)}).axes
    assert left.get_yscale() == "linear"


# Animations


def frames(path: Path) -> list[np.ndarray[Any, Any]]:
    with Image.open(path) as file:
        pictures = []
        for k in range(file.n_frames):
            file.seek(k)
            pictures.append(np.asarray(file.convert("RGB")).astype(int))
    return pictures


def like(picture: np.ndarray[Any, Any], color: str, within: int = 20) -> np.ndarray[Any, Any]:
    """Which pixels have this colour."""
    wanted = np.rint(255 * np.array(matplotlib.colors.to_rgb(color)))
    return np.abs(picture - wanted).max(axis=-1) < within


def test_a_dot_moves_across_the_plane_in_frames_of_bounded_number_and_size(tmp_path: Path) -> None:
    times = np.linspace(0.0, 1.0, 101)
    dot = np.stack([np.linspace(-1, 1, 101), np.linspace(-0.5, 0.5, 101)], axis=1)[:, None]
    path = plot.animate(
        tmp_path / "new" / "dot.gif", times, particles=torch.as_tensor(dot), limits=(-2, 2),
        frames=5, fps=10, pixels=200, hold=2.0,
    )  # fmt: skip
    assert [entry.name for entry in path.parent.iterdir()] == ["dot.gif"]
    with Image.open(path) as file:
        assert (file.n_frames, file.info["loop"]) == (5, 0)
        lengths = []
        for k in range(5):
            file.seek(k)
            lengths.append(file.info["duration"])
    assert lengths == [100] * 4 + [2000]
    pictures = frames(path)
    assert max(pictures[0].shape[:2]) == 200
    # A dot is a little transparent.
    where = [np.argwhere(like(p, plot.style.PALETTE[0], 40)).mean(axis=0) for p in pictures]
    moves = np.diff(where, axis=0)
    assert np.allclose(moves[:, 1], moves[0, 1], atol=1.5)
    assert moves[0, 1] > 15  # to the right
    assert np.allclose(moves[:, 0], -moves[:, 1] / 2, atol=1.5)  # and up, by half as much
    # The background never flickers.
    assert len({tuple(p[-2, -2]) for p in pictures}) == 1


def test_a_density_in_the_plane_is_neither_turned_nor_mirrored(tmp_path: Path) -> None:
    x, y = np.linspace(-3, 3, 41), np.linspace(-3, 3, 31)
    right = norm.pdf(x, 2, 0.3)[:, None] * norm.pdf(y, 0, 0.3)
    up = norm.pdf(x, 0, 0.3)[:, None] * norm.pdf(y, 2, 0.3)
    path = plot.animate(
        tmp_path / "a.gif", [0, 1], density=np.stack([right, up]), cells=(x, y), pixels=200
    )
    middles = []
    for picture in frames(path):
        dark = picture[..., 0] < 60
        dark[:30] = False  # the title
        middles.append(np.argwhere(dark).mean(axis=0))
    (row0, column0), (row1, column1) = middles
    assert column0 - column1 == pytest.approx(row0 - row1, abs=2)
    assert column0 - column1 > 50


def test_on_a_line_the_area_follows_the_density_and_the_histogram_the_particles(
    tmp_path: Path,
) -> None:
    p = np.stack([norm.pdf(X, -2, 0.7), norm.pdf(X, 2, 0.7)])
    walks = np.stack([RNG.normal(2, 0.5, 400), RNG.normal(-2, 0.5, 400)])
    path = plot.animate(
        tmp_path / "a.gif", [1.0, 0.0], particles=walks, density=p, cells=EDGES, title="x"
    )
    first, last = frames(path)
    assert first.shape[1] == 400
    half = first.shape[1] // 2
    grey, orange = (like(first, c) for c in (plot.style.FAINT, plot.style.PALETTE[1]))
    assert grey[:, :half].sum() > 10 * grey[:, half:].sum()
    assert orange[:, half:].sum() > 10 * max(1, orange[:, :half].sum())
    grey = like(last, plot.style.FAINT)
    assert grey[:, half:].sum() > 10 * grey[:, :half].sum()
    # Where the histogram is 0 its line runs along the base: look above.
    for picture, here, there in (
        (first, slice(half, None), slice(half)),
        (last, slice(half), slice(half, None)),
    ):
        blue = like(picture[:150], plot.style.PALETTE[0])
        assert blue[:, here].sum() > 20 > blue[:, there].sum()


def test_a_long_animation_is_small(tmp_path: Path) -> None:
    walks = RNG.normal(size=(1000, 500, 2))
    path = plot.animate(tmp_path / "a.gif", np.arange(1000.0), particles=walks, frames=12)
    assert len(frames(path)) == 12
    assert path.stat().st_size < 12 * 25_000


def test_without_pillow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[data\]'"):
        plot.animate(tmp_path / "a.gif", T, particles=np.zeros((4, 2)))
    assert not list(tmp_path.iterdir())


C = RNG.normal(size=(4, 6))
GIF = "never-written.gif"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: plot.density_evolution(T[::2], X, P),
            ValueError,
            ["density", "(2, n)", "(4, 200)"],
        ),
        (lambda: plot.density_evolution([0, 2, 1, 3], X, P), ValueError, ["times", "sort"]),
        (
            lambda: plot.density_evolution(T, X[:-1], P),
            ValueError,
            ["x:", "200 centres", "(199,)"],
        ),
        (lambda: plot.density_evolution(T, X[::-1], P), ValueError, ["x:", "rise"]),
        (lambda: plot.density_evolution(T, X, -P), ValueError, ["density", ">= 0", "-3.87"]),
        (lambda: plot.density_evolution(T, X, P * np.nan), ValueError, ["density", "NaN"]),
        (lambda: plot.density_evolution([1], X, P[:1]), ValueError, ["times", "marginals"]),
        (lambda: plot.density_evolution(T, X, P, exact=X[:3] ** 2), ValueError, ["exact", "200"]),
        (lambda: plot.density_evolution(T, X, P, paths=C[:2]), ValueError, ["paths", "(4, B)"]),
        (
            lambda: plot.density_evolution(T, X, P, limits=(2, 1)),
            ValueError,
            ["limits", "(2, 1)", "low < high"],
        ),
        (lambda: plot.marginals(T, {}), ValueError, ["samples", "{}"]),
        (lambda: plot.marginals(T, C), TypeError, ["samples", "Mapping"]),  # type: ignore[arg-type]
        (
            lambda: plot.marginals(T, {"a": C[:3]}),
            ValueError,
            ["samples['a']", "(3, 6)", "(4, B)"],
        ),
        (lambda: plot.marginals(T, {}, densities={"p": P}), ValueError, ["x:", "None", "centres"]),
        (
            lambda: plot.marginals(T, {}, x=X, densities={"p": P, "q": P[:, :9]}),
            ValueError,
            ["densities['q']", "(4, 200)"],
        ),
        (lambda: plot.marginals(T, {"a": C * np.nan}), ValueError, ["samples", "finite"]),
        (lambda: plot.marginals(T, {"a": C}, bins=0), ValueError, ["bins", "got 0"]),
        (lambda: plot.bound_terms({}), ValueError, ["chains", "{}", "prior"]),
        (lambda: plot.bound_terms((1, C, 1)), TypeError, ["chains", "Mapping"]),  # type: ignore[arg-type]
        (lambda: plot.bound_terms({"a": (1, C)}), ValueError, ["chains['a']", "three"]),  # type: ignore[dict-item]
        (lambda: plot.bound_terms({"a": (C, C, 1)}), ValueError, ["chains['a']", "(4, 6)"]),  # type: ignore[dict-item]
        (
            lambda: plot.bound_terms({"a": ([1], [np.nan], [1])}),
            ValueError,
            ["chains['a']", "NaN"],
        ),
        (
            lambda: plot.bound_terms({"a": ([1], C, [1])}, at={"a": [1, 2]}),
            ValueError,
            ["at['a']", "4 numbers"],
        ),
        (
            lambda: plot.bound_terms({"a": ([1], C, [1])}, at={"b": [1, 2]}),
            ValueError,
            ["at:", "'b'", "['a']"],
        ),
        (lambda: plot.bound_terms({"a": ([1], C, [1])}, dim=0), ValueError, ["dim", "got 0"]),
        (lambda: plot.animate("a.mp4", T, particles=C), ValueError, ["path", "a.mp4", ".gif"]),
        (lambda: plot.animate(GIF, T), ValueError, ["particles", "None", "show"]),
        (lambda: plot.animate(GIF, T, density=P), ValueError, ["cells", "None", "both"]),
        (lambda: plot.animate(GIF, T[:3], particles=C), ValueError, ["particles", "(3, B)"]),
        (
            lambda: plot.animate(GIF, T, particles=RNG.normal(size=(3, 5, 2))),
            ValueError,
            ["particles", "(4, B, 2)", "(3, 5, 2)"],
        ),
        (
            lambda: plot.animate(GIF, T, density=np.ones((4, 5, 5)), cells=X),
            TypeError,
            ["cells", "(x, y)"],
        ),
        (lambda: plot.animate(GIF, T, particles=C, pixels=9000), ValueError, ["pixels", "1200"]),
        (lambda: plot.animate(GIF, T, particles=C, frames=500), ValueError, ["frames", "400"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert not Path(GIF).exists()
