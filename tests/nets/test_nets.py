"""The networks: shapes, conditioning, independence of the batch, errors, devices."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from scoresde.nets import MLP, FourierFeatures, TimeEmbedding, UNet, UViT
from scoresde.nets.blocks import CONVOLUTIONS, convolution
from scoresde.nets.uvit import positions, unpatch

Build = Callable[..., nn.Module]
Net = TypeVar("Net", bound=nn.Module)


def mlp(classes: int = 0) -> nn.Module:
    return MLP(3, width=16, depth=2, classes=classes)


def unet(classes: int = 0) -> nn.Module:
    return UNet(2, width=8, multipliers=(1, 2), blocks=1, heads=2, classes=classes)


def uvit(classes: int = 0) -> nn.Module:
    return UViT(2, size=(8, 4), width=16, depth=5, heads=2, classes=classes)


EVENTS: dict[Build, tuple[int, ...]] = {mlp: (3,), unet: (2, 8, 4), uvit: (2, 8, 4)}
each_net = pytest.mark.parametrize("build", EVENTS)


def awake(net: Net, seed: int = 0) -> Net:
    """The network with every weight perturbed, so that no layer is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def inputs(build: Build, batch: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *EVENTS[build], generator=generator)
    return x, torch.rand(batch, generator=generator)


# Shapes and dtypes


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_mlp_keeps_the_shape(dim: int) -> None:
    for depth in (1, 3):
        assert MLP(dim, width=8, depth=depth)(torch.randn(5, dim), torch.rand(5)).shape == (5, dim)


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 2, 3)])
@pytest.mark.parametrize(
    "size", [(8, 8), (28, 28), (9, 7), (6, 20), (1, 5), (64,), (13,), (8, 8, 8), (5, 1, 6)]
)
def test_unet_keeps_any_size(multipliers: tuple[int, ...], size: tuple[int, ...]) -> None:
    net = awake(UNet(1, dims=len(size), width=4, multipliers=multipliers, blocks=1))
    out = net(torch.randn(2, 1, *size), torch.rand(2))
    assert out.shape == (2, 1, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("size", "levels"), [((1, 1), 1), ((2, 1), 2), ((3,), 3), ((4, 2, 2), 3), ((5, 3), 4)]
)
def test_a_map_of_a_single_place_is_not_halved(size: tuple[int, ...], levels: int) -> None:
    x, t, axes = torch.randn(2, 1, *size), torch.rand(2), len(size)
    assert UNet(1, dims=axes, width=4, multipliers=(1,) * levels)(x, t).shape == x.shape
    net = UNet(1, dims=axes, width=4, multipliers=(1,) * (levels + 1))
    with pytest.raises(ValueError, match=f"a side above .* at most {levels} of its mult"):
        net(x, t)


@pytest.mark.parametrize(
    ("size", "patch"), [(8, 2), ((4, 8), 4), ((5, 3), 1), (9, 3), ((12,), 2), ((4, 2, 6), 2)]
)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_uvit_keeps_the_shape(size: Any, patch: int, depth: int) -> None:
    net = UViT(3, size=size, patch=patch, width=8, depth=depth, heads=2)
    event = (3, size, size) if isinstance(size, int) else (3, *size)
    assert net(torch.randn(2, *event), torch.rand(2)).shape == (2, *event)


@each_net
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_every_dtype_runs_and_stays(build: Build, dtype: torch.dtype, atol: float) -> None:
    net = awake(build(3))
    x, t = inputs(build)
    label = torch.tensor([0, 2, -1, 1])
    with torch.no_grad():
        out = net.to(dtype)(x.to(dtype), t, label=label)
        exact = net.double()(x.double(), t.double(), label=label)
    assert (out.dtype, exact.dtype) == (dtype, torch.float64)
    torch.testing.assert_close(out.double() / exact.std(), exact / exact.std(), rtol=0, atol=atol)


@each_net
def test_autocast_runs(build: Build) -> None:
    net = awake(build(3))
    x, t = inputs(build)
    label = torch.tensor([0, 2, -1, 1])
    exact = net(x, t, label=label)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, t, label=label).float()
    out.square().sum().backward()
    torch.testing.assert_close(out / exact.std(), exact / exact.std(), rtol=0, atol=0.2)


# Construction


@each_net
def test_config_rebuilds_the_network(build: Build) -> None:
    net = awake(build(4)).eval()
    twin = type(net)(**json.loads(json.dumps(net.config))).eval()
    assert json.loads(json.dumps(net.config)) == net.config == twin.config
    twin.load_state_dict(net.state_dict())
    x, t = inputs(build)
    assert torch.equal(net(x, t), twin(x, t))


SPECS = {"y": {"kind": "vector", "size": 2}, "s": {"kind": "set", "features": 2, "ordered": True}}


def test_config_holds_every_argument_given() -> None:
    given: list[tuple[type[nn.Module], dict[str, Any]]] = [
        (
            MLP,
            dict(
                dim=3,
                width=10,
                depth=2,
                classes=5,
                conditions=SPECS,
                max_frequency=50.0,
                waves=[3.0],
            ),
        ),
        (
            UNet,
            dict(
                channels=3,
                dims=1,
                width=12,
                multipliers=[1, 3],
                blocks=3,
                attention=[0],
                heads=3,
                classes=2,
                conditions=SPECS,
                dropout=0.25,
                max_frequency=50.0,
                input_fourier=[6, 7],
                periodic=[0],
            ),
        ),
        (
            UViT,
            dict(
                channels=3,
                size=[6, 9],
                dims=2,
                patch=3,
                stem=8,
                width=12,
                depth=4,
                heads=3,
                mlp_ratio=1.5,
                max_frequency=50.0,
                classes=2,
                conditions=SPECS,
                input_fourier=[6, 7],
            ),
        ),
    ]
    for kind, config in given:
        assert kind(**config).config == config
        arguments = set(inspect.signature(kind).parameters) - {"preset"}
        assert arguments == set(config)


@each_net
def test_an_untrained_network_returns_exactly_zero(build: Build) -> None:
    x, t = inputs(build)
    assert not build(3)(x, t, label=torch.tensor([0, 1, 2, -1])).any()
    assert awake(build(3))(x, t).any()


@each_net
def test_every_parameter_has_a_gradient(build: Build) -> None:
    net = awake(build(3))
    x, t = inputs(build)
    net(x, t, label=torch.tensor([0, 1, 2, -1])).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.reshape(len(parameter), -1)
        assert rows.any(dim=1).all(), name


def test_attention_and_depth_land_where_they_are_asked_for() -> None:
    def count(net: nn.Module, kind: str) -> int:
        return sum(type(module).__name__ == kind for module in net.modules())

    def attentions(attention: tuple[int, ...]) -> int:
        net = UNet(1, width=4, multipliers=(1, 2, 2), blocks=2, attention=attention)
        return count(net, "Attention")

    assert attentions(()) == 1
    assert attentions((2,)) == attentions((-1,)) == attentions((2, -1)) == 1 + 2 + 3
    assert attentions((0, -1)) == 1 + 2 * (2 + 3)
    assert UViT(1, size=np.int64(4), width=8, depth=1).config["size"] == [4, 4]  # type: ignore[arg-type]
    assert [len(UViT(1, size=4, width=8, depth=d).skips) for d in range(1, 8)] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    assert [count(UViT(1, size=4, width=8, depth=d), "Block") for d in (1, 4, 5)] == [1, 4, 5]


def test_dropout_acts_in_training_alone() -> None:
    net = awake(UNet(1, width=8, multipliers=(1,), blocks=1, dropout=0.5))
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    assert not torch.equal(net.train()(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))


# Conditioning


def test_fourier_features_are_sines_and_cosines_from_slow_to_fast() -> None:
    features = FourierFeatures(6, max_frequency=100.0)
    t = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64)
    phase = t[:, None] * torch.tensor([1.0, 10.0, 100.0])
    expected = torch.cat([phase.sin(), phase.cos()], dim=1)
    torch.testing.assert_close(features(t), expected, rtol=1e-12, atol=1e-12)


def test_fourier_features_tell_small_times_apart_and_are_smooth() -> None:
    t = torch.linspace(0, 1, 20001)
    for fastest, later in ((100.0, 0.01), (1000.0, 0.002)):
        features = FourierFeatures(64, fastest)
        near, far = features(torch.tensor([0.001, later]))
        assert (near - far).norm() > 0.5
        assert 0.5 < features(t).diff(dim=0).abs().max() / (fastest / 20000) < 1.01
    assert torch.equal(FourierFeatures(64).frequency, FourierFeatures(64, 100.0).frequency)


def test_fourier_features_keep_their_phases_in_bfloat16() -> None:
    t = torch.linspace(-3, 3, 101)
    plain = FourierFeatures(64)(t)
    assert torch.equal(FourierFeatures(64).to(torch.bfloat16)(t), plain)
    assert TimeEmbedding(8).to(torch.bfloat16)(t).dtype == torch.bfloat16


@each_net
def test_the_time_matters(build: Build) -> None:
    net = awake(build())
    x, _ = inputs(build, batch=1)
    x = x.expand(4, *x.shape[1:])
    out = net(x, torch.tensor([0.001, 0.03, 0.5, 0.9])).flatten(1)
    gaps = torch.cdist(out, out) / out.norm(dim=1).mean()
    assert gaps[0, 1] > 1e-3
    assert gaps[2, 3] > 1e-3


@each_net
def test_the_label_matters_and_minus_one_is_no_label(build: Build) -> None:
    net = awake(build(3)).eval()
    x, t = inputs(build, batch=1)
    x, t = x.expand(4, *x.shape[1:]), t.expand(4)
    out = net(x, t, label=torch.tensor([0, 1, 2, -1]))
    assert torch.cdist(out.flatten(1), out.flatten(1)).add(torch.eye(4)).min() > 1e-3
    torch.testing.assert_close(net(x, t)[:1], out[3:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net(x, t, label=None), net(x, t, label=torch.full((4,), -1)))


# The batch


@each_net
def test_rows_are_independent_of_their_batch_mates(build: Build) -> None:
    net = awake(build(3)).double()
    x, t = (tensor.double() for tensor in inputs(build))
    label = torch.tensor([0, -1, 2, 1])
    together = net(x, t, label=label)
    for k in range(4):
        alone = net(x[k : k + 1], t[k : k + 1], label=label[k : k + 1])
        torch.testing.assert_close(alone[0], together[k], rtol=1e-5, atol=1e-12)


@each_net
def test_inputs_are_left_alone(build: Build) -> None:
    net = awake(build(3))
    x, t = inputs(build)
    label = torch.tensor([0, -1, 2, 1])
    before = x.clone(), t.clone(), label.clone()
    net(x, t, label=label)
    assert (
        torch.equal(x, before[0]) and torch.equal(t, before[1]) and torch.equal(label, before[2])
    )


# The long skips


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_the_long_skips_of_the_uvit_are_used(depth: int) -> None:
    x, t = inputs(uvit)
    net = awake(UViT(2, size=(8, 4), width=16, depth=depth, heads=2))
    for k in range(len(net.skips)):
        before = net(x, t)
        with torch.no_grad():
            dict(net.named_parameters())[f"skips.{k}.weight"][:, 16:] = 0
        assert not torch.allclose(before, net(x, t), rtol=1e-3, atol=1e-4)


def test_the_first_receiver_reads_the_last_sender() -> None:
    net = awake(UViT(2, size=(8, 4), width=16, depth=5, heads=2))
    sent: list[Tensor] = []
    read: list[Tensor] = []
    for block in list(net.blocks)[:2]:
        block.register_forward_hook(lambda module, args, out: sent.append(out))
    for skip in net.skips:
        skip.register_forward_hook(lambda module, args, out: read.append(args[0][..., 16:]))
    net(*inputs(uvit))
    assert torch.equal(read[0], sent[1]) and torch.equal(read[1], sent[0])


def test_the_unet_reads_every_map_of_the_way_down() -> None:
    net = awake(UNet(1, width=4, multipliers=(1, 2), blocks=2))
    made: list[Tensor] = []
    read: list[Tensor] = []
    for layer in (net.enter, *net.down):
        layer.register_forward_hook(lambda module, args, out: made.append(out))
    for layer in net.up:
        layer.register_forward_hook(lambda module, args, out: read.append(args[0]))
    net(torch.randn(2, 1, 6, 5), torch.rand(2))
    assert len(made) == len(read) == 6
    for skip, into in zip(reversed(made), read, strict=True):
        assert torch.equal(into[:, -skip.shape[1] :], skip)


@pytest.mark.parametrize("periodic", [(0,), (-1,), (0, -1), (0, 1, -1)])
def test_a_shift_along_a_periodic_axis_shifts_the_output(periodic: tuple[int, ...]) -> None:
    dims = max(2, len(periodic))
    net = awake(UNet(1, dims=dims, width=8, multipliers=(1, 2), heads=2, periodic=periodic))
    x, t = torch.randn(2, 1, *[4, 8, 6][:dims]), torch.rand(2)
    out = net(x, t)
    for axis in range(dims):
        shifted = net(x.roll(2, dims=2 + axis), t)  # by what the halvings keep
        same = torch.allclose(shifted, out.roll(2, dims=2 + axis), atol=1e-4)
        assert same == (axis in net.config["periodic"])


def test_indices_of_numpy_are_kept_as_numbers_of_json() -> None:
    one = np.int64(-1)
    config = UNet(1, preset="tiny", attention=(one,), periodic=(one,)).config
    assert json.loads(json.dumps(config))["periodic"] == [1] and config["attention"] == [-1]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_convolutions_of_periodic_axes_are_circular(dims: int, side: int) -> None:
    x = torch.randn(2, 3, *[side] * dims)
    layer = convolution(dims, 3, 4, periodic=range(dims), stride=2)
    twin = CONVOLUTIONS[dims](3, 4, 3, stride=2, padding=1, padding_mode="circular")
    twin.load_state_dict({k.split(".")[-1]: v for k, v in layer.state_dict().items()})
    torch.testing.assert_close(layer(x), twin(x))


def test_the_mlp_reads_sines_and_cosines_of_every_entry() -> None:
    net = MLP(2, width=8, waves=(1.5, 3.0))
    read: list[Tensor] = []
    net.enter.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    x = torch.randn(4, 2)
    net(x, torch.rand(4))
    waves = [f(w * x) for w in (1.5, 3.0) for f in (torch.sin, torch.cos)]
    assert torch.equal(read[0], torch.cat([x, *waves], dim=1))


@pytest.mark.parametrize("size", [(8,), (4, 6), (2, 4, 6)])
def test_patches_are_put_back_where_they_were(size: tuple[int, ...]) -> None:
    """A convolution that lists the entries of a patch is inverted, for channels too."""
    axes, entries = len(size), 2 ** len(size)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    conv = getattr(nn, f"Conv{axes}d")(3, 3 * entries, 2, stride=2, bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3 * entries).reshape(conv.weight.shape))
    assert torch.equal(unpatch(conv(x), 2), x)


def test_positions_differ_in_every_place() -> None:
    for grid, width in (((50,), 8), ((6, 5), 16), ((3, 4, 2), 16)):
        found = positions(grid, width)[0]
        assert found.shape == (math.prod(grid), width)
        assert torch.cdist(found, found).add(10 * torch.eye(len(found))).min() > 0.02


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        *((8, 2), (28, 4), ((32, 32), 4), ((64,), 2), ((256,), 4), ((9, 7), 1), ((27, 9), 3)),
        *((17, 1), (26, 2), ((187,), 1), ((14, 14, 14), 7)),  # not one token, nor 4, of stride 13
    ],
)
def test_the_patch_is_the_smallest_with_few_tokens(size: Any, patch: int) -> None:
    assert UViT(1, size=size, preset="tiny").config["patch"] == patch


# Errors

X, T = torch.zeros(4, 1, 8, 8), torch.rand(4)

BAD_SIZES: list[tuple[Callable[[], object], type[Exception], list[str]]] = [
    (lambda: MLP(0), ValueError, ["dim", "0", "pass"]),
    (lambda: MLP(2.5), TypeError, ["dim", "2.5", "pass"]),  # type: ignore[arg-type]
    (lambda: MLP(2, width=-8), ValueError, ["width", "-8", "pass"]),
    (lambda: MLP(2, depth=0), ValueError, ["depth", "0", "pass"]),
    (lambda: MLP(2, classes=-1), ValueError, ["classes", "-1", "pass"]),
    (lambda: UNet(0), ValueError, ["channels", "0", "pass"]),
    (lambda: UNet(1, blocks=0), ValueError, ["blocks", "0", "pass"]),
    (lambda: UNet(1, multipliers=()), ValueError, ["multipliers", "()", "pass (1,)"]),
    (lambda: UNet(1, multipliers=(1, 0)), ValueError, ["multipliers", "0", "pass"]),
    (lambda: UNet(1, attention=(3,)), ValueError, ["attention", "(3,)", "from -3 to 2"]),
    (lambda: UNet(1, attention=(True,)), ValueError, ["attention", "(True,)", "by index"]),
    (lambda: UNet(1, width=5), ValueError, ["heads", "10 channels", "got 4", "heads=1"]),
    (lambda: UNet(1, width=5, attention=()), ValueError, ["heads", "10 channels", "level 2"]),
    (lambda: UNet(1, dropout=1.0), ValueError, ["dropout", "1.0", "0.0 for none"]),
    (lambda: UNet(1, dropout=-0.1), ValueError, ["dropout", "-0.1", "pass"]),
    (lambda: UViT(1, size=9, patch=2), ValueError, ["size", "patch=2", "(9, 9)", "pad"]),
    (lambda: UViT(1, size=(8, 6), patch=4), ValueError, ["size", "patch=4", "(8, 6)", "pad"]),
    (lambda: UViT(1, size=(8,) * 4), ValueError, ["size", "(8, 8, 8, 8)", "1, 2 or 3 sides"]),
    (lambda: UViT(1, size=(8, 8), dims=1), ValueError, ["size", "(8, 8)", "1 sides"]),
    (lambda: UViT(1, size=8, stem=0), ValueError, ["stem", "0", "pass"]),
    (lambda: UViT(1, size=8, patch=0), ValueError, ["patch", "0", "pass"]),
    (lambda: UViT(1, size=8, width=30), ValueError, ["heads", "width=30", "4", "heads=1"]),
    (lambda: UViT(1, size=8, depth=0), ValueError, ["depth", "0", "pass"]),
    (lambda: UViT(1, size=8, mlp_ratio=0.0), ValueError, ["mlp_ratio", "0.0", "pass"]),
    (lambda: FourierFeatures(5), ValueError, ["dim", "5", "pass 6"]),
    (lambda: FourierFeatures(4, 0.5), ValueError, ["max_frequency", "0.5", "pass"]),
    (lambda: TimeEmbedding(0), ValueError, ["width", "0", "pass"]),
]

BAD_CALLS: list[tuple[Build, dict[str, Any], type[Exception], list[str]]] = [
    (mlp, dict(x=torch.zeros(4, 2)), ValueError, ["x", "(B, 3)", "(4, 2)", "reshape"]),
    (mlp, dict(x=torch.zeros(3)), ValueError, ["x", "(B, 3)", "(3,)", "reshape"]),
    (mlp, dict(x=torch.zeros(4, 3, 1)), ValueError, ["x", "(B, 3)", "(4, 3, 1)", "reshape"]),
    (mlp, dict(x=torch.zeros(4, 3).int()), TypeError, ["x", "int32", ".float()"]),
    (
        unet,
        dict(x=torch.zeros(4, 8, 4)),
        ValueError,
        ["x", "(B, 2, H, W)", "(4, 8, 4)", "reshape"],
    ),
    (unet, dict(x=torch.zeros(4, 1, 8, 4)), ValueError, ["x", "(B, 2, H, W)", "(4, 1, 8, 4)"]),
    (uvit, dict(x=torch.zeros(4, 2, 4, 8)), ValueError, ["x", "(B, 2, 8, 4)", "(4, 2, 4, 8)"]),
    (unet, dict(t=torch.rand(())), ValueError, ["t", "(4,)", "got 0.", "expand"]),
    (unet, dict(t=torch.rand(3)), ValueError, ["t", "(4,)", "(3,)", "expand"]),
    (unet, dict(t=torch.rand(4, 1)), ValueError, ["t", "(4,)", "(4, 1)", "expand"]),
    (unet, dict(t=torch.arange(4)), TypeError, ["t", "int64", ".float()"]),
    (unet, dict(t=0.5), TypeError, ["t", "0.5", "torch.as_tensor"]),
    (unet, dict(label=torch.zeros(3).long()), ValueError, ["label", "(4,)", "(3,)", "-1"]),
    (unet, dict(label=torch.zeros(4)), TypeError, ["label", "int64", "float32", ".long()"]),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD_SIZES)
def test_bad_sizes_are_refused(
    call: Callable[[], object], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(words[0] + ":")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("build", "wrong", "error", "words"), BAD_CALLS)
def test_bad_inputs_are_refused(
    build: Build, wrong: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    x, t = inputs(build)
    with pytest.raises(error) as caught:
        build(3)(**{"x": x, "t": t, **wrong})
    assert str(caught.value).startswith(words[0] + ":")
    for word in words:
        assert word in str(caught.value)


@each_net
def test_labels_without_classes_are_refused(build: Build) -> None:
    x, t = inputs(build)
    with pytest.raises(TypeError, match=r"label: .*classes=0.*int64 .*\(4,\).*leave label out"):
        build()(x, t, label=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(TypeError, match="lable"):
        build(3)(x, t, lable=torch.zeros(4, dtype=torch.int64))


# Devices


@each_net
@pytest.mark.parametrize("labelled", [False, True])
def test_no_synchronisation_and_one_device(build: Build, labelled: bool) -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("lazy"):
            net = build(3)
        x = torch.empty(4, *EVENTS[build], device="lazy")
        t = torch.empty(4, device="lazy")
        label = torch.empty(4, dtype=torch.int64, device="lazy") if labelled else None
        out = net(x, t, label=label)
        out.square().sum().backward()
        assert out.device.type == "lazy" and out.shape == x.shape
        assert all(p.grad is not None and p.grad.device.type == "lazy" for p in net.parameters())
