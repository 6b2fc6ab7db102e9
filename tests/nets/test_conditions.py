"""Conditions of the networks: null values, masks, sets, standardisation, errors."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from scoresde import VPSDE, Preconditioned, ReverseSampler, dsm_loss, load, log_prob, save
from scoresde.losses.dsm import _drop
from scoresde.nets import (
    MLP,
    ConditionalNet,
    Image,
    Label,
    Set,
    UNet,
    UViT,
    Vector,
    infer_conditions,
)
from scoresde.options import Tolerances
from scoresde.training.description import describe

SPECS: dict[str, Any] = {
    "digit": Label(4),
    "y": Vector(3),
    "s": Set(2),
    "q": Set(2, ordered=True),
}
WITH_IMAGE = SPECS | {"low": Image(2)}

Build = Callable[[], tuple[ConditionalNet, tuple[int, ...]]]


def test_sizes_of_numpy_are_kept_as_whole_numbers_of_python() -> None:
    two = np.int64(2)
    specs = {"l": Label(two), "v": Vector(two), "i": Image(two), "s": Set(two, np.True_)}
    net = UNet(1, width=8, classes=two, conditions=specs)
    plain = {"l": Label(2), "v": Vector(2), "i": Image(2), "s": Set(2, ordered=True)}
    expected = UNet(1, width=8, classes=2, conditions=plain).config
    assert json.loads(json.dumps(net.config)) == json.loads(json.dumps(expected))


def mlp() -> tuple[ConditionalNet, tuple[int, ...]]:
    return MLP(3, width=16, depth=2, classes=3, conditions=SPECS), (3,)


def unet() -> tuple[ConditionalNet, tuple[int, ...]]:
    net = UNet(2, width=8, multipliers=(1, 2), heads=2, classes=3, conditions=WITH_IMAGE)
    return net, (2, 6, 4)


def signal() -> tuple[ConditionalNet, tuple[int, ...]]:
    net = UNet(1, dims=1, width=8, multipliers=(1, 2), heads=2, classes=3, conditions=WITH_IMAGE)
    return net, (1, 9)


def volume() -> tuple[ConditionalNet, tuple[int, ...]]:
    net = UNet(1, dims=3, width=4, multipliers=(1, 2), heads=2, classes=3, conditions=WITH_IMAGE)
    return net, (1, 4, 3, 5)


def uvit() -> tuple[ConditionalNet, tuple[int, ...]]:
    net = UViT(2, size=(6, 4), width=16, depth=3, heads=2, classes=3, conditions=WITH_IMAGE)
    return net, (2, 6, 4)


each_net = pytest.mark.parametrize("build", [mlp, unet, signal, volume, uvit])


def awake(net: ConditionalNet) -> ConditionalNet:
    """The network with every weight perturbed, so that no layer is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net.double().eval()


def example(
    build: Build, n: int = 3, elements: int = 5
) -> tuple[ConditionalNet, Tensor, Tensor, dict[str, Tensor]]:
    """A network, x, t and all conditions, in float64."""
    net, shape = build()
    draw = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    cond = {
        "label": torch.arange(n) % 3,
        "digit": torch.arange(n) % 4,
        "y": normal(n, 3),
        "s": normal(n, elements, 2),
        "q": normal(n, elements, 2),
    }
    if "low" in net.takes:
        cond["low"] = normal(n, 2, *shape[1:])
    x, t = normal(n, *shape), torch.rand(n, generator=draw, dtype=torch.float64)
    return awake(net), x, t, cond


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().std())


# Null values


@each_net
def test_nulls_name_every_condition_and_mask(build: Build) -> None:
    net, _ = build()
    assert set(net.nulls) == set(net.takes)
    assert (net.nulls["label"], net.nulls["s_mask"]) == (-1, False)
    assert math.isnan(net.nulls["y"]) and math.isnan(net.nulls["q"])
    assert Preconditioned(net, VPSDE()).null.keys() == net.nulls.keys()


@each_net
def test_conditions_that_are_dropped_are_those_left_out(build: Build) -> None:
    net, x, t, cond = example(build)
    net.measure({name: v + 2.0 for name, v in cond.items() if v.is_floating_point()})
    cond["s_mask"] = torch.ones(3, 5, dtype=torch.bool)
    dropped = _drop(Preconditioned(net, VPSDE()), cond, 1.0, torch.Generator())
    assert dropped is not None and not dropped["s_mask"].any() and dropped["y"].isnan().all()
    nothing = net(x, t)
    assert gap(net(x, t, **dropped), nothing) < 1e-12
    assert nothing.isfinite().all()
    for name in cond:
        if not name.endswith("_mask"):
            assert gap(net(x, t, **{name: cond[name]}), nothing) > 1e-4, name
            assert gap(net(x, t, **{name: dropped[name]}), nothing) < 1e-12, name


@each_net
def test_every_part_of_a_condition_matters(build: Build) -> None:
    net, x, t, cond = example(build)
    whole = net(x, t, **cond)
    for name, value in cond.items():
        if value.is_floating_point():
            for feature in range(value.shape[1 if name in ("y", "low") else 2]):
                other = value.clone()
                part = other[:, feature] if name in ("y", "low") else other[:, :, feature]
                part += 1.0
                assert gap(net(x, t, **cond | {name: other}), whole) > 1e-5, (name, feature)


@each_net
def test_an_entry_not_given_differs_from_zero_and_from_the_mean(build: Build) -> None:
    net, x, t, cond = example(build)
    for name in ("y", "low"):
        if name in cond:
            partial, zero = cond[name].clone(), cond[name].clone()
            partial[:, 1], zero[:, 1] = math.nan, 0.0
            a, b = (net(x, t, **cond | {name: value}) for value in (partial, zero))
            assert a.isfinite().all() and gap(a, b) > 1e-5


@each_net
def test_gradients_are_finite_where_conditions_are_nan(build: Build) -> None:
    net, x, t, cond = example(build)
    cond["y"][0, 1] = cond["s"][1, 2, 0] = cond["q"][2] = math.nan
    given = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in cond.items()}
    net(x, t, **given).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(v.grad.isfinite().all() for v in given.values() if v.grad is not None)


# Sets


@each_net
def test_padding_does_not_change_the_result(build: Build) -> None:
    net, x, t, cond = example(build)
    short = net(x, t, **cond)
    garbage = torch.full((3, 4, 2), 1e6, dtype=torch.float64)
    mask = (torch.arange(9) < 5).expand(3, 9)
    for name in ("s", "q"):
        padded = torch.cat([cond[name], garbage], dim=1)
        masked = cond | {name: padded, f"{name}_mask": mask}
        assert gap(net(x, t, **masked), short) < 1e-12
        nans = torch.cat([cond[name], garbage * math.nan], dim=1)
        assert gap(net(x, t, **cond | {name: nans}), short) < 1e-12


@each_net
def test_sets_that_are_absent_are_equal_whatever_their_size(build: Build) -> None:
    net, x, t, _ = example(build)
    nothing = net(x, t)
    for n in (0, 1, 7):
        absent = torch.full((3, n, 2), math.nan, dtype=torch.float64)
        masked = torch.ones(3, n, 2, dtype=torch.float64), torch.zeros(3, n, dtype=torch.bool)
        for name in ("s", "q"):
            assert gap(net(x, t, **{name: absent}), nothing) < 1e-12
            assert gap(net(x, t, **{name: masked[0], f"{name}_mask": masked[1]}), nothing) < 1e-12


@each_net
def test_the_order_matters_only_in_an_ordered_set(build: Build) -> None:
    net, x, t, cond = example(build)
    whole = net(x, t, **cond)
    turned = {name: cond[name].flip(1) for name in ("s", "q")}
    assert gap(net(x, t, **cond | {"s": turned["s"]}), whole) < 1e-12
    assert gap(net(x, t, **cond | {"q": turned["q"]}), whole) > 1e-4


@each_net
def test_the_number_of_equal_elements_matters(build: Build) -> None:
    """The posterior of n observations is narrower than that of one."""
    net, x, t, _ = example(build)
    one = torch.ones(3, 1, 2, dtype=torch.float64)
    assert gap(net(x, t, s=one), net(x, t, s=one.expand(-1, 6, -1))) > 1e-4


@each_net
def test_rows_are_independent_of_their_batch_mates(build: Build) -> None:
    net, x, t, cond = example(build)
    cond["y"][0] = cond["s"][1, 3:] = math.nan
    together = net(x, t, **cond)
    for k in range(3):
        row = slice(k, k + 1)
        alone = net(x[row], t[row], **{name: value[row] for name, value in cond.items()})
        assert gap(alone, together[row]) < 1e-12


# Standardisation


@each_net
def test_conditions_are_standardised_by_what_was_measured(build: Build) -> None:
    """Measured on data, a network is the same function of a condition in any unit."""
    net, x, t, cond = example(build)
    twin = copy.deepcopy(net)
    assert not net.measured
    net.measure(cond)
    shift, scale = 300.0, 1e4
    other = {k: v * scale + shift if v.is_floating_point() else v for k, v in cond.items()}
    twin.measure(other)
    assert net.measured and twin.measured
    assert gap(twin(x, t, **other), net(x, t, **cond)) < 1e-4  # the statistics are in float32


def test_what_is_measured_is_the_mean_and_std_of_what_is_given() -> None:
    net = MLP(2, width=8, conditions={"y": Vector(2), "s": Set(1), "one": Vector(1)})
    y = torch.tensor([[1.0, math.nan], [3.0, math.nan], [5.0, math.nan]])
    s = torch.tensor([[[2.0], [7.0]], [[4.0], [math.nan]], [[6.0], [9.0]]])
    mask = torch.tensor([[True, False], [True, True], [True, False]])
    net.measure({"y": y, "s": s, "s_mask": mask})
    assert not net.measured
    net.measure({"one": torch.tensor([5.0, 5.0])})
    assert net.measured
    found = {name: net.condition.scale(name) for name in ("y", "s", "one")}
    assert found["y"].mean.tolist() == [3.0, 0.0]
    assert found["y"].std.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0])
    assert (found["s"].mean.tolist(), found["s"].std.tolist()) == (
        [4.0],
        pytest.approx([math.sqrt(8 / 3)]),
    )
    assert (found["one"].mean.tolist(), found["one"].std.tolist()) == ([5.0], [1.0])
    net.measure({"y": y + 1})
    assert found["y"].mean.tolist() == [3.0, 0.0]
    net.measure({"y": y + 1}, again=True)
    assert found["y"].mean.tolist() == [4.0, 0.0]


def test_statistics_stay_exact_in_half_precision() -> None:
    net = MLP(2, width=8, conditions={"y": Vector(1)})
    net.measure({"y": torch.tensor([[1000.3], [1001.3]])})
    half = copy.deepcopy(net).to(torch.bfloat16)
    mine, its = (n.condition.scale("y") for n in (net, half))
    assert its.mean.dtype == torch.float32 and torch.equal(mine.mean, its.mean)
    model = Preconditioned(half, VPSDE())
    x = torch.zeros(2, 2)
    assert half.enter.weight.dtype == torch.bfloat16
    with torch.no_grad():
        nn.init.normal_(half.exit.weight)
        out = model.score(0.5, x, {"y": torch.tensor([[1000.3], [1000.8]])})
    assert (out[0] - out[1]).abs().max() > 0.01


@each_net
def test_statistics_are_saved_with_the_weights(build: Build) -> None:
    net, x, t, cond = example(build)
    net.measure(cond)
    twin = type(net)(**json.loads(json.dumps(net.config))).double().eval()
    twin.load_state_dict(net.state_dict())
    assert twin.measured and torch.equal(net(x, t, **cond), twin(x, t, **cond))


# Precision, devices, sampling


@each_net
def test_half_precision_and_autocast(build: Build) -> None:
    net, x, t, cond = example(build)
    exact = net(x, t, **cond)
    single = {k: v.float() if v.is_floating_point() else v for k, v in cond.items()}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        auto = net.float()(x.float(), t.float(), **single)
    with torch.no_grad():
        half = net.to(torch.bfloat16)(x.to(torch.bfloat16), t.float(), **single)
    assert half.dtype == torch.bfloat16
    for out in (auto, half):
        assert gap(out.double(), exact) < 0.3


@pytest.mark.slow
@each_net
def test_a_compiled_network_is_one_graph_of_the_same_function(build: Build) -> None:
    net, x, t, cond = example(build)
    cond["s_mask"] = torch.ones(3, 5, dtype=torch.bool)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert gap(compiled(x, t, **cond), net(x, t, **cond)) < 1e-12
        assert gap(compiled(x, t), net(x, t)) < 1e-12


@pytest.mark.parametrize("build", [unet, uvit])
def test_the_memory_format_does_not_matter(build: Build) -> None:
    net, x, t, cond = example(build)
    plain = net(x, t, **cond)
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cond["low"] = cond["low"].to(memory_format=torch.channels_last)
    assert gap(other(x.to(memory_format=torch.channels_last), t, **cond), plain) < 1e-12


@each_net
def test_no_synchronisation_and_one_device(build: Build) -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("lazy"):
            net, shape = build()
            model = Preconditioned(net, VPSDE())
            x = torch.empty(4, *shape)
            cond = {
                "label": torch.empty(4, dtype=torch.int64),
                "y": torch.empty(4, 3),
                "s": torch.empty(4, 5, 2),
                "s_mask": torch.empty(4, 5, dtype=torch.bool),
                "q": torch.empty(4, 5, 2),
            }
            if "low" in net.takes:
                cond["low"] = torch.empty(4, 2, *shape[1:])
        loss = dsm_loss(model, x, cond=cond, cond_dropout=0.1, generator=torch.Generator())
        loss.mean().backward()
        assert loss.device.type == "lazy"


@each_net
def test_a_model_samples_and_has_a_likelihood(build: Build) -> None:
    net, x, _, cond = example(build)
    model = Preconditioned(net.float(), VPSDE(), "v")
    cond = {k: v.float() if v.is_floating_point() else v for k, v in cond.items()}
    cond["q_mask"] = torch.ones(3, 5, dtype=torch.bool)
    drawn = ReverseSampler(VPSDE(), model, "unipc_3", steps=3).sample(
        tuple(x.shape), seed=0, cond=cond
    )
    assert drawn.isfinite().all()
    found = log_prob(model, x.float(), cond=cond, seed=0, tolerances=Tolerances(0.1, 0.1))
    assert found.nats.isfinite().all()


def test_a_checkpoint_keeps_conditions_statistics_and_nulls(tmp_path: Path) -> None:
    net, x, _, cond = example(mlp)
    net.measure(cond)
    model = Preconditioned(net, VPSDE()).eval()
    place = save(model, tmp_path / "model")
    again = load(place)
    assert torch.equal(again.score(0.5, x, cond), model.score(0.5, x, cond))
    assert again.null.keys() == model.null.keys() == net.nulls.keys()
    assert "NaN" not in (place / "config.json").read_text()
    assert describe(again) == describe(model)


def test_dropout_reaches_masks_labels_and_numbers() -> None:
    net = MLP(2, width=8, classes=3, conditions={"y": Vector(2), "s": Set(1)})
    model = Preconditioned(net, VPSDE())
    cond = {
        "label": torch.zeros(64, dtype=torch.int64),
        "y": torch.zeros(64, 2),
        "s": torch.zeros(64, 3, 1),
        "s_mask": torch.ones(64, 3, dtype=torch.bool),
    }
    found = _drop(model, cond, 0.5, torch.Generator().manual_seed(0))
    assert found is not None
    every = [found["label"] == -1, found["y"].isnan().all(1), found["s"].isnan().flatten(1).all(1)]
    assert torch.equal(every[2], ~found["s_mask"].any(1)), "a mask goes with its set"
    count = torch.stack(every).sum(0)
    assert 10 < (count == 3).sum() < 54 and not (count == 0).any()
    assert (count == 1).any() and (count == 2).any()


@pytest.mark.parametrize(
    ("null", "value"),
    [
        (math.nan, torch.zeros(4, 2, dtype=torch.int64)),
        (math.nan, torch.zeros(4, 2, dtype=torch.uint8)),
        (-1, torch.zeros(4, dtype=torch.uint8)),
        (-1, torch.zeros(4, dtype=torch.bool)),
        (0.5, torch.zeros(4, dtype=torch.int64)),
    ],
)
def test_a_null_value_that_the_dtype_cannot_hold_is_refused(null: object, value: Tensor) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return x

    model = Preconditioned(Net(), VPSDE(), null={"y": null})
    with pytest.raises(ValueError, match=r"cond\['y'\]: expected a dtype that holds .*\.float"):
        dsm_loss(model, torch.zeros(4, 2), cond={"y": value}, cond_dropout=0.5)


# Specifications


def test_numbers_that_become_classes_are_warned_of() -> None:
    years = torch.tensor([2018, 2020, 2019, -1, 2020])
    said = "3 values from 2018 to 2020 become a label of 2021 classes"
    with pytest.warns(UserWarning, match=rf"cond\['label'\]: {said}") as told:
        assert infer_conditions((2,), {"label": years}) == {"label": Label(2021)}
    assert [one.filename for one in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer_conditions((2,), {"label": years}, classes=2021)
        infer_conditions((2,), {"year": years.float()})
        infer_conditions((2,), {"label": torch.tensor([9])})  # one of ten


def test_conditions_are_inferred_from_data() -> None:
    n = 6
    cond = {
        "label": torch.arange(n) % 2,
        "digit": torch.arange(n),
        "scalar": torch.zeros(n),
        "y": torch.zeros(n, 4),
        "flags": torch.zeros(n, 2, dtype=torch.bool),
        "low": torch.zeros(n, 3, 8, 6),
        "s": torch.zeros(n, 5, 2),
        "s_mask": torch.ones(n, 5, dtype=torch.bool),
    }
    assert infer_conditions((1, 8, 6), cond, classes=9) == {
        "label": Label(9),
        "digit": Label(6),
        "scalar": Vector(1),
        "y": Vector(4),
        "flags": Vector(2),
        "low": Image(3),
        "s": Set(2),
    }
    assert infer_conditions((1, 8), {"a": torch.zeros(n, 3, 8)}) == {"a": Image(3)}
    assert infer_conditions((1, 8), {"a": torch.zeros(n, 3, 7)}) == {"a": Set(7)}
    assert infer_conditions((2,), {"a": torch.zeros(n, 3, 2)}) == {"a": Set(2)}
    for shape in ((1, 8, 8), (2,)):
        with pytest.raises(ValueError, match=r"cond\['a'\]: .*\(6, 1, 4, 4\); resize it"):
            infer_conditions(shape, {"a": torch.zeros(n, 1, 4, 4)})


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(40) + 250,  # degrees: labels would have 250 classes without a sample
        torch.arange(40) % 6 - 3,
        torch.arange(40) % 25,
        torch.tensor([0, 1, 3, 4] * 10),
        torch.tensor([-1, 0, 2, 3] * 10),
        torch.full((40,), -1),
    ],
)
def test_whole_numbers_that_are_no_classes_are_a_vector(values: Tensor) -> None:
    low, high = int(values.min()), int(values.max())
    told = rf"cond\['n'\]: whole numbers from {low} to {high} .* taken as a vector"
    with pytest.warns(UserWarning, match=told):
        assert infer_conditions((2,), {"n": values}) == {"n": Vector(1)}
    if high >= 0:
        assert infer_conditions((2,), {"label": values}) == {"label": Label(high + 1)}


def test_minus_one_beside_classes_is_refused_unless_it_is_a_label() -> None:
    values = torch.arange(40) % 8 - 1
    with pytest.raises(ValueError, match=r"cond\['n'\].*-1 beside 0 to 6.*Label\(7\)"):
        infer_conditions((2,), {"n": values})
    assert infer_conditions((2,), {"n": values.float()}) == {"n": Vector(1)}
    assert infer_conditions((2,), {"label": values}) == {"label": Label(7)}


def test_numbers_of_other_dtypes_are_admitted_by_a_model() -> None:
    model = Preconditioned(MLP(2, width=8, conditions={"n": Vector(1), "f": Vector(2)}), VPSDE())
    cond = {"n": torch.arange(4), "f": torch.ones(4, 2, dtype=torch.bool)}
    admitted = model.admit(cond)
    assert (admitted["n"].dtype, admitted["f"].dtype) == (torch.float32, torch.float32)
    assert model.score(0.5, torch.zeros(4, 2), admitted).shape == (4, 2)


BAD_SPECS: list[tuple[Any, type[Exception], list[str]]] = [
    ({"x": Vector(1)}, ValueError, ["conditions", "'x'", "by name"]),
    ({"no name": Vector(1)}, ValueError, ["conditions", "'no name'", "by name"]),
    ({"y": 3}, TypeError, ["conditions['y']", "Vector", "got 3"]),
    ({"y": {"kind": "vektor", "size": 1}}, TypeError, ["conditions['y']", "vektor"]),
    ({"y": {"kind": "vector", "length": 1}}, TypeError, ["conditions['y']", "of Vector"]),
    ({"label": Vector(2)}, ValueError, ["conditions", "classes=3", "another name"]),
    ({"s": Set(1), "s_mask": Vector(1)}, ValueError, ["conditions", "s_mask", "another name"]),
    ({"low": Image(1)}, ValueError, ["conditions", "no Image", "flatten"]),
    ([Vector(1)], TypeError, ["conditions", "Mapping", "Vector(3)"]),
]


@pytest.mark.parametrize(("conditions", "error", "words"), BAD_SPECS)
def test_bad_specifications_are_refused(
    conditions: Any, error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        MLP(2, width=8, classes=3, conditions=conditions)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("made", [lambda: Vector(0), lambda: Set(-1), lambda: Image(0)])
def test_sizes_of_conditions_are_positive(made: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="expected a positive integer"):
        made()


BAD_CALLS: list[tuple[str, Tensor, type[Exception], list[str]]] = [
    ("z", torch.zeros(3), TypeError, ["z:", "label, digit, y, s, q, low", "conditions="]),
    ("digit", torch.zeros(3), TypeError, ["digit", "int64", ".long()"]),
    ("y", torch.zeros(3, 2), ValueError, ["y:", "(3, 3)", "(3, 2)"]),
    ("y", torch.zeros(3, 3).long(), TypeError, ["y:", "floating", ".float()"]),
    ("s", torch.zeros(3, 2), ValueError, ["s:", "(3, N, 2)", "s_mask"]),
    ("s", torch.zeros(2, 5, 2), ValueError, ["s:", "(3, N, 2)", "(2, 5, 2)"]),
    ("s_mask", torch.zeros(3, 5), TypeError, ["s_mask", "bool", "float32"]),
    ("low", torch.zeros(3, 2, 4, 4), ValueError, ["low:", "(3, 2, 6, 4)", "resize"]),
    ("low", torch.zeros(3, 1, 6, 4), ValueError, ["low:", "(3, 2, 6, 4)", "(3, 1, 6, 4)"]),
]


@pytest.mark.parametrize(("name", "value", "error", "words"), BAD_CALLS)
@pytest.mark.parametrize("build", [unet, uvit])
def test_bad_conditions_are_refused_by_a_network(
    build: Build, name: str, value: Tensor, error: type[Exception], words: list[str]
) -> None:
    net, x, t, cond = example(build)
    with pytest.raises(error) as caught:
        net(x, t, **cond | {name: value})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("z", torch.zeros(3), ["cond", "'digit', 'label', 'q', 'q_mask'", "got 'z'"]),
        ("y", torch.zeros(3, 2), ["cond['y']", "(B, 3)", "(3, 2)"]),
        ("q_mask", torch.zeros(3, 4, dtype=torch.bool), ["cond['q_mask']", "(3, 5)", "(3, 4)"]),
        ("digit", torch.full((3,), 4), ["cond['digit']", "0 to 3", "4 among"]),
    ],
)
def test_bad_conditions_are_refused_by_a_model(name: str, value: Tensor, words: list[str]) -> None:
    net, x, _, cond = example(mlp)
    model = Preconditioned(net, VPSDE())
    with pytest.raises(ValueError, match=r"cond") as caught:
        ReverseSampler(VPSDE(), model, steps=2).sample(
            tuple(x.shape), seed=0, cond=cond | {name: value}
        )
    for word in words:
        assert word in str(caught.value)


def test_a_mask_without_its_set_is_refused() -> None:
    model = Preconditioned(mlp()[0], VPSDE())
    mask = {"s_mask": torch.ones(3, 5, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"cond\['s_mask'\]: expected the set 's' with its mask"):
        model.admit(mask)
    with pytest.raises(ValueError, match="s_mask: expected the set 's' with its mask"):
        model.net(torch.zeros(3, 3), torch.zeros(3), **mask)


def test_a_mask_of_another_length_than_its_set_is_refused() -> None:
    net, x, t, cond = example(mlp)
    wrong = cond | {"s_mask": torch.ones(len(x), cond["s"].shape[1] + 1, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"s_mask: expected shape .*, that of the set 's', got"):
        net(x, t, **wrong)


def test_a_model_that_is_called_checks_its_conditions() -> None:
    """A label beyond the classes named no argument: "index out of range in self"."""
    net, x, _, cond = example(mlp)
    model = Preconditioned(net, VPSDE())
    beyond = torch.full((len(x),), 99)
    with pytest.raises(ValueError, match=r"cond\['label'\]: expected classes from 0 to"):
        model.score(0.5, x, cond | {"label": beyond})
    with pytest.raises(ValueError, match=r"cond: expected one of .* got 'other'"):
        model(0.5, x, {"other": x})
    arrays = {name: value.numpy() for name, value in cond.items()}
    assert torch.equal(model.score(0.5, x, arrays), model.score(0.5, x, cond))


def test_lists_and_arrays_are_conditions_of_a_model() -> None:
    net = MLP(2, width=8, depth=1, classes=3, conditions={"y": Vector(2)})
    torch.nn.init.ones_(net.exit.weight)
    model, x = Preconditioned(net, VPSDE()), torch.zeros(2, 2)
    rows = [[1.0, 2.0], [3.0, math.nan]]
    expected = model(0.5, x, {"label": torch.tensor([2, 0]), "y": torch.tensor(rows)}).x0
    assert torch.equal(model(0.5, x, {"label": [2, 0], "y": rows}).x0, expected)
    assert torch.equal(model(0.5, x, {"label": (2, 0), "y": np.asarray(rows)}).x0, expected)
    masked = np.ma.masked_equal([2, 0], 0)
    for wrong, words in (
        (1, " leading 2, .*Conditioned"),
        ([0], " leading 2, .*Conditioned"),
        (["a", "b"], r"expected numbers, got .*'b'\]; .* model.data.class_names"),
        (np.array(["a", "b"]), r"expected numbers, got .* model.data.class_names"),
        (np.array(["a", "b"], object), r"expected numbers, got .* model.data.class_names"),
        ([[0, 1], [0]], "rows of one length .* pad sets with NaN"),
        (masked, "masked entries, got 1 masked"),
    ):
        with pytest.raises(ValueError, match=rf"cond\['label'\].*{words}"):
            model(0.5, x, {"label": wrong})


def test_infinite_conditions_are_refused_by_row() -> None:
    net = MLP(2, width=8, depth=1, conditions={"y": Vector(2), "z": Vector(1)})
    sampler = ReverseSampler(VPSDE(), Preconditioned(net, VPSDE()), steps=1)
    for name, value in {"y": [[1.0, 2.0], [0.0, -math.inf]], "z": [0.0, math.inf]}.items():
        with pytest.raises(ValueError, match=rf"cond\['{name}'\]: .* infinity in row 1; NaN"):
            sampler.sample((2, 2), seed=0, cond={name: value})
