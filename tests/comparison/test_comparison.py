"""Solvers compared on models whose answers are known."""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import (
    VPSDE,
    Adams,
    AdaptiveODE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    ReverseSampler,
    compare,
    save,
)
from scoresde.comparison import Comparison, Floor, Reference, Row
from scoresde.comparison.rows import Results
from scoresde.nets import MLP
from scoresde.solvers import StepSolver

VP = VPSDE()
MIXTURE = GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), torch.tensor([0.1, 0.2]))
EXACT = MIXTURE.under(VP)
WIDE = {"dtype": torch.float64, "rounds": 1}


def row(solver: str, nfe: int, error: float | None = None, **more: Any) -> Row:
    return Row(solver, solver, "log_snr", nfe - 1, "ode", nfe, 1.0, error=error, **more)


def results(*rows: Row, floor: float = 1e-6) -> Results:
    return Results(rows, {"error": Floor(floor, floor, "made up")}, (), {}, {}, None, None)


# Against truth


def test_the_reference_is_the_flow_itself() -> None:
    """Against another solver at 600 steps; and its floor bounds what is left between the two."""
    found = compare(VP, EXACT, (16, 2), solvers=["ddim"], steps=[5], **WIDE)
    fine = ReverseSampler(VP, EXACT, "unipc_3", steps=600).sample(
        (16, 2), seed=0, dtype=torch.float64
    )
    assert found.reference is not None
    gap = (found.reference - fine).square().mean().sqrt()
    assert gap < 1e-7
    assert found.floors["error"].value < 1e-6


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_errors_fall_with_the_order_of_the_solver(solver: str, order: int) -> None:
    found = compare(
        VP, EXACT, (8, 2), solvers=[solver], steps=[80, 160], grids=["log_snr"], **WIDE
    )
    coarse, fine = sorted((r.error for r in found.rows if r.error is not None), reverse=True)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@dataclass(frozen=True)
class Worse(StepSolver):
    """DDIM whose steps are 20 % too long."""

    serves = "ode"

    @property
    def orders(self) -> Any:
        return Adams(1).orders

    def rows(self, sde: Any, nodes: Any, eta: Any) -> Any:
        return Adams(1).rows(sde, nodes, eta)

    def step(
        self, process: Any, x: Tensor, now: Any, nxt: Any, row: Any, past: Any, noise: Any
    ) -> Any:
        good, past = Adams(1).step(process, x, now, nxt, row, past, noise)
        return x + 1.2 * (good - x), past


def test_a_worse_solver_ranks_worse() -> None:
    found = compare(
        VP, EXACT, (1024, 2), solvers={"good": "ddim", "worse": Worse()}, steps=[20], **WIDE
    )
    assert [r.solver for r in found.ranked()] == ["good", "worse"]
    good, worse = found.ranked()
    assert worse.error > 1.2 * good.error  # type: ignore[operator]
    assert found.best(21).solver == "good"
    # By the definition, from samples made by hand.
    sampler = ReverseSampler(VP, EXACT, "ddim", steps=20)
    gap = sampler.sample((1024, 2), seed=0, dtype=torch.float64) - found.reference
    each = gap.square().mean(1).sqrt()
    assert good.error == pytest.approx(float(each.square().mean().sqrt()), rel=1e-9)
    assert good.median == pytest.approx(float(each.median()), rel=1e-9)


def test_evaluations_are_those_counted() -> None:
    calls = 0

    def score(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return EXACT.score(t.flatten() if t.ndim else t, x)

    found = compare(
        VP, FunctionScore(VP, score), (4, 2), solvers=["ddim", "heun"], steps=[3, 7], **WIDE
    )
    assert {(r.solver, r.steps): r.nfe for r in found.rows} == {
        ("ddim", 3): 4,
        ("ddim", 7): 8,
        ("heun", 3): 7,
        ("heun", 7): 15,
    }
    reference = found.about["reference evaluations"] + found.about["loose reference evaluations"]
    warm_up = 2
    assert calls == warm_up + reference + sum(r.nfe for r in found.rows)


def test_the_same_seed_gives_the_same_numbers() -> None:
    settings = {
        "solvers": ["ddim", "dpmpp_2m_sde"],
        "steps": [4],
        "reference": Reference(fine_steps=20),
        **WIDE,
    }
    first, second, other = (
        compare(VP, EXACT, (16, 2), seeds=seeds, **settings) for seeds in ((0,), (0,), (1, 2))
    )

    def numbers(found: Comparison) -> list[Row]:
        return [replace(r, seconds=0.0) for r in found.rows]

    assert numbers(first) == numbers(second)
    assert numbers(first) != numbers(other)
    assert first.floors == second.floors
    both = [r for r in other.rows if r.error is not None]
    assert len(both) == 1
    assert other.about["samples"] == "16 of shape (2,) of each of the seeds 1, 2"


def test_sets_of_samples_are_compared_with_data_and_their_halves() -> None:
    """Samples of the data's law are near the halves' distance, those of another law are not.

    Those of another law are its solvers' best all the same: so the floor is that of the reference.
    """
    data = MIXTURE.sample(512, seed=1)
    wrong = Gaussian(torch.tensor([2.0, 0.0]), torch.ones(())).under(VP)
    settings: dict[str, Any] = {"steps": [20], "rounds": 1, "reference": Reference(data=data)}
    good = compare(VP, EXACT, (256, 2), solvers=["dpmpp_2m_sde", "unipc_3"], **settings)
    bad = compare(VP, wrong, (256, 2), solvers=["unipc_3"], **settings)
    assert set(good.floors) == {"error", "distance"}
    assert good.floors["distance"].mean == bad.floors["distance"].mean
    assert all(good.at_floor(r, "distance") for r in good.rows)
    assert all(bad.at_floor(r, "distance") for r in bad.rows)
    halves = good.floors["distance"].mean
    assert max(r.distance or 9 for r in good.rows) < 3 * halves
    assert min(r.distance or 0 for r in bad.rows) > 5 * halves
    assert [r.error for r in good.rows if r.process == "sde"] == [None]


def test_a_set_is_compared_with_the_reverse_sde_itself() -> None:
    """Euler-Maruyama at 4 steps is far from its limit, at 200 it is not."""
    found = compare(
        VP,
        EXACT,
        (128, 2),
        solvers=["euler_maruyama"],
        steps=[4, 100],
        rounds=1,
        reference=Reference(fine_steps=100),
    )
    assert found.measures == ("distance",)
    assert found.reference is None
    few, many = found.rows
    assert not found.at_floor(few)
    assert found.at_floor(many)
    assert few.distance > 2 * many.distance  # type: ignore[operator]


# Ranking


def test_rows_at_the_floor_are_at_floor_apart() -> None:
    found = results(
        row("a", 20, 1e-9), row("b", 10, 5e-7), row("c", 30, 1e-12), row("d", 5, 1e-2), floor=1e-6
    )
    assert [r.solver for r in found.ranked()] == ["b", "a", "c", "d"]
    assert found.best(100).solver == "b"
    assert found.best(9).solver == "d"
    assert [r.solver for r in found.front()] == ["d", "b"]
    assert found.show(found.rows[0], "error") == "≤ 1.0e-06"
    with pytest.raises(ValueError, match="nfe: expected at least 5, the cheapest that was run"):
        found.best(4)
    with pytest.raises(ValueError, match="'error'"):
        found.best(9, "erorr")


def test_a_loose_reference_ranks_nothing_below_its_own_error() -> None:
    loose = AdaptiveODE("dopri5", 1e-3, 1e-3)
    found = compare(
        VP,
        EXACT,
        (32, 2),
        solvers=["unipc_3"],
        steps=[5, 40, 80],
        reference=Reference(solver=loose),
        **WIDE,
    )
    floor = found.floors["error"].value
    assert floor > 1e-5
    assert found.at_floor(found.rows[1])
    assert found.at_floor(found.rows[2])
    assert found.best(1000) is found.rows[1]


def test_the_table_and_the_json_say_the_same() -> None:
    found = results(
        row("ddim", 6, 0.25, error_se=0.01, median=0.2), row("heun", 11, 0.3, median=0.3)
    )
    table = found.table()
    assert "| solver | steps | NFE | RMS error | median | seconds |" in table
    assert "| ddim | 5 | 6 | 0.250 * | 0.200 | 1.00 |" in table
    assert "| heun | 10 | 11 | 0.300 | 0.300 | 1.00 |" in table
    plain = json.loads(found.to_json())
    assert [r["error"] for r in plain["rows"]] == [0.25, 0.3]
    assert plain["front"] == {"error": [0]}
    assert plain["floors"]["error"]["value"] == 1e-6


def test_solvers_that_choose_their_steps_are_run_once() -> None:
    found = compare(VP, EXACT, (4, 2), solvers=["dopri5", "ddim"], steps=[3, 5], **WIDE)
    adaptive = [r for r in found.rows if r.solver == "dopri5"]
    assert [r.grid for r in adaptive] == ["own"]
    assert adaptive[0].nfe > 20


# The report


class Page(HTMLParser):
    """Tags that were opened and closed, and what elements refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.cells = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("size", [(2,), (1, 8, 8)], ids=["points", "images"])
def test_the_report_is_one_sound_file(size: tuple[int, ...], tmp_path: Path) -> None:
    from PIL import Image

    if size == (2,):
        model: Any = EXACT
    else:
        model = Gaussian(torch.zeros(64), torch.tensor(0.3)).under(VP)
    found = compare(
        VP,
        model,
        (16, *size),
        solvers=["ddim", "unipc_3", "dpmpp_2m_sde"],
        steps=[4, 8],
        rounds=1,
        reference=Reference(fine_steps=10),
        about={"command": "scoresde compare <model>", "checkpoint": "runs/a & b"},
    )
    text = found.html(tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    kinds = [link.split(";")[0] for link in page.links]
    assert kinds.count("data:image/svg+xml") == 4  # two measures, against calls and seconds
    pictures = [base64.b64decode(link.split(",")[1]) for link in page.links if "png" in link]
    assert len(pictures) == (1 if size == (2,) else 1 + 6)
    for data in pictures:
        assert Image.open(io.BytesIO(data)).size[0] > 200
    for r in found.rows:
        assert f"<td>{r.nfe}</td>" in text
    assert "scoresde compare &lt;model&gt;" in text
    assert "runs/a &amp; b" in text
    assert "VPSDE(beta_min=0.1" in text
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match=r"ends in .html"):
        found.html(tmp_path / "report.txt")


# Bad input


def test_a_model_that_diverges_is_reported_not_ranked() -> None:
    @dataclass(frozen=True)
    class Explodes(Worse):
        def step(self, process: Any, x: Tensor, *rest: Any) -> Any:
            process.predict(rest[0], x)
            return x * math.inf, None

        def init(self, process: Any, x: Tensor, segment: Any) -> Any:
            return None

    solvers = {"ddim": "ddim", "bad": Explodes()}
    found = compare(VP, EXACT, (4, 2), solvers=solvers, steps=[3], **WIDE)
    assert [r.solver for r in found.rows] == ["ddim"]
    ((name, why),) = found.failed
    assert name == "bad on log_snr, 3 steps"
    assert "finite" in why
    assert "bad on log_snr" in found.table()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"solvers": "ddim"}, TypeError, ("solvers", "several")),
        ({"solvers": ["dddim"]}, ValueError, ("solver", "did you mean 'ddim'")),
        ({"solvers": []}, ValueError, ("at least one",)),
        ({"solvers": [3]}, TypeError, ("solvers", "3")),
        ({"steps": 5}, TypeError, ("steps", "(5, 10, 20)")),
        ({"steps": [0]}, ValueError, ("steps", "positive")),
        ({"grids": "karras"}, TypeError, ("grids", "['karras']")),
        ({"grids": ["karas"]}, ValueError, ("grid", "'karras'")),
        ({"seeds": 0}, TypeError, ("seeds", "(0,)")),
        ({"rounds": 0}, ValueError, ("rounds", "positive")),
        ({"reference": "dopri5"}, TypeError, ("reference", "AdaptiveODE")),
        ({"reference": Reference(data=torch.zeros(9, 3))}, ValueError, ("data", "(M, (2,))")),
        ({"shape": 4}, TypeError, ("shape", "(N, *D)")),
        ({"model": MLP(2)}, TypeError, ("model", "Preconditioned")),
        ({"sde": "vp"}, TypeError, ("sde", "VPSDE()")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input(change: dict[str, Any], error: type[Exception], words: tuple[str, ...]) -> None:
    def never(t: Tensor, x: Tensor) -> Tensor:
        raise RuntimeError("the network was called")

    given = {"sde": VP, "model": FunctionScore(VP, never), "shape": (4, 2), "steps": [3]} | change
    with pytest.raises(error) as caught:
        compare(**given)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_reference_that_does_not_arrive() -> None:
    short = AdaptiveODE("dopri5", 1e-9, 1e-9, max_nfe=20)
    with pytest.raises(ValueError, match="reference: expected a solver that gets to the end"):
        compare(
            VP,
            EXACT,
            (4, 2),
            solvers=["ddim"],
            steps=[3],
            reference=Reference(solver=short),
            **WIDE,
        )


# The command


def test_the_command_writes_a_report_that_repeats_itself(tmp_path: Path) -> None:
    pytest.importorskip("tyro")
    from command_line import call

    net = MLP(2, width=8, depth=1, classes=3)
    place = save(Preconditioned(net, VP), tmp_path / "model")
    out = tmp_path / "report"
    line = f"compare {place} --solvers ddim,unipc_3 --steps 3,5 --n 8 --rounds 1 --label 0,2"
    found = json.loads(call(f"{line} --tolerance 1e-4 --out {out} --json").stdout)
    assert [row["nfe"] for row in found["rows"]] == [4, 4, 6, 6]
    assert found["about"]["checkpoint"] == str(place)
    files = {file.name for file in out.iterdir()}
    assert files == {"index.html", "comparison.json", "config.json"}
    assert json.loads((out / "comparison.json").read_text())["rows"] == found["rows"]

    command = found["about"]["command"]
    assert set(shlex.split(command)) == {
        *shlex.split(f"scoresde {line} --tolerance 0.0001 --out {out}")
    }
    again = tmp_path / "again"
    call(f"compare {place} --config {out / 'config.json'} --out {again} --json")
    second = json.loads((again / "comparison.json").read_text())
    assert [row["error"] for row in second["rows"]] == [row["error"] for row in found["rows"]]

    message = call(f"{line} --out {out}", code=2).stderr
    assert "--overwrite" in message
    assert (
        "did you mean 'ddim'" in call(f"compare {place} --solvers ddin --out {again}x", 2).stderr
    )


def test_nothing_is_recommended_where_the_reference_is_as_wrong_as_the_samples_are_wide() -> None:
    rows = (row("a", 5, 0.3), row("b", 9, 0.02))
    good = replace(results(*rows, floor=0.01), std=0.5)
    assert good.no_advice() is None and good.best(9).solver == "b"
    assert "*:" in good.table()
    bad = replace(good, floors={"error": Floor(0.0501, 0.0501, "made up")})
    assert bad.front() == []
    assert "No solver is recommended by error" in bad.table() and "*" not in bad.table()
    with pytest.raises(ValueError, match=r"measure: no solver is recommended by error.*tighten"):
        bad.best(9)
    measured = compare(VP, EXACT, (64, 2), solvers=["ddim"], steps=[5], **WIDE)
    assert measured.std == pytest.approx(float(MIXTURE.sample(20000).std(0).mean()), rel=0.2)
