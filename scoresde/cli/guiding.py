"""The options of guidance, which sampling, encoding and comparing share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from scoresde.cli.flags import flag
from scoresde.cli.opened import Opened

if TYPE_CHECKING:
    from scoresde.model import ScoreModel

__all__ = ["Guiding", "guided"]


@final
@dataclass(frozen=True, kw_only=True)
class Guiding:
    """Guidance options."""

    guidance: float = 1.0
    """The scale of classifier-free guidance by the class and the conditions: 0 ignores them, 1 is
    the model as it is, and more makes samples more typical of them and less varied. Each call of
    the network then counts as two, except at 0 and 1."""
    guidance_interval: tuple[float, float] | None = flag(None, metavar="LOW,HIGH")
    """The log-SNR between which there is guidance, for example --guidance-interval=-1.5,1.5. By
    default there is guidance at all noise levels."""

    @property
    def used(self) -> bool:
        """Whether there is any guidance."""
        return self.guidance != 1.0


def guided(opened: Opened, how: Guiding, given: Iterable[str]) -> ScoreModel:
    """The model of a checkpoint with the guidance that was asked for.

    Args:
        opened: the checkpoint.
        how: the options.
        given: the names of the conditions that the samples have.

    Raises:
        ValueError: the samples have no condition, the model has no value for "not given" of any,
            or there is an interval without a scale.
    """
    from scoresde._check import fail
    from scoresde.guidance import ClassifierFree

    if not how.used:
        if how.guidance_interval is not None:
            remedy = "pass --guidance 2.0 too, or leave it out"
            got = how.guidance_interval
            raise fail("guidance_interval", "none without a scale of the guidance", got, remedy)
        return opened.model
    model, names = opened.model, list(given)
    if not names:
        remedy = "pass --label or --given for a model that has conditions, or leave it out"
        raise fail("guidance", "1, for the samples have no condition", how.guidance, remedy)
    known = [name for name in names if name in model.nulls]
    if not known:
        what = f"a model with a value for 'not given' of {', '.join(names)}"
        remedy = "train it with null values, Preconditioned(..., null=...), or leave it out"
        raise fail("guidance", what, f"one that has it for {list(model.nulls) or 'none'}", remedy)
    return ClassifierFree(model, how.guidance, interval=how.guidance_interval)
