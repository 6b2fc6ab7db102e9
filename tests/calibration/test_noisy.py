"""Calibration with noise: distributions against closed forms, and what uses the result."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import order
import pytest
import torch
from torch import Tensor

from scoresde import (
    VPSDE,
    Adams,
    ClassifierFree,
    FunctionScore,
    Gaussian,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
    TwistedSampler,
    load,
    save,
)
from scoresde.calibration.budget import TRIED, Effort, affordable, efforts, pilots, split
from scoresde.calibration.laws import Laws
from scoresde.calibration.optimise import Found, minimise
from scoresde.calibration.result import Calibration
from scoresde.calibration.search import calibrate, calibrate_each
from scoresde.calibration.trajectories import Slope
from scoresde.metrics import energy_distance, sliced_wasserstein
from scoresde.metrics.kernels import Estimate
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.prediction import Prediction
from scoresde.schedule.grid import Grid, make_grid
from scoresde.solvers import LearnedAdams

VP = VPSDE()
DOUBLE = torch.float64
STEPS = 4
SPREAD = 0.3
DATA = Gaussian(torch.zeros(2, dtype=DOUBLE), SPREAD**2 * torch.eye(2, dtype=DOUBLE))
SEARCH = importlib.import_module("scoresde.calibration.search")


def reverse(model: ScoreModel | None = None, eta: float = 1.0, **options: Any) -> ReverseSDE:
    return ReverseSDE(VP, DATA.under(VP) if model is None else model, eta, **options)


class Given(ScoreModel):
    """The score of N(y, SPREAD^2 I), with y a condition."""

    sde = VP

    def predict(self, node: Node, x: Tensor, cond: Any = None) -> Prediction:
        y = cond["y"].to(x)
        variance = (node.alpha * SPREAD) ** 2 + node.sigma**2
        return Prediction(x, node, node.sigma * (x - node.alpha * y) / variance, "eps")

    def admits(self, name: str) -> bool:
        return name == "y"


def calibrated(**options: Any) -> Calibration:
    given = {"steps": STEPS, "trajectories": 768, "solver": Adams(1)}
    process = options.pop("process", None) or reverse()
    return calibrate(process, (2,), **{**given, **options})


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrated(trajectories=3072)


def laws(count: int = 96, model: ScoreModel | None = None, batch: int = 96) -> Laws:
    x = VP.sample_prior(Independent(0).prior(torch.empty(count, 2, dtype=DOUBLE)))
    told = order.mixture_2d().under(VP) if model is None else model
    group = Laws(VP, told, x, {}, VP.t_end, batch, 1.0, 0)
    group.follow(Adams(2, parametrisation="v"), make_grid("log_snr", VP, 40), slice(0, 64))
    return group


def deviation(solver: Adams | LearnedAdams, grid: Grid) -> float:
    """The standard deviation of the end states on Gaussian data, from the weights alone.

    Each prediction is linear in the state, so a state is a sum of independent normals, with the
    coefficients that are carried along here.
    """
    nodes = [VP.at(t) for t in grid.times]
    count = len(nodes)
    own = torch.zeros(count, dtype=DOUBLE)
    own[0] = VP.sigma(VP.T)
    base = solver.base if isinstance(solver, LearnedAdams) else solver
    past: list[Tensor] = []
    for i, row in enumerate(solver.rows(VP, tuple(nodes), 1.0)):
        a, s = nodes[i].alpha, nodes[i].sigma
        x0 = a * SPREAD**2 / ((a * SPREAD) ** 2 + s**2) * own
        eps = (own - a * x0) / s
        told = {"x0": x0, "eps": eps, "v": a * eps - s * x0, "flow": eps - x0}
        past = [told[base.parametrisation], *past]
        own = row.state_coef * own
        for weight, m in zip(row.weights, past, strict=False):
            own = own + weight * m
        own = own.clone()
        own[i + 1] += row.noise_std
    return float(own.norm())


def exact(grid: Grid) -> float:
    end = VP.at(grid.end)
    return math.hypot(end.alpha * SPREAD, end.sigma)


def test_the_calibrated_process_has_the_variance_of_the_data(found: Calibration) -> None:
    """Ancestral sampling of 4 steps has 0.6 of the exact standard deviation."""
    before = deviation(found.start_solver, found.start_grid) / exact(found.grid) - 1.0
    after = deviation(found.solver, found.grid) / exact(found.grid) - 1.0
    assert before == pytest.approx(-0.4, abs=0.01)
    assert abs(after) < 0.04
    assert found.eta == 1.0 and found.name == "eta=1 with 4"
    assert isinstance(found.solver, LearnedAdams) and len(found.solver.spreads) == STEPS


def test_its_samples_are_close_to_the_data_for_seeds_it_has_not_seen(found: Calibration) -> None:
    data = DATA.sample(2000, seed=5)
    told = {}
    for name, solver in {
        "before": ReverseSampler(VP, DATA.under(VP), Adams(1), grid=found.start_grid, eta=1.0),
        "after": ReverseSampler(VP, DATA.under(VP), found),
    }.items():
        x = solver.sample((2000, 2), seed=9, dtype=DOUBLE)
        told[name] = sliced_wasserstein(x, data)
    assert told["after"] < 0.2 * told["before"]


def test_errors_are_those_of_the_metrics() -> None:
    group = laws()
    grid = make_grid("log_snr", VP, 5)
    which = slice(64, 96)
    x = group.run(Adams(2), grid, which)
    known = group.ends[:64]
    squares = group.distances(x, which).square()
    directions = group._directions
    for k in (0, 7):
        line = sliced_wasserstein(x @ directions[k][:, None], known @ directions[k][:, None])
        assert float(squares[k].sqrt()) == pytest.approx(line, rel=1e-12)
    loss = group.loss(Adams(2), group.log_snr(grid), which)
    assert loss == pytest.approx(0.5 * math.log(float(squares.mean())))
    assert group.energy(x, which).value == energy_distance(x, known).value
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(64, dtype=DOUBLE))
    shift = torch.tensor([3.0, 4.0], dtype=DOUBLE)
    told = group.distances(known + shift, which)
    torch.testing.assert_close(told, (directions @ shift).abs())
    assert math.isinf(float(group.distances(x * math.inf, which)[0]))
    assert math.isinf(group.energy(x * math.nan, which).value)


def test_the_accuracy_is_the_distance_of_two_samples_of_the_fine_run() -> None:
    group = laws()
    apart = group.distances(group.ends[64:], slice(64, 96)).square().mean().sqrt()
    assert group.accuracy == float(apart) > 0.0


def test_the_loss_is_the_energy_distance_but_for_a_constant() -> None:
    group = laws()
    known = group.ends[:64]
    pairs = torch.cdist(known, known).sum() / (64 * 63)
    for which in (slice(0, 20), slice(64, 96)):
        x = group.ends[which] + 0.1
        value, plain = group._losses(x, which, 0.0)
        assert float(value) == plain
        assert plain - float(pairs) == pytest.approx(energy_distance(x, known).value, abs=1e-9)


class Fixed(Laws):
    """Noise that belongs to the number of the step, so that it stays when nodes move."""

    def _noise(self, part: slice) -> Any:
        first = part.start

        class ByStep:
            made = 0

            def normal(self, like: Tensor, now: Any, nxt: Any) -> Tensor:
                self.made += 1
                return Independent(3, first).draw(like, self.made)

        return ByStep()


@pytest.mark.parametrize("solver", [Adams(1), Adams(2, 3, "v"), Adams(3, variable="rho")])
def test_the_gradient_is_that_of_finite_differences(solver: Adams) -> None:
    group = laws()
    fixed = Fixed(VP, group.model, group.x, {}, VP.t_end, 40, 1.0, 0)
    fixed.ends, fixed.known = group.ends, group.known
    which, n = slice(0, 80), 5
    share = torch.linspace(0.5, 1.5, n, dtype=DOUBLE) / n
    factors = 1.0 + 0.02 * torch.arange(3.0 * n, dtype=DOUBLE).sin().reshape(3, n)
    slope = fixed.gradient(solver, share, which, 0.0, factors)
    shift = 1e-5
    for row, i in ((0, 1), (0, n - 1), (1, 2), (1, n - 1), (2, 0), (2, n - 1)):
        change = torch.zeros_like(factors)
        change[row, i] = shift
        up, down = (
            fixed.gradient(solver, share, which, 0.0, factors + s * change).loss for s in (1, -1)
        )
        told = float(slope.factors[row, i])
        assert (up - down) / (2 * shift) == pytest.approx(told, rel=1e-5, abs=1e-7), (row, i)
    for i in range(n):
        change = torch.zeros_like(share)
        change[i] = shift
        up, down = (
            fixed.gradient(solver, share + s * change, which, 0.0, factors).loss for s in (1, -1)
        )
        told = float(slope.share[i])
        assert (up - down) / (2 * shift) == pytest.approx(told, rel=1e-4, abs=1e-6), i


def test_a_start_that_cannot_be_told_from_the_fine_run_is_kept_at_no_cost() -> None:
    made = calibrated(steps=24, trajectories=96, solver=Adams(2, parametrisation="v"))
    assert made.grid == made.start_grid and made.solver == made.start_solver
    assert made.cost.gradients == 0
    assert "32 samples of the start cannot be told from those of the fine run" in made.note


def test_a_result_that_is_no_better_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("scoresde.calibration.strategy")
    monkeypatch.setattr(module, "minimise", lambda group, found, *rest: found)
    made = calibrated()
    assert made.solver == made.start_solver and made.grid == made.start_grid
    assert "no result is better than the start by more than the error of sampling" in made.note


def test_a_model_without_a_gradient_still_gets_its_best_solver() -> None:
    def score(t: Tensor, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no gradient here")
        return -x / ((VP.alpha(t) * SPREAD) ** 2 + VP.sigma(t) ** 2)

    made = calibrated(process=reverse(FunctionScore(VP, score)), solver=None)
    assert isinstance(made.solver, Adams) and made.error < 0.7 * made.error_before
    assert "not all was optimised: no gradient here" in made.note


def test_a_plan_costs_what_its_parts_do() -> None:
    noisy = importlib.import_module("scoresde.calibration.noisy")
    assert len(noisy.NOISY) * len(noisy._GRIDS) + 1 == TRIED
    sizes = split(pilots(64, noisy=True), noisy=True)
    made, total = efforts([5, 10], None, sizes, 44, None, 64, noisy=True)
    assert made[5] == Effort(2, 15, 60, 128, 256)
    assert total == 1152 * 44 + sum(made[n].cost(n, *sizes, 64) for n in made)
    assert affordable([5, 10], 64, None, noisy=True) == ([5, 10], 768)
    assert affordable([5, 10], 64, total - 1, noisy=True) == ([5, 10], 768)
    assert affordable([5, 10], 64, 30_000, noisy=True) == ([5], 192)
    assert affordable([5], 64, 1000, noisy=True) == ([], 192)


def judged(monkeypatch: pytest.MonkeyPatch, values: list[tuple[float, float]]) -> Calibration:
    """A calibration with given energy distances, those of the start and of the two results."""
    left = iter(values)
    energy = Laws.energy

    def told(self: Laws, x: Tensor, which: slice) -> Estimate:
        if which.stop != len(self.x):
            return energy(self, x, which)
        value, error = next(left)
        return Estimate(value, error, error)

    monkeypatch.setattr(Laws, "energy", told)
    return calibrated(trajectories=96, iterations=4)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([(1.9, 1.0)], True),  # the start is not told from the fine run
        ([(5.0, 1.0), (3.1, 1.0), (3.1, 1.0)], True),  # better by less than two standard errors
        ([(5.0, 1.0), (2.9, 1.0), (2.9, 1.0)], False),
        ([(5.0, 1.0), (2.9, 1.1), (2.9, 1.1)], True),
    ],
)
def test_a_result_has_to_be_better_by_two_standard_errors_on_those_held_back(
    values: list[tuple[float, float]], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judged(monkeypatch, values).kept is kept


def test_nodes_are_moved(found: Calibration) -> None:
    lam = [[VP.log_snr(t) for t in grid.times] for grid in (found.start_grid, found.grid)]
    assert max(abs(a - b) for a, b in zip(*lam, strict=True)) > 0.2


def test_a_spread_is_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that always asks for less noise takes it to 0, and not below."""
    gradient = Laws.gradient

    def less(self: Laws, *args: Any) -> Slope:
        told = gradient(self, *args)
        zero = torch.zeros_like(told.factors[0])
        return told._replace(factors=torch.stack([zero, zero, zero + 1.0]))

    monkeypatch.setattr(Laws, "gradient", less)
    monkeypatch.setattr(Laws, "loss", lambda self, *args: -1.0)
    group = laws()
    factors = np.array([[1.0] * 4, [1.0] * 4, [0.001] * 4])
    start = Found(-0.1, Adams(1), group.log_snr(make_grid("log_snr", VP, 4)), factors)
    made = minimise(group, start, slice(0, 64), 16, 8, True)
    assert made.factors is not None and (made.factors[2] == 0.0).all()


@pytest.mark.parametrize("ordered", [False, True])
def test_with_conditions_the_conditional_distribution_is_calibrated(ordered: bool) -> None:
    """x | y ~ N(y, 0.3^2), y ~ N(0, 1): together the samples of 4 steps look right, for each y
    they are too narrow."""
    y = torch.randn(96, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    if ordered:
        y = y[y[:, 0].argsort()]
    made = calibrated(process=reverse(Given(), cond={"y": y}), trajectories=None)
    assert made.cost.trajectories == 768
    before = deviation(made.start_solver, made.start_grid) / exact(made.grid) - 1.0
    after = deviation(made.solver, made.grid) / exact(made.grid) - 1.0
    assert before < -0.3 and abs(after) < 0.4 * abs(before)
    assert made.error < made.error_before


def test_the_energy_distance_of_conditions_is_that_of_each() -> None:
    group = laws()
    conditional = Laws(VP, Given(), group.x, {"y": torch.zeros(96, 2)}, VP.t_end, 96, 1.0, 0)
    conditional.ends, conditional.known = group.ends, group.known
    which = slice(64, 96)
    x = group.ends[which] * 1.3 + 1.0
    told = conditional.energy(x, which)
    each = [
        energy_distance(a, b).value
        for a, b in zip(x.split(8), group.ends[which].split(8), strict=True)
    ]
    assert told.value == pytest.approx(sum(each) / 4, rel=1e-9)
    assert conditional.distance(x, which) == pytest.approx(math.sqrt(told.value * group.size))
    assert told.std_error == pytest.approx(float(torch.tensor(each).std()) / 2, rel=1e-5)
    loss, plain = conditional._losses(x, which, 0.0)
    assert float(loss) == plain == pytest.approx(told.value, rel=1e-9)
    line = conditional._directions[5][:, None]
    squares = [
        sliced_wasserstein(a @ line, b @ line) ** 2
        for a, b in zip(x.split(8), group.ends[which].split(8), strict=True)
    ]
    got = float(conditional.distances(x, which)[5])
    assert got == pytest.approx(math.sqrt(sum(squares) / 4), rel=1e-9)


def test_the_process_of_auto_sde_is_calibrated_with_eta_of_one() -> None:
    sampler = ReverseSampler(VP, DATA.under(VP), "auto_sde", steps=4)
    assert callable(sampler.eta)
    made = sampler.calibrate((2,), trajectories=96, solver=Adams(1))
    assert made.eta == 1.0


def test_a_guided_model_has_a_gradient() -> None:
    torch.manual_seed(0)
    model = Preconditioned(MLP(2, width=16, classes=2), VP).eval()
    guided = ClassifierFree(model, 2.0)
    cond = {"label": torch.arange(12) % 2}
    made = calibrate(
        ReverseSDE(VP, guided, 1.0, cond), (2,), steps=3, iterations=4, solver=Adams(1)
    )
    assert made.cost.gradients > 0 and "not all was optimised" not in made.note


@pytest.mark.parametrize("budget", [85_000, 130_000])
def test_a_budget_is_kept(budget: int) -> None:
    made = calibrated(budget=budget)
    assert budget // 2 < made.cost.evaluations <= budget
    with pytest.raises(ValueError, match=r"budget: expected at least \d+ network evaluations"):
        calibrated(budget=1000)


def test_it_repeats_to_the_bit_and_through_json(found: Calibration) -> None:
    again = calibrated(trajectories=3072)
    assert again == found
    assert Calibration.from_dict(found.to_dict()) == found
    assert "two samples of the fine run are" in str(found)


def network() -> Preconditioned:
    torch.manual_seed(0)
    return Preconditioned(MLP(2, width=16), VP).eval()


def test_auto_sde_uses_it_from_a_checkpoint(tmp_path: Path) -> None:
    model = network()
    options = {"trajectories": 96, "iterations": 8, "solver": Adams(1)}
    both = {
        eta: calibrate(ReverseSDE(VP, model, eta), (2,), steps=3, **options)  # type: ignore[arg-type]
        for eta in (0.0, 1.0)
    }
    named = {made.name: made for made in both.values()}
    assert list(named) == ["3", "eta=1 with 3"]
    loaded = load(save(model, tmp_path / "model", calibrations=named))
    assert "3 steps, eta=1 with 3 steps" in str(loaded.facts["calibrated for"])

    def plan(solver: str, **more: Any) -> Any:
        return ReverseSampler(VP, loaded, solver, **{"steps": 3, **more}).plan

    for told in (plan("auto_sde"), plan("auto_sde", eta=1.0), plan("auto", eta=1.0)):
        assert told.solver == both[1.0].solver and told.eta == 1.0
        assert told.schedule.grid == both[1.0].grid
        assert "calibrated for this model and 3 steps" in told.why
    assert plan("auto").solver == both[0.0].solver and plan("auto").eta == 0.0
    for told in (plan("auto_sde", eta=0.5), plan("auto_sde", steps=4)):
        assert "calibrated" not in told.why
    given = ReverseSampler(VP, loaded, both[1.0])
    automatic = ReverseSampler(VP, loaded, "auto_sde", steps=3)
    assert torch.equal(given.sample((4, 2), seed=0), automatic.sample((4, 2), seed=0))
    with pytest.raises(ValueError, match=r"grid, eta: expected neither, .* of eta = 1"):
        ReverseSampler(VP, loaded, both[1.0], eta=0.5)
    x = torch.zeros(4, 2)
    sampler = ReverseSampler(VP, loaded, "auto_sde", steps=3)
    ends = sampler.sample((4, 2), x_init=x, t_start=0.5, seed=0)
    assert float(ends.std(0).min()) > 0.01  # from a later start the table is used, with noise


def test_a_calibrated_process_is_a_proposal_of_particles(found: Calibration) -> None:
    """Its steps are normal, so their densities are known: E exp(reward) in closed form."""
    width, place = 0.8, 0.4

    def reward(x0: Tensor) -> Tensor:
        return -0.5 * ((x0[:, 0] - place) / width) ** 2

    sampler = TwistedSampler(
        DATA.under(VP), reward, particles=4000, solver=found.solver, grid=found.grid, eta=1.0
    )
    told = sampler.sample((1, 2), seed=0, dtype=DOUBLE)
    total = SPREAD**2 + width**2
    evidence = 0.5 * math.log(width**2 / total) - 0.5 * place**2 / total
    assert float(told.log_evidence_error[0]) < 0.02
    assert float(told.log_evidence[0]) == pytest.approx(evidence, abs=0.03)


def test_conditions_go_with_their_trajectories() -> None:
    torch.manual_seed(0)
    model = Preconditioned(MLP(2, width=16, classes=3), VP).eval()
    label = torch.arange(12) % 3
    runs = [
        calibrate(
            ReverseSDE(VP, model, 1.0, {"label": label}),
            (2,),
            steps=3,
            iterations=4,
            solver=Adams(1),
            batch_size=batch,
        )
        for batch in (96, 48)
    ]
    assert runs[0].cost.trajectories == 96
    assert runs[0].error_before == pytest.approx(runs[1].error_before, rel=1e-5)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "gits"}, "expected optimise with noise, got 'gits'"),
    "cond": (
        {"process": reverse(Given(), cond={"y": torch.zeros(11, 2)}), "trajectories": None},
        "expected at least 12 conditions with noise, got 11",
    ),
    "trajectories": ({"trajectories": 48}, "expected at least 96, got 48"),
    "batch_size": ({"batch_size": 7}, "expected at least 8 with noise, got 7"),
    "process": ({"process": reverse(eta=lambda t: 1.0)}, "expected a number as eta"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name: str) -> None:
    options, told = BAD[name]
    with pytest.raises(ValueError, match=f"^{name}: {told}"):
        calibrated(**options)


def test_a_fine_run_that_diverges_is_an_error() -> None:
    wild = FunctionScore(VP, lambda t, x: torch.full_like(x, math.inf))
    with pytest.raises(ValueError, match="process: expected finite states along the fine run"):
        calibrated(process=reverse(wild))


def test_several_numbers_of_steps_share_one_fine_run() -> None:
    options: dict[str, Any] = {"trajectories": 96, "iterations": 4, "solver": Adams(1)}
    made = calibrate_each(reverse(), (2,), steps=(2, 4), **options)
    assert [c.name for c in made.values()] == ["eta=1 with 2", "eta=1 with 4"]
    alone = calibrate(reverse(), (2,), steps=4, reference=40, **options)
    assert made[4].error_before == pytest.approx(alone.error_before, rel=0.2)
    for first, second in pairwise(made.values()):
        assert second.cost.rows < first.cost.rows + second.steps * 10_000
