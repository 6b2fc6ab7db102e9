"""The page of errors in the wild says what its file says, and its checks find the errors."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import wild
from benchmarks import wild_checks as checks
from benchmarks.wild_pictures import LEFT, OFF, SOUND, Drawn, picture

ROOT = Path(__file__).parents[2]
D = torch.float64


def found() -> dict[str, dict[str, list[float]]]:
    saved: dict[str, dict[str, list[float]]] = json.loads(
        (wild.RESULTS / "wild.json").read_text(encoding="utf-8")
    )["figures"]
    return saved


def test_the_page_is_that_of_the_figures() -> None:
    saved = json.loads((wild.RESULTS / "wild.json").read_text(encoding="utf-8"))
    assert wild.PAGE.read_text(encoding="utf-8") == wild.page(saved), "run benchmarks/wild.py"


def test_the_pictures_are_those_of_the_figures() -> None:
    saved = json.loads((wild.RESULTS / "wild.json").read_text(encoding="utf-8"))
    made = wild.pictures(saved)
    there = {path.name: path.read_text(encoding="utf-8") for path in wild.PICTURES.iterdir()}
    assert there == made, "run benchmarks/wild.py"
    assert len(made) == len(wild.ENTRIES) and max(map(len, made.values())) < 40_000


def test_a_picture_shows_each_figure_at_its_place() -> None:
    drawn = Drawn(("10 steps", "20 steps"), within=0.1, digits=2)
    root = ElementTree.fromstring(picture("<t>", 1.0, [("a & b", [1.0, 3.0])], drawn))
    svg = {"s": "http://www.w3.org/2000/svg"}
    dots = [float(dot.attrib["cx"]) for dot in root.findall("s:circle", svg)]
    dashed, bar = root.findall("s:line", svg)
    zero = LEFT
    assert dots[0] == float(dashed.attrib["x1"])  # the exact answer
    assert (dots[1] - zero) == pytest.approx(3 * (dots[0] - zero), abs=0.2)
    assert [float(bar.attrib["x1"]), float(bar.attrib["x2"])] == dots
    assert root.find("s:title", svg).text == "<t>"  # type: ignore[union-attr]
    told = [text.text for text in root.findall("s:text", svg)]
    assert "a & b" in told and "1.00, 3.00" in told
    colours = {dot.attrib["fill"] for dot in root.findall("s:circle", svg)}
    assert colours == {OFF}
    near = picture("t", 1.0, [("a", [1.05, 0.95])], drawn)
    assert OFF not in near and SOUND in near


def test_a_picture_of_a_mean_shows_its_standard_deviation() -> None:
    drawn = Drawn(("mean", "standard deviation"), within=0.1, digits=1)
    root = ElementTree.fromstring(picture("t", 0.0, [("a", [1.0, 2.0])], drawn))
    svg = {"s": "http://www.w3.org/2000/svg"}
    (dot,) = root.findall("s:circle", svg)
    dashed, bar = root.findall("s:line", svg)
    zero = float(dashed.attrib["x1"])
    low, middle, high = (
        float(v) - zero for v in (bar.attrib["x1"], dot.attrib["cx"], bar.attrib["x2"])
    )
    assert (low, high) == (pytest.approx(-middle, abs=0.2), pytest.approx(3 * middle, abs=0.3))


def test_every_row_of_ours_and_of_the_formulas_is_there() -> None:
    for entry in wild.ENTRIES:
        rows = found()[entry.title]
        for name, package, _ in entry.rows:
            assert package not in ("", "scoresde") or f"{package} {name}".strip() in rows


def test_a_missing_package_is_said_and_has_no_rows() -> None:
    saved = json.loads((wild.RESULTS / "wild.json").read_text(encoding="utf-8"))
    saved["versions"]["azula"] = None
    for rows in saved["figures"].values():
        for name in [name for name in rows if name.startswith("azula ")]:
            del rows[name]
    page = wild.page(saved)
    assert "without rows: azula." in page and "`DPSSampler`" not in page


def test_the_order_of_the_parabola_is_three_and_of_half_of_it_two() -> None:
    """At 640 and 1,280 steps, where the orders have settled; the page shows 160 and 320."""
    start = torch.full((1, 1), checks.START, dtype=D)
    exact = checks.exact_end()
    for factor, expected in ((1.0, 2.0), (2.0, 3.0)):
        shorter = lambda steps, f=factor: float(checks.third(f, start, 4 * steps))  # noqa: E731
        assert checks.order(shorter, exact) == pytest.approx(expected, abs=0.1)


def test_the_solver_written_out_is_ours() -> None:
    start = torch.full((1, 1), checks.START, dtype=D)
    for factor, name in ((1.0, "dpmpp_3m_reference"), (2.0, "dpmpp_3m")):
        ours = checks.own(name, start, 50)
        assert torch.allclose(checks.third(factor, start, 50), ours, rtol=1e-9)


def test_the_end_of_the_flow_keeps_its_quantile() -> None:
    assert 0.5 < checks.exact_end() < 1.5
    start = torch.full((1, 1), checks.START, dtype=D)
    assert float(checks.third(2.0, start, 1000)) == pytest.approx(checks.exact_end(), abs=1e-7)


def test_a_norm_over_the_batch_is_found_and_ours_passes() -> None:
    x = torch.tensor([[0.7]], dtype=D)
    assert checks.together_over_alone(checks.batch_norm, x) == pytest.approx(0.125)
    assert checks.together_over_alone(checks.own_guidance, x) == 1.0


def test_seeds_and_couplings_are_found() -> None:
    assert checks.changed_by_mates(checks.by_randn) > 0.1
    assert checks.changed_by_mates(checks.by_own) == 0.0
    torch.manual_seed(0)
    assert checks.mean_start(checks.sorted_pairs) == pytest.approx((2 / torch.pi) ** 0.5, abs=0.1)
    assert checks.mean_start(lambda noise, label: (noise, label)) == pytest.approx(0.0, abs=0.2)


def test_resampling_at_every_step_is_found() -> None:
    """The variance of a share drifts in N draws of K from K: 1/4 (1 - (1 - 1/K)^(N + 1))."""

    def drawn(steps: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(256, generator=generator)
        for _ in range(steps):
            x = x[torch.randint(256, (256,), generator=generator)]
        return x

    for steps in (0, 30, 300):
        expected = 0.5 * (1 - (1 - 1 / 256) ** (steps + 1)) ** 0.5
        assert checks.spread_of_share(partial(drawn, steps)) == pytest.approx(expected, rel=0.3)


def test_a_doubled_slope_is_found_and_shrinks_as_the_closed_form_says() -> None:
    """dy/dB = -y/2 + c y/(2 v), v = 1 - 3/4 e^-B: y goes as e^(-B/2) (e^B - 3/4)^(c/2)."""
    start, stop = (math.log(checks.SDE.alpha(t)) * -2 for t in (1e-3, 1.0))

    def end(c: float) -> float:
        ratio = (math.exp(start) - 0.75) / (math.exp(stop) - 0.75)
        return math.exp((stop - start) / 2) * ratio ** (c / 2) / 0.5

    figures = found()["A diffusion coefficient that belongs to another schedule"]
    wrong, right, own = figures.values()
    assert wrong == pytest.approx([2.0, end(2.0)], rel=0.01)
    assert right == pytest.approx([1.0, end(1.0)], rel=0.01)
    assert checks.own_flow() == pytest.approx(own, rel=1e-6)
    twice = checks.of_flow(lambda t: t**2, lambda t: 4 * t, lambda x: x)
    assert twice == pytest.approx((2.0, 2.0))


def test_the_figures_of_one_entry_replace_its_old_ones_alone() -> None:
    saved = json.loads((wild.RESULTS / "wild.json").read_text(encoding="utf-8"))
    title = wild.ENTRIES[1].title
    new = {"versions": dict(saved["versions"]), "figures": {title: {"x": [7.0]}}}
    both = wild.merged(saved, new)
    assert both["figures"][title] == {"x": [7.0]}
    assert list(both["figures"]) == [entry.title for entry in wild.ENTRIES]
    new["versions"]["azula"] = "0.0.1"
    with pytest.raises(ValueError, match="other versions than before of azula"):
        wild.merged(saved, new)
