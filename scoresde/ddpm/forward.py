"""The forward chain of DDPM, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from scoresde._check import fail, floating, positive_int, same_shape
from scoresde._tensor import Scalar, check_data, expand, lincomb, wide
from scoresde.ddpm.schedule import ChainSDE, as_betas, level_gap
from scoresde.node import Node
from scoresde.sde import SDE, AffineSDE, as_affine

__all__ = ["ForwardChain", "Steps"]

Steps: TypeAlias = int | Tensor
"""A step of the chain: an int, or (B,) integers, one for each sample."""


@dataclass(frozen=True)
class ForwardChain:
    """q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I), i = 1 ... N; see `DDPM`."""

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", as_betas(self.betas))

    def to_sde(self) -> ChainSDE:
        """The VP-SDE whose marginal at t = i/N is that of step i: see `ChainSDE`."""
        return ChainSDE(self.betas)

    @property
    def N(self) -> int:
        """The number of steps."""
        return len(self.betas)

    @cached_property
    def _levels(self) -> list[float]:
        total = [0.0]
        for beta in self.betas:
            total.append(total[-1] + level_gap(beta))
        return total

    @cached_property
    def abar(self) -> tuple[float, ...]:
        """abar_0 = 1, abar_1, ..., abar_N: the squared scale of x_0 in x_i."""
        return tuple(math.exp(-b) for b in self._levels)

    @cached_property
    def bbar(self) -> tuple[float, ...]:
        """1 - abar_i for i = 0 ... N, by expm1: the variance of x_i given x_0."""
        return tuple(-math.expm1(-b) for b in self._levels)

    @cached_property
    def log_snr(self) -> tuple[float, ...]:
        """lambda_i = log(abar_i / bbar_i) / 2, infinite at i = 0."""
        pairs = zip(self._levels[1:], self.bbar[1:], strict=True)
        return (math.inf, *(-(level + math.log(b)) / 2 for level, b in pairs))

    @cached_property
    def posterior_variances(self) -> tuple[float, ...]:
        """beta-tilde_i = (1 - abar_{i-1})/(1 - abar_i) beta_i for i = 1 ... N; the first is 0."""
        b = self.bbar
        return tuple(b[i - 1] / b[i] * self.betas[i - 1] for i in range(1, self.N + 1))

    @cached_property
    def _posterior(self) -> tuple[list[float], list[float]]:
        """The coefficients of x_i and x_0 in the mean of q(x_{i-1} | x_i, x_0), from i = 1."""
        a, b = self.abar, self.bbar
        rows = range(1, self.N + 1)
        of_x = [math.sqrt(1 - self.betas[i - 1]) * b[i - 1] / b[i] for i in rows]
        of_x0 = [math.sqrt(a[i - 1]) * self.betas[i - 1] / b[i] for i in rows]
        return of_x, of_x0

    def _row(self, table: Sequence[float], i: Steps, like: Tensor) -> Scalar:
        """Entry i - 1 of a table: a float, or (B, 1, ..., 1)."""
        if not isinstance(i, Tensor):
            return table[i - 1]
        return expand(_column(tuple(table))[i.cpu() - 1], like).to(like)

    def _check_step(self, i: object, x: Tensor) -> Steps:
        floating("x", x)
        remedy = "steps count from 1 (least noise) to N"
        if isinstance(i, Tensor) and i.ndim == 0:
            i = i.item()
        if not isinstance(i, Tensor):
            i = positive_int("i", i, remedy)
            if i > self.N:
                raise fail("i", f"a step from 1 to {self.N}", i, remedy)
            return i
        if i.is_floating_point() or i.dtype == torch.bool or i.shape != x.shape[:1]:
            raise fail("i", f"integers of shape ({len(x)},)", i, "one step for each sample")
        if i.numel() and not 1 <= int(i.min()) <= int(i.max()) <= self.N:
            got = f"steps from {int(i.min())} to {int(i.max())}"
            raise fail("i", f"steps from 1 to {self.N}", got, remedy)
        return i

    def q_step(self, i: Steps, x_prev: Tensor) -> tuple[Tensor, Scalar]:
        """Mean and variance of q(x_i | x_{i-1}): sqrt(1 - beta_i) x_{i-1} and beta_i.

        Args:
            i: the step of x_i, from 1 to N, an int or (B,) integers.
            x_prev: (B, *D), the state at step i - 1.

        Raises:
            TypeError, ValueError: the step is out of range or the state not floating.
        """
        i = self._check_step(i, x_prev)
        beta = self._row(self.betas, i, x_prev)
        return x_prev * (1 - beta) ** 0.5, beta

    def q_sample(self, i: Steps, x0: Tensor, eps: Tensor) -> Tensor:
        """x_i = sqrt(abar_i) x_0 + sqrt(1 - abar_i) eps; x0, eps: (B, *D)."""
        i = self._check_step(i, x0)
        same_shape("eps", eps, x0, "draw the noise with torch.randn_like(x0)")
        alpha, sigma = (self._row(v[1:], i, x0) ** 0.5 for v in (self.abar, self.bbar))
        return lincomb((alpha, x0), (sigma, eps))

    def q_posterior(self, i: Steps, x: Tensor, x0: Tensor) -> tuple[Tensor, Scalar]:
        """Mean and variance of q(x_{i-1} | x_i, x_0): Ho et al. 2020, eq. 7.

        mean = sqrt(1 - beta_i) (1 - abar_{i-1})/(1 - abar_i) x_i
        + sqrt(abar_{i-1}) beta_i/(1 - abar_i) x_0, variance beta-tilde_i.
        """
        i = self._check_step(i, x)
        same_shape("x0", x0, x, "one clean sample for each state")
        of_x, of_x0 = (self._row(v, i, x) for v in self._posterior)
        return lincomb((of_x, x), (of_x0, x0)), self._row(self.posterior_variances, i, x)

    def prior_kl(self, x0: Tensor) -> Tensor:
        """L_T = KL(q(x_N | x_0), N(0, I)) in nats; x0: (B, *D) -> (B,)."""
        x = wide(check_data(x0)).flatten(1)
        a = self.abar[-1]
        rest = -a - math.log1p(-a)
        return 0.5 * (a * x.square().sum(1) + x.shape[1] * rest)

    def nodes(self, sde: SDE) -> tuple[Node, ...]:
        """The points of an SDE's schedule at which its marginals are those of steps 1 ... N.

        Raises:
            TypeError: the SDE is not affine.
            ValueError: there is a step whose marginal is not among those of the SDE.
        """
        remedy = "a chain needs x_t given x_0 in closed form; see LinearSDE"
        return _nodes(self.betas, as_affine("model.sde", sde, remedy))

    def times(self, sde: SDE) -> tuple[float, ...]:
        """The times of these nodes from step N down to 1: a grid for `ReverseSampler`."""
        return tuple(node.t for node in self.nodes(sde)[::-1])

    def _node(self, sde: SDE, i: Steps, x: Tensor) -> Node:
        nodes = self.nodes(sde)
        if not isinstance(i, Tensor):
            return nodes[i - 1]
        return sde.at(_column(tuple(n.t for n in nodes))[i.cpu() - 1], like=x)


@lru_cache(maxsize=64)
def _column(table: tuple[float, ...]) -> Tensor:
    return torch.tensor(table, dtype=torch.float64, device="cpu")


@lru_cache(maxsize=32)
def _nodes(betas: tuple[float, ...], sde: AffineSDE) -> tuple[Node, ...]:
    chain = ForwardChain(betas)
    if sde == chain.to_sde():  # exact even where a step adds almost no noise
        return tuple(sde.at(i / chain.N) for i in range(1, chain.N + 1))
    nodes = []
    for i in range(1, chain.N + 1):
        t = sde.time_of(chain.log_snr[i])
        scale = math.sqrt(chain.abar[i])
        # rounding in the inverse of the log-SNR may give a time just beyond T
        inside = -1e-9 <= t <= sde.T * (1 + 1e-7)
        node = sde.at(min(max(t, 0.0), sde.T)) if inside else None
        if node is None or abs(node.alpha - scale) > 1e-6 * scale:
            remedy = "take a model of chain.to_sde(), or of the VP SDE that the chain was made of"
            got = "a time outside [0, T]" if node is None else f"alpha = {node.alpha:g}"
            expected = f"an SDE with alpha = {scale:g} at the log-SNR of step {i}"
            raise fail("model.sde", expected, got, remedy)
        nodes.append(node)
    return tuple(nodes)
