"""Networks for a shape, presets, and the numbers of parameters in the docstrings."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from scoresde.nets import (
    MLP,
    NETS,
    Set,
    UNet,
    UViT,
    Vector,
    infer_conditions,
    level_exponents,
    network_for,
    presets,
)
from scoresde.nets.embed import input_features
from scoresde.quantisation import Quantisation

SHAPES = [(1,), (5,), (1, 100), (3, 7), (1, 28, 28), (3, 2, 1), (1, 8, 8, 8), (2, 1, 5, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_network_fits_its_shape(shape: tuple[int, ...], preset: str) -> None:
    net = network_for(shape, classes=2, conditions={"y": Vector(3), "s": Set(1)}, preset=preset)
    x, t = torch.randn(2, *shape), torch.rand(2)
    assert net(x, t, y=torch.zeros(2, 3)).shape == x.shape
    assert type(net) is (MLP if len(shape) == 1 else UNet)


def test_options_win_over_the_preset_and_the_preset_over_nothing() -> None:
    net = network_for((1, 8, 8), preset="tiny", options={"multipliers": (1,), "heads": 2})
    config: Any = net.config
    assert (config["multipliers"], config["heads"], config["width"]) == ([1], 2, 16)
    small = UNet(1, preset="small").config
    assert UNet(1).config == small
    assert network_for((1, 28, 28)).config == small
    assert UNet(1, preset="base", width=8).config["width"] == 8


def test_sizes_grow_with_the_preset() -> None:
    rows = presets()
    assert {row.net for row in rows} == set(NETS)
    counts = {(row.net, row.shape, row.preset): row.parameters for row in rows}
    for key, shape in {(row.net, row.shape) for row in rows}:
        tiny, small, base = (counts[key, shape, name] for name in ("tiny", "small", "base"))
        assert 2 * tiny < small and 2 * small < base
    assert any(str(row).startswith("unet tiny for (1, 28, 28): ") for row in rows)


def test_the_docstrings_tell_the_numbers_of_parameters() -> None:
    def written(kind: type) -> list[int]:
        cells = re.findall(r"\| ([\d,]+) (?=\|)", str(kind.__doc__).replace("|", "||"))
        return [int(cell.replace(",", "")) for cell in cells if len(cell) > 1]

    for key, made in NETS.items():
        found = [row.parameters for row in presets() if row.net == key]
        assert written(made) == found, (key, found)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: UNet(1, preset="huge"), ["preset", "'base', 'small', 'tiny'", "'huge'"]),
        (lambda: network_for((1, 8, 8), preset="smal"), ["preset", "did you mean 'small'"]),
        (lambda: network_for((2,), net="unet"), ["net", "mlp for (D,)", "'unet' for (2,)"]),
        (lambda: network_for((1, 4, 4), net="mlp"), ["net", "'mlp' for (1, 4, 4)"]),
        (lambda: network_for((1, 2, 2, 2, 2)), ["net", "unet", "(C, D, H, W)"]),
        (lambda: network_for((1, 8, 8), net="resnet"), ["net", "'auto', 'mlp', 'unet'"]),
        (
            lambda: infer_conditions((2,), {"label": torch.tensor([-1, -1])}),
            ["cond", "cond['label']", "a class from 0 on", "got 'none'"],
        ),
        (lambda: UNet(1, dims=4), ["dims", "1, 2 or 3", "got 4"]),
        (
            lambda: UNet(1, input_fourier=(-1,)),
            ["input_fourier", "from 0 to 20", "level_exponents"],
        ),
        (
            lambda: UNet(1)(torch.zeros(2, 1, 8, 8, 8), torch.zeros(2)),
            ["x", "(B, 1, H, W)", "dims=2", "(2, 1, 8, 8, 8)"],
        ),
    ],
)
def test_bad_input_is_refused(call: Any, words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_input_features_have_the_periods_of_one_and_two_levels() -> None:
    quantisation = Quantisation(256)
    levels = quantisation.encode(torch.arange(256), dtype=torch.float64)
    two, one = level_exponents(quantisation.bin_width)
    found = input_features(levels.reshape(-1, 1, 1), (two, one), torch.float64)[:, :, 0]
    phases = torch.pi * 2.0**two * levels, torch.pi * 2.0**one * levels
    expected = torch.stack([levels, *(f(p) for p in phases for f in (torch.sin, torch.cos))], 1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found[:, 4], found[:1, 4].expand(256))  # one level is one period
    torch.testing.assert_close(found[1:, 1:3], -found[:-1, 1:3])  # and half of the other


@pytest.mark.parametrize("exponents", [(7,), (6.99, 7.99)])
def test_networks_read_the_features_of_the_input(exponents: tuple[float, ...]) -> None:
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    for make in (
        lambda: UNet(1, preset="tiny", input_fourier=exponents),
        lambda: UViT(1, size=8, preset="tiny", input_fourier=exponents),
    ):
        net = make()
        torch.nn.init.normal_(net.exit.weight)  # type: ignore[arg-type]
        gap = (net(x + 2 * 2.0 ** -exponents[0], t) - net(x, t)).abs().max()
        half = (net(x + 2.0 ** -exponents[0], t) - net(x, t)).abs().max()
        assert half > 3 * gap
