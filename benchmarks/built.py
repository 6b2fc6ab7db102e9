"""The model that `scoresde train` builds for data, for the benchmarks that train one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scoresde import VPSDE, Preconditioned
from scoresde.nets import Vector, level_exponents, network_for
from scoresde.quantisation import Quantisation
from scoresde.training import recipe_for
from scoresde.training.augment import CONDITION, LABELS

__all__ = ["built"]


def built(
    shape: Sequence[int],
    *,
    objective: str = "quality",
    levels: Quantisation | None = None,
    classes: int = 0,
    net: str = "auto",
    preset: str = "small",
    predicts: str | None = None,
    augment: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Preconditioned:
    """A network under the VP-SDE, with what the recipe and the objective ask of it.

    Args:
        shape: of a sample.
        objective: "quality" or "likelihood"; for the latter, a network of data with levels gets
            features of its input that tell the levels apart.
        levels: the quantisation of the data.
        classes, net, preset, options: see `network_for`.
        predicts: what the network predicts; None for the default of the SDE.
        augment: the probability of augmentation, that of the recipe by default; if it is not 0,
            the network of images gets the condition that tells it of the transformation.
    """
    recipe = recipe_for(shape, objective)
    chosen = dict(options or {})
    if objective == "likelihood" and levels is not None:
        chosen.setdefault("input_fourier", level_exponents(levels.bin_width))
    moved = (recipe.augment if augment is None else augment) and len(shape) == 3
    conditions = {CONDITION: Vector(len(LABELS))} if moved else None
    network = network_for(
        shape, classes=classes, conditions=conditions, net=net, preset=preset, options=chosen
    )
    return Preconditioned(network, VPSDE(), predicts=predicts)
