"""The data contract: levels to model units and back."""

import json
import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from scoresde.contract import DataContract


def test_eight_bit_images_run_from_minus_one_to_one() -> None:
    contract = DataContract()
    assert (contract.levels, contract.low, contract.high) == (256, -1.0, 1.0)
    k = torch.tensor([0, 51, 102, 255], dtype=torch.uint8)
    expected = torch.tensor([-1.0, -0.6, -0.2, 1.0], dtype=torch.float64)
    assert torch.allclose(contract.encode(k, dtype=torch.float64), expected, atol=1e-15)
    assert contract.bin_width == 2 / 255


@given(levels=st.integers(2, 1000), low=st.floats(-10, 10), width=st.floats(0.1, 20))
def test_decode_inverts_encode_and_every_bin_reaches_half_way(
    levels: int, low: float, width: float
) -> None:
    contract = DataContract(levels, low, low + width)
    k = torch.arange(levels)
    x = contract.encode(k, dtype=torch.float64)
    assert torch.allclose(x.diff(), torch.full((levels - 1,), contract.bin_width).double())
    for shift in (-0.49, 0.0, 0.49):
        assert torch.equal(contract.decode(x + shift * contract.bin_width), k)


def test_every_level_survives_float32() -> None:
    contract = DataContract(256)
    k = torch.arange(256)
    x = contract.encode(k)
    assert x.dtype == torch.float32
    assert torch.equal(contract.decode(x), k)


def test_decode_clips_and_keeps_the_shape() -> None:
    x = torch.tensor([[-9.0, -1.0], [1.0, float("inf")]])
    assert torch.equal(DataContract(17).decode(x), torch.tensor([[0, 0], [16, 16]]))


def test_the_dictionary_is_plain_and_comes_back() -> None:
    contract = DataContract(17, 0.0, 1.0)
    assert DataContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: DataContract(1), ValueError, ["levels", "1", "256"]),
        (lambda: DataContract(2.0), TypeError, ["levels", "2.0", "256"]),  # type: ignore[arg-type]
        (lambda: DataContract(True), TypeError, ["levels", "True"]),
        (lambda: DataContract(8, 1.0, 1.0), ValueError, ["high", "low = 1.0", "low < high"]),
        (lambda: DataContract(8, float("nan")), ValueError, ["low", "nan", "finite"]),
        (lambda: DataContract(8).encode(torch.tensor([3, 8])), ValueError, ["k", "8", "0 to 7"]),
        (lambda: DataContract(8).encode(torch.tensor([-1])), ValueError, ["k", "-1", "0 to 7"]),
        (lambda: DataContract(8).encode(torch.tensor([0.5])), ValueError, ["k", "0.5", "encode"]),
        (lambda: DataContract(8).encode([1]), TypeError, ["k", "as_tensor"]),  # type: ignore[arg-type]
        (lambda: DataContract(8).decode(torch.tensor([1])), TypeError, ["x", "levels already"]),
        (lambda: DataContract(8).decode(torch.tensor([float("nan")])), ValueError, ["x", "nan"]),
        (lambda: DataContract.from_dict({"levels": 8}), ValueError, ["fields", "levels, low"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(call, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(word)}", str(caught.value)), caught.value
