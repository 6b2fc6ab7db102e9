"""The exponential Adams engine: its faces against the papers' own formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    Gaussian,
    Grid,
    ReverseSDE,
    SubVPSDE,
)
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.sampler.plan import as_solver
from scoresde.schedule.grid import karras, log_snr, quadratic
from scoresde.solvers import Singlestep
from scoresde.solvers.exponential.coefficients import PARAMETRISATIONS, Segment, table

MIXTURE = order.mixture_2d()
FAMILIES = [VPSDE(), SubVPSDE(), VESDE(0.01, 30.0), CosineSDE(), FlowSDE()]
ids = {"ids": lambda v: type(v).__name__}


def start(sde: SDE, n: int = 16) -> Tensor:
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return z * sde.sigma(sde.T)


def run(solver: object, sde: SDE, grid: Grid, eta: object = 0.0, on_step: object = None) -> Tensor:
    process = ReverseSDE(sde, MIXTURE.under(sde), eta)
    return solver.solve(process, start(sde), grid, noise=Independent(3), on_step=on_step).x


class Paper:
    """A multistep method as its paper writes it: a loop over nodes with its own history."""

    def __init__(self, sde: SDE, grid: Grid, kind: str = "x0", eta: float = 0.0) -> None:
        self.sde, self.nodes = sde, [sde.at(t) for t in grid.times]
        self.model, self.kind, self.eta = MIXTURE.under(sde), kind, eta
        self.noise = Independent(3).on_segment(0)

    def ask(self, node: Node, x: Tensor) -> Tensor:
        return self.model.predict(node, x).read(self.kind)

    def walk(self, update: Callable[..., Tensor]) -> Tensor:
        x, past, hs = start(self.sde), [], []
        for now, nxt in zip(self.nodes, self.nodes[1:], strict=False):
            past.insert(0, self.ask(now, x))
            h = nxt.log_snr - now.log_snr
            z = self.noise.normal(x, now, nxt)
            x = update(x, now, nxt, h, hs, past, z)
            hs.insert(0, h)
        return x


@pytest.mark.parametrize("sde", FAMILIES, **ids)
def test_ddim_and_its_aliases(sde: SDE) -> None:
    """DDIM, DPM-Solver-1 (eps), Euler in sigma/alpha on x/alpha, from their own formulas."""
    grid = log_snr(sde, 9)
    ours = run(Adams(1), sde, grid)

    def ddim(x, now, nxt, h, hs, past, z):
        eps = (x - now.alpha * past[0]) / now.sigma
        return nxt.alpha * past[0] + nxt.sigma * eps

    def dpm_solver_1(x, now, nxt, h, hs, past, z):
        return nxt.alpha / now.alpha * x - nxt.sigma * math.expm1(h) * past[0]

    def euler(x, now, nxt, h, hs, past, z):
        gap = nxt.sigma / nxt.alpha - now.sigma / now.alpha
        return nxt.alpha * (x / now.alpha + gap * past[0])

    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(ours, Paper(sde, grid).walk(ddim), **close)
    torch.testing.assert_close(ours, Paper(sde, grid, "eps").walk(dpm_solver_1), **close)
    torch.testing.assert_close(ours, Paper(sde, grid, "eps").walk(euler), **close)
    for other in (Adams(1, parametrisation="eps"), Adams(1, variable="t")):
        torch.testing.assert_close(ours, run(other, sde, grid), **close)
    torch.testing.assert_close(
        ours, run(Adams(1, parametrisation="eps", variable="rho"), sde, grid), **close
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("sde", FAMILIES, **ids)
def test_dpm_solver_pp_2m(sde: SDE, eta: float) -> None:
    """Lu et al. 2022b, alg. 2; its SDE form with (1 + eta^2) h (k-diffusion's eta is ours^2)."""
    grid, k = karras(sde, 9), eta**2

    def update(x, now, nxt, h, hs, past, z):
        d = past[0]
        if hs:
            r = hs[0] / h
            d = (1 + 1 / (2 * r)) * past[0] - past[1] / (2 * r)
        mean = nxt.sigma / now.sigma * math.exp(-k * h) * x
        mean = mean - nxt.alpha * math.expm1(-(1 + k) * h) * d
        return mean + nxt.sigma * math.sqrt(-math.expm1(-2 * k * h)) * z

    ours = run(Adams(2, variant="midpoint"), sde, grid, eta)
    expected = Paper(sde, grid, eta=eta).walk(update)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("sde", FAMILIES, **ids)
def test_dpm_solver_pp_3m(sde: SDE, corrected: bool) -> None:
    """The published update, with the second derivative in full where it is corrected."""
    grid = quadratic(sde, 9)

    def update(x, now, nxt, h, hs, past, z):
        a, p1 = nxt.alpha, math.expm1(-h)
        p2 = p1 / h + 1
        base = nxt.sigma / now.sigma * x - a * p1 * past[0]
        if not hs:
            return base
        d10 = (past[0] - past[1]) / (hs[0] / h)
        if len(hs) == 1:
            return base + (a * p2 if corrected else -0.5 * a * p1) * d10
        r0, r1 = hs[0] / h, hs[1] / h
        d11 = (past[1] - past[2]) / r1
        d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
        d2 = (2 if corrected else 1) * (d10 - d11) / (r0 + r1)
        return base + a * p2 * d1 - a * (p2 / h - 0.5) * d2

    ours = run(Adams(3, variant="exact" if corrected else "reference"), sde, grid)
    expected = Paper(sde, grid).walk(update)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("kind", ["x0", "eps"])
def test_unipc_as_its_linear_systems(kind: str, variant: str) -> None:
    """Zhao et al. 2023, alg. 1 and 2 of third order: R rho = b solved with numpy."""
    sde, grid, p = VPSDE(), log_snr(VPSDE(), 9), 3
    nodes = [sde.at(t) for t in grid.times]
    model = MIXTURE.under(sde)
    x = start(sde)
    past: list[Tensor] = [model.predict(nodes[0], x).read(kind)]
    for i in range(1, len(nodes)):
        now, nxt = nodes[i - 1], nodes[i]
        h = nxt.log_snr - now.log_snr
        hh = -h if kind == "x0" else h
        scale = nxt.alpha if kind == "x0" else nxt.sigma
        keep = nxt.sigma / now.sigma if kind == "x0" else nxt.alpha / now.alpha
        base = keep * x - scale * math.expm1(hh) * past[0]
        b_h = hh if variant == "bh1" else math.expm1(hh)
        used = min(p, i)
        rs = [(nodes[i - 1 - j].log_snr - now.log_snr) / h for j in range(1, used)]
        ds = [(past[j] - past[0]) / r for j, r in enumerate(rs, start=1)]
        rows, rhs, phi, factor = [], [], math.expm1(hh) / hh - 1, 1
        for n in range(1, used + 1):
            rows.append([r ** (n - 1) for r in [*rs, 1.0]])
            rhs.append(phi * factor / b_h)
            factor *= n + 1
            phi = phi / hh - 1 / factor
        system, b = np.array(rows), np.array(rhs)
        ahead: Tensor = torch.zeros_like(x)
        if ds:
            solved = np.linalg.solve(system[:-1, :-1], b[:-1]) if len(ds) > 1 else [0.5]
            ahead = sum(w * d for w, d in zip(solved, ds, strict=True))
        predicted = base - scale * b_h * ahead
        if i == len(nodes) - 1:
            x = predicted
            break
        new = model.predict(nxt, predicted).read(kind)
        solved = np.linalg.solve(system, b) if used > 1 else [0.5]
        back = sum(w * d for w, d in zip(solved, [*ds, new - past[0]], strict=True))
        x = base - scale * b_h * back
        past.insert(0, new)
    ours = run(Adams(p, p + 1, kind, variant=variant), sde, grid)
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-10)


def test_deis_weights_by_adaptive_quadrature() -> None:
    """C_ij = int_s^t Psi(t, u) g^2 / (2 sigma) prod (u - t_k)/(t_j - t_k) du, in t, negated."""
    sde = VPSDE()
    grid = quadratic(sde, 8)
    nodes = [sde.at(t) for t in grid.times]
    rows = table(Segment(tuple(nodes), sde.time_of, 0.0), Adams(3, 0, "eps", "t", "exact", False))
    for i in (3, 6):
        t = [nodes[i - j].t for j in range(3)]
        for j, weight in enumerate(rows[i][1]):

            def integrand(u: float, j: int = j, t: list[float] = t, i: int = i) -> float:
                basis = math.prod((u - b) / (t[j] - b) for m, b in enumerate(t) if m != j)
                psi = nodes[i + 1].alpha / sde.alpha(u)
                return psi * 0.5 * sde.g(u) ** 2 / sde.sigma(u) * basis

            expected = quad(integrand, nodes[i].t, nodes[i + 1].t, epsabs=0, epsrel=1e-12)[0]
            assert weight == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("parametrisation", ["x0", "eps", "v", "flow"])
@pytest.mark.parametrize("sde", FAMILIES, **ids)
def test_steps_keep_the_law_of_a_point_mass_or_of_pure_noise(
    sde: SDE, parametrisation: str, eta: float
) -> None:
    """With the true constant coordinate the step is exact, in mean and in variance.

    x0 = c: alpha_t c = keep alpha_s c + W c and sigma_t^2 = keep^2 sigma_s^2 + spread^2.
    """
    nodes = tuple(sde.at(t) for t in log_snr(sde, 6).times)
    rows = table(Segment(nodes, sde.time_of, eta), Adams(1, 0, parametrisation, "log_snr"))
    for (keep, (weight,), spread), s, t in zip(rows, nodes, nodes[1:], strict=False):
        if parametrisation == "x0":
            assert keep * s.alpha + weight == pytest.approx(t.alpha, rel=1e-12)
            assert keep**2 * s.sigma**2 + spread**2 == pytest.approx(t.sigma**2, rel=1e-12)
        elif parametrisation == "eps" and eta == 0:
            assert keep * s.sigma + weight == pytest.approx(t.sigma, rel=1e-9)
            assert keep * s.alpha == pytest.approx(t.alpha, rel=1e-12)
        elif parametrisation == "v" and isinstance(sde, VPSDE) and eta == 0:
            angle = math.atan2(t.sigma, t.alpha) - math.atan2(s.sigma, s.alpha)
            assert (keep, weight) == pytest.approx((1.0, angle), rel=1e-12)
        elif parametrisation == "flow" and eta == 0:
            assert keep * s.sigma + weight == pytest.approx(t.sigma, rel=1e-9)
            assert keep * s.alpha - weight == pytest.approx(t.alpha, rel=1e-12)


def test_a_function_eta_equals_its_constant_and_varies_within_a_step() -> None:
    sde = VPSDE()
    nodes = tuple(sde.at(t) for t in log_snr(sde, 5).times)
    for parametrisation in ("x0", "eps", "v", "flow"):
        constant = table(Segment(nodes, sde.time_of, 0.7), Adams(2, 3, parametrisation, "log_snr"))
        function = table(
            Segment(nodes, sde.time_of, lambda t: 0.7), Adams(2, 3, parametrisation, "log_snr")
        )
        assert constant == function
    segment = Segment(nodes, sde.time_of, lambda t: 0.5 + t)
    rows = table(segment, Adams(1, 0, "x0", "log_snr", "exact", False))
    for (keep, (weight,), spread), s, t in zip(rows, nodes, nodes[1:], strict=False):
        total = quad(lambda u: (0.5 + sde.time_of(u)) ** 2, s.log_snr, t.log_snr, epsrel=1e-12)[0]
        assert keep == pytest.approx(t.sigma / s.sigma * math.exp(-total), rel=1e-10)
        assert keep * s.alpha + weight == pytest.approx(t.alpha, rel=1e-9)
        assert keep**2 * s.sigma**2 + spread**2 == pytest.approx(t.sigma**2, rel=1e-10)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_fused_step_is_the_textbook_predictor_corrector(eta: float) -> None:
    """PEC with the corrected state written out, equal to the fused form to rounding."""
    sde, grid = VPSDE(), log_snr(VPSDE(), 10)
    solver = Adams(2, 3)
    nodes = tuple(sde.at(t) for t in grid.times)
    segment = Segment(nodes, sde.time_of, eta)
    model, noise = MIXTURE.under(sde), Independent(3).on_segment(0)
    predictor = table(segment, Adams(2, 0, "x0", "log_snr", "exact", False))
    x = start(sde)
    past = [model.predict(nodes[0], x).x0]
    for i in range(len(nodes) - 1):
        keep, weights, spread = predictor[i]
        z = noise.normal(x, nodes[i], nodes[i + 1])
        ahead = keep * x + sum(w * m for w, m in zip(weights, past, strict=False)) + spread * z
        if i == len(nodes) - 2:
            x = ahead
            break
        new = model.predict(nodes[i + 1], ahead).x0
        points = np.array([nodes[i + 1 - j].log_snr for j in range(min(3, i + 2))])
        corrected = keep * x + spread * z
        for j, m in enumerate([new, *past][: len(points)]):

            def integrand(u: float, j: int = j, points: np.ndarray = points, i: int = i) -> float:
                basis = math.prod(
                    (u - b) / (points[j] - b) for n, b in enumerate(points) if n != j
                )
                rate = 1 + eta**2
                decay = math.exp(-rate * (nodes[i + 1].log_snr - u))
                return nodes[i + 1].alpha * rate * decay * basis

            ends = nodes[i].log_snr, nodes[i + 1].log_snr
            corrected = corrected + quad(integrand, *ends, epsrel=1e-13, epsabs=0)[0] * m
        x, past = corrected, [new, *past]
    torch.testing.assert_close(run(solver, sde, grid, eta), x, rtol=1e-9, atol=1e-10)


def test_a_hook_s_change_survives_the_corrector() -> None:
    """The textbook form recomputes the corrected state from the one before and discards it.

    On a point mass the prediction is constant, so the shift reaches the end times all factors
    of the state that follow, sigma_end / sigma_there.
    """
    sde, grid = VPSDE(), log_snr(VPSDE(), 10)
    point = Gaussian(torch.tensor([0.3, -0.4]).double(), torch.zeros(()).double()).under(sde)

    def ends(hook: Callable[[Node, Tensor], Tensor | None]) -> Tensor:
        process = ReverseSDE(sde, point, 0.0)
        solver, x = Adams(2, 3), start(sde)
        return solver.solve(process, x, grid, noise=Independent(0), on_step=hook).x

    there = grid.times[5]
    moved = ends(lambda node, x: x + 1.0 if node.t == there else None)
    gap = moved - ends(lambda node, x: None)
    expected = torch.full_like(gap, sde.sigma(grid.end) / sde.sigma(there))
    torch.testing.assert_close(gap, expected, rtol=1e-9, atol=1e-12)


def test_a_gaussian_of_matched_variance_needs_few_steps() -> None:
    """On N(0, 1) under VP the flow is the identity: every variant keeps x to rounding."""
    sde = VPSDE()
    model = Gaussian(torch.zeros(2).double(), torch.ones(()).double()).under(sde)
    x = start(sde)
    for solver in (Adams(3, parametrisation="v"), Adams(4, 5, parametrisation="v")):
        process = ReverseSDE(sde, model, 0.0)
        out = solver.solve(process, x, log_snr(sde, 5), noise=Independent(0)).x
        torch.testing.assert_close(out, x, rtol=1e-12, atol=1e-12)


def test_encoding_up_and_decoding_down() -> None:
    sde, errors = VPSDE(), []
    for n in (40, 80):
        down = log_snr(sde, n)
        process = ReverseSDE(sde, MIXTURE.under(sde), 0.0)
        x = MIXTURE.sample(16, seed=0)
        up = Grid.of(down.times[::-1])
        latent = Adams(3).solve(process, x, up, noise=Independent(0)).x
        back = Adams(3).solve(process, latent, down, noise=Independent(0)).x
        errors.append(float((back - x).abs().median()))
    assert errors[1] < errors[0] / 4


def test_two_stage_names_that_mean_the_same() -> None:
    """RES-2S is DPM-Solver++(2S) with its 'taylor' weights; both coordinates agree at order 1."""
    sde, grid = VPSDE(), log_snr(VPSDE(), 8)

    def taylor(x, now, nxt, h, hs, past, z):
        u = sde.at(sde.time_of(now.log_snr + h / 2))
        m = past[0]
        inner = u.sigma / now.sigma * x - u.alpha * math.expm1(-h / 2) * m
        slope = MIXTURE.under(sde).predict(u, inner).x0 - m
        base = nxt.sigma / now.sigma * x - nxt.alpha * math.expm1(-h) * m
        return base + nxt.alpha * (math.expm1(-h) / h + 1) / 0.5 * slope

    expected = Paper(sde, grid).walk(taylor)
    ours = run(Singlestep("res_2s"), sde, grid)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sde", FAMILIES, **ids)
def test_er_sde_in_the_form_of_its_paper(sde: SDE) -> None:
    """x_t in terms of phi, with int dq / phi by adaptive quadrature (Cui et al. 2023)."""

    def phi(q: float) -> float:
        return q * (math.exp(q**0.3) + 10.0)

    times = log_snr(sde, 6, t_end=0.05).times
    solver, eta = as_solver("er_sde_2", sde)
    rows = solver.rows(sde, tuple(sde.at(t) for t in times), eta)
    for i, (keep, weights, spread) in enumerate(rows):
        before, now, nxt = (sde.at(times[j]) for j in (max(i - 1, 0), i, i + 1))
        r, s, t = (n.sigma / n.alpha for n in (before, now, nxt))
        share = phi(t) / phi(s)
        assert keep == pytest.approx(nxt.alpha / now.alpha * share, rel=1e-11)
        assert spread == pytest.approx(nxt.alpha * math.sqrt(t**2 - (s * share) ** 2), rel=1e-9)
        assert sum(weights) == pytest.approx(nxt.alpha * (1.0 - share), rel=1e-11)
        if i:
            whole = quad(lambda u: math.exp(u) / phi(math.exp(u)), math.log(t), math.log(s))[0]
            slope = nxt.alpha * (t - s + phi(t) * whole) / (s - r)
            assert weights[1] == pytest.approx(-slope, rel=1e-8)


@pytest.mark.parametrize(("variant", "most"), [("ipndm", 4), ("exact", 5), ("bh2", 5)])
def test_orders_end_where_the_weights_do(variant: str, most: int) -> None:
    """iPNDM has the weights of four orders; a fifth would fail in the middle of a walk."""
    sde = VPSDE()
    for order_ in range(1, most + 1):
        assert bool(run(Adams(order_, variant=variant), sde, log_snr(sde, 7)).isfinite().all())
    for order_ in (0, most + 1):
        with pytest.raises(ValueError, match=r"^order: expected") as caught:
            Adams(order_, variant=variant)
    assert f"from 1 to {most}, got {most + 1}" in str(caught.value)


def test_correctors_have_two_to_six_nodes() -> None:
    sde = VPSDE()
    for nodes in (0, 2, 6):
        assert bool(run(Adams(1, nodes), sde, log_snr(sde, 8)).isfinite().all())
    for nodes in (-1, 1, 7):
        with pytest.raises(ValueError, match=r"^corrector: expected 0 or an integer from 2 to 6"):
            Adams(1, nodes)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_a_kernel_at_the_end_of_a_step_is_the_limit_of_its_density(
    parametrisation: str, eta: float
) -> None:
    """B(h) = h K(end) of UniPC's first variant, of which the density is K along the step."""
    for sde in (VPSDE(), FlowSDE(), VESDE(0.01, 30.0)):
        for t in (0.9, 0.4, 0.1):
            end = sde.time_of(sde.log_snr(t) + 1e-6)
            segment = Segment((sde.at(t), sde.at(end)), sde.time_of, eta)
            density, at_end = (
                PARAMETRISATIONS[parametrisation].density(segment),
                PARAMETRISATIONS[parametrisation].at_end(segment),
            )
            np.testing.assert_allclose(density, at_end[:, None] + 0 * density, rtol=1e-5)
