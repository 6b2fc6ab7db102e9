"""The calibrated grid: the placement of nodes against closed forms, brute force and quadrature."""

from __future__ import annotations

import importlib
import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import order
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    Adams,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    Grid,
    Heun,
    LinearSDE,
    Preconditioned,
    ReverseSDE,
    ScoreModel,
    SubVPSDE,
)
from scoresde.calibration.budget import pilots
from scoresde.calibration.optimise import (
    Found,
    check_gradient,
    deviations,
    equidistribute,
    shortest,
    spread,
)
from scoresde.calibration.result import Calibration
from scoresde.calibration.search import _trajectories, calibrate, calibrate_each
from scoresde.calibration.trajectories import NoGradient, Path, Trajectories, tensor_nodes
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.prediction import Prediction
from scoresde.schedule.grid import log_snr
from scoresde.sde import AffineSDE
from scoresde.sde.fingerprint import model_hashes
from scoresde.solvers import LearnedAdams
from scoresde.solvers.exponential.coefficients import (
    PARAMETRISATIONS,
    VARIABLES,
    VARIANTS,
    Segment,
    table,
)

MODULE = importlib.import_module("scoresde.calibration.strategy")
VP = VPSDE()
MIXTURE = order.mixture_2d()
FAMILIES = [
    VP,
    SubVPSDE(),
    VESDE(0.01, 30.0),
    CosineSDE(),
    FlowSDE(),
    LinearSDE(lambda t: -0.5 * (0.1 + 9.9 * t), lambda t: math.sqrt(0.1 + 9.9 * float(t))),
]
ids = {"ids": lambda v: type(v).__name__}
DOUBLE = torch.float64


def flow(sde: SDE = VP, model: ScoreModel | None = None, **options: object) -> ReverseSDE:
    return ReverseSDE(sde, MIXTURE.under(sde) if model is None else model, 0.0, **options)


def starts(n: int, seed: int = 3, sde: AffineSDE = VP) -> Tensor:
    return sde.sample_prior(Independent(seed).prior(torch.empty(n, 2, dtype=DOUBLE)))


def followed(
    sde: AffineSDE = VP, n: int = 12, model: ScoreModel | None = None, steps: int = 128
) -> tuple[Trajectories, Path]:
    told = MIXTURE.under(sde) if model is None else model
    group = Trajectories(sde, told, starts(n, 0, sde), {}, sde.t_end, n)
    return group, group.follow(Adams(4, 5, "v"), steps, steps // 2, min(n, 8))


ROOMS = ("budget", "search", "trajectories")


def small(**options: object) -> Calibration:
    given = {"steps": 6, "trajectories": 24, "iterations": 12, "dtype": DOUBLE, "solver": Adams(2)}
    return calibrate(options.pop("process", None) or flow(), (2,), **{**given, **options})


@pytest.fixture(scope="module")
def found() -> Calibration:
    return small()


# The weights as functions of the nodes


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("parametrisation", list(PARAMETRISATIONS))
def test_rows_on_nodes_of_tensors_are_those_on_floats(parametrisation: str, eta: float) -> None:
    floats = tuple(VP.at(t) for t in log_snr(VP, 7).times)
    tensors = tensor_nodes(VP, torch.tensor([n.log_snr for n in floats], dtype=DOUBLE))
    for variable, variant, (p, c) in itertools.product(
        VARIABLES, VARIANTS, [(1, 0), (3, 0), (2, 3)]
    ):
        scheme = Adams(p, c, parametrisation, variable, variant, p == 3)
        rows = [table(Segment(nodes, VP.time_of, eta), scheme) for nodes in (floats, tensors)]
        for (keep, ws, spread_), (keep_t, ws_t, spread_t) in zip(*rows, strict=True):
            got = [float(v) for v in (keep_t, *ws_t, spread_t)]
            assert got == pytest.approx([keep, *ws, spread_], rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("sde", FAMILIES, **ids)
@pytest.mark.parametrize("solver", [Adams(2), Adams(3, 4, "eps"), Adams(2, 3, "v", variable="t")])
def test_gradient_of_the_endpoint_error_is_that_of_finite_differences(
    sde: AffineSDE, solver: Adams
) -> None:
    group, _ = followed(sde)
    which, n = slice(2, 9), 6
    share = torch.linspace(0.5, 1.5, n, dtype=DOUBLE) / n
    factors = 1.0 + 0.02 * torch.arange(2.0 * n, dtype=DOUBLE).sin().reshape(2, n)

    def loss(at: Tensor, factors: Tensor = factors) -> float:
        ends = sde.log_snr(sde.T), sde.log_snr(sde.t_end)
        way = np.concatenate([[0.0], at.numpy().cumsum()])
        learned = LearnedAdams(solver, *(tuple(f.tolist()) for f in factors))
        return group.loss(learned, ends[0] + (ends[1] - ends[0]) * way, which)

    slope = group.gradient(solver, share, which, factors=factors)
    gradient = slope.share
    assert slope.loss == pytest.approx(loss(share), rel=1e-7)
    plain = group.gradient(solver, share, which)
    assert plain.loss == pytest.approx(loss(share, torch.ones_like(factors)), rel=1e-7)
    # shares that add up to 1 keep the ends, as the loss of a grid does
    for i in range(n - 1):
        way = torch.zeros(n, dtype=DOUBLE)
        way[i], way[i + 1] = 1.0, -1.0
        at = [loss(share + h * 3e-6 * way) for h in (-2, -1, 1, 2)]
        seen = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / 36e-6
        told = float(gradient[i] - gradient[i + 1])
        assert told == pytest.approx(seen, rel=1e-6, abs=1e-6 * float(gradient.abs().max()))
    for i in range(n):
        for kind in range(2):
            unit = torch.zeros_like(factors)
            unit[kind, i] = 1.0
            at = [loss(share, factors + h * 1e-5 * unit) for h in (-1, 1)]
            seen = (at[1] - at[0]) / 2e-5
            size = float(slope.factors.abs().max())
            assert float(slope.factors[kind, i]) == pytest.approx(seen, rel=1e-4, abs=1e-5 * size)


def test_chunks_of_pilots_change_neither_loss_nor_gradient() -> None:
    group, _ = followed()
    share = torch.full((5,), 0.2, dtype=DOUBLE)
    whole = group.gradient(Adams(2, 3), share, slice(0, 12))
    group.batch = 5
    parts = group.gradient(Adams(2, 3), share, slice(0, 12))
    assert parts[:2] == pytest.approx(whole[:2], rel=1e-12)
    for part, all_ in zip(parts[2:], whole[2:], strict=True):
        torch.testing.assert_close(part, all_, rtol=1e-10, atol=1e-12)


def test_activations_that_are_computed_again_change_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Preconditioned(MLP(2, width=8).double(), VP)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    group, _ = followed(model=model)
    share, rows = torch.full((5,), 0.2, dtype=DOUBLE), group.rows
    kept = group.gradient(Adams(2, 3), share, slice(0, 12))
    assert (group.rows - rows, group.gradients) == (60, 60)
    monkeypatch.setattr(importlib.import_module(Trajectories.__module__), "GRAPH", 0)
    again = group.gradient(Adams(2, 3), share, slice(0, 12))
    assert (group.rows - rows, group.gradients) == (180, 120)  # they are evaluated twice
    for a, b in zip(again, kept, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-12, atol=0.0)


# Equidistribution


def test_spread_of_a_density_with_a_closed_form() -> None:
    """Density 1 + x on [0, 2]: the integral is x + x^2/2, so x_i = sqrt(1 + 8 i/N) - 1."""
    points = np.linspace(0, 2, 2001)
    nodes = spread(points, 1 + points, (0.0, 2.0), 9)
    expected = np.sqrt(1 + 8 * np.arange(10) / 9) - 1
    np.testing.assert_allclose(nodes, expected, atol=1e-5)


@pytest.mark.parametrize("parametrisation", ["x0", "eps", "v"])
def test_nodes_of_a_first_order_solver_follow_the_root_of_the_error_constant(
    parametrisation: str,
) -> None:
    """On N(0, s^2) the flow is x = x_T s_t/s_T, so m and its derivative are known in lambda."""
    variance = 0.04
    data = Gaussian(torch.zeros(2, dtype=DOUBLE), torch.tensor(variance, dtype=DOUBLE))
    _, path = followed(model=data.under(VP), steps=1024)
    lam = path.log_snr

    def told(at: float) -> float:
        """m over x_T, up to a constant factor; each is p x0 + q eps."""
        alpha, sigma = 1 / math.hypot(1, math.exp(-at)), 1 / math.hypot(1, math.exp(at))
        std = math.sqrt(alpha**2 * variance + sigma**2)
        x0, eps = alpha * variance / std, sigma / std
        return {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0}[parametrisation]

    def density(at: float) -> float:
        alpha, sigma = 1 / math.hypot(1, math.exp(-at)), 1 / math.hypot(1, math.exp(at))
        weight = {"x0": alpha, "eps": sigma, "v": alpha * sigma}[parametrisation]
        return math.sqrt(weight * abs(told(at + 1e-5) - told(at - 1e-5)) / 2e-5)

    nodes = equidistribute(path, Adams(1, parametrisation=parametrisation), 12)
    assert (nodes[0], nodes[-1]) == (lam[0], lam[-1])
    parts = [quad(density, *ends, epsabs=1e-7)[0] for ends in itertools.pairwise(nodes)]
    np.testing.assert_allclose(parts, np.mean(parts), rtol=0.02)
    assert np.ptp(np.diff(nodes)) > 0.1  # nothing like equal steps


def test_equidistribution_in_the_clock_of_the_solver() -> None:
    """A first-order step is the same in every variable, and so are its nodes."""
    _, path = followed()
    for parametrisation in PARAMETRISATIONS:
        nodes = [
            equidistribute(path, Adams(1, parametrisation=parametrisation, variable=c), 8)
            for c in VARIABLES
        ]
        for other in nodes[1:]:
            np.testing.assert_allclose(other, nodes[0], atol=0.03)


# GITS


def test_the_shortest_path_is_that_of_brute_force() -> None:
    cost = np.random.default_rng(0).random((9, 9))
    cost[np.tril_indices(9)] = math.inf
    for steps in range(1, 9):
        inner = itertools.combinations(range(1, 8), steps - 1)
        paths = [(0, *nodes, 8) for nodes in inner]
        sums = [sum(cost[a, b] for a, b in itertools.pairwise(p)) for p in paths]
        assert tuple(shortest(cost, steps)) == paths[int(np.argmin(sums))]


@pytest.mark.parametrize("sde", [VP, VESDE(0.01, 30.0)], **ids)
@pytest.mark.parametrize("parametrisation", list(PARAMETRISATIONS))
def test_deviations_are_those_of_single_steps_of_the_solver(
    sde: AffineSDE, parametrisation: str
) -> None:
    _, path = followed(sde, n=8)
    cost = deviations(path, parametrisation)
    assert np.isinf(cost[np.tril_indices(len(cost))]).all()
    for j, k in ((0, 1), (3, 40), (20, 64), (50, 63)):
        grid = Grid.of([path.nodes[j].t, path.nodes[k].t])
        x = (
            Adams(1, parametrisation=parametrisation)
            .solve(flow(sde), path.x[j], grid, noise=Independent(0))
            .x
        )
        size = math.hypot(path.nodes[k].alpha, path.nodes[k].sigma)
        gap = (x - path.x[k]).norm(dim=1).mean() / math.sqrt(2) / size
        # the path holds predictions at its predictor's states, right to its own high order
        assert cost[j, k] == pytest.approx(float(gap), rel=1e-3, abs=1e-6)


# Whole calibrations


def test_a_calibrated_grid_beats_its_start_on_pilots_it_has_not_seen(found: Calibration) -> None:
    assert found.note == ""
    assert found.held.typical < 0.6 * found.held_before.typical
    x = starts(64, seed=99)
    true = Adams(4, 5, "v").solve(flow(), x, log_snr(VP, 800), noise=Independent(0)).x
    rivals = (found.start_solver, found.start_grid), (found.solver, found.grid)
    before, after = (
        float((s.solve(flow(), x, g, noise=Independent(0)).x - true).norm(dim=1).log().mean())
        for s, g in rivals
    )
    assert after < before + math.log(0.7)
    assert found.grid.start == VP.T and found.grid.end == VP.t_end and found.steps == 6


def test_errors_and_reference_are_what_they_say(found: Calibration) -> None:
    x = starts(24, seed=0)
    true = Adams(4, 5, "v").solve(flow(), x, log_snr(VP, 2000), noise=Independent(0)).x
    gap = found.solver.solve(flow(), x, found.grid, noise=Independent(0)).x - true
    length = gap.norm(dim=1)[16:] / math.sqrt(2)
    assert found.held.median == pytest.approx(float(length.median()), rel=1e-2)
    assert found.held.rms == pytest.approx(float(length.square().mean().sqrt()), rel=1e-2)
    assert found.held.typical == pytest.approx(float(length.log().mean().exp()), rel=1e-2)
    group, _ = followed(n=24, steps=64)
    real = (group.ends - true).norm(dim=1)[:8].median() / math.sqrt(2)
    assert group.accuracy / 5 < float(real) < group.accuracy * 5


class Counted(ScoreModel):
    """An oracle that counts its calls and the states in them."""

    def __init__(self, detach: bool = False) -> None:
        super().__init__()
        self.inner, self.sde, self.detach = MIXTURE.under(VP), VP, detach
        self._rows = self._calls = 0

    def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
        self._calls, self._rows = self._calls + 1, self._rows + len(x)
        told = self.inner.predict(node, x)
        value = told.value.detach() if self.detach else told.value
        return Prediction(x, node, value, told.kind)


def test_a_search_counts_its_calls_and_costs_a_tenth_of_12000_a_step() -> None:
    """12,000 evaluations a step were those of the search that this one replaced."""
    model = Counted()
    made = calibrate(flow(model=model), (2,), steps=10, trajectories=24, iterations=24)
    assert (made.cost.rows, made.cost.calls) == (model._rows, model._calls)
    assert made.cost.trajectories == 24 and made.cost.nfe == made.cost.rows / 24
    assert made.cost.evaluations == made.cost.rows + 2 * made.cost.gradients
    assert 0 < made.cost.gradients < made.cost.rows
    assert made.cost.evaluations <= 1300 * made.steps
    assert made.held.typical <= made.held_before.typical


@pytest.mark.parametrize("budget", [6000, 9000, 16_000])
def test_a_budget_is_kept(budget: int) -> None:
    model = Counted()
    made = calibrate_each(
        flow(model=model), (2,), steps=(4, 8), trajectories=24, dtype=DOUBLE, budget=budget
    )
    spent = sum(c.cost.evaluations for c in made.values())
    assert 0.5 * budget < spent <= budget
    assert sum(c.cost.rows for c in made.values()) == model._rows
    assert sorted(made) == [4, 8] and all(n == c.steps for n, c in made.items())
    assert all(c.held.typical <= c.held_before.typical for c in made.values())


def test_a_budget_that_is_too_small_says_how_much_is_needed() -> None:
    with pytest.raises(ValueError, match=r"budget: expected at least \d+ network evaluations"):
        calibrate(flow(), (2,), steps=5, budget=1000)


@pytest.mark.parametrize("case", ["usual", "finer reference", "recomputed", "no gradients"])
def test_the_evaluations_of_a_plan_are_the_most_that_progress_counts(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    bars: list[Bar] = []

    class Bar:
        def __init__(self, total: int) -> None:
            self.total, self.told, self.closed = total, [0], False

        def update(self, n: int) -> None:
            self.told.append(n)

        def close(self) -> None:
            self.closed = True

    def shown(total: int, label: str, unit: str, *, shown: bool) -> Bar:
        assert (label, unit, shown) == ("calibrating", "evaluations", True)
        bars.append(Bar(total))
        return bars[0]

    rooms = {name: importlib.import_module(f"scoresde.calibration.{name}") for name in ROOMS}
    monkeypatch.setattr(rooms["search"], "shown", shown)
    options: dict[str, object] = {"iterations": 12}
    if case == "finer reference":
        monkeypatch.setattr(rooms["search"], "_FINE_ENOUGH", 0.0)
    if case == "recomputed":
        monkeypatch.setattr(rooms["trajectories"], "GRAPH", 0)
        monkeypatch.setattr(rooms["budget"], "GRAPH", 0)
    if case == "no gradients":
        detached = FunctionScore(VP, lambda t, x: -x.detach())
        options = {"iterations": 2, "process": flow(model=detached), "solver": None}
    made = small(progress=True, **options)
    (bar,) = bars
    assert sum(bar.told) == made.cost.evaluations and bar.closed
    assert 0.75 * bar.total < sum(bar.told) <= bar.total


def test_samples_of_few_values_take_more_trajectories() -> None:
    assert [pilots(dim) for dim in (1, 2, 8, 16, 64, 3072)] == [96, 96, 48, 24, 24, 24]


@pytest.mark.parametrize("sde", FAMILIES[1:], **ids)
@pytest.mark.parametrize("method", ["optimise", "equidistribute", "gits"])
def test_every_family_and_method_is_never_worse_than_its_start(
    sde: AffineSDE, method: str
) -> None:
    solver = Adams(2, 3, "v")
    made = small(process=flow(sde), method=method, solver=solver, trajectories=18, iterations=6)
    assert made.held.typical <= made.held_before.typical
    assert getattr(made.solver, "base", made.solver) == solver and made.grid.steps == 6
    assert (made.grid == made.start_grid) == ("fell back" in made.note)
    made.grid.check(sde)


def test_a_bad_optimiser_falls_back_to_the_start_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bad(group: Trajectories, found: Found, *rest: object) -> Found:
        crowded = found.log_snr[0] + np.linspace(0, 1, len(found.log_snr)) ** 6 * np.ptp(
            found.log_snr
        )
        return replace(found, log_snr=crowded, loss=-99.0)

    monkeypatch.setattr(MODULE, "minimise", bad)
    made = small()
    assert made.grid == made.start_grid and made.solver == made.start_solver
    assert made.held == made.held_before
    assert "fell back to the start" in made.note and "fell back" in str(made)


def test_a_model_without_a_gradient_is_optimised_without_one() -> None:
    """Detached values have a gradient through the weights, but not that of the loss."""
    group, _ = followed()
    nodes = group.log_snr(log_snr(VP, 6))
    check_gradient(group, Found(0.0, Adams(2), nodes), slice(0, 12))
    group.model = Counted(detach=True)
    with pytest.raises(NoGradient, match="the loss changes by"):
        check_gradient(group, Found(0.0, Adams(2), nodes), slice(0, 12))
    made = small(process=flow(model=Counted(detach=True)), iterations=30)
    assert "without gradients" in made.note
    assert made.held.typical < 0.8 * made.held_before.typical


def test_an_error_under_autograd_is_a_reason_too() -> None:
    def fails(t: Tensor, x: Tensor) -> Tensor:
        out: Tensor = MIXTURE.under(VP).score(float(t.detach()), x.detach())
        return torch.from_numpy(out.numpy()) if not x.requires_grad else _refuse()

    def _refuse() -> Tensor:
        raise RuntimeError("no graph here")

    made = small(process=flow(model=FunctionScore(VP, fails)), trajectories=12, iterations=4)
    assert "no graph here" in made.note


def test_networks_keep_their_mode_weights_and_gradients() -> None:
    torch.manual_seed(0)
    model = Preconditioned(MLP(2, width=16), VP)
    for weight in model.parameters():  # the last layer starts at zero, where all grids are exact
        weight.data += 0.1 * torch.randn_like(weight)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = small(process=flow(model=model), dtype=None, trajectories=12, iterations=4)
    assert "without gradients" not in made.note  # float32 has one, too
    assert made.cost.gradients > 0
    assert model.training and all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


class Shifted(ScoreModel):
    """Data around a mean of each sample's own."""

    def __init__(self) -> None:
        super().__init__()
        self.sde = VP

    def predict(self, node: Node, x: Tensor, cond: dict[str, Tensor] | None = None) -> Prediction:
        gap = x - node.alpha * cond["mean"]
        eps = node.sigma * gap / (0.04 * node.alpha**2 + node.sigma**2)
        return Prediction(x, node, eps, "eps")


def test_conditions_go_with_their_pilots_in_any_batch() -> None:
    cond = {"mean": torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).double()}
    made = [
        small(
            process=flow(model=Shifted(), cond=cond), trajectories=12, iterations=5, batch_size=b
        )
        for b in (None, 5)
    ]
    # the accuracy is that of the first chunk; at 8 trajectories or 5 it is far below the errors
    np.testing.assert_allclose(made[0].grid.times, made[1].grid.times, rtol=1e-3)
    with pytest.raises(ValueError, match="cond"):
        small(process=flow(model=Shifted(), cond={"mean": torch.zeros(3, 2)}))


def test_a_fine_run_that_is_not_fine_enough_is_told() -> None:
    options = {"solver": Adams(5, 6), "steps": 100, "trajectories": 12, "method": "gits"}
    assert "pass a larger reference" in small(**options, reference=1).note
    assert "pass a larger reference" not in small(**options).note


def test_one_step_has_nothing_to_place_but_a_solver_to_choose() -> None:
    made = calibrate(flow(), (2,), steps=1, trajectories=12, dtype=DOUBLE)
    assert made.grid.segments == ((VP.T, VP.t_end),)


# What it belongs to, and bad input


def test_round_trip_through_json_is_bitwise(found: Calibration) -> None:
    saved = json.loads(json.dumps(found.to_dict()))
    back = Calibration.from_dict(saved)
    assert back == found and back.to_dict() == found.to_dict() == saved
    assert [t.hex() for t in back.grid.times] == [t.hex() for t in found.grid.times]


def test_a_saved_calibration_is_checked(found: Calibration) -> None:
    with pytest.raises(TypeError, match="saved"):
        Calibration.from_dict([1])  # type: ignore[arg-type]
    for change in ({"format": "other"}, {"version": 99}):
        with pytest.raises(ValueError, match=r"saved.*version 3"):
            Calibration.from_dict({**found.to_dict(), **change})
    for missing in ("grid", "cost", "note", "fingerprint"):
        broken = found.to_dict()
        del broken[missing]
        with pytest.raises(ValueError, match=rf"saved.*{missing}"):
            Calibration.from_dict(broken)
    with pytest.raises(ValueError, match=r"saved.*solver"):
        Calibration.from_dict({**found.to_dict(), "solver": {"order": 77}})


def test_another_sde_model_or_solver_is_refused(found: Calibration) -> None:
    found.check(VP, MIXTURE.under(VP), found.solver)
    with pytest.raises(ValueError, match=r"sde: expected .* as in the calibration"):
        found.check(VPSDE(beta_max=19.0))
    with pytest.raises(TypeError, match="sde"):
        found.check(SDE(lambda t, x: -x, lambda t: 1.0))
    with pytest.raises(ValueError, match=r"solver: .*Adams\(base=Adams\(order=2"):
        found.check(VP, solver=Adams(3))
    moved = replace(MIXTURE, means=MIXTURE.means + 1e-3)
    with pytest.raises(ValueError, match=r"model: .*weights.*calibrate anew"):
        found.check(VP, moved.under(VP))
    with pytest.raises(ValueError, match=r"model: .*classes"):
        found.check(VP, Counted())


def test_settings_and_precision_of_a_model() -> None:
    torch.manual_seed(0)
    nets = [Preconditioned(MLP(2, width=8), VP, predicts=kind) for kind in ("eps", "x0")]
    nets[1].net.load_state_dict(nets[0].net.state_dict())
    hashes = [model_hashes(m) for m in nets]
    assert hashes[0]["weights"] == hashes[1]["weights"]
    assert hashes[0]["settings"] != hashes[1]["settings"]
    assert model_hashes(nets[0].double().eval()) == hashes[0]


BAD = {
    "process": ({"process": "flow"}, TypeError),
    "trajectories": ({"trajectories": 5}, ValueError),
    "steps": ({"steps": 0}, ValueError),
    "method": ({"method": "gitz"}, ValueError),
    "solver": ({"solver": Heun()}, TypeError),
    "solver ": ({"solver": Adams(5), "steps": 4}, ValueError),
    "t_end": ({"t_end": 0.0}, ValueError),
    "iterations": ({"iterations": 0}, ValueError),
    "reference": ({"reference": -1}, ValueError),
    "batch_size": ({"batch_size": 0}, ValueError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name: str) -> None:
    options, error = BAD[name]
    with pytest.raises(error, match=rf"^{name.strip()}: expected"):
        small(**options)


class Held(ScoreModel):
    """A score model with nothing but a buffer or a parameter, somewhere."""

    def __init__(self, device: str, dtype: torch.dtype, trained: bool) -> None:
        super().__init__()
        self.sde = VP
        value = torch.zeros(1, device=device, dtype=dtype)
        if trained:
            self.weight = torch.nn.Parameter(value)
        else:
            self.register_buffer("weight", value)

    def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
        return Prediction(x, node, -x, "score")


@pytest.mark.parametrize("trained", [True, False])
def test_pilots_are_where_they_are_asked_for_or_where_the_model_is(trained: bool) -> None:
    def trajectories(model_on: str, **options: Any) -> Tensor:
        process = flow(model=Held(model_on, DOUBLE, trained), cond={"y": torch.zeros(12)})
        given = {"t_end": None, "batch_size": None, "dtype": None, "device": None} | options
        group = _trajectories(process, (2,), "optimise", 12, (5,), None, 0, **given)
        assert group.cond["y"].device == group.x.device
        return group.x

    assert trajectories("cpu").device.type == "cpu" and trajectories("meta").device.type == "meta"
    assert trajectories("meta", device="cpu").device.type == "cpu"
    assert trajectories("cpu", device="meta").device.type == "meta"
    assert trajectories("cpu").dtype == (DOUBLE if trained else torch.float32)
    assert trajectories("cpu", dtype=torch.float32).dtype == torch.float32
    assert trajectories("cpu").shape == (12, 2)


def test_processes_that_have_no_calibration() -> None:
    well = SDE(lambda t, x: -x, lambda t: 1.0)
    score = FunctionScore(well, lambda t, x: -x)
    with pytest.raises(TypeError, match="process: expected the process of an affine SDE"):
        small(process=ReverseSDE(well, score, 0.0))
    with pytest.raises(TypeError, match="shape"):
        calibrate(flow(), 2, steps=4)  # type: ignore[arg-type]
    broken = FunctionScore(VP, lambda t, x: x * math.nan)
    with pytest.raises(ValueError, match="process: expected finite states"):
        small(process=flow(model=broken))
