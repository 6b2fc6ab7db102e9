"""Predictions: any coordinate into any other, under every SDE."""

import itertools
import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from registry import ALL_SDES, times_of
from shared import normal
from torch import Tensor

from scoresde.node import Node
from scoresde.prediction import COORDINATES, Prediction
from scoresde.sde import SDE, VESDE, VPSDE

F64 = torch.float64
KINDS = ("eps", "x0", "v", "score", "flow")


def coordinates(node: Node, x0: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """What each coordinate means, written out."""
    return {
        "eps": eps,
        "x0": x0,
        "v": node.alpha * eps - node.sigma * x0,
        "score": -eps / node.sigma,
        "flow": eps - x0,
    }


def test_the_table_has_these_coordinates() -> None:
    assert set(COORDINATES) == set(KINDS)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
@pytest.mark.parametrize("sde", ALL_SDES.values(), ids=ALL_SDES)
def test_any_coordinate_into_any_other(sde: Any, source: str, target: str) -> None:
    x0, eps = normal(7, 3), normal(7, 3, seed=1)
    for t in times_of(sde, 12).tolist():
        node = sde.at(t)
        alpha, sigma = node.alpha, node.sigma
        x = alpha * x0 + sigma * eps
        true = coordinates(node, x0, eps)
        if alpha == 0.0 and target in ("x0", "v", "flow") and source in ("eps", "score"):
            continue  # not determined there; see the error below
        got = Prediction(x, node, true[source], source).read(target)
        # errors of rounding in x and value, as the 2 x 2 solve passes them on
        p, q = COORDINATES[source](node)
        p_to, q_to = COORDINATES[target](node)
        det = abs(alpha * q - sigma * p)
        if {source, target} <= {"eps", "score"}:
            tol = 1e-14 * abs(q_to / q) * true[source].abs().max()
        else:
            a, b = abs(p_to * q - q_to * p) / det, abs(alpha * q_to - sigma * p_to) / det
            tol = 1e-14 * (a * x.abs().max() + b * true[source].abs().max())
        assert bool((got - true[target]).abs().max() <= tol), (t, source, target)


@pytest.mark.parametrize("name", [n for n in ALL_SDES if n != "linear_long"])
def test_to_ten_digits_away_from_the_ends(name: str) -> None:
    sde = ALL_SDES[name]
    x0, eps = 1 + normal(7, 3).abs(), 1 + normal(7, 3, seed=1).abs()
    inside = [t for t in times_of(sde, 40).tolist() if abs(sde.log_snr(t)) < 5]
    assert len(inside) > 5
    for t, source in itertools.product(inside, KINDS):
        node = sde.at(t)
        x = node.alpha * x0 + node.sigma * eps
        true = coordinates(node, x0, eps)
        prediction = Prediction(x, node, true[source], source)
        for target in ("eps", "x0", "score"):
            assert torch.allclose(getattr(prediction, target), true[target], rtol=1e-10, atol=0)
        assert torch.allclose(prediction.v, true["v"], rtol=1e-10, atol=1e-10 * (1 + node.sigma))


def test_x0_from_v_does_not_assume_variance_preservation() -> None:
    # the usual alpha x - sigma v is the answer only where alpha^2 + sigma^2 = 1
    sde, x0, eps = VESDE(0.01, 50.0), torch.ones(1, 1).double(), 0.1 * torch.ones(1, 1).double()
    node = sde.at(0.5)
    x = x0 + node.sigma * eps
    v = eps - node.sigma * x0
    assert abs(float(node.alpha * x - node.sigma * v - x0)) > 0.4
    assert float(Prediction(x, node, v, "v").x0) == pytest.approx(1.0, rel=1e-13)
    assert float(Prediction(x, node, v, "v").eps) == pytest.approx(0.1, rel=1e-13)
    vp = VPSDE().at(0.5)
    x, v = vp.alpha * x0 + vp.sigma * eps, vp.alpha * eps - vp.sigma * x0
    assert torch.allclose(Prediction(x, vp, v, "v").x0, vp.alpha * x - vp.sigma * v, rtol=1e-14)


@given(data=st.data())
def test_a_float_node_and_the_same_times_per_sample(data: st.DataObject) -> None:
    sde = ALL_SDES[data.draw(st.sampled_from(sorted(ALL_SDES)))]
    source, target = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(KINDS))
    shape = data.draw(st.sampled_from([(3, 3), (3, 2), (1, 1), (3, 3, 3), (3, 1, 4, 4)]))
    t = data.draw(st.floats(max(sde.t_min, 1e-6), sde.T))
    x, value = normal(*shape), normal(*shape, seed=1)
    node, batched = sde.at(t), sde.at(torch.full((shape[0],), t, dtype=F64), like=x)
    if node.alpha < 1e-300:
        return
    one = Prediction(x, node, value, source).read(target)
    two = Prediction(x, batched, value, source).read(target)
    assert two.shape == x.shape
    assert torch.allclose(one, two, rtol=1e-12, atol=1e-12 * float(one.abs().max()))


def test_every_sample_has_its_own_time() -> None:
    # B == D: a (B,) factor would broadcast over the dimensions without a word
    sde, x, value = VPSDE(), normal(3, 3), normal(3, 3, seed=1)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    batched = Prediction(x, sde.at(t, like=x), value, "eps")
    for i in range(3):
        single = Prediction(x[i : i + 1], sde.at(float(t[i])), value[i : i + 1], "eps")
        for kind in KINDS:
            assert torch.allclose(batched.read(kind)[i], single.read(kind)[0], rtol=1e-12)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("shared", [False, True])
def test_mix_is_one_linear_combination(source: str, shared: bool) -> None:
    x, value, z = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)
    if shared:
        value = x
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=F64)
    for node in (VESDE().at(0.3), VESDE().at(t, like=x)):
        prediction = Prediction(x, node, value, source)
        for kind in KINDS:
            got = prediction.mix(0.7, kind, -1.3, (0.2, z), (0.1, x))
            want = 0.8 * x - 1.3 * prediction.read(kind) + 0.2 * z
            assert torch.allclose(got, want, rtol=1e-11, atol=1e-11 * float(want.abs().max()))


def test_what_was_said_is_returned_as_it_is_and_nothing_is_changed() -> None:
    x, value = normal(4, 2), normal(4, 2, seed=1)
    before = x.clone(), value.clone()
    for kind in KINDS:
        prediction = Prediction(x, VPSDE().at(0.3), value, kind)
        assert prediction.read(kind) is value
        for other in KINDS:
            prediction.read(other)
    assert torch.equal(x, before[0]) and torch.equal(value, before[1])


def test_gradients_pass_through() -> None:
    x, value = normal(3, 2).requires_grad_(), normal(3, 2, seed=1).requires_grad_()
    node = VESDE().at(torch.tensor([0.1, 0.5, 0.9], dtype=F64), like=x)
    assert torch.autograd.gradcheck(lambda a, b: Prediction(a, node, b, "v").x0, (x, value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_zero(dtype: torch.dtype) -> None:
    sde = ALL_SDES["linear_long"]
    node = sde.at(10.0)
    assert node.alpha == 0.0
    eps, x0 = normal(3, 2).to(dtype), normal(3, 2, seed=1).to(dtype)
    x = node.sigma * eps
    for node_ in (node, sde.at(torch.full((3,), 10.0, dtype=F64), like=x)):
        said_x0 = Prediction(x, node_, x0, "x0")
        assert torch.allclose(said_x0.eps, eps) and torch.allclose(said_x0.score, -eps)
        said_v = Prediction(x, node_, -x0, "v")  # v = alpha eps - sigma x0
        assert torch.allclose(said_v.x0, x0) and torch.allclose(said_v.eps, eps)
        # the score is -eps / sigma wherever sigma > 0: no 0 / 0
        assert torch.allclose(Prediction(x, node_, eps, "eps").score, -eps)
        assert torch.allclose(Prediction(x, node_, -eps, "score").eps, eps)


def test_what_cannot_be_known_is_an_error_that_says_so() -> None:
    x = torch.zeros(2, 2)
    node = ALL_SDES["linear_long"].at(10.0)
    with pytest.raises(ValueError, match=r"t: .*determine x0.*t = 10 with alpha = 0.*predict v"):
        _ = Prediction(x, node, x, "eps").x0
    for kind in ("eps", "x0", "v"):
        with pytest.raises(ValueError, match=r"t: .*determine score.*t = 0 .*sigma = 0"):
            _ = Prediction(x, VPSDE().at(0.0), x, kind).score
    assert math.isfinite(float(Prediction(x, VPSDE().at(0.0), x, "v").x0.sum()))


def test_on_a_non_affine_sde_only_the_score_exists() -> None:
    sde, x = SDE(lambda t, x: -(x**3), lambda t: 1.0), torch.ones(2, 2)
    for node in (sde.at(0.5), sde.at(torch.tensor([0.1, 0.9]), like=x)):
        prediction = Prediction(x, node, -x, "score")
        assert torch.equal(prediction.score, -x)
        for kind in ("eps", "x0", "v"):
            with pytest.raises(TypeError, match=r"not affine.*LinearSDE"):
                prediction.read(kind)
        with pytest.raises(TypeError, match="not affine"):
            _ = Prediction(x, node, x, "eps").score
