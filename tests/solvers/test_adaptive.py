"""Adaptive solvers: truth, tolerance, one sample's independence of others, and bridged noise."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import order
import pytest
import torch
from torch import Tensor, nn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    Grid,
    LinearSDE,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
    Solution,
    SubVPSDE,
)
from scoresde.node import Node
from scoresde.noise import Independent, PathOnGrid
from scoresde.noise.dyadic import DyadicPath
from scoresde.prediction import Prediction
from scoresde.sampler.latent import decode, encode, slerp
from scoresde.schedule.grid import log_snr, uniform
from scoresde.solvers import SciPySolver, Unfinished
from scoresde.solvers.adaptive.base import AdaptiveSolver
from scoresde.solvers.adaptive.ode import AdaptiveODE
from scoresde.solvers.adaptive.sde import AdaptiveSDE
from scoresde.solvers.adaptive.tableaux import PAIRS, Pair

VP = order.SDE
MIXTURE = order.mixture_2d()
FAMILIES = [
    VPSDE(),
    SubVPSDE(),
    VESDE(0.01, 30.0),
    CosineSDE(),
    FlowSDE(),
    EDMSDE(),
    LinearSDE(lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: (0.1 + 19.9 * t).sqrt()),
]
WIDE = Gaussian(
    torch.tensor([0.3, -0.4], dtype=torch.float64),
    torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64),
)
NARROW = Gaussian(torch.full((1,), 0.3).double(), torch.tensor(0.25).double())


TIGHT = {"bosh3": 1e-5, "dopri5": 1e-9}


def solve(
    solver: AdaptiveSolver,
    x: Tensor,
    grid: Grid,
    *,
    sde: SDE = VP,
    model: ScoreModel | None = None,
    noise: Independent | None = None,
    cond: dict[str, Tensor] | None = None,
    **arguments: object,
) -> Solution:
    model = MIXTURE.under(sde) if model is None else model
    eta = 1.0 if isinstance(solver, AdaptiveSDE) else 0.0
    process = ReverseSDE(sde, model, eta, cond)
    solution = solver.solve(process, x, grid, noise=noise or Independent(3), **arguments)
    assert solution.nfe == process.nfe
    return solution


def both(tolerance: float, **fields: object) -> AdaptiveODE:
    return AdaptiveODE(rtol=tolerance, atol=tolerance, **fields)


def ends(sde: SDE) -> Grid:
    return Grid.of([sde.T, sde.t_end])


@cache
def at_tolerance(tolerance: float, pair: str = "dopri5") -> tuple[Tensor, Solution]:
    """Distances from DOP853 at 1e-13 (by another clock, lambda) over the 64 starts."""
    solution = solve(both(tolerance, pair=pair), order.starts(), ends(VP))
    assert solution.status == "done"
    return (solution.x - order.flow_reference()).norm(dim=1), solution


# -- the pairs ---------------------------------------------------------------------------------


def conditions(pair: Pair, b: list[float], order: int) -> list[float]:
    """Residuals of the conditions up to this order, of rooted trees with up to four nodes."""
    a = torch.zeros(len(pair.c) + 1, len(pair.c) + 1, dtype=torch.float64)
    for i, row in enumerate(pair.a, 1):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    c = torch.tensor([0.0, *pair.c], dtype=torch.float64)
    torch.testing.assert_close(a.sum(1), c, rtol=0, atol=1e-14)
    w = torch.tensor(b, dtype=torch.float64)
    trees = [(1, w.sum(), 1), (2, w @ c, 2), (3, w @ c**2, 3), (3, w @ a @ c, 6)]
    trees += [(4, w @ c**3, 4), (4, w @ (c * (a @ c)), 8), (4, w @ a @ c**2, 12)]
    trees += [(4, w @ a @ a @ c, 24), (5, w @ c**4, 5), (5, w @ a @ c**3, 20)]
    trees += [(5, w @ a @ a @ a @ c, 120), (5, w @ (a @ c) ** 2, 20)]
    return [float(value) - 1 / gamma for size, value, gamma in trees if size <= order]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_satisfy_the_order_conditions(name: str) -> None:
    pair = PAIRS[name]
    b = [*pair.a[-1], 0.0]
    embedded = [x - e for x, e in zip(b, pair.e, strict=True)]
    assert max(map(abs, conditions(pair, b, pair.order))) < 1e-13
    assert max(map(abs, conditions(pair, embedded, pair.order - 1))) < 1e-13
    assert max(map(abs, conditions(pair, embedded, pair.order))) > 1e-4


@pytest.mark.parametrize(("name", "exact"), [("dopri5", 4), ("bosh3", 3)])
def test_continuous_extension_has_its_order(name: str, exact: int) -> None:
    """b(theta) satisfies the conditions with theta^size / gamma, and ends at the step itself."""
    pair = PAIRS[name]
    for theta in (0.2, 0.5, 0.9, 1.0):
        b = [sum(p * theta ** (j + 1) for j, p in enumerate(row)) for row in pair.p]
        sizes, trees = (1, 2, 3, 3, 4, 4, 4, 4), conditions(pair, b, exact)
        gammas = (1, 2, 3, 6, 4, 8, 12, 24)
        for size, gamma, residual in zip(sizes, gammas, trees, strict=False):
            assert residual + 1 / gamma == pytest.approx(theta**size / gamma, abs=1e-13)
    torch.testing.assert_close(
        torch.tensor(b).double(), torch.tensor([*pair.a[-1], 0.0]).double(), rtol=0, atol=1e-6
    )


# -- the probability flow ------------------------------------------------------------------------


@pytest.mark.parametrize("sde", FAMILIES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("pair", PAIRS)
def test_exact_gaussian_flow_down_and_up(sde: SDE, pair: str) -> None:
    x = WIDE.marginal(sde, sde.T).sample(6, seed=1)
    slow = isinstance(sde, LinearSDE)  # a table is searched for each time
    model, tight = WIDE.under(sde), both(1e-3 if slow else TIGHT[pair], pair=pair)
    down = solve(tight, x, ends(sde), sde=sde, model=model)
    exact = WIDE.flow(sde, x, sde.T, sde.t_end)
    up = solve(tight, exact, Grid.of([sde.t_end, sde.T]), sde=sde, model=model)
    assert down.status == up.status == "done"
    assert float((down.x - exact).abs().max()) < 10 * tight.rtol
    assert float(((up.x - x) / sde.sigma(sde.T)).abs().max()) < 100 * tight.rtol


@pytest.mark.parametrize("sde", FAMILIES[:6], ids=lambda s: type(s).__name__)
def test_slope_is_minus_the_network_of_edm(sde: SDE) -> None:
    """A constant network F makes straight lines y, which a single step of any length follows."""

    class Constant(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, 0.7)

    s = 0.3
    model = Preconditioned(Constant(), sde, "edm", sigma_data=s)
    x = sde.sigma(sde.T) * order.starts()[:5]
    solver = AdaptiveODE(sigma_data=s)
    out = solve(solver, x, ends(sde), sde=sde, model=model)
    m, u = zip(
        *(
            (
                math.hypot(s * sde.alpha(t), sde.sigma(t)),
                math.atan2(sde.sigma(t), s * sde.alpha(t)),
            )
            for t in (sde.T, sde.t_end)
        ),
        strict=True,
    )
    exact = m[1] * (x / m[0] - 0.7 * (u[1] - u[0]))
    torch.testing.assert_close(out.x, exact, rtol=1e-9, atol=1e-9)
    assert not bool(out.stats["rejected"].any()) and int(out.stats["accepted"].max()) <= 4


def test_error_is_proportional_to_the_tolerance() -> None:
    tolerances = [10.0**-k for k in range(3, 10)]
    errors = [float(at_tolerance(tol)[0].median()) for tol in tolerances]
    for tolerance, error in zip(tolerances, errors, strict=True):
        assert 0.02 * tolerance < error < 5 * tolerance, (tolerance, errors)
    slope = math.log10(errors[0] / errors[-1]) / 6
    assert 0.9 < slope < 1.15, errors


def test_work_grows_as_the_order_says() -> None:
    """An error of order q + 1 a step: calls grow as tolerance^(-1/q)."""
    for pair, tolerances in (("dopri5", (1e-5, 1e-9)), ("bosh3", (1e-4, 1e-7))):
        few, many = (
            float(at_tolerance(t, pair)[1].stats["nfe"].double().mean()) for t in tolerances
        )
        observed = math.log(tolerances[0] / tolerances[1]) / math.log(many / few)
        assert PAIRS[pair].order - 0.6 < observed < PAIRS[pair].order + 1.2


def test_half_the_calls_of_scipy_in_time() -> None:
    """At no more error than RK45 at 1e-5, which moves the whole batch by one step."""
    process = ReverseSDE(VP, MIXTURE.under(VP), 0.0)
    scipy = SciPySolver().solve(process, order.starts(), ends(VP), noise=Independent(0))
    theirs = (scipy.x - order.flow_reference()).norm(dim=1)
    ours, solution = at_tolerance(1e-5)
    assert float(ours.square().mean()) < float(theirs.square().mean())
    assert float(ours.max()) < float(theirs.max())
    calls = solution.stats["nfe"].double()
    assert float(calls.mean()) < 0.5 * scipy.nfe
    assert float(calls.max()) == solution.nfe < 0.75 * scipy.nfe


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    x, grid = order.starts()[:24], log_snr(VP, 6)
    other = torch.cat([x[:5], 3.0 * x[5:].flip(0) + 1.0])
    for solver in (both(1e-5, dense=True), AdaptiveSDE(3e-2, 3e-2)):
        a, b = (solve(solver, start, grid, keep_path=True) for start in (x, other))
        assert torch.equal(a.x[:5], b.x[:5]) and torch.equal(a.path[:, :5], b.path[:, :5])
        assert not torch.equal(a.x[5:], b.x[5:])
        for name in ("accepted", "rejected", "nfe"):
            assert torch.equal(a.stats[name][:5], b.stats[name][:5])
        if "dense" in a.stats:
            assert torch.equal(a.stats["dense"](0.4)[:5], b.stats["dense"](0.4)[:5])


@pytest.mark.parametrize("solver", [AdaptiveODE(), AdaptiveSDE(0.1, 0.1)], ids=["ode", "sde"])
def test_compact_drops_who_has_arrived(solver: AdaptiveSolver) -> None:
    """Conditions go with their rows; the results agree to rounding, with less work."""

    class Shifted(ScoreModel):
        def __init__(self) -> None:
            super().__init__()
            self.sde, self.inner, self.rows = VP, MIXTURE.under(VP), 0

        def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
            assert len(cond["shift"]) == len(x)
            self.rows += len(x)
            told = self.inner.predict(node, x - node.alpha * cond["shift"])
            return Prediction(x, node, told.v - node.sigma * cond["shift"], "v")

    cond = {"shift": torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]}
    packed = type(solver)(**{**vars(solver), "compact": True})
    runs, rows = [], []
    for each in (solver, packed):
        model = Shifted()
        runs.append(solve(each, order.starts(), log_snr(VP, 6), model=model, cond=cond))
        rows.append(model.rows)
    torch.testing.assert_close(runs[0].x, runs[1].x, rtol=1e-9, atol=1e-9)
    for name in ("accepted", "rejected", "nfe"):
        assert torch.equal(runs[0].stats[name], runs[1].stats[name])
    assert rows[0] == 64 * runs[0].nfe
    assert rows[1] == int(runs[1].stats["nfe"].sum()) < 0.8 * rows[0]


def test_stats_count_attempts_and_calls() -> None:
    stats = at_tolerance(1e-7)[1].stats
    tried = stats["accepted"] + stats["rejected"]
    assert torch.equal(stats["nfe"], 1 + 6 * tried)
    assert bool((stats["rejected"] > 0).any()) and len(set(stats["nfe"].tolist())) > 3
    assert bool((stats["t"] == VP.t_end).all())


def test_path_and_dense_output() -> None:
    """Nodes of the grid cost nothing and change nothing; between them the flow is as exact."""
    x, grid = order.starts(), uniform(VP, 7)
    plain, kept = (solve(both(1e-7, dense=k), x, grid, keep_path=k) for k in (False, True))
    assert torch.equal(plain.x, kept.x) and plain.nfe == kept.nfe
    assert torch.equal(kept.path[0], x) and torch.equal(kept.path[-1], kept.x)
    landed = solve(both(1e-11), x, grid, on_step=lambda node, x: None, keep_path=True)
    assert landed.nfe > plain.nfe
    assert float((kept.path - landed.path).norm(dim=2).median()) < 1e-6
    dense = kept.stats["dense"]
    for t, state in zip(grid.times[1:-1], kept.path[1:-1], strict=True):
        torch.testing.assert_close(dense(t), state, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense(VP.T), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense(VP.t_end), kept.x, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"t: expected a time in \[0.001, 1\]"):
        dense(0.0)


@pytest.mark.parametrize("pair", PAIRS)
def test_dense_output_on_the_exact_flow(pair: str) -> None:
    x = WIDE.marginal(VP, VP.T).sample(5, seed=1)
    solver = both(1e-7, pair=pair, dense=True)
    dense = solve(solver, x, ends(VP), model=WIDE.under(VP)).stats["dense"]
    for t in (0.9, 0.51, 0.13, 0.02):
        exact = WIDE.flow(VP, x, VP.T, t)
        assert float((dense(t) - exact).abs().max()) < 5e-6


def test_hooks_land_on_nodes_and_may_change_the_state() -> None:
    """A hook that sets the exact state at a node: what follows is walked from there."""
    x, grid = order.starts()[:8], log_snr(VP, 4)
    fixed = WIDE.marginal(VP, grid.times[2]).sample(8, seed=2)
    seen: list[float] = []

    def hook(node: Node, state: Tensor) -> Tensor | None:
        seen.append(node.t)
        return fixed if node.t == grid.times[2] else None

    out = solve(both(1e-9), x, grid, model=WIDE.under(VP), on_step=hook)
    assert seen == list(grid.times[1:])
    exact = WIDE.flow(VP, fixed, grid.times[2], VP.t_end)
    assert float((out.x - exact).abs().max()) < 1e-7
    walked = AdaptiveSDE(0.1, 0.1)
    seen.clear()
    last = solve(walked, x, grid, on_step=hook, keep_path=True)
    assert seen == list(grid.times[1:]) and torch.equal(last.path[2], fixed)


def test_budget_returns_the_best_state_and_says_so() -> None:
    x = order.starts()
    out = solve(both(1e-9, max_nfe=120), x, log_snr(VP, 5), keep_path=True)
    assert out.status == "budget" and bool(out.stats["budget"].all())
    assert int(out.stats["nfe"].max()) <= 120 and out.nfe <= 120
    assert bool((out.stats["t"] > VP.t_end).all()) and bool(torch.isfinite(out.path).all())
    row, reached = 3, float(out.stats["t"][3])
    there = solve(both(1e-11), x, Grid.of([VP.T, reached]))
    assert float((out.x[row] - there.x[row]).abs().max()) < 1e-7
    some = solve(both(1e-7, max_nfe=100), x, ends(VP))
    stopped = some.stats["budget"]
    assert some.status == "budget" and 0 < int(stopped.sum()) < 64
    assert torch.equal(some.x[~stopped], at_tolerance(1e-7)[1].x[~stopped])
    segments = Grid(((VP.T, 0.5), (0.6, VP.t_end)))
    two = solve(both(1e-9, max_nfe=19), x, segments)
    assert bool((two.stats["t"] >= 0.5).all()) and two.status == "budget"
    walked = solve(AdaptiveSDE(max_nfe=20), x, log_snr(VP, 4))
    assert walked.status == "budget" and int(walked.stats["nfe"].max()) <= 20


def test_a_tolerance_that_cannot_be_met_has_its_own_status() -> None:
    """A score that swings at every scale of time below some time, and says so by its status."""

    def score(t: Tensor, x: Tensor) -> Tensor:
        return torch.where(t < 0.3712345, 1e8 * torch.sin(1e17 * t), -x)

    model = FunctionScore(VP, score)
    out = solve(both(1e-13), order.starts()[:4], ends(VP), model=model)
    assert out.status == "underflow" and bool(out.stats["underflow"].all())
    assert not bool(out.stats["budget"].any())
    torch.testing.assert_close(
        out.stats["t"], torch.full((4,), 0.3712345, dtype=torch.float64), rtol=0, atol=1e-9
    )


class Broken(ScoreModel):
    """NaN below a time, for the first of so many calls or for ever."""

    def __init__(self, below: float, times: float = math.inf) -> None:
        super().__init__()
        self.sde, self.inner, self.below, self.left = VP, MIXTURE.under(VP), below, times

    def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
        told = self.inner.predict(node, x)
        bad = (node.t < self.below) & (self.left > 0)
        self.left -= float(bad.any())
        value = told.value.masked_fill(bad[:, None], torch.nan)
        return Prediction(x, node, value, told.kind)


@pytest.mark.parametrize("solver", [AdaptiveODE(), AdaptiveSDE()], ids=["ode", "sde"])
def test_nan_is_a_rejection_and_for_ever_an_error(solver: AdaptiveSolver) -> None:
    x, grid = order.starts()[:5], log_snr(VP, 4)
    out = solve(solver, x, grid, model=Broken(0.5, times=1))
    assert out.status == "done" and bool(torch.isfinite(out.x).all())
    assert int(out.stats["rejected"].sum()) >= 1
    with pytest.raises(ValueError, match=r"model: expected finite scores just past t = 0\.4321"):
        solve(solver, x, grid, model=Broken(0.4321))
    with pytest.raises(ValueError, match=r"just past t = 1,"):
        solve(solver, x, grid, model=Broken(2.0))


def test_shapes_dtypes_and_no_change_of_the_input() -> None:
    net = nn.Conv2d(1, 1, 3, padding=1)

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(net(x)) + t[:, None, None, None]

    model, x = Preconditioned(Net(), VP), torch.randn(3, 1, 4, 4)
    kept = x.clone()
    for solver in (both(1e-4), AdaptiveSDE()):
        with torch.no_grad():
            out = solve(solver, x, log_snr(VP, 3), model=model, keep_path=True)
        assert out.x.shape == x.shape and out.x.dtype == torch.float32
        assert out.path.shape == (4, 3, 1, 4, 4) and torch.equal(x, kept)


def test_through_the_sampler() -> None:
    for solver in (AdaptiveODE(), AdaptiveSDE(0.1, 0.1)):
        sampler = ReverseSampler(VP, MIXTURE.under(VP), solver, steps=5)
        whole = sampler.sample((6, 2), seed=1, dtype=torch.float64)
        parts = sampler.sample((6, 2), seed=1, dtype=torch.float64, batch_size=2)
        torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-9)


# -- the reverse SDE -----------------------------------------------------------------------------

STOP = 0.3  # there 2 steps of SRA1 lie within 1 % of the truth, and the noise still matters


def moments(x: Tensor) -> tuple[float, float]:
    """Mean and variance of samples at STOP, as numbers of standard errors from the truth."""
    truth, n = NARROW.marginal(VP, STOP), len(x)
    mean = (x.mean() - truth.mean) / (truth.covariance / n).sqrt()
    return float(mean), float((x.var() / truth.covariance - 1) / math.sqrt(2 / n))


def prior(n: int) -> Tensor:
    return NARROW.marginal(VP, VP.T).sample(n, seed=1)


def redrawn(x: Tensor, tolerance: float) -> Tensor:
    """The same scheme and the same step control, with new noise after each rejection."""
    generator, model = torch.Generator().manual_seed(2), NARROW.under(VP)
    lam = torch.full((len(x),), VP.log_snr(VP.T), dtype=torch.float64)
    stop, h, last = VP.log_snr(STOP), torch.full_like(lam, 0.5), torch.zeros_like(lam)

    def schedule(lam: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(2 * lam).sqrt()[:, None], torch.sigmoid(-2 * lam).sqrt()[:, None]

    def x0(lam: Tensor, x: Tensor) -> Tensor:
        return model.predict(VP.at(VP.time_of(lam).clamp(STOP, VP.T), like=x), x).x0

    def move(h: Tensor, lam: Tensor, x: Tensor, m: Tensor, z: Tensor) -> Tensor:
        (_, s), (a, sigma), left = schedule(lam), schedule(lam + h), -torch.expm1(-2 * h)[:, None]
        return sigma / s * torch.exp(-h)[:, None] * x + a * left * m + sigma * left.sqrt() * z

    while bool((running := stop - lam > 1e-12).any()):
        step = torch.minimum(h, (stop - lam).clamp_min(1e-9))
        z, area = torch.randn(2, *x.shape, dtype=torch.float64, generator=generator)
        inner = step + torch.log(0.75 + torch.exp(-2 * step) / 4) / 2
        m = x0(lam, x)
        told = x0(lam + inner, move(inner, lam, x, m, math.sqrt(0.75) * z + area / 2))
        new = move(step, lam, x, (m + 2 * told) / 3, z)
        before, after = ((a**2 / 4 + s**2).sqrt() for a, s in map(schedule, (lam, lam + step)))
        gap = schedule(lam + step)[0] * -torch.expm1(-2 * step)[:, None] * 2 / 3 * (told - m)
        scale = tolerance * (1 + torch.maximum((x / before).abs(), (new / after).abs()))
        error = (gap / after / scale)[:, 0].abs().clamp_min(1e-6)
        ok = (error <= 1) & running
        wider = ok & (0.9 * error.maximum(last) ** (-2 / 3) >= 2)
        x, lam = torch.where(ok[:, None], new, x), torch.where(ok, lam + step, lam)
        last = error * torch.where(wider, 2.0**1.5, torch.where(ok, 1.0, 0.5**1.5))
        h = torch.where(wider, 2 * step, torch.where(ok | ~running, h, step / 2))
    return x


@pytest.mark.parametrize("tolerance", [0.1, 0.03, 0.01, 0.003])
def test_bridged_rejection_is_unbiased_at_every_tolerance(tolerance: float) -> None:
    n, grid = 10_000, log_snr(VP, 3, t_end=STOP)
    solver = AdaptiveSDE(rtol=tolerance, atol=tolerance)
    out = solve(solver, prior(n), grid, model=NARROW.under(VP), noise=Independent(0))
    assert max(map(abs, moments(out.x))) < 3.0, moments(out.x)
    if tolerance in (0.03, 0.01):
        assert float(out.stats["rejected"].double().mean()) > 0.5
        mean, variance = moments(redrawn(prior(n), tolerance))
        assert abs(variance) > 15.0 and abs(mean) > 3.0, (mean, variance)


def test_tree_halves_compose_to_the_whole() -> None:
    """W and H of an interval from those of any parts of it: to rounding, at any depth."""
    like = torch.empty(3, 2, dtype=torch.float64)
    tree = DyadicPath(VP, log_snr(VP, 5).times, Independent(4), like)
    rows = torch.ones(3, dtype=torch.bool)

    def ask(tick: int, level: int) -> tuple[Tensor, Tensor]:
        return tree.increments(torch.full((3,), tick), torch.full((3,), level), rows)

    for level, tick in ((3, 0), (3, 2 * tree.width(3)), (1, 0), (5, 7 * tree.width(5)), (0, 0)):
        z, a = ask(tick, level)
        for depth in (level + 1, level + 3):
            width, total = tree.width(depth), torch.zeros_like(z)
            places = torch.arange(tick, tick + tree.width(level) + 1, width).clamp_max(tree.end)
            lam, area = tree.log_snr(places), torch.zeros_like(z)
            parts = torch.exp(2 * (lam[1:] - lam[-1])) * -torch.expm1(2 * (lam[:-1] - lam[1:]))
            parts = parts / parts.sum()
            for i, part in enumerate(parts.tolist()):
                if part > 0:
                    w, h = ask(tick + i * width, depth)
                    area += part * (total + math.sqrt(part) * (w / 2 + h / math.sqrt(12)))
                    total += math.sqrt(part) * w
            torch.testing.assert_close(total, z, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(area, z / 2 + a / math.sqrt(12), rtol=1e-10, atol=1e-10)


def test_tree_increments_are_independent_normals() -> None:
    n = 20_000
    tree = DyadicPath(VP, log_snr(VP, 3).times, Independent(1), torch.empty(n, 1).double())
    rows, columns = torch.ones(n, dtype=torch.bool), []
    for i in range(6):
        tick = torch.full((n,), i << 23)
        columns += tree.increments(tick, torch.full((n,), tree.upper + 1), rows)
    covariance = torch.cov(torch.cat(columns, 1).T)
    off = (covariance - torch.eye(12, dtype=torch.float64)).abs()
    assert float(off.max()) < 4.5 * math.sqrt(2 / n), off


def test_tree_is_a_function_of_seed_and_sample() -> None:
    whole, part = torch.empty(9, 2).double(), torch.empty(4, 2).double()
    times, ticks = log_snr(VP, 3).times, torch.arange(9) << 22
    level = torch.tensor([4, 4, 5, 4, 4, 5, 4, 4, 5])
    level = torch.where(ticks % (1 << 22) == 0, torch.full_like(level, 4), level)
    ticks = ticks % (2 << 24)
    a = DyadicPath(VP, times, Independent(7), whole)
    b = DyadicPath(VP, times, Independent(7).from_sample(3), part)
    first = a.increments(ticks, level, torch.ones(9, dtype=torch.bool))
    b.increments(ticks[3:7] * 0, level[3:7] * 0 + 20, torch.ones(4, dtype=torch.bool))
    again = b.increments(ticks[3:7], level[3:7], torch.ones(4, dtype=torch.bool))
    for x, y in zip(first, again, strict=True):
        torch.testing.assert_close(x[3:7], y, rtol=1e-12, atol=1e-12)


def test_sde_refines_to_the_same_path_whatever_the_tolerance() -> None:
    """Strong convergence: one Brownian path for all tolerances, and with `keep_path` too."""
    x, grid = order.starts()[:16], log_snr(VP, 8)
    runs = [solve(AdaptiveSDE(tol, tol), x, grid).x for tol in (5e-2, 1.5e-2, 5e-3)]
    gaps = [float((a - b).norm(dim=1).median()) for a, b in pairwise(runs)]
    assert gaps[1] < 0.5 * gaps[0] and gaps[1] < 1.5e-2, gaps
    kept = solve(AdaptiveSDE(5e-3, 5e-3), x, grid, keep_path=True)
    assert float((kept.x - runs[2]).norm(dim=1).median()) < 5e-3
    assert torch.equal(kept.path[-1], kept.x)


def test_sde_long_steps_pass_many_nodes() -> None:
    x, grid = order.starts()[:16], log_snr(VP, 50)
    free = solve(AdaptiveSDE(0.1, 0.1), x, grid)
    kept = solve(AdaptiveSDE(0.1, 0.1), x, grid, keep_path=True)
    assert free.nfe < 50 and kept.nfe >= 100
    assert float(free.stats["accepted"].max()) < 25
    assert float((free.x - kept.x).norm(dim=1).median()) < 0.2


def test_sde_stats() -> None:
    out = solve(AdaptiveSDE(3e-2, 3e-2), order.starts()[:16], log_snr(VP, 8))
    tried = out.stats["accepted"] + out.stats["rejected"]
    assert torch.equal(
        out.stats["nfe"], tried + out.stats["accepted"]
    )  # 1 at the start, 0 at the end
    assert out.status == "done" and bool((out.stats["t"] == VP.t_end).all())


# -- latent codes --------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_encode_then_decode_gives_the_data_back(tolerance: float) -> None:
    x, solver = MIXTURE.sample(64, seed=0).double(), both(tolerance)
    latent = encode(VP, MIXTURE.under(VP), x, solver=solver, check=True)
    again = decode(VP, MIXTURE.under(VP), latent.z, solver=solver)
    error = (again - x).square().mean(1).sqrt()
    torch.testing.assert_close(latent.round_trip, error)
    assert float(error.max()) < 10 * tolerance
    assert latent.solution.status == "done"


def test_codes_are_the_exact_flow_of_a_gaussian() -> None:
    x = WIDE.marginal(VP, VP.t_end).sample(6, seed=0)
    z = encode(VP, WIDE.under(VP), x, solver=both(1e-8)).z
    torch.testing.assert_close(z, WIDE.flow(VP, x, VP.t_end, VP.T), rtol=1e-6, atol=1e-6)


def test_encode_refuses() -> None:
    x, model = order.starts()[:3], MIXTURE.under(VP)
    told = r"AdaptiveODE stopped before t = 1 in 3 of 3 samples, .* \(budget\); raise max_nfe"
    with pytest.raises(Unfinished, match=told) as caught:
        encode(VP, model, x, solver=both(1e-9, max_nfe=20))
    assert caught.value.solution.x.shape == x.shape
    with pytest.raises(ValueError, match="x: expected finite numbers"):
        encode(VP, model, x * torch.nan)
    with pytest.raises(ValueError, match="x: expected a non-empty batch"):
        decode(VP, model, x[0])
    with pytest.raises(ValueError, match="eta: expected more than 0"):
        encode(VP, model, x, solver=AdaptiveSDE())


def test_slerp() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 1, 3, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None, None]
    w = torch.linspace(-0.2, 1.1, 5, dtype=torch.float64)
    mixed = slerp(a, b, w).flatten(1)
    torch.testing.assert_close(mixed.norm(dim=1), a.flatten(1).norm(dim=1))
    cos = torch.cosine_similarity
    full = cos(a.flatten(1), b.flatten(1)).acos()
    torch.testing.assert_close(cos(mixed, a.flatten(1)).acos(), (w * full).abs())
    near = slerp(a, a * (1 + 1e-13), 0.3)
    torch.testing.assert_close(near, a)
    with pytest.raises(ValueError, match="not opposite"):
        slerp(a, -a, 0.5)
    with pytest.raises(ValueError, match="other than zero"):
        slerp(a, 0 * a, 0.5)
    with pytest.raises(ValueError, match="z1: expected shape"):
        slerp(a, b[:2], 0.5)
    with pytest.raises(ValueError, match=r"w: expected a number or shape \(5,\)"):
        slerp(a, b, torch.zeros(4))


# -- what they refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdaptiveODE, AdaptiveSDE])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rtol", 0.0, "rtol: expected a finite number > 0"),
        ("rtol", -1e-3, "rtol: expected a finite number > 0"),
        ("atol", math.nan, "atol: expected a finite number"),
        ("max_nfe", 2, "max_nfe: expected at least"),
        ("max_nfe", 0, "max_nfe: expected a positive integer"),
        ("sigma_data", 0.0, "sigma_data: expected a finite number > 0"),
    ],
)
def test_bad_fields(kind: type, field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{field: value})


@pytest.mark.parametrize("kind", [AdaptiveODE, AdaptiveSDE])
def test_wrong_kinds(kind: type) -> None:
    for field in ("rtol", "max_nfe", "compact"):
        with pytest.raises(TypeError, match=f"{field}: expected"):
            kind(**{field: "many"})
    own = SDE(lambda t, x: -x, lambda t: 1.0)
    with pytest.raises(TypeError, match="sde: expected an AffineSDE"):
        kind().check(own, kind is AdaptiveSDE)
    with pytest.raises(TypeError, match="unexpected keyword"):
        kind(rtoll=1e-3)


def test_what_does_not_fit_is_refused_before_any_call() -> None:
    x, single = order.starts(), order.starts().float()
    with pytest.raises(ValueError, match="pair: expected one of 'bosh3', 'dopri5'"):
        AdaptiveODE("dopri8")
    with pytest.raises(ValueError, match=r"rtol: expected at least 1.2e-06 in float32"):
        solve(both(1e-8), single, ends(VP))
    with pytest.raises(ValueError, match="grid: expected a single segment for dense=True"):
        solve(both(1e-3, dense=True), x, Grid(((VP.T, 0.5), (0.6, 0.1))))
    model = MIXTURE.under(VP)
    for eta, match in (
        (0.5, "eta: expected 1 for AdaptiveSDE"),
        (0.0, "eta: expected more than 0"),
    ):
        process = ReverseSDE(VP, model, eta)
        with pytest.raises(ValueError, match=match):
            AdaptiveSDE().solve(process, x, ends(VP), noise=Independent(0))
        assert process.nfe == 0
    with pytest.raises(ValueError, match="eta: expected 0 for AdaptiveODE"):
        AdaptiveODE().solve(ReverseSDE(VP, model), x, ends(VP), noise=Independent(0))
    grid = log_snr(VP, 4)
    with pytest.raises(TypeError, match="noise: expected a Independent"):
        solve(AdaptiveSDE(), x, grid, noise=PathOnGrid(0, VP, grid.times))
    flow = FlowSDE()
    with pytest.raises(ValueError, match="t_end: expected a time with a finite log-SNR"):
        solve(AdaptiveSDE(), x, Grid.of([flow.T, 0.0]), sde=flow)
