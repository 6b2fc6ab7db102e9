"""Broadcasting, linear combinations, and the functions that fit a time."""

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from scoresde._tensor import expand, lincomb, log, state_kind, user_time, wide, xp


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_the_module_that_fits() -> None:
    assert xp(0.5) is math and xp(1) is math
    assert xp(np.zeros(2)) is np and xp(np.float64(0.5)) is np
    assert xp(torch.zeros(2)) is torch


@pytest.mark.filterwarnings("error")
def test_log_of_zero() -> None:
    assert log(0.0) == -math.inf == log(0) == log(torch.tensor(0.0))
    assert log(math.e) == 1.0
    assert log(np.array([1.0])).tolist() == [0.0]


def test_wide_is_float64_and_keeps_the_gradient() -> None:
    t = torch.tensor([1.0], requires_grad=True)
    wide(t).square().sum().backward()
    assert wide(t).dtype == torch.float64 and t.grad is not None and t.grad.tolist() == [2.0]
    assert wide(torch.tensor([1])).dtype == torch.float64


@pytest.mark.parametrize("shape", [(4,), (4, 4), (4, 1, 8, 8)])
def test_expand(shape: tuple[int, ...]) -> None:
    t, like = normal(4), normal(*shape)
    column = expand(t, like)
    assert column.shape == (4,) + (1,) * (len(shape) - 1)
    for i in range(4):
        assert torch.equal((column * like)[i], t[i] * like[i])
    assert expand(torch.tensor(2.0), like).numel() == 1


def test_user_time() -> None:
    like = normal(3, 2, 2).float()
    t = user_time(0.25, like)
    assert t.shape == () and t.dtype == torch.float64 and t.device.type == "cpu"
    assert math.sqrt(t) == 0.5
    assert (like * t).dtype == torch.float32  # a 0-dim tensor does not promote
    assert user_time(torch.tensor([0.1, 0.2, 0.3]), like).shape == (3, 1, 1)


def plain(terms: list[tuple[Any, Tensor]]) -> Tensor:
    return sum((c * m for c, m in terms), start=torch.zeros(3, 3).double())


@given(data=st.data())
def test_lincomb_is_the_sum(data: st.DataObject) -> None:
    tensors = [normal(3, 3, seed=k) for k in range(3)]
    columns = [normal(3, 1, seed=k) for k in range(5, 7)]
    coefficient = st.one_of(
        st.sampled_from([0.0, 1.0, -1.0]), st.floats(-3, 3), st.sampled_from(columns)
    )
    terms = data.draw(
        st.lists(st.tuples(coefficient, st.sampled_from(tensors)), min_size=1, max_size=6)
    )
    before = [m.clone() for m in (*tensors, *columns)]
    got = lincomb(*terms)
    assert torch.allclose(got, plain(terms), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(m, b) for m, b in zip((*tensors, *columns), before, strict=True))
    assert all(got is not m and got.data_ptr() != m.data_ptr() for m in tensors)


def test_lincomb_of_one_and_of_the_same_tensor_twice() -> None:
    x = normal(3, 3)
    for c in (1.0, 0.0, -2.0):
        out = lincomb((c, x))
        assert torch.equal(out, c * x) and out.data_ptr() != x.data_ptr()
    assert torch.allclose(lincomb((0.5, x), (normal(3, 1), x), (2.0, x)), (2.5 + normal(3, 1)) * x)


def test_lincomb_keeps_the_dtype_and_its_gradient_is_right() -> None:
    x, z = normal(3, 3).float(), normal(3, 3, seed=1).float()
    assert lincomb((0.5, x), (1.0, z)).dtype == torch.float32
    a, b, c = (normal(3, 3, seed=k).requires_grad_() for k in range(3))
    column = normal(3, 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, c, k: lincomb((1.0, a), (0.3, b), (k, c), (k, a)), (a, b, c, column)
    )


def test_a_state_has_the_precision_and_the_device_of_its_model() -> None:
    net = torch.nn.Linear(2, 2)
    assert state_kind(net) == (torch.float32, torch.device("cpu"))
    assert state_kind(net.double())[0] == torch.float64
    assert state_kind(net.bfloat16())[0] == torch.float32  # half precision loses small changes
    assert state_kind(net, torch.float64)[0] == torch.float64
    assert state_kind(net, like=torch.zeros(1, dtype=torch.float64))[0] == torch.float64
    oracle = torch.nn.Module()  # tables of its own precision, and no parameters
    oracle.register_buffer("mean", torch.zeros(2, dtype=torch.float64, device="meta"))
    assert state_kind(oracle) == (torch.get_default_dtype(), torch.device("meta"))
    assert state_kind(torch.nn.Module()) == (torch.get_default_dtype(), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"dtype: expected a floating-point .*torch\.int64"):
        state_kind(net, torch.int64)
    with pytest.raises(ValueError, match=r"device: expected a device of this machine"):
        state_kind(net, device="cuda:99")
