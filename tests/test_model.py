"""Models: what a network is asked and told, and how its answer is read, under every SDE."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from registry import ALL_SDES, FAMILIES, times_of
from shared import normal
from torch import Tensor, nn

from scoresde.analytic_start import AnalyticStart
from scoresde.ddpm import DDPM
from scoresde.likelihood import log_prob
from scoresde.model import FunctionScore, Preconditioned, ScoreModel
from scoresde.node import Node
from scoresde.options import Divergence
from scoresde.oracles import Gaussian
from scoresde.prediction import Prediction
from scoresde.sampler import ReverseSampler
from scoresde.schedule.grid import log_snr
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    LinearSDE,
    SubVPSDE,
)

F64 = torch.float64
PREDICTS = ("eps", "x0", "v", "score", "flow", "edm")
MEAN, STD = 0.7, 0.4
affine = pytest.mark.parametrize("sde", ALL_SDES.values(), ids=ALL_SDES)


class Net(nn.Module):
    """A network that records its calls and answers with a function of them."""

    def __init__(self, answer: Callable[..., Tensor] = lambda x, t, **cond: x) -> None:
        super().__init__()
        self.answer = answer
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        self.calls.append((x, t, cond))
        return self.answer(x, t, **cond)


def exact(sde: AffineSDE, predicts: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact coordinate of data N(MEAN, STD^2 I), as a network of (x, t) would give it."""

    def answer(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *(1,) * (x.ndim - 1))
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        variance = alpha**2 * STD**2 + sigma**2
        if predicts == "edm":  # the net sees c_in x and gives F = (x0 - c_skip x) / c_out
            x = x * variance.sqrt()
        eps = sigma * (x - alpha * MEAN) / variance
        x0 = MEAN + alpha * STD**2 * (x - alpha * MEAN) / variance
        return {
            "eps": eps,
            "x0": x0,
            "v": alpha * eps - sigma * x0,
            "score": -eps / sigma,
            "flow": eps - x0,
            "edm": (x0 - alpha * STD**2 / variance * x) * variance.sqrt() / sigma / STD,
        }[predicts]

    return answer


def exact_score(sde: AffineSDE, t: float, x: Tensor) -> Tensor:
    return -(x - sde.alpha(t) * MEAN) / (sde.alpha(t) ** 2 * STD**2 + sde.sigma(t) ** 2)


@pytest.mark.parametrize("predicts", PREDICTS)
@affine
def test_an_exact_network_gives_the_exact_score(sde: AffineSDE, predicts: str) -> None:
    net = Net(exact(sde, predicts))
    model = Preconditioned(net, sde, predicts=predicts, time="t", sigma_data=STD)
    for t in times_of(sde, 8).tolist():
        if predicts in ("x0", "edm") and abs(sde.log_snr(t)) > 8:
            continue  # eps from x0 cancels there
        x = sde.alpha(t) * MEAN + math.hypot(sde.alpha(t) * STD, sde.sigma(t)) * normal(5, 3)
        want = exact_score(sde, t, x)
        for time in (t, torch.tensor(t, dtype=F64), torch.full((5,), t, dtype=F64)):
            got = model.score(time, x)
            assert torch.allclose(got, want, rtol=1e-8, atol=1e-8 / sde.sigma(t)), (t, time)
            prediction = model(time, x)
            assert isinstance(prediction, Prediction)
            assert torch.equal(prediction.score, got)


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("shape", [(4, 4), (4, 1, 3, 3), (4, 2)])
def test_a_float_node_and_the_same_times_per_sample(predicts: str, shape: tuple[int, ...]) -> None:
    sde, x = VESDE(), normal(*shape)
    net = Net(lambda x, t: torch.tanh(x) + t.reshape(-1, *(1,) * (x.ndim - 1)))
    model = Preconditioned(net, sde, predicts=predicts, sigma_data=0.5)
    one = model.predict(sde.at(0.4), x)
    two = model.predict(sde.at(torch.full((4,), 0.4, dtype=F64), like=x), x)
    for kind in ("x0", "eps", "score", "v"):
        a, b = one.read(kind), two.read(kind)
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12 * float(a.abs().max()))
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=F64)
    many = model.score(t, x)
    for i in range(4):
        assert torch.allclose(many[i], model.score(float(t[i]), x[i : i + 1])[0], rtol=1e-12)


# EDM


def test_the_coefficients_of_edm_are_those_of_the_paper() -> None:
    # Karras et al. 2022, table 1, last column
    sde, s, x, raw = EDMSDE(), 0.5, normal(6, 3), normal(6, 3, seed=1)
    for sigma in (0.002, 0.1, 0.5, 3.0, 80.0):
        net = Net(lambda x, t: raw)
        model = Preconditioned(net, sde, predicts="edm", sigma_data=s)
        x0 = model(sigma, x).x0
        c_skip = s**2 / (sigma**2 + s**2)
        c_out = sigma * s / math.sqrt(s**2 + sigma**2)
        assert torch.allclose(x0, c_skip * x + c_out * raw, rtol=1e-13, atol=1e-13)
        seen, noise, _ = net.calls[0]
        assert torch.allclose(seen, x / math.sqrt(sigma**2 + s**2), rtol=1e-13)
        assert torch.allclose(noise, torch.full((6,), math.log(sigma) / 4, dtype=F64))


@pytest.mark.parametrize("sde", FAMILIES.values(), ids=FAMILIES)
def test_edm_sees_and_is_asked_for_unit_variance(sde: AffineSDE) -> None:
    # x = alpha x0 + sigma eps with Var x0 = s^2: read the linear maps off unit inputs
    s = 0.6
    for t in times_of(sde, 6).tolist():
        node = sde.at(t)
        net = Net(lambda x, t: torch.zeros_like(x))
        model = Preconditioned(net, sde, predicts="edm", sigma_data=s)
        one = torch.ones(1, 1, dtype=F64)
        c_skip = float(model(t, one).x0)
        c_in = float(net.calls[0][0])
        net.answer = lambda x, t: torch.ones_like(x)
        c_out = float(model(t, 0 * one).x0)
        assert c_in**2 * ((node.alpha * s) ** 2 + node.sigma**2) == pytest.approx(1, rel=1e-12)
        # the target F = (x0 - c_skip x) / c_out has unit variance, and c_out is the smallest
        left = ((1 - c_skip * node.alpha) * s) ** 2 + (c_skip * node.sigma) ** 2
        assert left == pytest.approx(c_out**2, rel=1e-9)
        for other in (c_skip * 1.01, c_skip * 0.99):
            more = ((1 - other * node.alpha) * s) ** 2 + (other * node.sigma) ** 2
            assert more > left


# What the network is told


@pytest.mark.parametrize(
    ("time", "predicts", "told"),
    [
        (None, "eps", lambda n: n.t),
        (None, "score", lambda n: n.t),
        (None, "edm", lambda n: math.log(n.sigma / n.alpha) / 4),
        ("t", "edm", lambda n: n.t),
        ("log_snr", "eps", lambda n: n.log_snr),
        ("log_sigma/4", "eps", lambda n: math.log(n.sigma / n.alpha) / 4),
        (lambda n: n.t * 999, "eps", lambda n: n.t * 999),
        (lambda n: n.sigma, "score", lambda n: n.sigma),
        (lambda n: torch.as_tensor(n.t) * 999, "eps", lambda n: n.t * 999),
    ],
)
def test_the_time_that_the_network_is_told(
    time: Any, predicts: str, told: Callable[[Node], float]
) -> None:
    sde, net, x = VPSDE(), Net(), normal(3, 3, 2, 2).float()
    model = Preconditioned(net, sde, predicts=predicts, time=time)
    model(0.3, x)
    model(torch.tensor([0.1, 0.3, 0.9]), x)
    (_, along, _), (_, batched, _) = net.calls
    assert along.shape == batched.shape == (3,)
    assert along.dtype == batched.dtype == torch.float32
    assert torch.allclose(along, torch.full((3,), told(sde.at(0.3))))
    want = torch.tensor([told(sde.at(t)) for t in (0.1, 0.3, 0.9)])
    assert torch.allclose(batched, want, rtol=1e-5)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_conditions_are_passed_by_name(predicts: str) -> None:
    net, x = Net(lambda x, t, label, y: x + label[:, None] + y), normal(3, 2)
    model = Preconditioned(net, VPSDE(), predicts=predicts)
    cond = {"label": torch.tensor([0, 1, 2]), "y": normal(3, 2, seed=1)}
    model(0.5, x, cond)
    assert net.calls[0][2] == cond
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        model(0.5, x, {**cond, "wrong": x})
    assert Preconditioned(net, VPSDE()).null == {"label": -1}
    assert Preconditioned(net, VPSDE(), null={"y": 0.0}).null == {"y": 0.0}


def test_a_model_is_a_module_that_owns_its_network() -> None:
    net = nn.Linear(2, 2)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.inner(x)

    model = Preconditioned(Wrapped(), VPSDE())
    assert set(model.state_dict()) == {"net.inner.weight", "net.inner.bias"}
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    model.score(0.5, x).sum().backward()
    assert net.weight.grad is not None and bool((net.weight.grad != 0).any())
    assert model(0.5, x).value.dtype == torch.float32


# A function of (t, x)


def test_the_time_that_a_function_receives() -> None:
    seen: list[Tensor] = []

    def fn(t: Tensor, x: Tensor) -> Tensor:
        seen.append(t)
        return -x / (1 + t**2)

    model, x = FunctionScore(VPSDE(), fn), normal(3, 3)
    along = model.score(0.5, x)
    assert seen[0].shape == () and seen[0].dtype == F64 and seen[0].device.type == "cpu"
    batched = model.score(torch.full((3,), 0.5, dtype=F64), x)
    assert seen[1].shape == (3, 1)
    assert torch.allclose(along, batched, rtol=1e-12)
    assert torch.allclose(along, -x / 1.25, rtol=1e-14)
    image = normal(3, 1, 4, 4)
    model.score(torch.tensor([0.1, 0.2, 0.3], dtype=F64), image)
    assert seen[2].shape == (3, 1, 1, 1)
    assert model.score(0.5, x.float()).dtype == torch.float32


def test_a_function_may_ask_models_and_the_sde_at_its_time() -> None:
    mean, variance = torch.tensor([MEAN, -MEAN], dtype=F64), torch.tensor(STD**2, dtype=F64)
    sde, data = VPSDE(), Gaussian(mean, variance)
    inner, x = data.under(sde), data.sample(3, seed=1)

    def by_node(t: Tensor, x: Tensor) -> Tensor:
        node = sde.at(t, like=x)
        return (node.alpha * data.mean - x) / (node.alpha**2 * STD**2 + node.sigma**2)

    times = torch.tensor([0.1, 0.4, 1.0], dtype=F64)
    truth, prior = data.marginal(sde, sde.t_min).log_prob(x), data.marginal(sde, sde.T)
    for fn in (inner.score, by_node):
        model = FunctionScore(sde, fn)
        for t in (0.4, times):
            assert torch.allclose(model.score(t, x), inner.score(t, x), rtol=1e-12, atol=1e-12)
        for divergence in (Divergence("exact"), Divergence(probes=2)):
            found = log_prob(model, x, prior=prior, divergence=divergence)
            assert torch.allclose(found.nats, truth, rtol=0.0, atol=1e-5)
            assert bool(((found.nats - truth).abs() <= found.solver_error).all())


def test_a_function_may_ask_the_sde_for_its_node_beside_images() -> None:
    sde, x = VPSDE(), normal(3, 1, 2, 2)
    model = FunctionScore(sde, lambda t, x: -x / (sde.at(t, like=x).alpha + 1.0))
    times = torch.tensor([0.1, 0.4, 1.0], dtype=F64)
    want = torch.stack([-x[i] / (sde.alpha(float(times[i])) + 1.0) for i in range(3)])
    assert torch.allclose(model.score(times, x), want, rtol=1e-12)


def test_a_function_may_use_math_and_takes_conditions() -> None:
    model = FunctionScore(VPSDE(), lambda t, x, y: -x * math.exp(-t) + y)
    x, y = normal(2, 2), normal(2, 2, seed=1)
    assert torch.allclose(model.score(0.5, x, {"y": y}), -x * math.exp(-0.5) + y)
    prediction = model(0.5, x, {"y": y})
    assert prediction.kind == "score"
    assert torch.allclose(prediction.eps, -VPSDE().sigma(0.5) * prediction.score)


def test_a_float64_answer_to_float32_is_cast() -> None:
    model = FunctionScore(VPSDE(), lambda t, x: -x.double())
    assert model.score(0.5, torch.zeros(2, 2)).dtype == torch.float32


def test_scores_of_a_non_affine_sde() -> None:
    sde = SDE(lambda t, x: -(x**3), lambda t: 1.0, T=2.0)
    x = normal(2, 2)
    for model in (
        FunctionScore(sde, lambda t, x: -x),
        Preconditioned(Net(lambda x, t: -x), sde, predicts="score"),
    ):
        assert torch.equal(model.score(1.5, x), -x)
        assert torch.equal(model.score(torch.tensor([0.1, 1.5]), x), -x)
    told = Preconditioned(Net(), sde, predicts="score", time="log_snr")
    with pytest.raises(TypeError, match=r"log_snr: .*not affine"):
        told.score(0.5, x)


def test_one_abstract_method_makes_a_model() -> None:
    class Standard(ScoreModel):
        sde = VPSDE()

        def predict(self, node: Node, x: Tensor, cond: Any = None) -> Prediction:
            return Prediction(x, node, -x, "score")

    assert torch.equal(Standard().score(0.5, torch.ones(1, 2)), -torch.ones(1, 2))
    with pytest.raises(TypeError, match="abstract"):
        ScoreModel()  # type: ignore[abstract]


# Errors

DEFAULTS = [
    *((sde, "v", "t") for sde in (VPSDE(), SubVPSDE(), CosineSDE(), FlowSDE())),
    (DDPM.linear(100).to_sde(), "v", "t"),
    (LinearSDE(lambda t: -1.0 - 4.0 * t, lambda t: (2.0 + 8.0 * t) ** 0.5), "v", "t"),
    *((sde, "edm", "log_sigma/4") for sde in (VESDE(), EDMSDE())),
    (LinearSDE(lambda t: -1.0, lambda t: 10.0), "edm", "log_sigma/4"),
    (SDE(lambda t, x: -(x**3), lambda t: 1.0), "score", "t"),
]


@pytest.mark.parametrize(("sde", "predicts", "time"), DEFAULTS)
def test_the_default_prediction_suits_the_size_of_the_states(
    sde: SDE, predicts: str, time: str
) -> None:
    model = Preconditioned(Net(), sde)
    assert (model.predicts, model.time, model.sigma_data) == (predicts, time, None)


def test_sigma_data_is_one_until_it_is_known() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    open_, unit = (Preconditioned(Net(), EDMSDE(), sigma_data=s) for s in (None, 1.0))
    assert torch.equal(open_.score(0.5, x), unit.score(0.5, x))


SDE_3 = SDE(lambda t, x: -x, lambda t: 1.0)
X = torch.zeros(3, 3)


def model(**kwargs: Any) -> Preconditioned:
    return Preconditioned(Net(), VPSDE(), **kwargs)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: Preconditioned(lambda x, t: x, VPSDE()),
            TypeError,
            "net: .*Module.*FunctionScore",
        ),
        (lambda: Preconditioned(Net(), VPSDE), TypeError, r"sde: .*SDE.*VPSDE\(\)"),
        (
            lambda: model(predicts="epsilon"),
            ValueError,
            "predicts: .*'epsilon'; did you mean 'eps'",
        ),
        (lambda: model(predicts="X0"), ValueError, "predicts: .*'X0'; did you mean 'x0'"),
        (lambda: model(time="logsnr"), ValueError, "time: .*'logsnr'; did you mean 'log_snr'"),
        (lambda: model(sigma_data=0.0), ValueError, "sigma_data: .*0.0"),
        (
            lambda: Preconditioned(Net(), SDE_3, "eps"),
            TypeError,
            "sde: .*affine.*'eps'.*FunctionScore",
        ),
        (lambda: Preconditioned(Net(), SDE_3, "edm"), TypeError, "sde: .*affine.*'edm'"),
        (lambda: FunctionScore(VPSDE(), 3), TypeError, "fn: .*3"),
        (lambda: FunctionScore("vp", lambda t, x: x), TypeError, "sde: .*'vp'"),
        (lambda: model()(0.5, X.long()), TypeError, r"x: .*int64.*\.float\(\)"),
        (lambda: model()(0.5, [[1.0]]), TypeError, r"x: .*\[\[1\.0\]\]"),
        (lambda: model()(1.5, X), ValueError, r"t: .*\[0, 1\].*1\.5"),
        (lambda: model()(torch.tensor(-0.5), X), ValueError, r"t: .*\[0, 1\].*-0\.5"),
        (lambda: model()(torch.tensor([0.1, 0.2, 1.2]), X), ValueError, r"t: .*\[0, 1\].*1\.2"),
        (lambda: model()(torch.tensor([0.1, 0.2]), X), ValueError, r"t: .*\(3,\).*\(2,\)"),
        (lambda: model()(torch.tensor([0.1]), X), ValueError, r"t: .*\(3,\).*\(1,\)"),
        (lambda: model()("0.5", X), TypeError, "t: .*'0.5'"),
        (
            lambda: Preconditioned(Net(lambda x, t: x[:, :1]), VPSDE())(0.5, X),
            ValueError,
            r"net: .*\(3, 3\).*\(3, 1\)",
        ),
        (
            lambda: Preconditioned(Net(lambda x, t: x[:, :1]), VPSDE(), "edm")(0.5, X),
            ValueError,
            r"net: .*\(3, 3\).*\(3, 1\)",
        ),
        (
            lambda: Preconditioned(Net(lambda x, t: (x, x)), VPSDE())(0.5, X),
            TypeError,
            r"net: .*tensor of shape \(3, 3\)",
        ),
        (
            lambda: FunctionScore(VPSDE(), lambda t, x: x.sum(1))(0.5, X),
            ValueError,
            r"fn\(t, x\): .*\(3, 3\).*\(3,\)",
        ),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_bad_input_is_found_before_the_network_runs() -> None:
    net = Net()
    for t in (1.5, torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2, 1.5])):
        with pytest.raises(ValueError, match="t: "):
            Preconditioned(net, VPSDE())(t, X)
    assert net.calls == []


def normal_model(sde: AffineSDE, variance: float) -> ScoreModel:
    return Gaussian(torch.zeros(3, dtype=F64), torch.tensor(variance, dtype=F64)).under(sde)


def test_an_analytic_start_asks_the_network_later() -> None:
    sde = VPSDE()
    net = Net(exact(sde, "eps"))
    model = AnalyticStart(Preconditioned(net, sde), normal_model(sde, 0.5), above=0.6)
    x = normal(4, 3)
    for t, asked in ((0.61, False), (0.6, True), (0.2, True)):
        net.calls.clear()
        expected = (model.model if asked else model.stand_in).score(t, x)
        net.calls.clear()
        assert torch.equal(model.score(t, x), expected)
        assert len(net.calls) == asked == model.calls(sde.at(t))
    both = torch.tensor([0.9, 0.6, 0.61, 0.1], dtype=F64)
    alone = torch.cat([model.score(float(t), x[i : i + 1]) for i, t in enumerate(both)])
    assert torch.allclose(model.score(both, x), alone, rtol=1e-12, atol=1e-12)


def test_an_analytic_first_step_saves_one_call() -> None:
    """Data N(0, 1/4): a network that is wrong at T alone does no harm behind the exact start."""
    sde, exact_model = VPSDE(), normal_model(VPSDE(), 0.25)

    def wrong_at_once(t: Tensor, x: Tensor) -> Tensor:
        return 7.0 * x if t > 0.95 else exact_model.score(float(t), x)

    sampler = ReverseSampler(sde, exact_model, "unipc_3", steps=8)
    broken = FunctionScore(sde, wrong_at_once)
    first = AnalyticStart(broken, exact_model, above=log_snr(sde, 8).times[1])
    saved = ReverseSampler(sde, first, "unipc_3", steps=8).solve((5, 3), seed=0, dtype=F64)
    plain = sampler.solve((5, 3), seed=0, dtype=F64)
    assert torch.allclose(saved.x, plain.x, rtol=1e-12, atol=1e-12)
    assert saved.nfe == plain.nfe - 1


def test_an_analytic_start_is_of_one_sde() -> None:
    model = FunctionScore(VPSDE(), lambda t, x: -x)
    with pytest.raises(ValueError, match=r"stand_in: expected a model of VPSDE.*got.*VESDE"):
        AnalyticStart(model, normal_model(VESDE(), 1.0), above=0.5)
    with pytest.raises(ValueError, match="above"):
        AnalyticStart(model, normal_model(VPSDE(), 1.0), above=1.5)


def test_a_condition_that_the_model_needs_is_asked_for() -> None:
    def told(t: Tensor, x: Tensor, *, label: Tensor, shift: float = 0.0) -> Tensor:
        return label[:, None] + shift - x

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor, **more: Any) -> Tensor:
            return x * label[:, None]

    for model in (FunctionScore(VPSDE(), told), Preconditioned(Net(), VPSDE())):
        sampler = ReverseSampler(VPSDE(), model, "ddim", steps=2)
        for cond, got in ((None, "None"), ({}, "None")):
            with pytest.raises(ValueError, match=f"cond: expected 'label', .* got {got}; pass"):
                sampler.sample((3, 2), seed=0, cond=cond)
        assert sampler.sample((3, 2), seed=0, cond={"label": torch.ones(3)}).isfinite().all()
