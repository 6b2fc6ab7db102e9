"""RePaint: after each step the known entries of the state are noised anew from their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance, wrong_type
from scoresde._html import Shown
from scoresde._tensor import lincomb
from scoresde.measurement import Identity, Mask, Measurement
from scoresde.node import Node
from scoresde.noise import Noise

__all__ = ["RePaint"]


@final
class RePaint(Shown):
    """A hook that keeps the known entries of a sample on their exact noised path: in-painting.

    After each step, to a node with alpha and sigma, the known entries become alpha y + sigma z,
    as if they had been noised from y; the model completes the others. After the final denoising
    they are y itself. z depends on the seed of the run, the number of the sample and the time
    alone. It needs a stochastic solver (eta above 0).
    The other entries see y only through the state, so samples are biased: in 8 correlated
    dimensions of which 4 are known, W2/sqrt(4) of the others from the posterior is 0.24 with
    "ancestral", with 100 steps as with 400, where the prior is at 0.48 and as many exact samples
    at 0.01. The paper's remedy is to repeat short pieces, with the grid `resampling`: 0.09 with
    10 steps 5 times and 0.06 with 5 steps 10 times. One `restart` of a wide interval leaves 0.24,
    and `churn` gives 0.15 without more steps, with samples that are too narrow
    (tests/posterior/test_constraints.py).

    Args:
        measurement: a measurement by `Mask`, or by `Identity` with NaN in y, without noise.
        y: (N, *M), the measurement of each sample of the call, if the measurement has none.

    Raises:
        TypeError: the operator does not select entries of a sample.
        ValueError: there is noise, or y is missing, given twice or of another shape.

    Source: Lugmayr et al. 2022 (arXiv 2201.09865), algorithm 1.

    Example:
        >>> import torch
        >>> from scoresde import Gaussian, ReverseSampler, VPSDE
        >>> sde = VPSDE()
        >>> prior = Gaussian(torch.zeros(2), torch.ones(2)).under(sde)
        >>> sampler = ReverseSampler(sde, prior, "auto_sde", steps=20)
        >>> exact = Measurement(Mask(torch.tensor([True, False])), torch.tensor([1.5]), 0.0)
        >>> sampler.sample((2, 2), seed=0, on_step=RePaint(exact))[:, 0]
        tensor([1.5000, 1.5000])
    """

    def __init__(self, measurement: Measurement, y: Tensor | None = None) -> None:
        instance("measurement", measurement, Measurement, "pass Measurement(mask, y, 0.0)")
        operator = measurement.need_linear("RePaint")
        if not isinstance(operator, Identity | Mask):
            remedy = "DDNM takes any operator with known singular values"
            raise wrong_type("operator", "Identity or Mask, as RePaint needs", operator, remedy)
        measurement.need_exact("RePaint")
        if (y is None) == (measurement.y is None):
            remedy = "pass the y of all samples to Measurement, or that of each to RePaint"
            raise fail("y", "one y, in the measurement or here", y, remedy)
        self.measurement, self.y, self.operator = measurement, y, operator

    def of_batch(self, noise: Noise, rows: slice, n: int) -> Callable[[Node, Tensor], Tensor]:
        """The hook for the samples `rows` of the n of a run, with their noise."""
        if self.y is not None and len(self.y) != n:
            raise fail("y", f"{n} measurements, one per sample", self.y, "pass one for each")
        source = noise.stream("repaint")

        def on_step(node: Node, x: Tensor) -> Tensor:
            known, clean = self._known(x, rows)
            noised = lincomb((node.alpha, clean), (node.sigma, source.draw(x, at=float(node.t))))
            return torch.where(known, noised, x)

        return on_step

    def at_end(self, x0: Tensor, rows: slice) -> Tensor:
        """The denoised samples `rows` with their known entries, which are y itself."""
        known, clean = self._known(x0, rows)
        return torch.where(known, clean, x0)

    def _known(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Whether an entry of the samples `rows` is known, and its value, each (B, *D)."""
        cond = None if self.y is None else {self.measurement.name: self.y[rows]}
        y, _ = self.measurement.split(cond, x)
        known = self.operator.adjoint((~y.isnan()).to(x)) > 0.5
        return known, self.operator.adjoint(y.nan_to_num(0.0))
