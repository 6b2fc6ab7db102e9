"""Physics of deepinv, by ducks with the same attributes; and the unit of y."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from scoresde import VPSDE, FunctionScore, ScoreModel
from scoresde.measurement import (
    GaussianNoise,
    LinearOperator,
    LogLikelihood,
    Matrix,
    Measurement,
    PoissonNoise,
    SuperResolution,
)
from scoresde.summary import DataSummary


class GaussianNoiseModel(nn.Module):
    """As deepinv's: the level is a buffer, of one entry or one a sample."""

    def __init__(self, sigma: float | list[float]) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.tensor(sigma))


class PoissonNoiseModel(nn.Module):
    def __init__(self, gain: float, normalize: bool = True) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor([gain]))
        self.register_buffer("normalize", torch.tensor(normalize))


class Rician(GaussianNoiseModel):
    """It has a sigma as well, but is not Gaussian."""


class ZeroNoise(nn.Module):
    pass


GaussianNoiseModel.__name__, PoissonNoiseModel.__name__ = "GaussianNoise", "PoissonNoise"


class Physics(nn.Module):
    """Weights of float32, as in deepinv, which refuse a float64 argument."""

    def __init__(self, noise_model: nn.Module, sign: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(3, 4, generator=generator))
        self.noise_model, self.sign = noise_model, sign

    def A(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.sign * y @ self.weight


class Curved(nn.Module):
    noise_model = ZeroNoise()

    def A(self, x: Tensor) -> Tensor:
        return x.square()


def test_a_linear_physics() -> None:
    physics = Physics(GaussianNoiseModel(0.25))
    measurement = Measurement.from_deepinv(physics, torch.ones(3), shape=(4,))
    operator = measurement.need_linear("test")
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert operator(x).dtype == torch.float64
    torch.testing.assert_close(operator(x).float(), physics.A(x.float()))
    torch.testing.assert_close(
        operator.adjoint(operator(x)).float(), physics.A_adjoint(physics.A(x.float()))
    )
    assert isinstance(measurement.noise, GaussianNoise) and measurement.noise.scalar == 0.25
    assert repr(operator) == "Linear(Physics, shape=(4,))"
    x.requires_grad_()
    (grad,) = torch.autograd.grad(operator(x).sum(), x)
    torch.testing.assert_close(grad[0].float(), physics.weight.sum(0))


def test_other_noises_and_a_curved_physics() -> None:
    poisson = Measurement.from_deepinv(Physics(PoissonNoiseModel(0.5)), shape=(4,))
    assert isinstance(poisson.noise, PoissonNoise) and poisson.noise.gain == 0.5
    curved = Measurement.from_deepinv(Curved(), shape=(4,), name="seen")
    assert not curved.linear and curved.name == "seen"
    assert isinstance(curved.noise, GaussianNoise) and curved.noise.scalar == 0.0
    own = LogLikelihood(lambda x0, y: -(y - x0).abs().sum(1))
    assert Measurement.from_deepinv(Physics(Rician(0.1)), shape=(4,), noise=own).noise is own


@pytest.mark.parametrize(
    ("physics", "kind", "message"),
    [
        (Physics(Rician(0.1)), ValueError, "ZeroNoise, GaussianNoise or PoissonNoise, got Rician"),
        (Physics(GaussianNoiseModel([0.1, 0.2])), ValueError, "noise_model.sigma: expected one"),
        (Physics(PoissonNoiseModel(1.0, False)), ValueError, r"PoissonNoise\(normalize=True\)"),
        (Physics(ZeroNoise(), sign=-1.0), ValueError, "adjoint: expected the adjoint of forward"),
        (ZeroNoise(), ValueError, "got NoneType"),
    ],
)
def test_what_cannot_be_read_is_refused(
    physics: nn.Module, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Measurement.from_deepinv(physics, shape=(4,))
    with pytest.raises(TypeError, match="physics: expected a physics of deepinv, with a method A"):
        Measurement.from_deepinv(ZeroNoise(), shape=(4,), noise=0.1)


def test_the_package_itself_where_it_is_installed() -> None:
    deepinv = pytest.importorskip("deepinv")
    noise = deepinv.physics.GaussianNoise(sigma=0.1)
    physics = deepinv.physics.Downsampling(
        img_size=(1, 8, 8), factor=2, filter=None, noise_model=noise
    )
    measurement = Measurement.from_deepinv(physics, shape=(1, 8, 8))
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(measurement.mean(x), physics.A(x))
    assert isinstance(measurement.operator, LinearOperator)


# The unit of y.


def model() -> ScoreModel:
    made = FunctionScore(VPSDE(), lambda t, x: -x)
    made.data = DataSummary(100, (1, 4, 4), mean=0.0, std=0.5, low=-1.0, high=1.0)
    return made


def admitted(measurement: Measurement, **cond: Tensor) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        measurement.admit(model(), cond)
    return [str(warning.message) for warning in caught]


def test_a_y_in_other_units_than_the_data_is_warned_of() -> None:
    """Grey levels up to 255 for a model of [-1, 1]; but no warning of data that just differ."""
    levels = torch.full((1, 2, 2), 200.0)
    (message,) = admitted(Measurement(SuperResolution(2), levels, 0.1))
    assert "A(x) for data in [-1, 1], at most about 1, got 200; check the unit of y" in message
    (message,) = admitted(Measurement(SuperResolution(2), None, 0.1), y=levels[None])
    assert "got 200" in message
    assert admitted(Measurement(SuperResolution(2), levels / 200, 0.1)) == []
    assert admitted(Measurement(SuperResolution(2), 4 * levels / 200, 0.1)) == []
    assert admitted(Measurement(SuperResolution(2), levels, 30.0)) == []  # it may be noise
    levels[0, 0, 0] = torch.nan
    assert len(admitted(Measurement(SuperResolution(2), levels, 0.1))) == 1


def test_large_operators_make_large_y() -> None:
    big = Matrix(100.0 * torch.ones(2, 16), shape=(1, 4, 4))
    assert admitted(Measurement(big, torch.full((2,), 1500.0), 0.1)) == []
    assert len(admitted(Measurement(big, torch.full((2,), 50000.0), 0.1))) == 1
