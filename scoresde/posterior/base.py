"""What the posterior score models share: a model, a measurement, and a shift of the score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from scoresde._check import instance, warn
from scoresde._tensor import expand
from scoresde.cond import Cond
from scoresde.measurement import Denoised, Measurement
from scoresde.model import ScoreModel, data_size, summary_of
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import as_affine
from scoresde.summary import DataRangeWarning

__all__ = ["MeasuredModel", "PosteriorModel", "conjugate_gradients"]


class MeasuredModel(ScoreModel, ABC):
    """A model of p(x_t | y) made of a model of the prior and a measurement.

    It is a score model like any other, so every solver and every further wrapper takes it. If the
    measurement has no y of its own, each sample brings one as a condition.

    Args:
        model: the score model of the prior, under an affine SDE.
        measurement: the measurement.

    Raises:
        TypeError: an argument is of another type, or the SDE is not affine.
    """

    def __init__(self, model: ScoreModel, measurement: Measurement) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        instance("measurement", measurement, Measurement, "pass Measurement(operator, y, noise)")
        remedy = "guidance by a measurement needs E[x_0 | x_t], which an affine SDE determines"
        self.sde = as_affine("model.sde", model.sde, remedy)
        self.model = model
        self.data = model.data
        self.measurement = measurement

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.model.nulls

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.measurement.admit(self.model, cond)

    def calls(self, node: Node) -> int:
        return self.model.calls(node)


_FAR = 10.0
"""The size of a state over that of noise and data from which on it is taken to diverge."""

_CALLS = 8
"""After so many calls an accelerator is asked whether one of them diverged."""


def _at_once(device: torch.device) -> bool:
    """Whether reading a number back costs no wait for the device."""
    return device.type == "cpu"


class PosteriorModel(MeasuredModel, ABC):
    """A model of p(x_t | y): the score of a model plus an approximation of grad log p(y | x_t).

    Args:
        model: the score model of the prior, under an affine SDE.
        measurement: the measurement.

    Attributes:
        vjps: the vector-Jacobian products of the network so far, for each sample.

    Warns:
        DataRangeWarning: a run diverges: a state is ten times as large as data with the noise of
            its time, and its shift is larger than its score. Of a model that does not know its
            data the size is taken as the larger of 1 and the noise at the start of the schedule.
            On an accelerator the warning comes up to eight calls later, or at the end of the
            default schedule; it names the time at which the run began to diverge.
    """

    def __init__(self, model: ScoreModel, measurement: Measurement) -> None:
        super().__init__(model, measurement)
        self.vjps = 0
        self._last: float | None = None  # the time of the last call
        self._warned = False  # whether this run has been warned of
        self._seen: list[tuple[float, int, Tensor, Tensor]] = []  # see `_watch`

    @abstractmethod
    def shift(self, node: Node, found: Denoised, y: Tensor) -> Tensor:
        """The approximation of grad log p(y | x_t), (B, *D); y: (B, *M)."""

    @final
    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        y, rest = self.measurement.split(cond, x)
        found = Denoised.of(self.model, node, x, rest)
        with torch.set_grad_enabled(found.kept):
            shift = self.shift(node, found, y)
            self._watch(node, found.prediction, shift)
            return found.prediction.shifted(shift)

    def _usual(self, node: Node) -> float:
        """The size of states at this time, as a root mean square, that are not far off."""
        model = self.model
        if model.data_scale is None and summary_of(model) is None:
            return max(self.sde.prior_std, 1.0)
        return math.hypot(float(node.alpha) * data_size(model), float(node.sigma))

    def _watch(self, node: Node, plain: Prediction, shift: Tensor) -> None:
        """Note whether the guidance drives the states away, along a grid, and say so in time.

        A note is the time and the number of states, and, on the device, how many of them are
        driven away and the sum of the sizes of those.
        """
        if isinstance(node.t, Tensor) or node.sigma == 0.0:  # there is no score without noise
            return
        if self._last is not None and node.t > self._last:  # another run
            self._say_where_it_diverged()
            self._warned = False
        self._last = node.t
        if self._warned:
            return
        x = plain.x.detach()
        size = x.flatten(1).square().mean(1).sqrt()
        far = size > _FAR * self._usual(node)
        if _at_once(x.device) and not bool(far.any()):
            return
        ours, own = (v.detach().flatten(1).norm(dim=1) for v in (shift, plain.score))
        far = far & (ours > own)
        self._seen.append((node.t, len(far), far.sum(), torch.where(far, size, 0.0).sum()))
        end = node.t <= self.sde.t_end
        if _at_once(x.device) or end or len(self._seen) >= _CALLS:
            self._say_where_it_diverged()

    def _say_where_it_diverged(self) -> None:
        """Warn of the first noted call in which states were driven away, and clear the notes."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        numbers = torch.stack([torch.stack([n.to(size), size]) for _, _, n, size in seen]).tolist()
        for (t, count, _, _), (away, total) in zip(seen, numbers, strict=True):
            if away:
                self._warned = True
                warn(
                    f"{type(self).__name__} diverges: at t = {t:.3g} the guidance outweighs the "
                    f"score in {away:.0f} of {count} states, of a size of {total / away:.3g} on "
                    f"average, where the schedule starts at {self.sde.prior_std:.3g}; check the "
                    "units of y, take more steps, a solver of first order such as 'ancestral', "
                    "or TwistedSampler",
                    DataRangeWarning,
                )
                return


_GROWN = 1e4
"""The growth of the square of a residual at which a solve is given up."""

_CROSSED = 0.1
"""The cosine in S of successive directions, 0 for a symmetric S, at which a solve is given up."""


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    tol: float,
    most: int,
    method: str,
    floor: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, int]:
    """Solve S w = b for each sample, and return w and the number of products with S.

    A sample whose residual is below `tol` times |b| does not change any more, so its result does
    not depend on the other samples of the batch. One whose residual grows a hundredfold above its
    least stops as well, and one whose directions p and q are not conjugate: p^T S q is 0 for a
    symmetric S, and more products with another one lead nowhere. Every sample gets the solution of
    its least residual.

    Args:
        apply: the product with S, symmetric and positive definite; (B, *M) -> (B, *M).
        b: (B, *M).
        tol: the relative residual at which a sample is done.
        most: the largest number of products.
        method: the name of the model, for the warning.
        floor: the product with a part of S, (B, *M) -> (B, *M), such that the rest of S must be
            positive as well. A direction p with p^T S p below that of the floor ends the solve of
            its sample: there the network is no covariance, and a step would be far too large.

    Warns:
        UserWarning: some samples did not get there, or S is not symmetric and positive definite,
            as that of an imperfect network may be; they keep the best solution so far.
    """

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1)

    w, r = torch.zeros_like(b), b
    p, rr = r, dot(r, r)
    goal, best, least = tol**2 * rr, w, rr
    done, short, count = rr <= goal, torch.zeros_like(rr, dtype=torch.bool), 0
    before, curved = p, torch.zeros_like(rr)
    while count < most and not bool(done.all()):
        product = apply(p)
        count += 1
        curvature = dot(p, product)
        lowest = 0.0 if floor is None else 0.99 * dot(p, floor(p))
        crossed = dot(before, product).square() > _CROSSED**2 * curved * curvature.abs()
        crossed = crossed & (curved > 0.0)
        short = short | (~done & (crossed | ~(curvature > lowest)))
        done = done | short
        step = torch.where(done, 0.0, rr / torch.where(done, 1.0, curvature))
        w = w + expand(step, w) * p
        r = r - expand(step, r) * product
        new = torch.where(done, rr, dot(r, r))
        best = torch.where(expand(new < least, w), w, best)
        least = torch.minimum(least, new)
        ratio = torch.where(done, 0.0, new / torch.where(done, 1.0, rr))
        before, curved = p, curvature
        p = torch.where(expand(done, p), p, r + expand(ratio, p) * p)
        grown = ~done & ~(new <= _GROWN * least)  # also where it is not a number
        rr, short = new, short | grown
        done = done | (new <= goal) | grown
    if bool((short | ~done).any()):
        warn(
            f"{method}: the linear solves of some samples ended above the tolerance {tol:g}, as "
            "they may where the Jacobian of a network is not symmetric and positive; they keep "
            "the solution of the least residual; raise max_iter or tol, or take PiGDM",
        )
    return best, count
