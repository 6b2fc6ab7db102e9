"""The meaning of the axes of an array of samples."""

from __future__ import annotations

from torch import Tensor

from scoresde._check import choice, fail, warn

__all__ = [
    "CHANNELS",
    "IMAGES",
    "LAYOUTS",
    "arranged",
    "arranged_shape",
    "layout_of",
    "told_layout",
]

LAYOUTS = {
    "NCHW": "(N, C, H, W): images with the channel first, kept as they are",
    "NHWC": "(N, H, W, C): images with the channel last, which is moved to the front",
    "NHW": "(N, H, W): images without a channel, which get one",
    "NL": "(N, L): signals without a channel, which get one",
    "NCL": "(N, C, L): signals with the channel first, kept as they are",
    "NLC": "(N, L, C): signals with the channel last, which is moved to the front",
    "NDHW": "(N, D, H, W): volumes without a channel, which get one",
    "NCDHW": "(N, C, D, H, W): volumes with the channel first, kept as they are",
    "NDHWC": "(N, D, H, W, C): volumes with the channel last, which is moved to the front",
    "ND": "(N, *D): anything else, kept as it is; (N,) becomes (N, 1)",
}
"""The meaning of the axes of an array, by name."""

CHANNELS = {
    "none": {2: "NL", 3: "NHW", 4: "NDHW"},
    "first": {3: "NCL", 4: "NCHW", 5: "NCDHW"},
    "last": {3: "NLC", 4: "NHWC", 5: "NDHWC"},
}
"""The place of the channel axis -> the number of axes -> the layout."""

LAST = ("NHWC", "NLC", "NDHWC")
WITHOUT = ("NHW", "NL", "NDHW")
IMAGES = ("NCHW", "NHWC", "NHW")


def layout_of(
    shape: tuple[int, ...],
    layout: str = "auto",
    name: str = "x",
    *,
    channels: str | None = None,
    byte: bool = False,
) -> str:
    """The key of `LAYOUTS` for an array of this shape; "auto" recognises unambiguous cases.

    The place of the channel axis, `channels`, a key of `CHANNELS`, and the number of axes say what
    the axes are. Without it, arrays with one or two axes are "ND". With three axes they are grey
    images if they are unsigned bytes (`byte`) or if both sides are at least 8 and one is at most
    twice the other, and signals if the length is at least 4 times the number of channels. With
    four axes they are images, with the channel first or last, if exactly one of the two sizes is 1
    to 4, or if the two other sides are equal, and volumes without a channel if all three sides
    are equal and above 4. Five axes are volumes with a channel by the rule of images. More axes
    are "ND".

    Raises:
        ValueError: `layout` is unknown or has another number of axes, there is a layout beside
            `channels`, or "auto" is ambiguous.

    Example:
        >>> layout_of((500, 32, 32, 3))
        'NHWC'
    """
    axes = len(shape)
    if channels is not None:
        by_axes = CHANNELS[choice("channels", channels, CHANNELS)]
        if layout != "auto":
            raise fail("layout", "'auto' beside channels", layout, "pass one of the two")
        if axes not in by_axes:
            meanings = "; ".join(LAYOUTS[key] for key in by_axes.values())
            expected = f"one of these for channels={channels!r}: {meanings}"
            raise fail(name, expected, f"shape {shape}", "pass layout=, or other channels")
        return by_axes[axes]
    if choice("layout", layout, (*LAYOUTS, "auto")) != "auto":
        if axes == 0 or (layout != "ND" and axes != len(layout)):
            expected = f"{len(layout)} axes, {LAYOUTS[layout]}"
            raise fail(name, expected, f"shape {shape}", "pass another layout")
        return layout
    if axes in (1, 2):
        return "ND"
    if axes == 3:
        short, long = sorted(shape[1:])
        if byte or (short >= 8 and long <= 2 * short):
            return "NHW"
        if shape[2] >= 4 * shape[1]:
            return "NCL"
    if axes == 4 and shape[1] > 4 and len({*shape[1:]}) == 1:
        return "NDHW"
    if axes in (4, 5):
        ends = ("NCHW", "NHWC") if axes == 4 else ("NCDHW", "NDHWC")
        first, last = shape[1] <= 4, shape[-1] <= 4
        if first == last:
            first, last = len({*shape[2:]}) == 1, len({*shape[1:-1]}) == 1
        if first != last:
            return ends[0] if first else ends[1]
    if axes > 5:
        return "ND"
    fitting = {key: m for key, m in LAYOUTS.items() if key == "ND" or len(key) == axes}
    meanings = "; ".join(f"{key!r} is {meaning}" for key, meaning in fitting.items())
    got = f"'auto' for an array of shape {shape}"
    remedy = f"pass channels=none, first or last, or a layout: {meanings}"
    raise fail("layout", "a layout that says what the axes are", got, remedy)


def told_layout(shape: tuple[int, ...], layout: str, found: str, name: str) -> None:
    """Warn of a channel axis that was added because of the sizes alone."""
    if layout == "auto" and found in WITHOUT:
        meaning = LAYOUTS[found].partition(": ")[2]
        warn(
            f"{name}: an array of shape {shape} is taken as {meaning} (layout={found}; "
            "channels=first or channels=last says otherwise)"
        )


def arranged_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    if layout in LAST:
        return (shape[0], shape[-1], *shape[1:-1])
    if layout in WITHOUT:
        return (shape[0], 1, *shape[1:])
    return shape if len(shape) > 1 else (*shape, 1)


def arranged(x: Tensor, layout: str) -> Tensor:
    shape = arranged_shape(tuple(x.shape), layout)
    return x.movedim(-1, 1).contiguous() if layout in LAST else x.reshape(shape)
