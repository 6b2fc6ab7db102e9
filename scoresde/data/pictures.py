"""Pictures of Pillow as levels: upright and opaque, with 8 bits per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, warn, wrong_type

__all__ = ["CHANNELS", "DEEP", "checked_background", "checked_mode", "pixels", "stacked_pictures"]

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
"""Pillow's mode -> channels."""

DEEP = ("I", "F")  # with I;16, I;16B, ...: more than 8 bits a channel
GREYS = {"black": 0, "gray": 128, "grey": 128, "white": 255}


def checked_background(value: object) -> int | None:
    """The grey level behind transparent pictures, 0 to 255, from a number or a name.

    Raises:
        TypeError, ValueError: `value` is neither a level nor one of the names.
    """
    if value is None:
        return None
    expected = f"a grey level from 0 to 255, or {', '.join(map(repr, GREYS))}"
    if isinstance(value, str):
        if value.lower() not in GREYS:
            raise fail("background", expected, value, "pass e.g. 255 or 'white'")
        return GREYS[value.lower()]
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise wrong_type("background", expected, value, "pass e.g. 255, white")
    level = int(value.__index__())
    if not 0 <= level <= 255:
        raise fail("background", expected, level, "pass e.g. 255, white")
    return level


def pixels(
    image: Any, size: tuple[int, int] | None, mode: str, background: int | None, name: str
) -> Tensor:
    """A Pillow image as levels (C, H, W) uint8: upright, opaque, resized and cropped."""
    library, operations = need("PIL.Image", "data"), need("PIL.ImageOps", "data")
    if size is not None:
        # A large JPEG is decoded at a half, a quarter or an eighth, at least twice the size.
        image.draft(None, (2 * max(size), 2 * max(size)))
    image = operations.exif_transpose(image)
    checked_mode(image.mode, name)
    if mode != "RGBA" and image.has_transparency_data:
        image = _opaque(library, image.convert("RGBA"), background)
    image = image.convert(mode)
    if size is not None and (image.height, image.width) != size:
        height, width = size
        image = operations.fit(image, (width, height), method=library.Resampling.LANCZOS)
    levels = torch.from_numpy(np.array(image))
    return levels[None] if levels.ndim == 2 else levels.movedim(-1, 0)


def checked_mode(mode: str, name: str) -> None:
    """Raise unless Pillow's mode of an image has 8 bits per channel."""
    if mode.partition(";")[0] in DEEP or mode.endswith(";16"):
        remedy = "convert it to 8 bits, or save the values as .npy and pass levels=65536"
        raise fail(name, "8 bits a channel", f"mode {mode!r}", remedy)


def _opaque(library: Any, image: Any, background: int | None) -> Any:
    if image.getchannel("A").getextrema()[0] < 255:
        if background is None:
            background = GREYS["white"]
            # The same text for every picture, so that Python shows the warning once.
            warn(
                "transparent pictures are drawn on white; pass background=255 to have it so "
                "without this warning, background=0 for black, or mode='RGBA' to model them"
            )
        ground = library.new("RGBA", image.size, (background,) * 3 + (255,))
        image = library.alpha_composite(ground, image)
    return image.convert("RGB")


def stacked_pictures(pictures: list[Any], name: str) -> Tensor:
    """Pictures of Pillow of equal size as levels (N, C, H, W) uint8, grey if all are grey.

    Raises:
        ValueError: the sizes differ, or a picture has more than 8 bits per channel.
    """
    mode = "L" if all(image.mode in ("1", "L", "LA") for image in pictures) else "RGB"
    made = [pixels(image, None, mode, None, f"{name}[{i}]") for i, image in enumerate(pictures)]
    sizes = {tuple(levels.shape[1:]) for levels in made}
    if len(sizes) > 1:
        remedy = "resize them, or read a folder: image_folder(folder, size=64)"
        raise fail(name, "pictures of one size", f"{len(sizes)} sizes", remedy)
    return torch.stack(made)
