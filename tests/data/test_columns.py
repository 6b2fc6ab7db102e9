"""The columns of a table and their map to model units: exact there and back, and its Jacobian."""

import json
import math
from typing import Any

import pytest
import torch
from data_files import refuses
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution, transforms

from scoresde.columns import Category, Number, TableScaling
from scoresde.summary import ConditionSummary, DataSummary, Scaling, units_of


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NUMBERS = {
    "plain": Number("a", 3.0, 2.0),
    "low": Number("a", 0.5, 1.5, low=-2.0),
    "high": Number("a", -0.5, 0.7, high=5.0),
    "both": Number("a", 0.2, 1.3, low=-1.0, high=4.0),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_come_back_and_stay_in_their_bounds(kind: str) -> None:
    number = NUMBERS[kind]
    x = 2 * normal(500, 1)
    raw = number.decode(x)
    torch.testing.assert_close(number.encode(raw), x, rtol=1e-9, atol=1e-9)
    wild = number.decode(torch.tensor([[-1e4], [1e4]], dtype=torch.float64))
    assert wild.isfinite().all()
    for value in (raw, wild):
        assert number.low is None or (value >= number.low).all()
        assert number.high is None or (value <= number.high).all()


def test_the_links_are_those_of_the_formulas() -> None:
    raw = torch.tensor([-0.5, 1.0, 3.5], dtype=torch.float64)
    share = (raw + 1.0) / 5.0
    expected = {
        "plain": (raw - 3.0) / 2.0,
        "low": ((raw + 2.0).log() - 0.5) / 1.5,
        "high": (-(5.0 - raw).log() + 0.5) / 0.7,
        "both": (share.logit() - 0.2) / 1.3,
    }
    for kind, value in expected.items():
        torch.testing.assert_close(NUMBERS[kind].encode(raw)[:, 0], value, rtol=1e-12, atol=1e-12)


def test_missing_numbers_are_the_mean_and_an_indicator() -> None:
    number = Number("a", 3.0, 2.0, missing=True)
    raw = torch.tensor([5.0, math.nan], dtype=torch.float64)
    x = number.encode(raw)
    assert x.tolist() == [[1.0, -1.0], [0.0, 1.0]]
    torch.testing.assert_close(number.decode(x), raw, rtol=0, atol=0, equal_nan=True)
    assert number.decode(torch.tensor([[7.0, 0.2], [7.0, -0.2]])).isnan().tolist() == [True, False]
    assert (number.text(math.nan), number.text(2.5)) == ("", "2.5")


@pytest.mark.parametrize("coding", ["bits", "one_hot"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 20])
def test_categories_come_back(coding: str, missing: bool, n: int) -> None:
    if n + missing < 2:
        refuses(lambda: Category("k", ("c0",), coding), ["column 'k'", "two categories"])
        return
    kind = Category("k", tuple(f"c{i}" for i in range(n)), coding, missing)
    raw = torch.tensor([*range(n), *([math.nan] if missing else [])], dtype=torch.float64)
    x = kind.encode(raw)
    assert x.shape == (n + missing, kind.width)
    assert kind.width == (
        n + missing if coding == "one_hot" else math.ceil(math.log2(n + missing))
    )
    assert set(x.unique().tolist()) <= {-1.0, 1.0}
    assert len(x.unique(dim=0)) == n + missing
    noisy = x + 0.9 * (2 * torch.rand(x.shape, dtype=x.dtype) - 1)
    for value in (x, noisy):
        torch.testing.assert_close(kind.decode(value), raw, rtol=0, atol=0, equal_nan=True)


def test_codes_without_a_category_are_decoded_as_the_nearest_one() -> None:
    kind = Category("k", ("a", "b", "c"), "bits")  # 00, 01, 10, and 11 is none
    x = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert kind.decode(x).tolist() == [2.0, 1.0]


def test_numbers_on_a_bound_come_back_as_the_bound() -> None:
    number = Number("a", 0.0, 1.0, low=0.0, high=1.0, low_gap=0.1, high_gap=0.2)
    raw = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0], dtype=torch.float64)
    x = number.encode(raw)
    torch.testing.assert_close(x[[0, 4], 0].sigmoid(), torch.tensor([0.05, 0.9]).double())
    torch.testing.assert_close(number.decode(x), raw, rtol=1e-12, atol=0)
    single = number.decode(x.float())  # of float32, too
    assert (single[0], single[4]) == (0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [None, 0.01])
def test_decoded_numbers_are_encoded_again_in_every_dtype(
    dtype: torch.dtype, gap: float | None
) -> None:
    """Also with bounds that round outwards or inwards in float32, as 0.1 and 0.7 do."""
    ends = {"low": 0.1, "low_gap": gap}, {"high": 0.7, "high_gap": gap}
    for own in (*ends, {**ends[0], **ends[1]}, {"low": 0.0, "high": 1.0}):
        scaling = TableScaling((Number("a", 0.0, 2.0, **own),))  # type: ignore[arg-type]
        raw = scaling.decode(torch.linspace(-40, 40, 41, dtype=dtype)[:, None])
        assert raw.dtype == dtype and scaling.encode(raw).isfinite().all()
        again = scaling.decode(scaling.encode(raw))
        if dtype != torch.bfloat16:  # whose x has too few digits for exp(80)
            torch.testing.assert_close(again, raw, rtol=1e-4, atol=1e-5)
    assert raw[-1] < 1.0 and raw[0] > 0.0


@pytest.mark.parametrize(
    ("number", "value", "words"),
    [
        (Number("a", low=0.0), -1.0, ["column 'a'", "of at least 0", "-1 in row 2"]),
        (Number("a", high=3.0), 4.0, ["of at most 3", "4 in row 2", "bounds"]),
        (Number("a", low=0.0, high=3.0), 4.0, ["from 0 to 3", "4 in row 2"]),
        (Number("a", low=0.0), 0.0, ["inside the bounds", "0 in row 2"]),
        (Number("a", high=2.0), 2.0, ["inside the bounds", "2 in row 2"]),
        (Number("a"), math.inf, ["finite", "inf in row 2"]),
        (Number("a"), math.nan, ["a number in every row", "a missing cell in row 2"]),
        (Category("a", ("u", "v")), math.nan, ["a category in every row", "row 2"]),
        (Category("a", ("u", "v")), 2.0, ["its 2 categories", "2 in row 2", "u, v"]),
    ],
)
def test_cells_that_do_not_belong_are_named_by_row(
    number: Any, value: float, words: list[str]
) -> None:
    scaling = TableScaling((Number("b"), number))
    raw = torch.tensor([[0.5, 1.0], [0.5, value]], dtype=torch.float64)
    refuses(lambda: scaling.encode(raw), words)


def test_the_density_is_that_of_the_logit_normal_and_the_log_normal() -> None:
    """If x is N(0, 1), the columns have the laws of the links, whose densities torch knows."""
    parts = (
        Number("share", 0.3, 1.7, low=-1.0, high=4.0),
        Number("income", 2.0, 0.5, low=10.0),
        Number("debt", 1.0, 0.6, high=0.0),
        Number("plain", 3.0, 2.0),
    )
    scaling = TableScaling(parts)
    x = 1.5 * normal(200, 4)
    raw = scaling.decode(x)
    unit, *u = (
        Normal(*torch.tensor(v, dtype=torch.float64))
        for v in ((0.0, 1.0), (0.3, 1.7), (2.0, 0.5), (-1.0, 0.6))
    )
    got = unit.log_prob(x).sum(1) + scaling.log_abs_det(x)
    scale, exp = transforms.AffineTransform(-1.0, 5.0), transforms.ExpTransform()
    share = TransformedDistribution(u[0], [transforms.SigmoidTransform(), scale])
    income, debt = (TransformedDistribution(base, [exp]) for base in u[1:])
    expected = (
        share.log_prob(raw[:, 0])
        + income.log_prob(raw[:, 1] - 10.0)
        + debt.log_prob(-raw[:, 2])
        + unit.log_prob((raw[:, 3] - 3.0) / 2.0)
        - math.log(2.0)
    )
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_jacobian_is_that_of_autograd_and_of_the_scaling() -> None:
    scaling = TableScaling(
        tuple(
            Number(name, part.mean, part.std, part.low, part.high)
            for name, part in NUMBERS.items()
        )
    )
    raw = scaling.decode(normal(5, 4))
    jacobian = torch.autograd.functional.jacobian(lambda r: scaling.encode(r).sum(0), raw)
    slopes = torch.stack([jacobian[k, :, k] for k in range(4)], 1)
    expected = slopes.abs().log().sum(1)
    torch.testing.assert_close(scaling.log_abs_det(scaling.encode(raw)), expected)
    plain = Scaling(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert plain.log_abs_det(torch.zeros(3, 2)).tolist() == pytest.approx([-math.log(12)] * 3)
    volume = Scaling(torch.zeros(2, 1, 1), torch.tensor([2.0, 4.0]).reshape(2, 1, 1))
    expected = torch.full((1,), -9 * math.log(8.0)).double()
    torch.testing.assert_close(volume.log_abs_det(torch.zeros(1, 2, 3, 3)), expected)


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (Category("kind", ("u", "v")), "'kind' has categories"),
        (Number("age", missing=True), "cells of 'age' may be missing"),
        (Number("age", low=0.0, low_gap=1.0), "numbers of 'age' are on a bound"),
    ],
)
def test_tables_with_probabilities_have_no_density(part: Any, word: str) -> None:
    scaling = TableScaling((Number("a"), part))
    assert scaling.density_fault == word
    refuses(lambda: scaling.log_abs_det(torch.zeros(1, scaling.width)), ["density", word])


def test_maps_survive_json_and_a_summary() -> None:
    table = TableScaling(
        (
            *(Number(n, p.mean, p.std, p.low, p.high, True) for n, p in NUMBERS.items()),
            Number("edge", low=0.0, low_gap=0.5),
            Category("kind", ("u", "v", "w"), "one_hot", True),
        )
    )
    assert units_of(json.loads(json.dumps(table.to_dict()))) == table
    plain = Scaling(torch.tensor([1.0]), torch.tensor([3.0]), ("a",))
    again = units_of(json.loads(json.dumps(plain.to_dict())))
    assert isinstance(again, Scaling)
    assert again.columns == ("a",)
    assert units_of(None) is None
    given = {"given": ConditionSummary((3,), {"t": (), "sky": ("clear", "grey")})}
    summary = DataSummary(9, (11,), 0.0, 1.0, -1.0, 1.0, scaling=table, conditions=given)
    read = DataSummary.from_dict(json.loads(json.dumps(summary.to_dict())))
    assert (read.scaling, read.conditions) == (table, given)
    x = normal(7, table.width)
    torch.testing.assert_close(read.decode(x), table.decode(x), equal_nan=True)
    old = {k: v for k, v in summary.to_dict().items() if k != "conditions"}
    assert DataSummary.from_dict(old).conditions == {}


def test_conditions_of_columns_are_read_by_name() -> None:
    weather = ConditionSummary((4,), {"t": (), "sky": ("clear", "grey", "1")})
    given = weather.encode({"sky": 1, "t": "20.5"} | {"t": 20.5})
    assert given.tolist() == [20.5, 0.0, 0.0, 1.0]
    assert weather.encode({}).isnan().all()
    refuses(lambda: weather.encode({"T": 1.0}), ["given", "'sky', 't'", "did you mean 't'"])
    refuses(
        lambda: weather.encode({"sky": "blue"}),
        ["given", "category of 'sky'", "'clear', 'grey'", "'blue'"],
    )
    refuses(lambda: weather.encode({"t": "warm"}), ["t", "number"], TypeError)
    refuses(lambda: weather.encode({"t": math.nan}), ["t", "finite"])
    refuses(lambda: ConditionSummary((2,), {"sky": ("clear",) * 3}), ["shape", "(3,)"])
