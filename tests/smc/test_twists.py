"""Twists: where the Gaussian approximation is exact they are log p(y | x_t) itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from scoresde import VPSDE, FlowSDE, Gaussian
from scoresde.measurement import GaussianNoise, Matrix, Measurement
from scoresde.node import Node
from scoresde.smc.twists import Target, make_twist

F64 = torch.float64
A = torch.tensor([[1.0, 0.5, 0.0], [0.2, -0.4, 1.0]], dtype=F64)
Y = torch.tensor([0.7, -0.3], dtype=F64)
SIGMA = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.5]], dtype=F64)
STATES = torch.tensor([[0.1, 0.7, -0.5], [-1.0, 0.3, 2.0]], dtype=F64)


def exact(node: Node, x: Tensor, covariance: Tensor) -> Tensor:
    """log p(y | x_t) = log N(y; A E[x_0 | x_t], Sigma + A Cov[x_0 | x_t] A^T) of a Gaussian."""
    of_x = node.alpha**2 * covariance + node.sigma**2 * torch.eye(3, dtype=F64)
    gain = node.alpha * covariance @ torch.linalg.inv(of_x)
    x0 = MEAN + (x - node.alpha * MEAN) @ gain.T
    spread = covariance - node.alpha * gain @ covariance
    return MultivariateNormal(x0 @ A.T, SIGMA + A @ spread @ A.T).log_prob(Y)


@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=["vp", "flow"])
@pytest.mark.parametrize(
    ("name", "covariance"),
    [("jacobian", ROOT @ ROOT.T), ("variance", 0.6 * torch.eye(3, dtype=F64))],
)
def test_the_twist_of_a_gaussian_is_exact(
    sde: VPSDE | FlowSDE, name: str, covariance: Tensor
) -> None:
    """Value, and gradient as the shift of the score: any constant or factor would show."""
    measurement = Measurement(Matrix(A), Y, GaussianNoise(covariance=SIGMA))
    model = Gaussian(MEAN, covariance).under(sde)
    twist = make_twist(name, Target(measurement), model, 0.6)
    for t in (0.1, 0.5, 0.9):
        node = sde.at(t)
        found = twist(model, node, STATES, Y.expand(2, 2), None)
        if name == "jacobian" and 3 * 0.6 * node.alpha**2 < 0.2 * node.sigma**2:
            assert not found.log_psi.any() and found.guided is found.plain  # nearly pure noise
            assert t >= 0.5
            continue
        x = STATES.clone().requires_grad_()
        value = exact(node, x, covariance)
        (grad,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(found.log_psi, value.detach(), rtol=1e-10, atol=1e-10)
        shift = found.guided.score - found.plain.score
        torch.testing.assert_close(shift, grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["jacobian", "variance"])
def test_what_was_not_observed_counts_for_nothing(name: str) -> None:
    sde, unseen = VPSDE(), torch.tensor([0.7, float("nan")], dtype=F64)
    model, node = Gaussian(MEAN, ROOT @ ROOT.T).under(sde), sde.at(0.4)
    both = make_twist(name, Target(Measurement(Matrix(A), unseen, 0.5)), model, 0.6)
    one = make_twist(name, Target(Measurement(Matrix(A[:1]), unseen[:1], 0.5)), model, 0.6)
    left = both(model, node, STATES, unseen.expand(2, 2), None)
    right = one(model, node, STATES, unseen[:1].expand(2, 1), None)
    torch.testing.assert_close(left.log_psi, right.log_psi, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(left.guided.score, right.guided.score, rtol=1e-10, atol=1e-10)


def test_auto_takes_the_twist_that_fits() -> None:
    model = Gaussian(MEAN, ROOT @ ROOT.T).under(VPSDE())
    few = Measurement(Matrix(A), Y, 0.5)
    many = Measurement(Matrix(torch.ones(17, 3, dtype=F64)), torch.ones(17, dtype=F64), 0.5)
    kinds = [
        type(make_twist("auto", Target(of), model, None)).__name__
        for of in (few, many, lambda x: x.sum(1))
    ]
    assert kinds == ["_Jacobian", "_Variance", "_Point"]
    with pytest.raises(TypeError, match="measurement: expected a Measurement for twist='jacobian"):
        make_twist("jacobian", Target(lambda x: x.sum(1)), model, None)
