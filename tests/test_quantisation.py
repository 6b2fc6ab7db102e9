"""The data quantisation: levels to model units and back."""

import json
import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from scoresde.quantisation import Quantisation


def test_eight_bit_images_run_from_minus_one_to_one() -> None:
    quantisation = Quantisation()
    assert (quantisation.levels, quantisation.low, quantisation.high) == (256, -1.0, 1.0)
    k = torch.tensor([0, 51, 102, 255], dtype=torch.uint8)
    expected = torch.tensor([-1.0, -0.6, -0.2, 1.0], dtype=torch.float64)
    assert torch.allclose(quantisation.encode(k, dtype=torch.float64), expected, atol=1e-15)
    assert quantisation.bin_width == 2 / 255


@given(levels=st.integers(2, 1000), low=st.floats(-10, 10), width=st.floats(0.1, 20))
def test_decode_inverts_encode_and_every_bin_reaches_half_way(
    levels: int, low: float, width: float
) -> None:
    quantisation = Quantisation(levels, low, low + width)
    k = torch.arange(levels)
    x = quantisation.encode(k, dtype=torch.float64)
    assert torch.allclose(x.diff(), torch.full((levels - 1,), quantisation.bin_width).double())
    for shift in (-0.49, 0.0, 0.49):
        assert torch.equal(quantisation.decode(x + shift * quantisation.bin_width), k)


def test_every_level_survives_float32() -> None:
    quantisation = Quantisation(256)
    k = torch.arange(256)
    x = quantisation.encode(k)
    assert x.dtype == torch.float32
    assert torch.equal(quantisation.decode(x), k)


def test_decode_clips_and_keeps_the_shape() -> None:
    x = torch.tensor([[-9.0, -1.0], [1.0, float("inf")]])
    assert torch.equal(Quantisation(17).decode(x), torch.tensor([[0, 0], [16, 16]]))


def test_the_dictionary_is_plain_and_comes_back() -> None:
    quantisation = Quantisation(17, 0.0, 1.0)
    assert Quantisation.from_dict(json.loads(json.dumps(quantisation.to_dict()))) == quantisation


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Quantisation(1), ValueError, ["levels", "1", "256"]),
        (lambda: Quantisation(2.0), TypeError, ["levels", "2.0", "256"]),  # type: ignore[arg-type]
        (lambda: Quantisation(True), TypeError, ["levels", "True"]),
        (lambda: Quantisation(8, 1.0, 1.0), ValueError, ["high", "low = 1.0", "low < high"]),
        (lambda: Quantisation(8, float("nan")), ValueError, ["low", "nan", "finite"]),
        (lambda: Quantisation(8).encode(torch.tensor([3, 8])), ValueError, ["k", "8", "0 to 7"]),
        (lambda: Quantisation(8).encode(torch.tensor([-1])), ValueError, ["k", "-1", "0 to 7"]),
        (lambda: Quantisation(8).encode(torch.tensor([0.5])), ValueError, ["k", "0.5", "encode"]),
        (lambda: Quantisation(8).encode([1]), TypeError, ["k", "as_tensor"]),  # type: ignore[arg-type]
        (lambda: Quantisation(8).decode(torch.tensor([1])), TypeError, ["x", "levels already"]),
        (lambda: Quantisation(8).decode(torch.tensor([float("nan")])), ValueError, ["x", "nan"]),
        (lambda: Quantisation.from_dict({"levels": 8}), ValueError, ["fields", "levels, low"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(word)}", str(caught.value)), caught.value
