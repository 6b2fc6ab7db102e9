"""Classifier-free guidance against exact mixtures, closed forms and counting networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from guidance_models import MIXTURE, Labelled, component
from shared import normal
from torch import Tensor

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Preconditioned,
    ReverseSampler,
    SubVPSDE,
)
from scoresde.analytic_start import AnalyticStart
from scoresde.conditioned import Conditioned
from scoresde.guidance import ClassifierFree
from scoresde.nets import MLP, Image, Label, Set, UNet, Vector
from scoresde.prediction import COORDINATES

SDES = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), FlowSDE()]
LABEL = torch.tensor([0, 1, 2, 0, -1, 2])


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("kind", COORDINATES)
def test_the_scores_of_a_mixture_are_combined(sde: Any, kind: str) -> None:
    """s_u + w (s_c - s_u), for a float node and for a node of a batch, at four times."""
    model, x = Labelled(sde, kind), normal(6, 2)
    guided = ClassifierFree(model, 2.5)
    for share in (0.03, 0.3, 0.6, 0.97):
        t = share * sde.T
        free = MIXTURE.under(sde).score(t, x)
        own = torch.stack([component(k, sde).score(t, x) for k in range(3)])
        given = torch.where((LABEL < 0)[:, None], free, own[LABEL, torch.arange(6)])
        truth = free + 2.5 * (given - free)
        got = guided.score(t, x, {"label": LABEL})
        torch.testing.assert_close(got, truth, rtol=1e-11, atol=1e-11)
        batched = guided.score(torch.full((6,), t, dtype=torch.float64), x, {"label": LABEL})
        # A score read from x_0 divides by sigma^2, 1.4e-4 here for the sub-VP SDE, and with it the
        # rounding of the schedule, which floats and tensors do in different instructions.
        torch.testing.assert_close(batched, got, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scales_0_and_1_are_one_plain_call_and_bitwise_equal(scale: float) -> None:
    sde, x, cond = VPSDE(), normal(6, 2), {"label": LABEL}
    model = Labelled(sde)
    guided = ClassifierFree(model, scale)
    plain = {"label": torch.full((6,), -1)} if scale == 0.0 else cond
    for t in (0.4, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        node = sde.at(t, like=x)
        expected = model.predict(node, x, plain)
        model.made = model.rows = 0
        got = guided.predict(node, x, cond)
        assert torch.equal(got.value, expected.value) and got.kind == expected.kind
        assert (model.made, model.rows, guided.calls(node)) == (1, 6, 1)


def test_at_scale_1_samples_are_those_of_the_class_and_at_0_those_of_all() -> None:
    sde, label = VPSDE(), torch.arange(300) % 3
    for scale in (0.0, 1.0):
        guided = ClassifierFree(Labelled(sde), scale)
        sampler = ReverseSampler(sde, guided, "unipc_3", steps=12)
        x = sampler.sample((300, 2), seed=0, cond={"label": label}, dtype=torch.float64)
        if scale == 0.0:
            exact = ReverseSampler(sde, MIXTURE.under(sde), "unipc_3", steps=12)
            truth = exact.sample((300, 2), seed=0, dtype=torch.float64)
            torch.testing.assert_close(x, truth, rtol=1e-12, atol=1e-12)
        else:
            for k in range(3):
                one = ReverseSampler(sde, component(k, sde), "unipc_3", steps=12)
                truth = one.sample((300, 2), seed=0, dtype=torch.float64)
                mine = label == k
                torch.testing.assert_close(x[mine], truth[mine], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_a_guided_gaussian_against_its_closed_form(scale: float) -> None:
    """The flow of a linear score, for data N(0, 1) and N(0, v) given the class.

    s = -x [(1 - w) + w / (alpha^2 v + sigma^2)] under a VP SDE, where alpha^2 + sigma^2 = 1, so
    d log x / dt = rate + g^2/2 [...]; g^2 = -2 rate, and with a = alpha^2, d log a = 2 rate dt,
    x scales by the integral of (w/2)(1 - 1/(1 - a (1 - v))) d log a, which is
    (1 - a_end (1 - v))^(w/2) / (1 - a_T (1 - v))^(w/2).
    """
    sde, v = VPSDE(), 0.25

    def fn(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return torch.where(label[:, None] < 0, -x, -x / (alpha**2 * v + sigma**2))

    guided = ClassifierFree(FunctionScore(sde, fn), scale, null={"label": -1})
    z = normal(5, 3)
    sampler = ReverseSampler(sde, guided, "unipc_3", steps=400, denoise=False)
    cond = {"label": torch.zeros(5, dtype=torch.int64)}
    got = sampler.sample((5, 3), x_init=z, cond=cond)
    ends = [1.0 - sde.alpha(t) ** 2 * (1 - v) for t in (sde.t_end, sde.T)]
    torch.testing.assert_close(got, z * (ends[0] / ends[1]) ** (scale / 2), rtol=2e-6, atol=0)


def test_guidance_in_an_interval_of_the_log_snr_and_by_a_function() -> None:
    sde, x, cond = VPSDE(), normal(6, 2), {"label": LABEL}
    model = Labelled(sde)
    limited = ClassifierFree(model, 3.0, interval=(-1.0, 1.0))
    by_function = ClassifierFree(
        model, lambda level: torch.where((level >= -1.0) & (level <= 1.0), 3.0, 1.0)
    )
    t = torch.tensor([0.05, 0.2, 0.35, 0.5, 0.7, 0.95], dtype=torch.float64)
    level = sde.log_snr(t)
    assert ((level > -1) & (level < 1)).any() and (level < -1).any() and (level > 1).any()
    whole = limited.score(t, x, cond)
    torch.testing.assert_close(by_function.score(t, x, cond), whole, rtol=1e-13, atol=1e-13)
    for i, time in enumerate(t.tolist()):
        inside = -1.0 <= sde.log_snr(time) <= 1.0
        plain = ClassifierFree(model, 3.0 if inside else 1.0)
        expected = plain.score(time, x, cond)[i]
        for guided in (limited, by_function):
            assert torch.equal(guided.score(time, x, cond)[i], expected)
            assert guided.calls(sde.at(time)) == (2 if inside else 1)
        torch.testing.assert_close(whole[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["ddim", "heun", "unipc_3", "euler_maruyama", "dopri5"])
def test_the_calls_of_a_solve_are_counted_exactly(solver: str) -> None:
    """Rows of the model over the batch are the nfe; a guided call is one of twice the rows."""
    sde, label = VPSDE(), torch.zeros(4, dtype=torch.int64)
    model = Labelled(sde)
    guided = ClassifierFree(model, 2.0, interval=(-1.0, 1.5))
    steps = None if solver == "dopri5" else 7
    solution = ReverseSampler(sde, guided, solver, steps=steps).solve(
        (4, 2), seed=0, cond={"label": label}
    )
    if steps is None:  # the nodes of an adaptive solver are batched: each call is a guided one
        assert solution.nfe >= model.rows / 4 / 2
    else:
        assert solution.nfe == model.rows / 4
        assert model.made < solution.nfe < 2 * model.made


def test_nothing_depends_on_the_mates_of_a_batch() -> None:
    torch.manual_seed(0)
    net = MLP(2, width=16, classes=3)
    torch.nn.init.normal_(net.exit.weight)
    guided = ClassifierFree(Preconditioned(net, VPSDE()).eval(), 2.0)
    sampler = ReverseSampler(VPSDE(), guided, "unipc_2", steps=4)
    z = normal(4, 2).float()
    label = torch.tensor([0, 1, 2, 1])
    first = sampler.sample((4, 2), x_init=z, cond={"label": label})
    mates = sampler.sample(
        (4, 2),
        x_init=torch.cat([z[:1], 3.0 * z[1:] + 1.0]),
        cond={"label": torch.tensor([0, 2, 0, 2])},
    )
    assert torch.equal(first[0], mates[0]) and not torch.equal(first[1:], mates[1:])


def filled(net: torch.nn.Module) -> torch.nn.Module:
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.double().eval()


SPECS = {"kind": Label(4), "y": Vector(3), "z": Set(2), "order": Set(1, ordered=True)}
COND = {
    "label": torch.tensor([0, 1, 2]),
    "kind": torch.tensor([3, -1, 0]),
    "y": torch.tensor([[1.0, math.nan, 2.0], [0.5, 0.1, 0.2], [math.nan] * 3]).double(),
    "z": normal(3, 4, 2, seed=1),
    "z_mask": torch.tensor([[True, False, True, True]] * 3),
    "order": normal(3, 2, 1, seed=2),
}


@pytest.mark.parametrize("net", ["mlp", "unet"])
def test_conditions_of_all_kinds_are_left_out_of_the_networks(net: str) -> None:
    """The unconditional half is the network that is given no condition at all."""
    torch.manual_seed(0)
    specs: Any = dict(SPECS)
    cond = dict(COND)
    made: torch.nn.Module
    if net == "mlp":
        made, x = MLP(2, width=16, classes=3, conditions=specs), normal(3, 2, seed=3)
    else:
        specs["picture"] = Image(1)
        cond["picture"] = normal(3, 1, 8, 8, seed=4)
        made = UNet(1, width=8, multipliers=(1, 2), classes=3, conditions=specs)
        x = normal(3, 1, 8, 8, seed=3)
    model = Preconditioned(filled(made), VPSDE())
    assert set(cond) == set(model.nulls) - {"order_mask"}
    before = {name: value.clone() for name, value in cond.items()}
    free, given = model.score(0.4, x), model.score(0.4, x, cond)
    assert (free - given).abs().min() > 1e-6
    got = ClassifierFree(model, 3.0).score(0.4, x, model.admit(cond))
    torch.testing.assert_close(got, free + 3.0 * (given - free), rtol=1e-9, atol=1e-9)
    zero = ClassifierFree(model, 0.0).score(0.4, x, cond)
    torch.testing.assert_close(zero, free, rtol=1e-10, atol=1e-10)
    for name, value in before.items():
        assert torch.equal(cond[name].nan_to_num(7.0), value.nan_to_num(7.0)), name


def test_conditions_without_a_null_are_given_to_both_scores() -> None:
    """Such as a measurement y; `null` chooses among the conditions of a network as well."""
    sde = VPSDE()

    def fn(t: Tensor, x: Tensor, label: Tensor, y: Tensor) -> Tensor:
        return torch.where(label < 0, 1.0, 2.0)[:, None] * y - x

    guided = ClassifierFree(FunctionScore(sde, fn), 3.0, null={"label": -1})
    y, x = normal(4, 2), normal(4, 2, seed=1)
    got = guided.score(0.5, x, {"label": torch.tensor([0, 1, -1, 0]), "y": y})
    factor = torch.tensor([4.0, 4.0, 1.0, 4.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(got, factor * y - x)
    model = Preconditioned(filled(MLP(2, width=8, classes=3, conditions={"y": Vector(2)})), sde)
    cond = {"label": torch.tensor([0, 1, 2, 0]), "y": y}
    by_label = ClassifierFree(model, 3.0, null={"label": -1}).score(0.5, x, cond)
    with_y, both = model.score(0.5, x, {"y": y}), model.score(0.5, x, cond)
    torch.testing.assert_close(by_label, with_y + 3.0 * (both - with_y))


def test_it_wraps_and_is_wrapped() -> None:
    sde, x, cond = VPSDE(), normal(6, 2), {"label": LABEL}
    model = Labelled(sde)
    guided = ClassifierFree(model, 2.0)
    assert guided.nulls == model.nulls and guided.data_scale == model.data_scale
    start = MIXTURE.under(sde)
    outer = AnalyticStart(guided, start, above=0.6)
    assert outer.calls(sde.at(0.5)) == 2 and outer.calls(sde.at(0.7)) == 0
    inner = ClassifierFree(AnalyticStart(model, start, above=0.6), 2.0)
    torch.testing.assert_close(inner.score(0.5, x, cond), outer.score(0.5, x, cond))
    fixed = Conditioned(guided, {"label": torch.tensor(1)})
    same = guided.score(0.4, x, {"label": torch.ones(6, dtype=torch.int64)})
    assert torch.equal(fixed.score(0.4, x), same)
    with pytest.raises(ValueError, match=r"cond: .*not given.*inside Conditioned|null="):
        ClassifierFree(Conditioned(model, {"label": torch.tensor(1)}), 2.0).score(0.4, x)


def test_a_scale_that_diverges_names_step_time_and_the_scale() -> None:
    sde = VPSDE()
    guided = ClassifierFree(Labelled(sde), 1e30)
    sampler = ReverseSampler(sde, guided, "ddim", steps=9)
    with pytest.raises(ValueError, match=r"at step \d, from t = .* lower the scale of the guid"):
        sampler.sample((3, 2), seed=0, cond={"label": torch.zeros(3, dtype=torch.int64)})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"scale": math.nan}, ValueError, r"scale: .*finite"),
        ({"scale": "2"}, TypeError, r"scale: .*function of the log-SNR"),
        ({"interval": (1.0, -1.0)}, ValueError, r"interval: .*increasing"),
        ({"interval": 3.0}, TypeError, r"interval: .*two numbers"),
        ({"interval": (1.0,)}, ValueError, r"interval: "),
        ({"interval": (math.nan, 1.0)}, ValueError, r"interval: "),
        ({"null": -1}, TypeError, r"null: .*label"),
        ({"model": lambda t, x: x}, TypeError, r"model: .*FunctionScore"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given = {"model": Labelled(VPSDE()), "scale": 2.0} | arguments
    with pytest.raises(kind, match=message):
        ClassifierFree(given.pop("model"), given.pop("scale"), **given)


def test_bad_calls() -> None:
    sde, x = VPSDE(), normal(3, 2)
    bare = FunctionScore(sde, lambda t, x, y: y - x)
    with pytest.raises(ValueError, match=r"cond: .*model has for none, got \['y'\]; .*null="):
        ClassifierFree(bare, 2.0).score(0.5, x, {"y": x})
    with pytest.raises(ValueError, match=r"cond: .*'label', got None.*cond=\{name"):
        ReverseSampler(sde, ClassifierFree(Labelled(sde), 2.0), steps=2).sample((3, 2), seed=0)
    assert torch.equal(ClassifierFree(bare, 1.0).score(0.5, x, {"y": x}), torch.zeros_like(x))
    wild = ClassifierFree(Labelled(sde), lambda level: math.inf)
    with pytest.raises(ValueError, match=r"scale\(.*\): expected a finite number"):
        wild.score(0.5, x, {"label": torch.zeros(3, dtype=torch.int64)})
    other = FunctionScore(SDE(lambda t, x: -x, lambda t: 1.0), lambda t, x: -x)
    with pytest.raises(TypeError, match=r"sde: .*AffineSDE.*constant scale"):
        ClassifierFree(other, 2.0, interval=(-1.0, 1.0))


def test_a_condition_without_a_value_for_not_given_is_told_how_to_get_one() -> None:
    class Own(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return x * y

    model = Preconditioned(Own(), VPSDE())  # whose default names the label alone
    x, cond = torch.zeros(4, 2), {"y": torch.ones(4, 1)}
    with pytest.raises(ValueError, match=r"name its value, null=\{'y': value\}, in the training"):
        ClassifierFree(model, 2.0).predict(model.sde.at(0.5), x, cond)
