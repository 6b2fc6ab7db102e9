"""Names of solvers mean what they say: each against its paper's scheme, written out here.

The references read no weights, parametrisations or stages of the package. A multistep scheme is
the linear equation dx/dlambda = A x + B m for one coordinate m of the prediction, solved by
quadrature with m interpolated by a polynomial; the others are their papers' formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import order
import pytest
import torch
from numpy.polynomial import Chebyshev
from scipy.integrate import quad
from torch import Tensor

from scoresde import EDMSDE, VPSDE, AffineSDE, FlowSDE, Grid, ReverseSDE
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.sampler.plan import as_solver
from scoresde.solvers import SOLVERS, Adams
from scoresde.solvers.exponential.coefficients import Segment, table

TIMES = (0.95, 0.84, 0.69, 0.55, 0.4, 0.27, 0.15, 0.06)
"""No two steps are equal in time, in log-SNR or in sigma / alpha."""

MODEL = order.mixture_2d()
SEED = 3
NOISE = Independent(SEED)

Update = Callable[["Walk", Tensor, Node, Node], Tensor]


def start() -> Tensor:
    return torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Walk:
    """What a scheme may ask for: the prediction, the noise, nodes between two."""

    def __init__(self, sde: AffineSDE, eta: float) -> None:
        self.sde, self.k, self.model = sde, eta**2, MODEL.under(sde)
        self.noise = NOISE.on_segment(0)
        self.memory: Any = None

    def x0(self, node: Node, x: Tensor) -> Tensor:
        return self.model.predict(node, x).x0

    def eps(self, node: Node, x: Tensor) -> Tensor:
        return (x - node.alpha * self.x0(node, x)) / node.sigma

    def between(self, now: Node, nxt: Node, share: float) -> Node:
        """At a share of the step in the log-SNR."""
        if share == 1.0:
            return nxt
        log_snr = now.log_snr + share * (nxt.log_snr - now.log_snr)
        return self.sde.at(self.sde.time_of(log_snr))

    def drift(self, node: Node, x: Tensor) -> Tensor:
        """f - (1 + eta^2)/2 g^2 score."""
        return node.rate * x + (1 + self.k) / 2 * node.g**2 * self.eps(node, x) / node.sigma

    def fresh(self, x: Tensor, now: Node, nxt: Node) -> Tensor:
        return self.noise.normal(x, now, nxt)

    def run(self, update: Update) -> Tensor:
        x = start()
        for s, t in pairwise(TIMES):
            x = update(self, x, self.sde.at(s), self.sde.at(t))
        return x


# Multistep schemes.


@dataclass(frozen=True)
class Multistep:
    """The predictor interpolates `back` predictions, the corrector `with_new`, the new included.

    Attributes:
        weights: "exact" integrals; "half" of a difference in place of the second (the midpoint
            rule of DPM-Solver++ 2M); "half second", the published 3M; "bh1", "bh2", UniPC's
            linear systems; "bashforth", the constants for equal steps.
        falling: the order of the last steps is at most the number of the steps that are left.
    """

    back: int
    with_new: int = 0
    coordinate: str = "x0"
    clock: str = "lambda"
    weights: str = "exact"
    eta: float | str = 0.0
    falling: bool = False


MULTISTEP = {
    "ancestral": Multistep(1, eta=1.0),
    "ddim": Multistep(1),
    "dpmpp_2m": Multistep(2, weights="half"),
    "dpmpp_2m_sde": Multistep(2, weights="half", eta=1.0),
    "dpmpp_3m": Multistep(3),
    "dpmpp_3m_sde": Multistep(3, eta=1.0),
    "dpmpp_3m_reference": Multistep(3, weights="half second"),
    "sa_solver_p2c2": Multistep(2, 2, eta=1.0),
    "sa_solver_p3c4": Multistep(3, 4, eta=1.0),
    "sa_solver_p2_v": Multistep(2, 0, "v", eta=1.0),
    "sa_solver_p2c2_v": Multistep(2, 2, "v", eta=1.0),
    "sa_solver_p3c4_flow": Multistep(3, 4, "flow", "flow time", eta=1.0),
    "er_sde_2": Multistep(2, clock="rho", eta="extended"),
    "er_sde_3": Multistep(3, clock="rho", eta="extended"),
    "ab_4": Multistep(4),
    "ab_3_flow": Multistep(3, 0, "flow", "flow time"),
    "unipc_2": Multistep(2, 3),
    "unipc_2_bh2": Multistep(2, 3, weights="bh2"),
    "unipc_3": Multistep(3, 4),
    "unipc_3_bh1": Multistep(3, 4, weights="bh1"),
    "unipc_3_bh2": Multistep(3, 4, weights="bh2"),
    "unipc_3_eps": Multistep(3, 4, "eps"),
    "unipc_3_v": Multistep(3, 4, "v"),
    "unipc_2_flow": Multistep(2, 3, "flow", "flow time"),
    "unipc_3_flow": Multistep(3, 4, "flow", "flow time"),
    "unipc_4_flow": Multistep(4, 5, "flow", "flow time"),
    "unipc_3_lower": Multistep(3, 4, weights="bh2", falling=True),
    "unipc_4": Multistep(4, 5),
    "deis_tab3": Multistep(4, 0, "eps", "t"),
    "deis_rhoab3": Multistep(3, 0, "eps", "rho"),
    "deis_rhoab4": Multistep(4, 0, "eps", "rho"),
    "deis_log_rho_3": Multistep(3, 0, "eps"),
    "ipndm_3": Multistep(3, 0, "eps", weights="bashforth"),
    "ipndm_4": Multistep(4, 0, "eps", weights="bashforth"),
}

CLOCKS: dict[str, Callable[[Node], float]] = {
    "lambda": lambda n: n.log_snr,
    "rho": lambda n: n.sigma / n.alpha,
    "t": lambda n: n.t,
    "flow time": lambda n: n.sigma / (n.alpha + n.sigma),
}


def coordinate(name: str, n: Node) -> tuple[float, float]:
    """(p, q) with m = p x0 + q eps."""
    size = math.hypot(n.alpha, n.sigma)
    return {
        "x0": (1.0, 0.0),
        "eps": (0.0, 1.0),
        "v": (-n.sigma / size, n.alpha / size),
        "flow": (-1.0, 1.0),
    }[name]


def extended(n: Node) -> float:
    """eta^2 = d log phi / d log q - 1 for phi = q (e^(q^0.3) + 10), q = sigma / alpha."""
    power = (n.sigma / n.alpha) ** 0.3
    return 0.3 * power * math.exp(power) / (math.exp(power) + 10.0)


@dataclass(frozen=True)
class Linear:
    """One step of dx/dlambda = A x + B m with noise of 2 k sigma^2: quadrature at 48 points."""

    keep: float
    parametrisation: np.ndarray
    spread: float
    clock: np.ndarray


def linear(sde: AffineSDE, now: Node, nxt: Node, scheme: Multistep) -> Linear:
    """x = alpha x0 + sigma eps moves by dalpha x0 + dsigma eps - k sigma eps dlambda."""
    y, w = np.polynomial.legendre.leggauss(48)
    a, b = now.log_snr, nxt.log_snr
    at = a + (b - a) * (y + 1) / 2
    A, B, noise, clock = [], [], [], []
    for node in (sde.at(sde.time_of(u)) for u in at.tolist()):
        k = extended(node) if scheme.eta == "extended" else float(scheme.eta) ** 2
        p, q = coordinate(scheme.coordinate, node)
        det = node.alpha * q - node.sigma * p  # of (x, m) in terms of (x0, eps)
        dt = -2 * node.sigma**2 / node.g**2  # dt / dlambda
        to_x0 = node.rate * node.alpha * dt
        to_eps = (node.rate * node.sigma + node.g**2 / (2 * node.sigma)) * dt - k * node.sigma
        A.append((to_x0 * q - to_eps * p) / det)
        B.append((to_eps * node.alpha - to_x0 * node.sigma) / det)
        noise.append(2 * k * node.sigma**2)
        clock.append(CLOCKS[scheme.clock](node))
    total = Chebyshev.fit(at, A, 30, domain=[a, b]).integ()
    decay = np.exp(total(b) - total(at))
    weight = w * (b - a) / 2
    spread = math.sqrt(float(weight @ (decay**2 * np.array(noise))))
    keep = math.exp(total(b) - total(a))
    return Linear(keep, weight * decay * np.array(B), spread, np.array(clock))


def interpolated(step: Linear, at: list[float]) -> np.ndarray:
    """Integrals of the parametrisation against the Lagrange polynomials of the points `at`."""
    out = []
    for j, own in enumerate(at):
        others = [c for m, c in enumerate(at) if m != j]
        basis = np.prod([(step.clock - c) / (own - c) for c in others], axis=0)
        out.append(float(step.parametrisation @ (basis * np.ones_like(step.clock))))
    return np.array(out)


def bashforth(q: int) -> np.ndarray:
    """Adams-Bashforth weights of q equal steps: exact for s^0, ..., s^(q - 1) at 0, -1, ..."""
    powers = np.array([[float((-j) ** n) for j in range(q)] for n in range(q)])
    return np.linalg.solve(powers, np.array([float(Fraction(1, n + 1)) for n in range(q)]))


def unipc(step: Linear, lams: list[float], scheme: Multistep, corrects: bool) -> np.ndarray:
    """Zhao et al. 2023, eq. 3 and 9: R rho = b with B(h); rho = 1/2 where one difference is left.

    lams: log-SNR of the end of the step, of its start, and of the nodes before.
    """
    end, now, *before = lams
    h = end - now
    signed = -h if scheme.coordinate == "x0" else h
    size = signed if scheme.weights == "bh1" else math.expm1(signed)
    whole = float(step.parametrisation.sum())  # -scale (e^signed - 1)
    rs = [(lam - now) / h for lam in before] + [1.0] * corrects
    rhos = np.array([0.5])
    if len(rs) > 1:
        phi, factor, rhs = math.expm1(signed) / signed - 1, 1.0, []
        for n in range(1, len(rs) + 1):
            rhs.append(phi * factor / size)
            factor *= n + 1
            phi = phi / signed - 1 / factor
        rhos = np.linalg.solve(np.array([[r**n for r in rs] for n in range(len(rs))]), rhs)
    moved = whole / math.expm1(signed) * size * rhos[: len(rs)] / np.array(rs)
    if corrects:  # the difference to the new prediction comes last in rs, first in the answer
        return np.array([moved[-1], whole - moved.sum(), *moved[:-1]])
    return np.array([whole - moved.sum(), *moved])


def weights_of(step: Linear, nodes: list[Node], scheme: Multistep, corrects: bool) -> np.ndarray:
    """Weights of the predictions; nodes: the end of the step, its start, and those before."""
    lams = [n.log_snr for n in nodes]
    known = nodes if corrects else nodes[1:]
    at = [CLOCKS[scheme.clock](n) for n in known]
    if len(at) == 1:
        return np.array([step.parametrisation.sum()])
    if scheme.weights in ("bh1", "bh2"):
        return unipc(step, lams, scheme, corrects)
    whole = float(step.parametrisation.sum())
    h = lams[0] - lams[1]
    if scheme.weights == "bashforth":
        return whole * bashforth(len(at))
    if scheme.weights in ("half", "half second") and len(at) == 2:
        half = whole / 2 * h / (lams[1] - lams[2])
        return np.array([whole + half, -half])
    exact = interpolated(step, at)
    if scheme.weights == "half second":  # (u - lambda_s)^2 m'' / 4 in place of ... / 2
        r0, r1 = (lams[1] - lams[2]), (lams[2] - lams[3])
        second = np.array([1 / r0, -1 / r0 - 1 / r1, 1 / r1]) * 2 / (r0 + r1)
        curved = float(step.parametrisation @ (step.clock - lams[1]) ** 2) / 4
        return exact - curved * second
    return exact


def multistep(sde: AffineSDE, scheme: Multistep) -> Tensor:
    """Predict, evaluate, correct: one call a step; the last step is not corrected."""
    nodes = [sde.at(t) for t in TIMES]
    model, noise, x = MODEL.under(sde), NOISE.on_segment(0), start()

    def ask(node: Node, x: Tensor) -> Tensor:
        p, q = coordinate(scheme.coordinate, node)
        x0 = model.predict(node, x).x0
        return p * x0 + q * (x - node.alpha * x0) / node.sigma

    past, steps = [ask(nodes[0], x)], len(nodes) - 1
    for i in range(steps):
        step = linear(sde, nodes[i], nodes[i + 1], scheme)
        z = noise.normal(x, nodes[i], nodes[i + 1])
        base = step.keep * x + step.spread * z
        most = min(scheme.back, steps - i) if scheme.falling else scheme.back
        q = min(most, i + 1)
        behind = nodes[i + 1 :: -1]
        ahead = weights_of(step, behind[: q + 1], scheme, corrects=False)
        x = base + sum(float(w) * m for w, m in zip(ahead, past, strict=False))
        if i == steps - 1:
            return x
        new = ask(nodes[i + 1], x)
        if scheme.with_new:
            q = min(scheme.with_new, i + 2)
            back = weights_of(step, behind[:q], scheme, corrects=True)
            x = base + sum(float(w) * m for w, m in zip(back, [new, *past], strict=False))
        past.insert(0, new)
    raise AssertionError


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.4, "extended"])
@pytest.mark.parametrize("parametrisation", ["x0", "eps", "v", "flow"])
@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE(), EDMSDE()], ids=lambda s: type(s).__name__)
def test_a_kernel_is_its_linear_equation(
    sde: AffineSDE, parametrisation: str, eta: float | str
) -> None:
    """Factor of the state, weights of one and of two predictions, noise, at any stochasticity."""
    k = (lambda t: math.sqrt(extended(sde.at(t)))) if eta == "extended" else eta
    nodes = tuple(sde.at(t) for t in TIMES)
    scheme = Multistep(2, 0, parametrisation, "rho", eta=eta)
    rows = table(
        Segment(nodes, sde.time_of, k), Adams(2, 0, parametrisation, "rho", "exact", False)
    )
    for i, (keep, weights, spread) in enumerate(rows):
        step = linear(sde, nodes[i], nodes[i + 1], scheme)
        behind = nodes[i + 1 :: -1][: min(2, i + 1) + 1]
        expected = weights_of(step, list(behind), scheme, corrects=False)
        size = [
            math.hypot(n.alpha, n.sigma) if parametrisation == "v" else 1.0 for n in behind[1:]
        ]
        assert keep == pytest.approx(step.keep, rel=1e-10)
        assert spread == pytest.approx(step.spread, rel=1e-9, abs=1e-14)
        assert weights == pytest.approx(
            [w / c for w, c in zip(expected, size, strict=True)], rel=1e-9
        )


# Exponential Runge-Kutta schemes: stages at c, with phi functions of z.


def phi(j: int, z: float) -> float:
    def integrand(s: float) -> float:
        return math.exp((1 - s) * z) * s ** (j - 1) / math.factorial(j - 1)

    return float(quad(integrand, 0, 1, epsabs=0, epsrel=1e-13)[0])


Stages = Callable[[float], list[tuple[float, list[float]]]]


def second(z: float) -> list[tuple[float, list[float]]]:
    """DPM-Solver-2: the call at the middle stands for the whole step."""
    return [(0.5, [phi(1, z / 2) / 2]), (1.0, [0.0, phi(1, z)])]


def third(z: float) -> list[tuple[float, list[float]]]:
    """DPM-Solver-3 with r_1 = 1/3, r_2 = 2/3."""
    bend, last = 4 / 3 * phi(2, 2 * z / 3), 1.5 * phi(2, z)
    return [
        (1 / 3, [phi(1, z / 3) / 3]),
        (2 / 3, [2 / 3 * phi(1, 2 * z / 3) - bend, bend]),
        (1.0, [phi(1, z) - last, 0.0, last]),
    ]


def refined_second(z: float) -> list[tuple[float, list[float]]]:
    """Hochbruck and Ostermann 2005, eq. 5.3 with c_2 = 1/2."""
    return [(0.5, [phi(1, z / 2) / 2]), (1.0, [phi(1, z) - 2 * phi(2, z), 2 * phi(2, z)])]


def refined_third(z: float) -> list[tuple[float, list[float]]]:
    """The same, eq. 5.9 with c_2 = 1/2, c_3 = 1: gamma = (3 c_3 - 2) c_3 / ((2 - 3 c_2) c_2)."""
    gamma, p1, p2 = 4.0, phi(1, z), phi(2, z)
    bend, share = gamma / 2 * phi(2, z / 2) + 2 * p2, p2 / (gamma / 2 + 1)
    return [
        (0.5, [phi(1, z / 2) / 2]),
        (1.0, [p1 - bend, bend]),
        (1.0, [p1 - (gamma + 1) * share, gamma * share, share]),
    ]


SINGLESTEP: dict[str, tuple[Stages, str, float]] = {
    "dpm_solver_2": (second, "eps", 0.0),
    "dpm_solver_3": (third, "eps", 0.0),
    "dpmpp_2s": (second, "x0", 0.0),
    "dpmpp_3s": (third, "x0", 0.0),
    "res_2s": (refined_second, "x0", 0.0),
    "res_3s": (refined_third, "x0", 0.0),
    "dpmpp_sde": (second, "x0", 1.0),
    "seeds_2": (refined_second, "x0", 1.0),
    "seeds_3": (third, "x0", 1.0),
}


def singlestep(stages: Stages, kind: str) -> Update:
    def update(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
        h, k = nxt.log_snr - now.log_snr, walk.k
        z = h if kind == "eps" else -(1 + k) * h
        asked: list[Tensor] = []
        at, state, noise = now, x, torch.zeros_like(x)
        for share, weights in stages(z):
            asked.append(walk.eps(at, state) if kind == "eps" else walk.x0(at, state))
            node = walk.between(now, nxt, share)
            if k and node is not at:  # one Brownian motion through all stages
                u = node.log_snr - at.log_snr
                added = node.sigma * math.sqrt(-math.expm1(-2 * k * u)) * walk.fresh(x, at, node)
                noise = node.sigma / at.sigma * math.exp(-k * u) * noise + added
            if kind == "eps":
                keep, size = node.alpha / now.alpha, -node.sigma * h
            else:
                keep = node.sigma / now.sigma * math.exp(-k * (node.log_snr - now.log_snr))
                size = node.alpha * (1 + k) * h
            mixed = sum(w * m for w, m in zip(weights, asked, strict=True))
            at, state = node, keep * x + size * mixed + noise
        return state

    return update


# Euler's, Heun's and the strong schemes, and Langevin steps.


def euler(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    dt = nxt.t - now.t
    noise = math.sqrt(walk.k * abs(dt)) * now.g * walk.fresh(x, now, nxt)
    return x + dt * walk.drift(now, x) + noise


def euler_log_snr(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    """dt = dlambda / (dlambda/dt), whose derivative is -g^2 / (2 sigma^2)."""
    dt = -(nxt.log_snr - now.log_snr) * 2 * now.sigma**2 / now.g**2
    noise = math.sqrt(walk.k * abs(dt)) * now.g * walk.fresh(x, now, nxt)
    return x + dt * walk.drift(now, x) + noise


def heun(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    dt, first = nxt.t - now.t, walk.drift(now, x)
    return x + dt * (first + walk.drift(nxt, x + dt * first)) / 2


def edm_heun(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    """Karras et al. 2022, alg. 1, on x / alpha with the noise level sigma / alpha."""
    y, step = x / now.alpha, nxt.sigma / nxt.alpha - now.sigma / now.alpha
    first = walk.eps(now, x)
    ahead = y + step * first
    return nxt.alpha * (y + step * (first + walk.eps(nxt, nxt.alpha * ahead)) / 2)


def reverse_diffusion(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    """Song et al. 2021, eq. 46, of the forward transition x' = a x + q z."""
    a = now.alpha / nxt.alpha
    q2 = now.sigma**2 - (a * nxt.sigma) ** 2
    score = -walk.eps(now, x) / now.sigma
    return (2 - a) * x + q2 * score + math.sqrt(q2) * walk.fresh(x, now, nxt)


def predictor_corrector(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    """The exact posterior with x0 held, then a Langevin step of 2 (0.16 sigma)^2 at the node."""
    ratio = (now.alpha * nxt.sigma**2) / (nxt.alpha * now.sigma**2)
    pull = nxt.alpha - ratio * now.alpha
    spread = nxt.sigma * math.sqrt(1 - (now.alpha * nxt.sigma / (nxt.alpha * now.sigma)) ** 2)
    x = ratio * x + pull * walk.x0(now, x) + spread * walk.fresh(x, now, nxt)
    e = 2 * (0.16 * nxt.sigma) ** 2
    z = walk.noise.stream("langevin").draw(x, 0, at=nxt.t)
    return x - e * walk.eps(nxt, x) / nxt.sigma + math.sqrt(2 * e) * z


def in_snr(walk: Walk, now: Node, nxt: Node, x: Tensor) -> tuple[Any, ...]:
    """The reverse SDE as du = x0(u, c) dc + dB in c = (alpha/sigma)^2, u = x alpha / sigma^2."""
    c, h = math.exp(2 * now.log_snr), math.exp(2 * nxt.log_snr) - math.exp(2 * now.log_snr)
    z, area = walk.noise.levy(x, now, nxt)

    def a(share: float, u: Tensor) -> Tensor:
        node = walk.sde.at(walk.sde.time_of(math.log(c + share * h) / 2))
        return walk.x0(node, u * node.sigma**2 / node.alpha)

    return a, h, x * now.alpha / now.sigma**2, math.sqrt(h) * z, math.sqrt(h / 12) * area


def sra1(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    a, h, u, w, levy = in_snr(walk, now, nxt, x)
    first = a(0.0, u)
    other = a(0.75, u + 0.75 * h * first + 1.5 * (w / 2 + levy))
    return (u + h * (first + 2 * other) / 3 + w) * nxt.sigma**2 / nxt.alpha


def shark(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    a, h, u, w, levy = in_snr(walk, now, nxt, x)
    first = a(0.0, u + levy)
    other = a(5 / 6, u + levy + 5 / 6 * (h * first + w))
    return (u + h * (2 * first + 3 * other) / 5 + w) * nxt.sigma**2 / nxt.alpha


def one_call_sra(walk: Walk, x: Tensor, now: Node, nxt: Node) -> Tensor:
    a, h, u, w, levy = in_snr(walk, now, nxt, x)
    before = a(0.0, u) if walk.memory is None else walk.memory
    walk.memory = a(1 / 3, u + h / 3 * before + w / 2 + levy)
    return (u + h * walk.memory + w) * nxt.sigma**2 / nxt.alpha


WRITTEN_OUT: dict[str, tuple[Update, float]] = {
    "euler": (euler, 0.0),
    "euler_maruyama": (euler, 1.0),
    "euler_log_snr": (euler_log_snr, 0.0),
    "euler_maruyama_log_snr": (euler_log_snr, 1.0),
    "heun": (heun, 0.0),
    "edm_heun": (edm_heun, 0.0),
    "reverse_diffusion": (reverse_diffusion, 1.0),
    "predictor_corrector": (predictor_corrector, 1.0),
    "sra1": (sra1, 1.0),
    "shark": (shark, 1.0),
    "one_call_sra": (one_call_sra, 1.0),
    "torchsde": (euler, 1.0),
    **{name: (singlestep(s, kind), eta) for name, (s, kind, eta) in SINGLESTEP.items()},
}

OF_A_LIBRARY_OR_A_TOLERANCE: dict[str, tuple[dict[str, object], float]] = {
    "adaptive_sde": ({"rtol": 1e-2, "atol": 1e-2, "sigma_data": 0.5}, 1.0),
    "dopri5": ({"pair": "dopri5", "rtol": 1e-5, "atol": 1e-5, "sigma_data": 0.5}, 0.0),
    "bosh3": ({"pair": "bosh3", "rtol": 1e-3, "atol": 1e-3, "sigma_data": 0.5}, 0.0),
    "scipy": ({"method": "RK45", "rtol": 1e-5, "atol": 1e-5}, 0.0),
}


def by_name(name: str, sde: AffineSDE) -> Tensor:
    solver, eta = as_solver(name, sde)
    process = ReverseSDE(sde, MODEL.under(sde), eta)
    return solver.solve(process, start(), Grid.of(TIMES), noise=NOISE).x


FAMILIES = pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=lambda s: type(s).__name__)


def test_every_name_is_written_out_here() -> None:
    assert {*MULTISTEP, *WRITTEN_OUT, *OF_A_LIBRARY_OR_A_TOLERANCE} == {*SOLVERS}


@FAMILIES
@pytest.mark.parametrize("name", MULTISTEP)
def test_a_multistep_name_is_its_paper_s_scheme(name: str, sde: AffineSDE) -> None:
    expected = multistep(sde, MULTISTEP[name])
    torch.testing.assert_close(by_name(name, sde), expected, rtol=1e-9, atol=1e-10)


@FAMILIES
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_one_step_name_is_its_paper_s_scheme(name: str, sde: AffineSDE) -> None:
    update, eta = WRITTEN_OUT[name]
    expected = Walk(sde, eta).run(update)
    torch.testing.assert_close(by_name(name, sde), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_name_has_the_stochasticity_of_its_process(name: str) -> None:
    """1 on the reverse SDE, 0 on the probability flow, Cui's function of sigma / alpha."""
    sde = VPSDE()
    known = {n: s.eta for n, s in MULTISTEP.items()}
    known |= {n: eta for n, (_, eta) in (WRITTEN_OUT | OF_A_LIBRARY_OR_A_TOLERANCE).items()}
    eta = as_solver(name, sde)[1]
    if known[name] == "extended":
        for t in (0.02, 0.3, 1.0):
            assert eta(t) ** 2 == pytest.approx(extended(sde.at(t)), rel=1e-12)
    else:
        assert eta == known[name]


@pytest.mark.parametrize("name", OF_A_LIBRARY_OR_A_TOLERANCE)
def test_an_adaptive_name_has_the_scheme_and_tolerance_of_its_page(name: str) -> None:
    fields, _ = OF_A_LIBRARY_OR_A_TOLERANCE[name]
    solver = as_solver(name, VPSDE())[0]
    assert {key: getattr(solver, key) for key in fields} == fields
