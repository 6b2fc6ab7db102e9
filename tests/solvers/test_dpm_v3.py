"""DPM-Solver-v3 and its statistics: closed forms, another integrator, measured orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import order
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    Adams,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Grid,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
)
from scoresde._tensor import lincomb
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.prediction import Prediction
from scoresde.process import ForwardSDE
from scoresde.schedule.grid import karras, log_snr, quadratic
from scoresde.sde import AffineSDE
from scoresde.solvers import Orders
from scoresde.solvers.dpm_v3 import solver as dpm_v3
from scoresde.solvers.dpm_v3.solver import DPMSolverV3
from scoresde.solvers.dpm_v3.statistics import Statistics
from scoresde.solvers.exponential.coefficients import depth

MIXTURE = order.mixture_2d()
FAMILIES = [VPSDE(), VESDE(0.01, 30.0), EDMSDE(), CosineSDE(), FlowSDE()]
ids = {"ids": lambda v: type(v).__name__}
MEAN, STD = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([0.5, 2.0, 0.1]).double()


def levels(sde: AffineSDE, nodes: int = 256) -> Tensor:
    ends = sde.log_snr(sde.T), sde.log_snr(sde.t_end)
    return torch.linspace(*ends, nodes, dtype=torch.float64)


def known(sde: AffineSDE, parametrisation: str) -> Statistics:
    """The curves with which v3 is Adams with this parametrisation."""
    at = levels(sde)
    one, none = torch.ones(len(at), 2).double(), torch.zeros(len(at), 2).double()
    share = torch.sigmoid(-2.0 * at)[:, None] * one  # sigma^2 / (alpha^2 + sigma^2)
    curves = {"x0": (one, none), "eps": (none, -one), "v": (share, share - 1.0)}
    return Statistics(sde, at, *curves[parametrisation], none)


def wavy(sde: AffineSDE = order.SDE) -> Statistics:
    """Smooth curves that fit no model at all: the order does not depend on what they are."""
    at = levels(sde)
    wide, shift = at[:, None].expand(-1, 2), torch.tensor([0.0, 0.5]).double()
    s, b = 0.7 * torch.sin(wide + shift), 0.3 * torch.cos(wide - shift)
    return Statistics(sde, at, torch.sigmoid(shift - 2.0 * wide), s, b)


def run(solver: Any, model: ScoreModel, x: Tensor, grid: Grid, on_step: Any = None) -> Tensor:
    process = ReverseSDE(model.sde, model, 0.0)
    return solver.solve(process, x, grid, noise=Independent(0), on_step=on_step).x


@pytest.mark.parametrize("mean", [torch.zeros(3).double(), MEAN], ids=["centred", "mean"])
@pytest.mark.parametrize("sde", FAMILIES, **ids)
def test_every_step_is_exact_on_a_gaussian(sde: AffineSDE, mean: Tensor) -> None:
    """Five steps against the closed-form flow; the splines of 256 nodes are the limit, at 1e-11.

    Without the mean l alone does it, with it b: f = -mu l would be held constant.
    """
    data, grid = Gaussian(mean, STD**2), log_snr(sde, 5)
    model, x = data.under(sde), data.marginal(sde, sde.T).sample(8)
    expected = data.flow(sde, x, grid.start, grid.end)
    statistics = Statistics.from_moments(sde, mean, STD)
    for solver in (DPMSolverV3(statistics, 1, 0), DPMSolverV3(statistics, 3, 4)):
        out = run(solver, model, x, grid)
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert (run(Adams(1), model, x, grid) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("p", "corrector"), [(1, 0), (3, 0), (2, 3), (3, 4)])
def test_a_weight_one_percent_off_is_seen(
    p: int, corrector: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Gaussian with a mean; the constant is of order h^(p + 1), so no order would show it."""
    sde, seen, term = VPSDE(), [0], 0
    data, grid = Gaussian(MEAN[1:], STD[1:] ** 2), log_snr(VPSDE(), 6)
    x = data.marginal(sde, sde.T).sample(4)
    expected = data.flow(sde, x, grid.start, grid.end)
    solver = DPMSolverV3(Statistics.from_moments(sde, MEAN[1:], STD[1:]), p, corrector)
    while term < max(seen) or term == 0:

        def wrong(*terms: tuple[Any, Tensor], term: int = term) -> Tensor:
            seen.append(len(terms))
            return lincomb(*((c * 1.01 if i == term else c, m) for i, (c, m) in enumerate(terms)))

        monkeypatch.setattr(dpm_v3, "lincomb", wrong)
        assert (run(solver, data.under(sde), x, grid) - expected).abs().max() > 1e-7, term
        term += 1
    assert max(seen) == 2 + depth(p, corrector)


def test_the_limit_on_a_gaussian_is_the_table() -> None:
    """Five times the nodes, 5^6 times the accuracy of a spline of degree 5."""
    sde = VPSDE()
    data, grid = Gaussian(MEAN, STD**2), log_snr(sde, 8)
    x = data.marginal(sde, sde.T).sample(8)
    expected = data.flow(sde, x, grid.start, grid.end)
    errors = []
    for nodes in (32, 160):
        solver = DPMSolverV3(Statistics.from_moments(sde, MEAN, STD, nodes=nodes), 1, 0)
        errors.append(float((run(solver, data.under(sde), x, grid) - expected).abs().max()))
    assert errors[1] < errors[0] / 1000 and errors[0] < 1e-3


@pytest.mark.parametrize("corrector", [0, 2, 3, 4])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("parametrisation", ["x0", "eps", "v"])
def test_known_curves_are_adams(parametrisation: str, p: int, corrector: int) -> None:
    sde, tight = (
        order.SDE,
        1e-12 if parametrisation != "v" else 2e-11,
    )  # the curves of v are splines
    model, x, statistics = MIXTURE.under(sde), order.starts()[:16], known(sde, parametrisation)
    for grid in (log_snr(sde, 9), quadratic(sde, 7), karras(sde, 8)):
        ours = run(DPMSolverV3(statistics, p, corrector), model, x, grid)
        theirs = run(Adams(p, corrector, parametrisation), model, x, grid)
        torch.testing.assert_close(ours, theirs, rtol=tight, atol=tight)


def test_known_curves_are_adams_under_ve_and_upwards() -> None:
    sde = VESDE(0.01, 30.0)
    x = 30.0 * order.starts()[:8]
    for grid in (karras(sde, 9), Grid.of(karras(sde, 9).times[::-1])):
        ours = run(DPMSolverV3(known(sde, "x0"), 2, 3), MIXTURE.under(sde), x, grid)
        theirs = run(Adams(2, 3), MIXTURE.under(sde), x, grid)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


class Textbook:
    """The method as differential equations, solved by DOP853: no integral of ours.

    y' = -(l y + f) and f' = s f + b + e^(S - S_i) (c_1 + c_2 u + ...), u = lambda - lambda_i, with
    the c such that f takes the values f_m at the nodes.
    """

    def __init__(self, statistics: Statistics, sde: AffineSDE) -> None:
        self.curves, self.sde = statistics.splines(slice(None)), sde

    def extend(self, start: float, ends: list[float], y: Tensor, f: Tensor, c: Tensor) -> Tensor:
        """(y, f) at the ends, each from the start."""
        decay, _, big_s, b = self.curves
        s = big_s.derivative()

        def slope(lam: float, flat: np.ndarray) -> np.ndarray:
            now = flat.reshape(2, *y.shape)
            jump = np.exp(big_s(lam) - big_s(start))
            rise = sum(jump * np.asarray(ck) * (lam - start) ** k for k, ck in enumerate(c))
            dy, df = -(decay(lam) * now[0] + now[1]), s(lam) * now[1] + b(lam) + rise
            return np.concatenate([dy.ravel(), df.ravel()])

        first, out = torch.cat([y.ravel(), f.ravel()]).numpy(), []
        for end in ends:
            solved = solve_ivp(slope, (start, end), first, method="DOP853", rtol=1e-12, atol=1e-13)
            out.append(torch.from_numpy(solved.y[:, -1]).reshape(2, *y.shape))
        return torch.stack(out)

    def update(
        self, i: int, lam: list[float], at: list[int], y: Tensor, f: list[Tensor]
    ) -> Tensor:
        """y at node i + 1, with f through the nodes `at`, i among them."""
        others = [m for m in at if m != i]
        ends, none = [lam[m] for m in others], torch.zeros(len(others), *y.shape).double()
        if others:  # f is affine in the c: one column of the system for each of them
            base = self.extend(lam[i], ends, y, f[i], none)[:, 1]
            columns = []
            for k in range(len(others)):
                unit = none.clone()
                unit[k] = 1.0
                columns.append(self.extend(lam[i], ends, y, f[i], unit)[:, 1] - base)
            system = torch.stack(columns, -1).movedim(0, -2)
            wanted = (torch.stack([f[m] for m in others]) - base).movedim(0, -1)
            none = torch.linalg.solve(system, wanted).movedim(-1, 0)
        return self.extend(lam[i], [lam[i + 1]], y, f[i], none)[0, 0]

    def walk(self, p: int, corrector: int, model: ScoreModel, x: Tensor, grid: Grid) -> Tensor:
        nodes = [self.sde.at(t) for t in grid.times]
        lam = [node.log_snr for node in nodes]
        y, f = x / nodes[0].alpha, []
        ahead = y
        for i, node in enumerate(nodes[:-1]):
            told = model.predict(node, node.alpha * ahead).eps
            f.append(math.exp(-node.log_snr) * told - torch.tensor(self.curves[0](lam[i])) * ahead)
            if i:  # the state of the step before, now that the value at its end is known
                at = [i - j for j in range(min(i + 1, corrector))] if corrector else []
                y = self.update(i - 1, lam, at, y, f) if at else ahead
            ahead = self.update(i, lam, [i - j for j in range(min(i + 1, p))], y, f)
        return ahead * nodes[-1].alpha


@pytest.mark.parametrize(("p", "corrector"), [(1, 0), (2, 0), (3, 0), (2, 2), (3, 4)])
def test_steps_solve_the_equations_of_the_paper(p: int, corrector: int) -> None:
    sde, statistics = order.SDE, wavy()
    model, x, grid = MIXTURE.under(sde), order.starts()[:2], quadratic(sde, 5)
    expected = Textbook(statistics, sde).walk(p, corrector, model, x, grid)
    ours = run(DPMSolverV3(statistics, p, corrector), model, x, grid)
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)


BOUNDS = {(3, 3): (2.7, 3.6)}  # from above and below: the corrector's error cancels for long


@pytest.mark.parametrize(
    ("p", "corrector"), [(1, 0), (2, 0), (3, 0), (2, 2), (2, 3), (3, 3), (3, 4)]
)
@pytest.mark.parametrize("name", ["wavy", "moments"])
def test_order_is_measured(name: str, p: int, corrector: int) -> None:
    made = {
        "wavy": wavy,
        "moments": lambda: Statistics.from_moments(order.SDE, (0.5, -0.5), (1, 1)),
    }
    solver = DPMSolverV3(made[name](), p, corrector)
    expected = min(p + 1, corrector) if corrector else p
    assert solver.orders == Orders(ode=expected)
    observed = order.rates(order.ode_errors(solver))
    low, high = BOUNDS.get((p, corrector), (expected - 0.15, expected + 0.15))
    assert low <= observed[-1] <= high, observed


class Operations(TorchDispatchMode):
    """How many operations torch ran."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Told(ScoreModel):
    """A model that costs nothing."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.sde, self.value = order.SDE, value

    def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
        return Prediction(x, node, self.value, "eps")


@pytest.mark.parametrize(("p", "corrector"), [(1, 0), (2, 2), (3, 3)])
def test_one_call_a_step_and_few_operations(p: int, corrector: int) -> None:
    """f takes two, the state, the constant and every f one each: PEC of order p, p + 5."""
    counts = []
    for n in (7, 17):
        grid, solver = log_snr(order.SDE, n), DPMSolverV3(wavy(), p, corrector)
        process = ReverseSDE(order.SDE, Told(torch.ones_like(order.starts())), 0.0)
        with Operations() as operations:
            out = solver.solve(process, order.starts(), grid, noise=Independent(0))
        assert out.nfe == n
        counts.append(operations.count)
    assert counts[1] - counts[0] <= 10 * (p + 5)


def test_a_hook_s_change_survives_the_corrector() -> None:
    """With the statistics of a Gaussian f is 0 whatever x is, so a shift follows the flow."""
    sde, grid = VPSDE(), log_snr(VPSDE(), 10)
    data = Gaussian(torch.zeros(3).double(), STD**2)
    solver = DPMSolverV3(Statistics.from_moments(sde, torch.zeros(3), STD), 2, 3)
    x, there = torch.zeros(4, 3).double(), grid.times[5]

    def shift(node: Node, x: Tensor) -> Tensor | None:
        return x + 1.0 if node.t == there else None

    gap = run(solver, data.under(sde), x, grid, shift)
    expected = data.flow(sde, torch.ones(4, 3).double(), there, grid.end)
    torch.testing.assert_close(gap, expected, rtol=1e-8, atol=1e-10)


def test_encoding_up_and_decoding_down() -> None:
    sde, solver, errors = order.SDE, DPMSolverV3(wavy()), []
    for n in (40, 80):
        down = log_snr(sde, n)
        x = MIXTURE.sample(16, seed=0)
        latent = run(solver, MIXTURE.under(sde), x, Grid.of(down.times[::-1]))
        back = run(solver, MIXTURE.under(sde), latent, down)
        errors.append(float((back - x).abs().median()))
    assert errors[1] < errors[0] / 4


def test_images_legs_and_float32() -> None:
    """Any shape D, and the parts into which many dimensions are cut change nothing."""
    sde, shape = VPSDE(), (3, 4, 5)
    std = torch.linspace(0.2, 2.0, 60).reshape(shape)
    data = Gaussian(torch.zeros(60), std.flatten() ** 2)
    grid = Grid((log_snr(sde, 3).times, log_snr(sde, 4, t_start=0.4).times))
    solver = DPMSolverV3(Statistics.from_moments(sde, torch.zeros(shape), std))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    flat = DPMSolverV3(Statistics.from_moments(sde, torch.zeros(60), std.flatten()))
    out = run(solver, data.under(sde), x, grid)
    assert out.dtype == torch.float32 and out.shape == x.shape
    torch.testing.assert_close(out.flatten(1), run(flat, data.under(sde), x.flatten(1), grid))


def test_parts_of_the_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    sde, x = order.SDE, order.starts()[:4]
    whole = run(DPMSolverV3(wavy()), MIXTURE.under(sde), x, log_snr(sde, 6))
    monkeypatch.setattr(dpm_v3, "_ROOM", 1)
    parts = run(DPMSolverV3(wavy()), MIXTURE.under(sde), x, log_snr(sde, 6))
    torch.testing.assert_close(parts, whole, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("sde", "probes"), [*((sde, None) for sde in FAMILIES), (VPSDE(), 1)], **ids
)
def test_a_gaussian_s_statistics_from_its_model(sde: AffineSDE, probes: int | None) -> None:
    """Independent dimensions: the diagonal is exact with any vector, f does not depend on x."""
    data = Gaussian(MEAN, STD**2)
    exact = Statistics.from_moments(sde, MEAN, STD, nodes=128)
    x0 = data.sample(32)
    found = Statistics.from_model(data.under(sde), x0, nodes=128, probes=probes, batch_size=10)
    torch.testing.assert_close(found.log_snr, exact.log_snr)
    torch.testing.assert_close(found.l, exact.l, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.s, exact.s, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.b, exact.b, rtol=0, atol=1e-3)  # l' of 128 nodes at the ends
    inner = slice(8, -8)
    torch.testing.assert_close(found.b[inner], exact.b[inner], rtol=0, atol=1e-6)


def test_rademacher_vectors_find_the_diagonal_of_a_full_matrix() -> None:
    """l = sigma^2 diag((alpha^2 C + sigma^2)^-1); scatter of v_i sum_j J_ij v_j from j != i."""
    sde = VPSDE()
    covariance = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, -0.1], [0.0, -0.1, 0.3]]).double()
    data = Gaussian(torch.zeros(3).double(), covariance)
    x0 = data.sample(400)
    found = Statistics.from_model(data.under(sde), x0, nodes=16, probes=4)
    exact = Statistics.from_model(data.under(sde), x0, nodes=16)
    for lam, rough, sharp in zip(found.log_snr.tolist(), found.l, exact.l, strict=True):
        node = sde.at(min(sde.time_of(lam), sde.T))
        inverse = torch.linalg.inv(
            node.alpha**2 * covariance + node.sigma**2 * torch.eye(3).double()
        )
        jacobian = node.sigma**2 * inverse
        torch.testing.assert_close(sharp, jacobian.diagonal(), rtol=1e-9, atol=1e-10)
        off = (jacobian**2).sum(1) - jacobian.diagonal() ** 2
        assert ((rough - sharp).abs() <= 4.5 * (off / 1600).sqrt() + 1e-12).all()


def test_statistics_of_a_mixture_by_regression_along_its_flow() -> None:
    """s and b from f a little before and after on the true trajectories, by numpy's lstsq."""
    sde, data = VPSDE(), order.mixture_1d()
    model, x0 = data.under(sde), order.mixture_1d().sample(200)
    found = Statistics.from_model(model, x0, nodes=64)
    spline = found.splines(slice(None))[0]
    z = Independent(0).stream("statistics").draw(x0, 0)  # the survey's, at every level

    def f_at(lam: float, x: Tensor) -> Tensor:
        node = sde.at(sde.time_of(lam))
        y = x / node.alpha
        return math.exp(-lam) * model.predict(node, x).eps - torch.tensor(spline(lam)) * y

    for k in (32, 38, 44, 50):
        lam, gap = float(found.log_snr[k]), 1e-3
        node = sde.at(sde.time_of(lam))
        x = node.alpha * x0 + node.sigma * z
        sides = []
        for end in (lam - gap, lam + gap):
            grid = Grid.of([node.t, sde.time_of((lam + end) / 2), sde.time_of(end)])
            sides.append(f_at(end, run(Adams(2), model, x, grid)))
        slope, value = (sides[1] - sides[0]) / (2 * gap), f_at(lam, x)
        design = np.concatenate([value.numpy(), np.ones((len(x0), 1))], 1)
        (s, b), *_ = np.linalg.lstsq(design, slope.numpy()[:, 0], rcond=None)
        assert float(found.s[k]) == pytest.approx(s, abs=1e-4)
        assert float(found.b[k]) == pytest.approx(b, abs=1e-5)
        h = 1e-5
        jacobian = [model.predict(node, x + e).eps for e in (-h, h)]
        slope_x = (jacobian[1] - jacobian[0]) / (2 * h)
        assert float(found.l[k]) == pytest.approx(float(node.sigma * slope_x.mean()), abs=1e-7)


def test_few_steps_beside_adams() -> None:
    """On a mixture of unequal axes, the claim of the method: a multiple at 5 to 10 calls."""
    sde = order.SDE
    tilted = [[[0.3, 0.1], [0.1, 0.06]], [[0.05, -0.03], [-0.03, 0.2]]]
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.0]]).double()
    data = GaussianMixture(means, torch.tensor(tilted).double())
    model, x = data.under(sde), data.marginal(sde, sde.T).sample(64, seed=5)
    truth = run(Adams(4, 5), model, x, log_snr(sde, 1000))
    statistics = Statistics.from_model(model, data.sample(256))

    def error(solver: Any, n: int) -> float:
        return float((run(solver, model, x, log_snr(sde, n)) - truth).norm(dim=1).median())

    for n, gain in ((5, 5.0), (8, 2.0), (10, 1.8)):
        ours = error(DPMSolverV3(statistics), n)
        assert ours * gain < min(
            error(Adams(3, 3, parametrisation), n) for parametrisation in ("x0", "eps")
        ), n


def test_same_seed_same_statistics_saved_and_rebuilt() -> None:
    sde = VPSDE()
    model, x0 = MIXTURE.under(sde), MIXTURE.sample(32)
    one, two = (Statistics.from_model(model, x0, nodes=16, seed=3) for _ in range(2))
    assert torch.equal(one.b, two.b)
    parts = Statistics.from_model(model, x0, nodes=16, seed=3, batch_size=10)
    torch.testing.assert_close(parts.s, one.s, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.l, one.l, rtol=1e-12, atol=1e-14)
    other = Statistics.from_model(model, x0, nodes=16, seed=4)
    assert not torch.equal(one.b, other.b)
    again = Statistics(VPSDE(), **one.tensors())
    x = order.starts()[:4]
    outs = [run(DPMSolverV3(s), model, x, log_snr(sde, 5)) for s in (one, again)]
    assert torch.equal(*outs)
    assert repr(one) == f"Statistics({sde!r}, shape=(2,), nodes=16)"
    assert DPMSolverV3(one) == DPMSolverV3(one) and len({DPMSolverV3(one), DPMSolverV3(one)}) == 1


def test_from_data_is_from_its_moments() -> None:
    x0 = 3.0 + 2.0 * torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = x0.double().mean(0), x0.double().std(0)
    one, two = Statistics.from_data(VPSDE(), x0), Statistics.from_moments(VPSDE(), mean, std)
    assert one.shape == (2, 2) and torch.equal(one.l, two.l) and torch.equal(one.b, two.b)
    constant = Statistics.from_moments(VPSDE(), (1.0,), (0.0,))  # a dimension that never varies
    assert bool((constant.l == 1).all()) and bool((constant.b == 0).all())


def test_a_network_with_conditions_is_left_as_it_was() -> None:
    net = MLP(2, width=8, classes=3)
    model = Preconditioned(net, VPSDE())
    x0, label = (
        torch.randn(20, 2, generator=torch.Generator().manual_seed(0)),
        torch.arange(20) % 3,
    )
    kept = x0.clone()
    net.train()
    whole = Statistics.from_model(model, x0, nodes=16, cond={"label": label})
    parts = Statistics.from_model(model, x0, nodes=16, cond={"label": label}, batch_size=7)
    torch.testing.assert_close(whole.l, parts.l, rtol=1e-4, atol=1e-5)
    assert net.training and torch.equal(x0, kept) and not x0.requires_grad
    assert all(p.grad is None for p in net.parameters())
    sampler = ReverseSampler(VPSDE(), model, DPMSolverV3(whole), steps=4)
    assert sampler.sample((4, 2), seed=0, cond={"label": label[:4]}).shape == (4, 2)


def test_no_device_is_mixed_and_none_waited_for() -> None:
    statistics = wavy()
    with FakeTensorMode(allow_non_fake_inputs=False), torch.device("lazy"), torch.no_grad():
        model = Preconditioned(MLP(2, width=8), VPSDE())
        x = torch.empty(5, 2, device="lazy")
        for solver in (DPMSolverV3(statistics), DPMSolverV3(statistics, 1, 0)):
            assert run(solver, model, x, log_snr(VPSDE(), 4)).device.type == "lazy"


class Mute(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        raise RuntimeError("the network was asked before the fault was found")


SDE_, MUTE = VPSDE(), Preconditioned(Mute(), VPSDE())
START, GOOD = torch.zeros(3, 2), wavy()
TABLE = GOOD.tensors()
DATA = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def solve(statistics: Statistics, sde: SDE = SDE_, eta: float = 0.0, **kw: Any) -> Any:
    process = ReverseSDE(sde, Preconditioned(Mute(), sde), eta)
    x, grid = kw.get("x", START), kw.get("grid", log_snr(sde, 4))
    return DPMSolverV3(statistics).solve(process, x, grid, noise=Independent(0))


OWN = SDE(lambda t, x: -x, lambda t: 1.0)


def on_own() -> Any:
    process = ReverseSDE(OWN, FunctionScore(OWN, lambda t, x: -x), 0.0)
    return DPMSolverV3(GOOD).solve(process, START, Grid.of([1.0, 0.5]), noise=Independent(0))


def forward() -> Any:
    return DPMSolverV3(GOOD).solve(
        ForwardSDE(SDE_), START, Grid.of([0.1, 0.5]), noise=Independent(0)
    )


def huge() -> Any:
    s = torch.full_like(GOOD.s, 1e4)
    return solve(Statistics(SDE_, GOOD.log_snr, GOOD.l, s, GOOD.b))


def detached() -> Any:
    model = FunctionScore(SDE_, lambda t, x: -x.detach())
    return Statistics.from_model(model, DATA, nodes=16)


FAULTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another SDE": (lambda: solve(GOOD, VPSDE(0.1, 19.0)), ValueError, "expected those of VPSDE"),
    "another shape": (lambda: solve(GOOD, x=torch.zeros(3, 4)), ValueError, "shape"),
    "an image": (lambda: solve(GOOD, x=torch.zeros(3, 2, 2)), ValueError, "shape"),
    "grid leaves": (lambda: solve(GOOD, grid=log_snr(SDE_, 4, t_end=1e-4)), ValueError, "t_end"),
    "stochastic": (lambda: solve(GOOD, eta=1.0), ValueError, "eta"),
    "not affine": (on_own, TypeError, "AffineSDE"),
    "forward": (forward, ValueError, "eta"),
    "overflow": (huge, ValueError, "overflow"),
    "order 4": (lambda: DPMSolverV3(GOOD, 4), ValueError, "order"),
    "order 0": (lambda: DPMSolverV3(GOOD, 0), ValueError, "order"),
    "order 1.5": (lambda: DPMSolverV3(GOOD, 1.5), TypeError, "order"),  # type: ignore[arg-type]
    "corrector 5": (lambda: DPMSolverV3(GOOD, 3, 5), ValueError, "corrector"),
    "corrector True": (lambda: DPMSolverV3(GOOD, 3, True), ValueError, "corrector"),
    "no statistics": (lambda: DPMSolverV3(VPSDE()), TypeError, "from_model"),  # type: ignore[arg-type]
    "few data": (lambda: Statistics.from_model(MUTE, DATA[:4]), ValueError, "x0"),
    "flat data": (lambda: Statistics.from_data(SDE_, DATA[:, 0]), ValueError, "x0"),
    "integers": (lambda: Statistics.from_data(SDE_, DATA.long()), TypeError, "x0"),
    "NaN": (lambda: Statistics.from_data(SDE_, DATA / 0), ValueError, "finite"),
    "few nodes": (lambda: Statistics.from_model(MUTE, DATA, nodes=8), ValueError, "nodes"),
    "no log-SNR": (lambda: Statistics.from_data(SDE_, DATA, t_end=0.0), ValueError, "t_end"),
    "non-affine": (lambda: Statistics.from_data(OWN, DATA), TypeError, "sde"),
    "no model": (lambda: Statistics.from_model(Mute(), DATA), TypeError, "model"),  # type: ignore[arg-type]
    "no gradient": (detached, ValueError, "autograd"),
    "probes 0": (lambda: Statistics.from_model(MUTE, DATA, probes=0), ValueError, "probes"),
    "cond": (
        lambda: Statistics.from_model(MUTE, DATA, cond={"label": torch.zeros(3)}),
        ValueError,
        "label",
    ),
    "negative std": (lambda: Statistics.from_moments(SDE_, (0.0,), (-1.0,)), ValueError, "std"),
    "shapes": (lambda: Statistics.from_moments(SDE_, (0.0,), (1.0, 1.0)), ValueError, "std"),
    "unsorted": (
        lambda: Statistics(SDE_, **{**TABLE, "log_snr": TABLE["log_snr"].flip(0)}),
        ValueError,
        "log_snr",
    ),
    "short l": (lambda: Statistics(SDE_, **{**TABLE, "l": TABLE["l"][1:]}), ValueError, "l:"),
    "wide b": (lambda: Statistics(SDE_, **{**TABLE, "b": TABLE["b"][:, :1]}), ValueError, "b:"),
    "infinite s": (lambda: Statistics(SDE_, **{**TABLE, "s": TABLE["s"] / 0}), ValueError, "s:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_before_any_network_call(fault: str) -> None:
    call, kind, word = FAULTS[fault]
    with pytest.raises(kind, match=word):
        call()
