"""The divergence of a vector field from vector-Jacobian products, with a control variate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance
from scoresde.noise import Independent
from scoresde.oracles import Gaussian

__all__ = ["Expansion", "Linearised", "Trace", "draw_probes"]

_DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "rademacher": lambda z: torch.where(z < 0, -1.0, 1.0).to(z),
    "gaussian": lambda z: z,
}
"""The distributions `PROBES`, as functions of standard normals."""

ENTRIES = 1 << 23
"""The most numbers in a batch of products: 64 MB in float64."""


def draw_probes(seed: int, first: int, like: Tensor, count: int, kind: str) -> Tensor:
    """(K, B, D) probes for flat states; those of a sample depend on (seed, its number) alone."""
    noise = Independent(seed, first).stream("probe")
    return torch.stack([_DRAWN[kind](noise.draw(like, k)) for k in range(count)])


@final
@dataclass(frozen=True, eq=False)
class Expansion:
    """The expansion of Gaussian data of covariance Q diag(Lambda) Q^T along the flow in u.

    With y = x/m and m^2 = s^2 alpha^2 + sigma^2 the variances of y are r = Lambda/s^2 cos^2 u +
    sin^2 u, so the slope dy/du has the Jacobian Q diag(dr/du / 2r) Q^T, and the integral of its
    trace is the sum of log(r)/2, in closed form.
    """

    excess: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, control: Gaussian, s: float, like: Tensor) -> Expansion:
        """The expansion of a Gaussian; like: flat states (B, D)."""
        instance("control", control, Gaussian, "pass e.g. Gaussian.fit(data)")
        mixture, dim = control.mixture, like.shape[1]
        if mixture.dim != dim:
            got = f"a Gaussian of {mixture.dim} dimensions"
            raise fail("control", f"one of {dim} dimensions", got, "fit it to the same data")
        variances = mixture.variances[0].to(like)
        basis = None if mixture.basis is None else mixture.basis[0].to(like)
        return cls((variances / s**2 - 1.0).expand(dim), basis)

    def rates(self, u: Tensor) -> Tensor:
        """dr/du / 2r for angles (B, 1) in each principal direction, (B, D)."""
        sin, cos = u.sin(), u.cos()
        # r = 1 + excess cos^2, written with sin^2, which is exact for a variance of 0 at small u
        r = (1.0 + self.excess) * cos**2 + sin**2
        rates: Tensor = -self.excess * sin * cos / r
        return rates

    def integral(self, begin: float, end: float) -> float:
        """The integral of the trace between two angles, in nats."""
        ends = torch.tensor([[begin], [end]], dtype=torch.float64).to(self.excess)
        r = (1.0 + self.excess) * ends.cos() ** 2 + ends.sin() ** 2
        return float((r[1] / r[0]).log().sum()) / 2

    def rotated(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) in the principal directions."""
        return vectors if self.basis is None else vectors @ self.basis

    def apply(self, u: Tensor, vectors: Tensor) -> Tensor:
        """Products of the Jacobian with vectors (K, B, D)."""
        scaled = self.rotated(vectors) * self.rates(u)
        return scaled if self.basis is None else scaled @ self.basis.T


@final
@dataclass(frozen=True, eq=False)
class Linearised:
    """The slope dy/du = a x + b value(x), x = m y, at one state, with vector-Jacobian products.

    Attributes:
        value: the output of the network with its graph; (B, *D).
        entry: the input of the network.
        a, b, m, u: (B, 1) columns in float64.
        graph: keep a graph through the products.
    """

    value: Tensor
    entry: Tensor
    a: Tensor
    b: Tensor
    m: Tensor
    u: Tensor
    graph: bool

    def vjp(self, vectors: Tensor) -> Tensor:
        """v^T J of the slope for v: (K, B, D), in one backward pass through the network."""
        shaped = vectors.to(self.value).reshape(len(vectors), *self.value.shape)
        if len(shaped) == 1:
            rows = self._back(shaped[0], False)[None]
        else:
            try:
                rows = self._back(shaped, True)
            except RuntimeError:  # a layer that vmap cannot batch
                rows = torch.stack([self._back(v, False) for v in shaped])
        products = rows.reshape(vectors.shape).to(vectors)
        return self.m * (self.a * vectors + self.b * products)

    def _back(self, vectors: Tensor, batched: bool) -> Tensor:
        (rows,) = torch.autograd.grad(
            self.value,
            self.entry,
            vectors,
            retain_graph=True,
            create_graph=self.graph,
            is_grads_batched=batched,
        )
        return rows


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """tr(J - J_G) of the slope, exact or estimated by probes; J_G is the control's Jacobian.

    Attributes:
        vectors: (K, B, D), or None for the exact trace.
        span: the number of leading vectors that span the space on which the trace is exact.
        squares: (K, B, D), the squared entries of the vectors in the control's directions.
        control: the control variate.
    """

    vectors: Tensor | None
    span: int = 0
    squares: Tensor | None = None
    control: Expansion | None = None

    @classmethod
    def by_probes(
        cls, vectors: Tensor, control: Expansion | None, at: Linearised | None = None
    ) -> Trace:
        """The estimate by probes; with the field `at` the data, half define a span (Hutch++)."""
        span = 0
        if at is not None:
            span = min(len(vectors) // 2, vectors.shape[2])
            sketch = at.vjp(vectors[:span])
            if control is not None:
                sketch = sketch - control.apply(at.u, vectors[:span])
            basis = torch.linalg.qr(sketch.detach().permute(1, 2, 0))[0]  # (B, D, span)
            probes = vectors[span:].permute(1, 2, 0)
            probes = probes - basis @ (basis.transpose(1, 2) @ probes)
            vectors = torch.cat([basis, probes], 2).permute(2, 0, 1).contiguous()
        squares = None if control is None else control.rotated(vectors).square()
        return cls(vectors, span, squares, control)

    @property
    def columns(self) -> int:
        """The number of independent estimates."""
        return 1 if self.vectors is None else len(self.vectors) - self.span

    def __call__(self, at: Linearised) -> Tensor:
        """(B, columns), in float64."""
        rates = None if self.control is None else self.control.rates(at.u)
        if self.vectors is None:
            total = self._exact(at)
            return (total if rates is None else total - rates.sum(1))[:, None]
        size = max(1, ENTRIES // self.vectors[0].numel())
        parts = torch.split(self.vectors, size)
        products = torch.cat([(at.vjp(some) * some).sum(2) for some in parts])
        if self.squares is not None and rates is not None:
            products = products - (self.squares * rates).sum(2)
        return (products[: self.span].sum(0) + products[self.span :]).T

    @staticmethod
    def _exact(at: Linearised) -> Tensor:
        batch, dim = len(at.value), at.value[0].numel()
        total = torch.zeros_like(at.m[:, 0])
        size = max(1, ENTRIES // (batch * dim))
        for start in range(0, dim, size):
            axes = torch.arange(start, min(start + size, dim), device=at.m.device)
            unit = torch.nn.functional.one_hot(axes, dim).to(at.m)
            rows = at.vjp(unit[:, None].expand(-1, batch, -1))
            total = total + rows.gather(2, axes[:, None, None].expand(-1, batch, 1)).sum((0, 2))
        return total
