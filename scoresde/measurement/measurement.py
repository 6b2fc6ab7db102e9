"""A measurement: operator, values and noise, with what posterior score models need of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, refuse, same_shape, show, warn, wrong_type
from scoresde._html import Shown
from scoresde._tensor import expand, seeded, wide
from scoresde.cond import Cond
from scoresde.measurement.base import LinearOperator, pairs
from scoresde.measurement.constant import Constant
from scoresde.measurement.noises import (
    GaussianNoise,
    LogLikelihood,
    MeasurementNoise,
    PoissonNoise,
    as_noise,
)
from scoresde.measurement.physics import noise_of_physics, operator_of_physics
from scoresde.measurement.simple import Identity, Mask
from scoresde.model import ScoreModel, summary_of
from scoresde.summary import DataSummary

__all__ = ["Measurement", "Operator"]

Operator: TypeAlias = LinearOperator | Callable[[Tensor], Tensor]
"""A linear operator, or any differentiable function of a batch (B, *D) -> (B, *M)."""


@final
@dataclass(frozen=True, eq=False, init=False, repr=False)
class Measurement(Shown):
    """What was measured of a sample: y = A(x_0) with noise.

    Args:
        operator: A, a `LinearOperator` or any differentiable function (B, *D) -> (B, *M).
            Complex values become real pairs, (B, *M, 2), here and in y.
        y: the measurement, (*M), of all samples; or None if each sample brings its own as the
            condition `name`, (B, *M). NaN means that this entry was not observed.
        noise: a `GaussianNoise`, or as a shorthand its standard deviation, a number or (*M);
            `PoissonNoise`; or the user's own `LogLikelihood`. In the units of y.
        name: the name of the condition.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: y is infinite or nowhere observed, or y and the noise have other shapes.

    Example:
        >>> import torch
        >>> from scoresde.measurement import Mask
        >>> seen = Measurement(Mask(torch.tensor([True, False])), torch.tensor([1.0]), noise=0.1)
        >>> seen.residual(torch.zeros(2, 2), torch.ones(2, 1)).tolist()
        [[1.0], [1.0]]
    """

    operator: Operator
    y: Tensor | None
    noise: MeasurementNoise
    name: str
    _held: Constant | None
    _shapes: dict[tuple[int, ...], tuple[int, ...]]
    _shared: Constant | None

    def __init__(
        self,
        operator: Operator,
        y: Tensor | None = None,
        noise: float | Tensor | MeasurementNoise | None = None,
        name: str = "y",
    ) -> None:
        if not isinstance(operator, Callable):  # type: ignore[arg-type]
            remedy = "pass an operator such as Mask(mask), or a function of a batch"
            raise wrong_type("operator", "a LinearOperator or a function", operator, remedy)
        instance("name", name, str, 'pass the name of a condition, such as "y"')
        if noise is None:
            remedy = "pass its standard deviation, or 0 for an exact measurement"
            raise fail("noise", "the noise of the measurement", None, remedy)
        checked, given = as_noise(noise), None
        if y is not None:
            instance("y", y, Tensor, "convert it with torch.as_tensor")
            given = _values("y", y)
            if bool(given.isnan().all()):
                raise fail("y", "an observed entry or more", "NaN alone", "use the model itself")
            if isinstance(checked, GaussianNoise):
                checked.check(tuple(given.shape))
            elif isinstance(checked, PoissonNoise):
                checked.check_values(given)
        factor = None
        if given is not None and isinstance(checked, GaussianNoise) and checked.correlated:
            factor = Constant(_factor(checked, given[None].double().cpu())[0])
        parts: dict[str, object] = {
            "operator": operator,
            "y": given,
            "noise": checked,
            "name": name,
            "_held": None if given is None else Constant(given),
            "_shapes": {},
            "_shared": factor,
        }
        for key, value in parts.items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_deepinv(
        cls,
        physics: Any,  # of deepinv, which is optional
        y: Tensor | None = None,
        *,
        shape: Sequence[int],
        noise: float | Tensor | MeasurementNoise | None = None,
        name: str = "y",
    ) -> Measurement:
        """A measurement by a physics of deepinv: its `A`, `A_adjoint` and `noise_model`.

        The operator is linear, and checked, if the physics has an `A_adjoint`. It is computed in
        the precision of its own tensors, which is float32 in deepinv.

        Args:
            physics: a `deepinv.physics.Physics`.
            y: as in the class. One y of deepinv has a batch axis: pass y[0].
            shape: the shape of a sample, (*D), without a batch axis.
            noise: as in the class; by default that of the physics, which is then zero, Gaussian
                or normalised Poisson noise of one level.
            name: as in the class.

        Raises:
            TypeError: the physics has no method A, or gives a list of tensors.
            ValueError: its noise is of another kind, or its adjoint is not one.
        """
        own = noise_of_physics(physics) if noise is None else noise
        return cls(operator_of_physics(physics, shape), y, own, name)

    @property
    def facts(self) -> dict[str, object]:
        """The operator, the values and the noise, name -> value, for a table."""
        return {
            "operator": self._operator,
            "linear": "yes" if self.linear else "no",
            "y": f"of each sample, cond[{self.name!r}]" if self.y is None else show(self.y),
            "not observed": None if self.y is None else int(self.y.isnan().sum()) or None,
            "noise": show(self.noise),
        }

    @property
    def _operator(self) -> str:
        return getattr(self.operator, "__name__", None) or show(self.operator)

    def __repr__(self) -> str:
        y = f"cond[{self.name!r}]" if self.y is None else show(self.y)
        return f"Measurement({self._operator}, y={y}, noise={show(self.noise)})"

    @property
    def linear(self) -> bool:
        """Whether the operator is a `LinearOperator`."""
        return isinstance(self.operator, LinearOperator)

    @property
    def gaussian(self) -> bool:
        """Whether the noise is Gaussian."""
        return isinstance(self.noise, GaussianNoise)

    @property
    def exact(self) -> bool:
        """Whether there is no noise at all."""
        return isinstance(self.noise, GaussianNoise) and self.noise.scalar == 0.0

    def need_linear(self, method: str) -> LinearOperator:
        """The operator if it is linear; otherwise a TypeError that names the method."""
        if isinstance(self.operator, LinearOperator):
            return self.operator
        remedy = "DPS, DAPS and TwistedSampler take any function; wrap a linear one in Linear"
        raise wrong_type("operator", f"a LinearOperator, as {method} needs", self.operator, remedy)

    def need_decomposable(self, method: str) -> LinearOperator:
        """The operator if its singular values are known; otherwise a TypeError."""
        operator = self.need_linear(method)
        if operator.decomposable:
            return operator
        remedy = (
            "PiGDM, MMPS, TMPD, DPS and TwistedSampler do without; or take dense(operator, shape) "
            "for a small problem"
        )
        expected = f"an operator with known singular values, as {method} needs"
        raise wrong_type("operator", expected, operator, remedy)

    def need_gaussian(self, method: str) -> GaussianNoise:
        """The noise if it is Gaussian; otherwise a TypeError that names the method."""
        if isinstance(self.noise, GaussianNoise):
            return self.noise
        remedy = "DPS, DAPS and TwistedSampler take any log-likelihood"
        raise wrong_type("noise", f"Gaussian noise, as {method} needs", self.noise, remedy)

    def need_noise(self, method: str) -> GaussianNoise:
        """The Gaussian noise if all its variances are above 0, as a division by them needs."""
        noise = self.need_gaussian(method)
        if noise.positive:
            return noise
        remedy = "DDNM and RePaint serve exact measurements; or pass the noise of the instrument"
        expected = f"variances above 0, since {method} divides by them"
        raise refuse("noise", expected, repr(noise), remedy)

    def need_exact(self, method: str) -> None:
        """Raise unless there is no noise, as a method that imposes y as a constraint assumes."""
        if not self.exact:
            expected = f"noise 0, since {method} imposes y exactly"
            remedy = "DDRM, PiGDM and MMPS take Gaussian noise"
            raise refuse("noise", expected, repr(self.noise), remedy)

    def need_equal(self, method: str) -> float:
        """The standard deviation if that of all entries is one number; otherwise a ValueError."""
        noise = self.need_gaussian(method)
        if noise.scalar is not None:
            return noise.scalar
        expected = f"independent noise of one standard deviation, a number, as {method} needs"
        raise refuse("noise", expected, repr(noise), "PiGDM and MMPS take any Gaussian noise")

    def need_complete(self, method: str, cond: Cond = None) -> None:
        """Raise if y has NaN and the operator is not one that selects entries of a sample.

        The pseudo-inverse of other operators does not hold for a part of their rows.
        """
        y = (cond or {}).get(self.name, self.y)
        if y is None or isinstance(self.operator, Identity | Mask) or y.device.type != "cpu":
            return
        if bool(y.isnan().any()):
            remedy = "PiGDM and MMPS take such y; or leave these rows out of the operator"
            raise fail("y", f"no NaN with this operator for {method}", "NaN", remedy)

    def admit(self, model: ScoreModel, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """The conditions in the form that this measurement and the model inside take.

        Raises:
            ValueError: y is missing, or given twice; or the model inside refuses the others.

        Warns:
            UserWarning: y is far larger than what the operator gives for the data of the model.
        """
        y, rest = self._taken(cond)
        self._warn_of_units(summary_of(model), y)
        if self.y is not None:
            return model.admit(rest)
        y = _values(f"cond[{self.name!r}]", y)
        if isinstance(self.noise, PoissonNoise) and y.device.type == "cpu":
            self.noise.check_values(y)
        return {**model.admit(rest), self.name: y}

    def _warn_of_units(self, data: DataSummary | None, y: Tensor) -> None:
        """Warn if y is over ten times what the operator gives for values in the range of the data.

        Nothing is said of small values, since data that vary slowly may well give them.
        """
        if data is None or y.numel() == 0:
            return
        ends = torch.tensor([data.low, data.high], dtype=torch.float64, device="cpu")
        shape = (2, *data.shape)
        some = torch.rand(shape, generator=seeded(0), dtype=torch.float64, device="cpu")
        x = torch.cat([expand(ends, some).expand(shape), ends[0] + (ends[1] - ends[0]) * some])
        with torch.no_grad():
            usual = float(self.mean(x.to(y.device, wide(pairs(y)).dtype)).abs().max())
        spread = 0.0
        if isinstance(self.noise, GaussianNoise):
            one = torch.zeros((1, *self.y.shape) if self.y is not None else pairs(y).shape)
            spread = float(self.noise.variance(one.double()).max()) ** 0.5
        largest = float(pairs(y).abs().nan_to_num().max())
        if largest > 10.0 * (usual + spread):
            message = (
                f"y: expected values of the size of A(x) for data in [{data.low:g}, {data.high:g}]"
                f", at most about {usual:.3g}, got {largest:.3g}; check the unit of y, and map it "
                "to that of the data"
            )
            warn(message)

    def _taken(self, cond: Cond) -> tuple[Tensor, dict[str, Tensor]]:
        """The y of all samples, (*M), or that of each, (B, *M); and the other conditions."""
        rest = dict(cond or {})
        own = rest.pop(self.name, None)
        if self.y is None and own is None:
            remedy = f'pass cond={{"{self.name}": y}} with y: (N, *M), or build it with y'
            raise fail("cond", f"the measurement {self.name!r}", list(rest) or None, remedy)
        if self.y is None:
            return own, rest  # type: ignore[return-value]
        if own is not None:
            remedy = "build the Measurement without y, or leave the condition out"
            raise fail(f"cond[{self.name!r}]", "nothing, as all samples share y", own, remedy)
        return self.y, rest

    def split(self, cond: Cond, x: Tensor) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The measurement of each sample, (B, *M), and the conditions of the model inside.

        Args:
            cond: the conditions.
            x: (B, *D), the state, whose precision and device y gets.

        Raises:
            ValueError: y is missing or given twice, or the operator gives another shape.
        """
        y, rest = self._taken(cond)
        if self._held is None:
            y = pairs(y).to(x.device, x.dtype)
        else:
            y = self._held.at(x).expand(len(x), *y.shape)
        expected = self.shape(x)
        if tuple(y.shape) != (len(x), *expected):
            remedy = f"the operator maps samples {tuple(x.shape[1:])} to measurements {expected}"
            if self.y is not None:
                raise fail("y", f"shape {expected}", self.y, remedy)
            raise fail("y", f"shape {(len(x), *expected)}", y, remedy)
        return y, rest or None

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape (*M) that the operator gives for samples like those of x: (B, *D)."""
        key = tuple(x.shape[1:])
        if key not in self._shapes:
            with torch.no_grad():
                one = self.mean(torch.zeros((1, *key), dtype=x.dtype, device=x.device))
            shape = tuple(one.shape[1:])
            if isinstance(self.noise, GaussianNoise):
                self.noise.check(shape)
            self._shapes[key] = shape
        return self._shapes[key]

    def mean(self, x0: Tensor) -> Tensor:
        """A(x_0), with complex values as pairs: (B, *M)."""
        return pairs(self.operator(x0))

    def residual(self, x0: Tensor, y: Tensor) -> Tensor:
        """y - A(x_0), and 0 where y was not observed: (B, *M)."""
        return torch.where(y.isnan(), torch.zeros_like(y), y - self.mean(x0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A x, and 0 where y was not observed, for a linear operator; x: (B, *D) -> (B, *M)."""
        return self.need_linear("forward")(x).masked_fill(y.isnan(), 0.0)

    def adjoint(self, v: Tensor, y: Tensor) -> Tensor:
        """The adjoint of `forward`: A^T v without the unobserved entries of v; (B, *D)."""
        return self.need_linear("adjoint").adjoint(v.masked_fill(y.isnan(), 0.0))

    def back_projection(self, y: Tensor) -> Tensor:
        """The measurement as an image of the samples, for a picture: (B, *M) -> (B, *D).

        It is y itself if that has the shape of a sample, as of a blur; otherwise A^+ y if the
        singular values of A are known, and A^T y if not. Entries that a `Mask` or an `Identity`
        did not observe are NaN.

        Raises:
            TypeError: the operator is not linear.
        """
        operator = self.need_linear("back_projection")
        known = y.nan_to_num(0.0)
        back = operator.adjoint(known)
        if back.shape == y.shape:
            return y
        if operator.decomposable:
            back = operator.pinv(known)
        if not isinstance(operator, Mask):
            return back
        return back.masked_fill(operator.adjoint((~y.isnan()).to(y)) < 0.5, torch.nan)

    def log_likelihood(self, x0: Tensor, y: Tensor) -> Tensor:
        """log p(y | x_0) in nats with all constants, of the observed entries: (B,).

        With correlated noise it is the marginal density of the observed entries.

        Args:
            x0: (B, *D).
            y: (B, *M), NaN where nothing was observed.

        Raises:
            ValueError: the noise has a variance of 0.
        """
        if isinstance(self.noise, LogLikelihood):
            value = self.noise.fn(x0, y)
            same_shape("log_likelihood", value, x0.flatten(1)[:, 0], "return one number a sample")
            return value
        unseen = y.isnan()
        if isinstance(self.noise, PoissonNoise):
            mean = self.mean(x0)
            each = self.noise.log_prob(mean, torch.where(unseen, torch.zeros_like(y), y))
            return each.masked_fill(unseen, 0.0).flatten(1).sum(1)
        self.need_noise("the log-likelihood")
        residual = self.residual(x0, y)
        square = (residual * self.solve_noise(residual, y)).flatten(1).sum(1)
        count = (~unseen).flatten(1).sum(1).to(square)
        return -0.5 * (square + self.log_det_noise(y) + count * math.log(2 * math.pi))

    def noise_variance(self, y: Tensor) -> Tensor:
        """The variance of the noise of each entry, and 1 where y was not observed: (B, *M)."""
        variance = self.need_gaussian("noise_variance").variance(y).expand(y.shape)
        return variance.masked_fill(y.isnan(), 1.0)

    def apply_noise(self, v: Tensor, y: Tensor) -> Tensor:
        """Sigma_y v, (B, *M), with the row of the identity where y was not observed."""
        noise, unseen = self.need_gaussian("apply_noise"), y.isnan()
        if not noise.correlated:
            return self.noise_variance(y) * v
        product = v.masked_fill(unseen, 0.0).flatten(1) @ noise.matrix(y)
        return torch.where(unseen, v, product.reshape(v.shape))

    def solve_noise(self, v: Tensor, y: Tensor) -> Tensor:
        """Sigma_y^-1 v, (B, *M), for the Sigma_y of `apply_noise`; its variances are above 0."""
        noise = self.need_noise("solve_noise")
        if not noise.correlated:
            return v / self.noise_variance(y)
        factor = self._factor(noise, y).to(v.dtype)
        if factor.ndim == 2:
            return torch.cholesky_solve(v.flatten(1).T, factor).T.reshape(v.shape)
        return torch.cholesky_solve(v.flatten(1)[..., None], factor)[..., 0].reshape(v.shape)

    def colour_noise(self, z: Tensor, y: Tensor) -> Tensor:
        """Noise of the measurement from standard normals: R z with R R^T = Sigma_y, (B, *M)."""
        noise = self.need_gaussian("colour_noise")
        if not noise.correlated:
            return self.noise_variance(y).sqrt() * z
        factor = self._factor(noise, y).to(z.dtype)
        return (factor @ z.flatten(1)[..., None])[..., 0].reshape(z.shape)

    def log_det_noise(self, y: Tensor) -> Tensor:
        """log det Sigma_y of the observed entries: (B,)."""
        noise = self.need_noise("log_det_noise")
        if not noise.correlated:
            return self.noise_variance(y).log().flatten(1).sum(1)
        diagonal = self._factor(noise, y).diagonal(dim1=-2, dim2=-1)
        return 2.0 * diagonal.log().sum(-1).to(y.dtype).expand(len(y))

    def _factor(self, noise: GaussianNoise, y: Tensor) -> Tensor:
        """The Cholesky factor of Sigma_y: (m, m) if y is shared, else (B, m, m)."""
        return _factor(noise, wide(y)) if self._shared is None else self._shared.at(y)

    def simulate(self, x0: Tensor, seed: int = 0) -> Tensor:
        """Measurements of samples x_0 with noise: (B, *D) -> (B, *M).

        Sample number i of a seed has the same noise in any batch.

        Raises:
            TypeError: the noise is a log-likelihood, which cannot be drawn from.
        """
        if isinstance(self.noise, LogLikelihood):
            remedy = "draw them yourself, or use GaussianNoise or PoissonNoise"
            raise wrong_type("noise", "a noise with a known distribution", self.noise, remedy)
        mean = self.mean(x0)
        if isinstance(self.noise, GaussianNoise):
            self.noise.check(tuple(mean.shape[1:]))
        return self.noise.sample(mean, seed)


def _values(name: str, y: Tensor) -> Tensor:
    """y as a real floating-point tensor, complex values as pairs; without infinities."""
    value = pairs(y.detach())
    if not value.is_floating_point():
        value = value.to(torch.get_default_dtype())
    if value.device.type == "cpu" and bool(value.isinf().any()):
        raise fail(name, "finite numbers, or NaN for what was not observed", y, "clean it first")
    return value


def _factor(noise: GaussianNoise, y: Tensor) -> Tensor:
    """Cholesky factors of the covariance, with rows of the identity where y is NaN: (B, m, m)."""
    matrix, seen = noise.matrix(y), (~y.isnan()).flatten(1).to(y)
    both = seen[:, :, None] * seen[:, None, :]
    factor: Tensor = torch.linalg.cholesky(both * matrix + torch.diag_embed(1.0 - seen))
    return factor
