"""Checks of the samples and conditions of `Data`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from scoresde._check import fail, floating, instance, wrong_type

__all__ = ["check_x", "checked_cond"]


def check_x(x: Tensor, *, constant: bool) -> None:
    """Check that samples are finite, and, unless `constant` channels are allowed, that all vary.

    Raises:
        TypeError: they are not floating-point.
        ValueError: there are none, they have another shape than (N, *D), or see above.
    """
    floating("x", x, "encode integers with Quantisation(levels=256).encode(x)")
    if x.ndim < 2:
        raise fail(
            "x", "shape (N, *D), one row per sample", x, "give scalars a column: x[:, None]"
        )
    if x.numel() == 0:
        raise fail("x", "at least one sample with one coordinate", x, "check what was loaded")
    _check_finite("x", x)
    # In (N, A, B) the axis A may be channels or the rows of an image.
    if len(x) > 1 and x.ndim != 3 and not constant:
        _check_channels(x)


def _check_finite(name: str, value: Tensor) -> None:
    bad = ~value.isfinite().reshape(len(value), -1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        first = value[row][~value[row].isfinite()].reshape(-1)[0].item()
        remedy = f"drop or repair the {int(bad.sum())} bad row(s) of {len(value)}"
        raise fail(name, "finite numbers", f"{first} in row {row}", remedy)


def _check_channels(x: Tensor) -> None:
    others = [axis for axis in range(x.ndim) if axis != 1]
    low, high = x.amin(dim=others), x.amax(dim=others)
    if (low == high).any():
        channel = int((low == high).nonzero()[0])
        got = f"{low[channel].item():g} everywhere in channel {channel} of {len(low)}"
        remedy = f"drop channel {channel} (axis 1): there is nothing in it to model"
        raise fail("x", "channels that vary", got, remedy)


def checked_cond(
    cond: Mapping[str, Tensor], count: int, classes: int, class_names: tuple[str, ...]
) -> dict[str, Tensor]:
    """The conditions of so many samples, checked; labels as int64.

    Raises:
        TypeError: a value is no tensor, or labels are not integers.
        ValueError: there is not one name for each class, a value does not have one entry per
            sample or is infinite, or a label is none of the classes.
    """
    instance("cond", cond, Mapping, 'pass a mapping, e.g. {"label": labels}')
    if class_names and len(class_names) != classes:
        expected = f"{classes} names, one for each class"
        raise fail("class_names", expected, class_names, "pass classes=len(class_names)")
    return {name: _checked_one(name, value, count, classes) for name, value in cond.items()}


def _checked_one(name: str, value: Tensor, count: int, classes: int) -> Tensor:
    argument = f"cond[{name!r}]"
    instance(argument, value, Tensor, "convert it with torch.as_tensor")
    if value.ndim == 0 or len(value) != count:
        raise fail(argument, f"leading length {count}, that of x", value, "one row per sample")
    if name != "label":
        floats = value.is_floating_point()  # in which NaN means "not given"
        _check_finite(argument, value.masked_fill(value.isnan(), 0.0) if floats else value)
        return value
    if value.is_floating_point() or value.is_complex() or value.ndim != 1:
        raise wrong_type(argument, "integers of shape (N,)", value, "one class number per sample")
    label = value.long()
    wrong = (label < 0) | (label >= classes)
    if classes and wrong.any():
        expected = f"labels from 0 to {classes - 1}"
        raise fail(argument, expected, label[wrong][0].item(), "renumber them, or raise classes")
    return label
