"""Bad input of the networks."""

from __future__ import annotations

import pytest
import torch
from bad_input import IMAGES, MLPS, Row, T, V, X, check, each

from scoresde.nets import MLP, FourierFeatures, Set, UNet, UViT, Vector, network_for

HALF = UViT(1, size=4, width=32).bfloat16()

ROWS = [
    Row("mlp-dim", lambda: MLP(0), V, "dim", "0", "above 0"),
    Row("mlp-width", lambda: MLP(2, width=1.5), T, "width", "1.5", "above 0"),
    Row("mlp-classes", lambda: MLP(2, classes=-3), V, "classes", "-3", "0 for none"),
    Row("mlp-t-shape", lambda: MLPS[0](X, X), V, "t:", "(4, 2)", "one time per sample"),
    Row("mlp-no-labels", lambda: MLPS[0](X, X[:, 0], X[:, 0]), T, "label", "(4,)", "classes=..."),
    Row(
        "mlp-labels-float",
        lambda: MLPS[3](X, X[:, 0], X[:, 0]),
        T,
        "label",
        "float32",
        ".long()",
    ),
    Row(
        "mlp-label-beyond",
        lambda: MLPS[3](X, X[:, 0], torch.tensor([0, -1, 2020, 2])),
        V,
        "label: expected classes from 0 to 2, or -1 for no label",
        "2020 among them",
        "number the classes from 0",
    ),
    Row("set-ordered", lambda: Set(2, ordered=1), T, "ordered", "1", "True or False"),
    Row("mlp-waves", lambda: MLP(2, waves=3.0), T, "waves", "3.0", "() for none"),
    Row("mlp-wave", lambda: MLP(2, waves=(-1.0,)), V, "waves", "(-1.0,)", "() for none"),
    Row("fourier-odd", lambda: FourierFeatures(5), V, "dim", "5", "pass 6"),
    Row("unet-levels", lambda: UNet(1, multipliers=()), V, "multipliers", "()", "single level"),
    Row(
        "unet-multipliers", lambda: UNet(1, multipliers=2), T, "multipliers", "int: 2", "(1, 2, 2)"
    ),  # type: ignore[arg-type]
    Row("unet-attention-int", lambda: UNet(1, attention=1), T, "attention", "int: 1", "(1, 2, 2)"),  # type: ignore[arg-type]
    Row("uvit-size", lambda: UViT(1, size=8.0), T, "size", "8.0", "(28, 28)"),  # type: ignore[arg-type]
    Row("network-shape", lambda: network_for(5), T, "shape", "5", "(1, 28, 28)"),  # type: ignore[arg-type]
    Row(
        "condition-name",
        lambda: MLP(2, conditions={"my cond": Vector(2)}),
        V,
        "conditions: expected names of arguments",
        "my cond",
        "rename it",
    ),
    Row("unet-heads", lambda: UNet(1, width=8, heads=3), V, "heads", "3", "pass heads=1"),
    Row("unet-attention", lambda: UNet(1, attention=(7,)), V, "attention", "(7,)", "by index"),
    Row(
        "unet-periodic",
        lambda: UNet(1, periodic=(2,)),
        V,
        "periodic: expected indices of the 2 spatial axes",
        "(2,)",
        "from -2 to 1",
    ),
    Row("unet-dropout", lambda: UNet(1, dropout=1.0), V, "dropout", "1.0", "0.0 for none"),
    Row(
        "unet-image",
        lambda: IMAGES(torch.zeros(2, 3, 8, 8), torch.zeros(2)),
        V,
        "x:",
        "(2, 3, 8, 8)",
        "build the network for this shape",
    ),
    Row(
        "mlp-double",
        lambda: MLPS[0](X.double(), X[:, 0]),
        T,
        "x: expected torch.float32, the precision of the network",
        "float64",
        "pass x.to(torch.float32)",
    ),
    Row(
        "unet-double",
        lambda: IMAGES(torch.zeros(2, 1, 8, 8).double(), torch.zeros(2)),
        T,
        "x: expected torch.float32, the precision of the network",
        "float64",
        "pass x.to(torch.float32)",
    ),
    Row(
        "uvit-half",
        lambda: HALF(torch.zeros(2, 1, 4, 4), torch.zeros(2)),
        T,
        "x: expected torch.bfloat16, the precision of the network",
        "float32",
        "pass x.to(torch.bfloat16)",
    ),
    Row("uvit-patch", lambda: UViT(1, size=9, patch=2), V, "size", "(9, 9)", "another patch"),
    Row("uvit-heads", lambda: UViT(1, size=8, width=30), V, "heads", "4", "heads=1"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)


def test_states_of_another_precision_pass_where_autocast_casts_them() -> None:
    """Under autocast a float32 network takes float32 and bfloat16, and float64 is refused."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for kind in (torch.float32, torch.bfloat16):
            assert MLPS[0](X.to(kind), X[:, 0]).dtype == torch.bfloat16
        with pytest.raises(TypeError, match=r"float64 tensor.*pass x.to"):
            MLPS[0](X.double(), X[:, 0])
