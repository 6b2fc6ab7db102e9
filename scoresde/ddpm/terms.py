"""The variational bound of a chain, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from scoresde._html import Shown

__all__ = ["BoundTerms"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class BoundTerms(Shown):
    """L_T, L_1 ... L_{T-1} and L_0 of Ho et al. 2020 (arXiv 2006.11239), eq. 5, in nats.

    Attributes:
        prior: L_T, (B,), KL(q(x_N | x_0), N(0, I)).
        steps: (N - 1, B); row k is L_{k+1}, the KL of the step from x_{k+2} to x_{k+1}.
        reconstruction: L_0, (B,), the term of the decoder.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself, (B,)."""
        return self.prior + self.steps.sum(0) + self.reconstruction
