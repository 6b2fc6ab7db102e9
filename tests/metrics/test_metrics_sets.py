"""Neighbourhoods, the two-sample test, and comparisons beside their noise floor."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from shared import near, normal
from torch import Tensor

from scoresde.data import digits
from scoresde.metrics import (
    METRICS,
    Comparison,
    Judge,
    Measured,
    compare_sets,
    energy_distance,
    frechet_distance,
    nearest_distance,
    prdc,
    two_sample_test,
)

# Precision, recall, density, coverage


def numbers(found: Any) -> tuple[float, float, float, float]:
    return found.precision, found.recall, found.density, found.coverage


def test_disjoint_sets_share_nothing_and_equal_sets_everything() -> None:
    a = normal(40, 3)
    assert numbers(prdc(a + 1000, a, k=3)) == (0, 0, 0, 0)
    # Without ties a ball holds its centre and the k points that made it.
    assert numbers(prdc(a, a, k=3)) == pytest.approx((1, 1, 4 / 3, 1), rel=1e-12)


def test_a_lost_mode_costs_recall_and_an_invented_one_precision() -> None:
    one, other = normal(50, 2, seed=1), 1000 + normal(50, 2, seed=2)
    both = torch.cat([one, other])
    assert numbers(prdc(one, both, k=4)) == pytest.approx((1, 0.5, 5 / 4, 0.5), rel=1e-12)
    assert numbers(prdc(both, one, k=4)) == pytest.approx((0.5, 1, 5 / 8, 1), rel=1e-12)


def test_an_outlier_of_the_reference_raises_precision_but_hardly_density() -> None:
    real = torch.cat([normal(50, 2, seed=1), torch.full((1, 2), 100.0).double()])
    wrong = 10 + normal(50, 2, seed=2)  # in the outlier's ball, which reaches to the rest
    found = prdc(wrong, real, k=5)
    assert found.precision == 1.0
    assert found.density == pytest.approx(1 / 5, rel=1e-12)
    assert found.coverage == pytest.approx(1 / 51, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (30, 50), (50, 20)])
def test_equal_laws_have_the_expected_coverage_and_density_whatever_the_law(
    n: int, m: int
) -> None:
    """n real points, m samples: a sample has every rank among a point's neighbours alike."""
    k, found = 3, []
    for seed in range(150):
        real, fake = normal(n, 2, seed=seed).exp(), normal(m, 2, seed=10_000 + seed).exp()
        found.append(numbers(prdc(fake, real, k=k)))
    _, _, density, coverage = torch.tensor(found).T
    expected = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert near(coverage, expected)
    assert near(density, 1.0)


@pytest.mark.parametrize("k", [1, 5])
def test_they_agree_with_counting_one_ball_after_another(k: int) -> None:
    fake, real = 1.5 * normal(35, 2, seed=1).numpy(), normal(45, 2, seed=2).numpy()

    def radius(x: Any, i: int) -> float:
        return float(np.sort(np.linalg.norm(x - x[i], axis=1))[k])

    inside = np.array(
        [[np.linalg.norm(y - x) <= radius(real, i) for i, x in enumerate(real)] for y in fake]
    )
    back = np.array(
        [[np.linalg.norm(y - x) <= radius(fake, j) for x in real] for j, y in enumerate(fake)]
    )
    expected = (
        inside.any(axis=1).mean(),
        back.any(axis=0).mean(),
        inside.sum() / (k * len(fake)),
        inside.any(axis=0).mean(),
    )
    assert numbers(prdc(fake, real, k=k)) == pytest.approx(expected, rel=1e-12)


def test_blocks_of_rows_see_every_ball() -> None:
    """2,100 x 2,000 pairs are two blocks: each ball, recalled in one, may lie in the other."""
    fake, real = 1.5 * normal(2100, 2, seed=1), normal(2000, 2, seed=2)
    across = torch.cdist(fake, real, compute_mode="donot_use_mm_for_euclid_dist")
    radii = [
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, 3]
        for x in (fake, real)
    ]
    inside, back = across <= radii[1], across <= radii[0][:, None]
    expected = (
        float(inside.any(1).double().mean()),
        float(back.any(0).double().mean()),
        float(inside.sum()) / (3 * 2100),
        float(inside.any(0).double().mean()),
    )
    assert numbers(prdc(fake, real, k=3)) == pytest.approx(expected, rel=1e-12)


# The two-sample test


def test_equal_laws_are_told_apart_by_chance_only() -> None:
    found = [
        two_sample_test(normal(60, 3, seed=i), normal(60, 3, seed=1000 + i)) for i in range(100)
    ]
    accuracy = torch.tensor([test.accuracy for test in found], dtype=torch.float64)
    assert near(accuracy, 0.5)
    p_values = norm.sf((accuracy.numpy() - 0.5) * math.sqrt(120) / 0.5)
    assert [test.p_value for test in found] == pytest.approx(list(p_values), rel=1e-9)
    claimed = np.mean([test.std_error for test in found])
    assert float(accuracy.std()) == pytest.approx(claimed, rel=0.3)
    assert np.mean([test.p_value < 0.05 for test in found]) <= 0.12
    assert np.mean([test.p_value < 0.5 for test in found]) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("distance", [1.0, 2.0])
def test_shifted_gaussians_are_told_apart_as_well_as_can_be(distance: float) -> None:
    """Bayes' accuracy of two Gaussians of one covariance: Phi(d / 2), d the Mahalanobis one."""
    colour = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 3.0, 1.0]]).double()
    shift = distance * torch.nn.functional.normalize(normal(3, seed=3), dim=0)
    a, b = normal(3000, 3, seed=1) @ colour, (normal(3000, 3, seed=2) + shift) @ colour
    found = two_sample_test(a, b)
    assert found.std_error == pytest.approx(
        math.sqrt(found.accuracy * (1 - found.accuracy) / 6000), rel=1e-12
    )
    assert abs(found.accuracy - norm.cdf(distance / 2)) < 4 * found.std_error
    assert found.p_value < 1e-100


def test_only_the_network_sees_a_difference_of_widths() -> None:
    """N(0, 1) against N(0, 9): Bayes decides by |x| < t, t^2 = 2 ln 3 / (1 - 1/9)."""
    a, b = normal(1500, 1, seed=1), 3 * normal(1500, 1, seed=2)
    t = math.sqrt(2 * math.log(3) / (1 - 1 / 9))
    bayes = 0.5 + (norm.cdf(t) - norm.cdf(t / 3))
    logistic, mlp = (two_sample_test(a, b, classifier=name) for name in ("logistic", "mlp"))
    assert logistic.accuracy < 0.55
    assert abs(mlp.accuracy - bayes) < 4 * mlp.std_error
    assert mlp.p_value < 1e-30


def test_sets_are_cut_to_one_size() -> None:
    found = two_sample_test(normal(30, 2, seed=1), normal(300, 2, seed=2), seed=1)
    assert (found.count, found.classifier) == (30, "logistic")
    assert found == two_sample_test(normal(30, 2, seed=1), normal(300, 2, seed=2), seed=1)
    assert 0.25 < found.accuracy < 0.75  # always guessing the larger set would give 0.91


# Comparisons


def test_values_and_floors_are_those_of_the_functions() -> None:
    """With train the sets are whole: one value. Without, the floor averages the halves' own."""
    samples, held_out, train = (0.5 + normal(60, 2, seed=i) for i in range(3))
    found = compare_sets(samples, held_out, train, metrics=("energy", "frechet"))
    assert found.count == 60 and len(found.notes) == 1
    assert found["energy"].value == energy_distance(samples, held_out).value
    assert found["frechet"].value == frechet_distance(samples, held_out)
    assert found["frechet"].value_std == 0.0 < found["frechet"].floor_std

    pair = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double().repeat(8, 1)
    floors = [frechet_distance(*split(pair, seed)) for seed in range(400)]
    found = compare_sets(normal(8, 2), pair, metrics=("frechet",), k=1, repeats=400)
    assert found["frechet"].floor_mean == pytest.approx(np.mean(floors), rel=0.25)
    assert found["frechet"].floor_std == pytest.approx(np.std(floors), rel=0.25)


def split(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]


CHOSEN = ("sliced_wasserstein", "mmd", "energy", "frechet", "recall", "density", "coverage")


def test_perfect_samples_are_at_the_floor_on_average() -> None:
    """The floor has the mean of a perfect model's value, and no smaller a spread."""
    gaps: dict[str, list[float]] = {name: [] for name in CHOSEN}
    floors: dict[str, list[float]] = {name: [] for name in CHOSEN}
    alarms = 0
    for seed in range(40):
        perfect, real = normal(60, 3, seed=seed), normal(120, 3, seed=1000 + seed)
        found = compare_sets(perfect, real, metrics=CHOSEN, seed=seed)
        for name in CHOSEN:
            gaps[name].append(found[name].value - found[name].floor_mean)
            floors[name].append(found[name].floor_std)
            alarms += not found[name].within_floor
    for name in CHOSEN:
        assert near(torch.tensor(gaps[name]), 0), name
        assert np.std(gaps[name]) < 1.2 * np.mean(floors[name]), name
    assert alarms / (40 * len(CHOSEN)) < 0.1


def test_each_fault_shows_where_it_should() -> None:
    """The judge is trained on images of its own: on the model's it would see them as special."""
    known, held_out = digits("train"), digits("test")
    judged, train = known.split(0.5, seed=0)
    features = Judge.fit(judged.x, judged.cond["label"]).features
    names = ("frechet", "kernel", "precision", "recall", "coverage", "nearest")

    def faults(samples: Tensor) -> set[str]:
        found = compare_sets(
            samples, held_out.x, train.x, metrics=names, features=features, repeats=5
        )
        assert list(found) == list(names)
        return {name for name in names if not found[name].within_floor}

    assert faults(train.x) == {"nearest"}  # memorised
    few = held_out.x[held_out.cond["label"] < 5]
    assert {"frechet", "kernel", "recall", "coverage"} <= faults(few)
    assert "precision" not in faults(few)
    blur = 0.6 * normal(400, 1, 8, 8).float() + held_out.x[:400]
    assert {"frechet", "precision"} <= faults(blur)
    assert "nearest" not in faults(blur)


def test_nearest_is_in_the_space_of_the_points_and_all_else_in_that_of_the_features() -> None:
    samples, held_out, train = (normal(n, 2, seed=n) for n in (40, 50, 60))
    found = compare_sets(
        samples, held_out, train, metrics=("frechet", "nearest"), features=lambda x: 100 * x
    )
    plain = compare_sets(samples, held_out, train, metrics=("frechet", "nearest"))
    assert found["frechet"].value == pytest.approx(1e4 * plain["frechet"].value, rel=1e-9)
    assert found["nearest"] == plain["nearest"]
    medians = [float(nearest_distance(x, train).median()) for x in (samples, held_out)]
    assert found["nearest"].value == pytest.approx(medians[0], abs=3 * found["nearest"].value_std)
    assert found["nearest"].floor_mean == pytest.approx(medians[1], abs=0.1)


def test_all_sets_are_cut_to_one_size_and_it_is_said() -> None:
    found = compare_sets(normal(70, 2), normal(90, 2, seed=1), metrics=("precision",), repeats=3)
    assert found.count == found["precision"].count == 45
    assert found.notes == (
        "45 points a set; real halves split 3 times",
        "samples cut at random from 70 to 45, anew in each repeat",
        "held_out cut at random from 90 to 45, anew in each repeat",
    )
    table = str(found)
    assert table.startswith("| metric | samples | real halves | good | within floor |")
    assert "precision" in table and found.notes[2] in table
    again = compare_sets(normal(70, 2), normal(90, 2, seed=1), metrics=("precision",), repeats=3)
    assert again == found
    other = compare_sets(
        normal(70, 2), normal(90, 2, seed=1), metrics=("precision",), repeats=3, seed=1
    )
    assert other != found


def test_only_what_is_asked_for_is_measured() -> None:
    """A training set adds to the real data; the distance to it is measured where it is asked."""
    sets = [normal(30, 2, seed=i) for i in range(3)]
    assert list(compare_sets(*sets, metrics=("energy", "recall"), k=3)) == ["energy", "recall"]
    assert list(compare_sets(*sets, metrics=("nearest",), k=3)) == ["nearest"]
    assert not {"wasserstein", "two_sample_mlp", "nearest"} & {
        *compare_sets(*sets, k=3, repeats=2)
    }


def test_the_network_of_the_two_sample_test_is_that_of_its_page() -> None:
    from scoresde.metrics.two_sample import _pipeline

    network = _pipeline("mlp", 7)[-1]
    assert network.hidden_layer_sizes == (64, 64) and network.early_stopping
    assert network.solver == "adam" and network.random_state == 7


def test_every_metric_can_be_asked_for() -> None:
    sets = [normal(30, 2, seed=i) for i in range(3)]
    found = compare_sets(*sets, metrics=tuple(METRICS), k=3, repeats=2)
    assert list(found) == list(METRICS) and len(found) == 13
    assert all(math.isfinite(found[name].value + found[name].floor_std) for name in found)


def test_the_table_says_whether_the_floor_is_reached() -> None:
    rows = {"recall": Measured(0.9, 0.01, 0.91, 0.01, 45, "high")}
    rows["energy"] = Measured(5.0, 0.0, 1.0, 0.5, 45, "low")
    text = str(Comparison(rows, 45, 3, ("a note",))).splitlines()
    assert text[2] == "| recall | 0.9 ± 0.01 | 0.91 ± 0.01 | high | yes |"
    assert text[3] == "| energy | 5 | 1 ± 0.5 | low | no (+8.0 std) |"
    assert text[4:] == ["", "a note"]


def test_within_the_floor_is_two_standard_deviations_on_the_bad_side() -> None:
    def measured(value: float, good: str, std: float = 1.0) -> Measured:
        return Measured(value, 0.0, 10.0, std, 100, good)

    assert [measured(v, "low").within_floor for v in (1, 12, 12.1)] == [True, True, False]
    assert [measured(v, "high").within_floor for v in (7.9, 8, 100)] == [False, True, True]
    assert measured(13, "low", 2.0).excess == measured(7, "high", 2.0).excess == 1.5
    assert measured(10, "low", 0.0).within_floor
    assert measured(10.1, "low", 0.0).excess == math.inf


X = normal(20, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prdc(X, X[:5], k=5), ["reference", "more than k = 5", "(5, 2)", "smaller k"]),
        (lambda: prdc(X, X, k=0), ["k:", "got 0"]),
        (lambda: two_sample_test(X, X, classifier="svm"), ["classifier", "'mlp'", "'svm'"]),
        (lambda: two_sample_test(X[:5], X), ["a:", "N >= 6", "(5, 2)"]),
        (lambda: two_sample_test(X, X, folds=1), ["folds", "at least 2", "got 1"]),
        (lambda: compare_sets(X, X, metrics=("fid",)), ["metrics", "'frechet'", "'fid'"]),
        (lambda: compare_sets(X, X, metrics=("nearest",)), ["train", "'nearest'", "None"]),
        (lambda: compare_sets(X, X[:8]), ["held_out", "6 points", "'held_out': 8", "more points"]),
        (lambda: compare_sets(X, X[:, :1]), ["held_out", "(20, 1)", "2 coordinates"]),
        (lambda: compare_sets(X, X, X * math.nan), ["train", "NaN", "first row 0"]),
        (lambda: compare_sets(X, X, repeats=1), ["repeats", "at least 2"]),
        (lambda: compare_sets(X, X, metrics=("energy",))["mmd"], ["name", "'energy'", "'mmd'"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[], Any], words: list[str]
) -> None:
    first, *more = words
    with pytest.raises(ValueError, match=re.escape(first)) as caught:
        call()
    for word in more:
        assert word in str(caught.value)


PAGE = Path(__file__).parents[2] / "docs/metrics.md"
CODE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_first_example_of_the_page_says_what_it_says() -> None:
    names: dict[str, Any] = {}
    exec(CODE[0], names)
    assert not names["result"]["energy"].within_floor


@pytest.mark.slow
def test_the_table_of_the_page_is_what_its_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """That in pixels: the features of another machine's network differ in more than rounding."""
    exec(CODE[1].replace("(None, features)", "(None,)"), {})
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    shown = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `\w+` \| -?[\d.e-]+ ± ", line)
    ]
    assert len(printed) == 12 and len(shown) == 24

    def figures(line: str) -> list[float]:
        return [float(figure) for figure in re.findall(r"-?\d[\d.e-]*", line)]

    for mine, theirs in zip(printed, shown, strict=False):
        assert mine.split()[1] == theirs.split()[1]
        assert figures(mine) == pytest.approx(figures(theirs), rel=0.05, abs=0.01), mine
