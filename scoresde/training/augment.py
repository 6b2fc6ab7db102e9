"""Non-leaky augmentation of images: transformed samples whose transformation the network sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from scoresde._check import fail, listed
from scoresde._tensor import expand
from scoresde.cond import Cond
from scoresde.model import ScoreModel, bare
from scoresde.nets import Vector
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = [
    "CONDITION",
    "LABELS",
    "Augmented",
    "augmented",
    "check_augment",
    "takes_augment",
    "transformed",
]

CONDITION = "augment"
"""The name of the condition that tells a network how a sample was transformed."""

LABELS = ("flip", "log2 scale", "cos - 1", "sin", "right", "down")
"""The numbers of the condition: 1 for a mirrored image; the logarithm of the scale in units of
0.2; cosine - 1 and sine of the rotation; the shift in units of an eighth of the image. Each is 0
where nothing was done."""

SCALE, SHIFT = 0.2, 0.125  # of log2 of the scale, and of a shift as a share of the image


def augmented(x: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images of which each is transformed at random, and what was done to each.

    An image is mirrored, scaled, rotated (by any angle) and shifted, each with this probability
    and independently. Scales and shifts are normal with the deviations of `LABELS`. Images
    without any transformation are returned to the bit.

    The network sees the transformation as a condition, so it learns the law of the images given
    each, and that of images to which nothing was done is not changed. This is for small sets of
    images, which a network would learn by heart. Karras et al. 2022 (arXiv 2206.00364), appendix
    F.2; Karras et al. 2020 (arXiv 2006.06676).

    Args:
        x: (B, C, H, W).
        probability: that of each transformation, in [0, 1].
        generator: a CPU generator.

    Returns:
        (B, C, H, W), and the condition (B, 6), NaN (not given) where nothing was done.

    Example:
        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> _, label = augmented(x, 1.0, torch.Generator().manual_seed(0))
        >>> label.shape
        torch.Size([1, 6])
    """
    n = len(x)
    done = torch.rand(n, 4, generator=generator, device="cpu") < probability
    normal = torch.randn(n, 3, generator=generator, device="cpu")
    angle = 2 * math.pi * torch.rand(n, generator=generator, device="cpu")
    mirror, scales, turns, shifts = done.unbind(1)
    angle = torch.where(turns, angle, 0.0)
    label = torch.stack(
        (
            mirror.float(),
            torch.where(scales, normal[:, 0], 0.0),
            angle.cos() - 1.0,
            angle.sin(),
            torch.where(shifts, normal[:, 1], 0.0),
            torch.where(shifts, normal[:, 2], 0.0),
        ),
        dim=1,
    )
    changed = done.any(1)
    if not changed.any():
        return x, torch.full_like(label, math.nan).to(x)
    rows = changed.nonzero().flatten()
    moved = x.clone()
    moved[rows.to(x.device)] = transformed(x[rows.to(x.device)], label[rows])
    return moved, torch.where(changed[:, None], label, math.nan).to(x)


def transformed(x: Tensor, label: Tensor) -> Tensor:
    """Images (B, C, H, W) after the transformations of `LABELS`, (B, 6).

    First the mirror, then scale and rotation about the centre, then the shift. Values between
    pixels are interpolated linearly; beyond the edge the image is reflected. A mirror alone moves
    pixels to the bit.
    """
    mirror = label[:, 0] > 0.5
    x = torch.where(expand(mirror.to(x.device), x), x.flip(3), x)
    height, width = x.shape[2:]
    scale = torch.exp2(SCALE * label[:, 1].double())
    cos, sin = label[:, 2].double() + 1.0, label[:, 3].double()
    right, down = (SHIFT * label[:, k].double() * size for k, size in ((4, width), (5, height)))
    # The pixel p (from the centre) of the result shows q = R^-1 (p - shift) / scale. The grid is
    # in halves of the image, so the axes have other units where it is not square.
    ratio = height / width
    p_x, p_y = -right / (width / 2), -down / (height / 2)
    theta = torch.stack(
        (
            torch.stack((cos, sin * ratio, cos * p_x + sin * ratio * p_y), 1),
            torch.stack((-sin / ratio, cos, -sin / ratio * p_x + cos * p_y), 1),
        ),
        dim=1,
    )
    theta = (theta / scale[:, None, None]).to(x)
    still = (label[:, 1:] == 0).all(1).to(x.device)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    moved = grid_sample(x, grid, "bilinear", "reflection", align_corners=False)
    return torch.where(expand(still, x), x, moved)


@final
class Augmented(ScoreModel):
    """A model that is told how each sample of a batch was transformed.

    The condition is added after those of the data, so dropout of these leaves it in place: a
    transformed sample must never be shown to the network as one to which nothing was done.

    Args:
        model: the model.
        label: the condition, (B, 6).
    """

    def __init__(self, model: ScoreModel, label: Tensor) -> None:
        super().__init__()
        self.model, self.label = model, label
        self.sde, self.data = model.sde, model.data
        self.sigma_data = getattr(model, "sigma_data", None)

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.model.nulls

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.model.predict(node, x, {**(cond or {}), CONDITION: self.label})


def takes_augment(model: ScoreModel) -> bool:
    """Whether the network has the condition "augment"."""
    net = bare(getattr(model, "net", model))
    specs = getattr(getattr(net, "condition", None), "specs", {})
    return specs.get(CONDITION) == Vector(len(LABELS))


def check_augment(
    probability: float,
    model: ScoreModel,
    shape: tuple[int, ...],
    cond: Mapping[str, Tensor],
) -> None:
    """Raise a ValueError unless images of this shape can be augmented for this model."""
    if probability == 0.0:
        return
    if len(shape) != 3:
        raise fail("augment", "0, for the data are no images", probability, "leave it out")
    images = [name for name, value in cond.items() if value.shape[2:] == shape[1:]]
    if images:
        remedy = "they would have to be transformed as well: leave it out"
        raise fail("augment", f"0, for {listed(images)} are images too", probability, remedy)
    if not takes_augment(model):
        expected = f"a network with the condition {CONDITION!r}"
        remedy = f"build it with conditions={{'augment': Vector({len(LABELS)})}}, or pass 0"
        raise fail("augment", expected, "one without it", remedy)
