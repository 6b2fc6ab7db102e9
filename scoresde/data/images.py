"""Folders of images, decoded on access."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scoresde._check import choice, fail, need, path_of, positive_int, warn
from scoresde.data.base import LazyData
from scoresde.data.files import Files, deep_picture, files_below, with_classes_of_folders
from scoresde.data.items import BYTES, PictureItems, arrays_of
from scoresde.data.pictures import CHANNELS, DEEP, checked_background, checked_mode

__all__ = ["as_size", "image_folder", "picture_endings", "subfolders"]


class _File(NamedTuple):
    name: str  # below the folder, with forward slashes
    mode: str
    size: tuple[int, int]  # height and width, in the displayed orientation
    moving: bool  # whether it has several frames


def image_folder(
    folder: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    mode: str | None = None,
    flip: bool = False,
    labels: bool | None = None,
    background: int | str | None = None,
    strict: bool = False,
    verify: bool = True,
    standardise: bool | str = "auto",
) -> LazyData:
    """A folder of images in any format of Pillow; each image is decoded on access.

    Sub-folders are included and name the classes: folder/cat/1.png has class "cat", and classes
    are numbered in the order of their names. Hidden files and files without a suffix of images
    are ignored, and a file with several links is used once. Images are rotated by their EXIF
    orientation; for an animation the first frame is used, with a warning. Grey images of 16 bits
    have the levels of their bit depth (2^10, 2^12, ...), and those of floats are converted to
    model units as in `npy`; both keep their size.

    Args:
        folder: the folder of the images.
        size: pixels (H, W), or one number for a square: images are resized (Lanczos) to cover
            this size and cropped at the centre. None keeps their size, which must be the same.
        mode: "L" (grey), "RGB" or "RGBA"; by default "L" if all images are grey, otherwise "RGB".
        flip: include the mirror image of every image: the data are N images followed by N
            mirrored ones, so an epoch contains both.
        labels: whether the sub-folders are classes; by default they are if all images are in
            sub-folders.
        background: grey level, 0 to 255, or "black", "grey" or "white", behind transparent
            images; by default white, with a warning.
        strict: refuse damaged files; by default they are skipped with a warning, and listed in
            `data.x.skipped`.
        verify: decode every file once, so that damage is detected here and not during training.
            False reads only the headers, and a damaged file is an error when it is read.
        standardise: for images of floats, see `npy`.

    Returns:
        LazyData with x (N, C, H, W) in [-1, 1], labels and the names of the classes if there are
        sub-folders, and the quantisation of 256 levels.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it has no images, sizes differ and `size` is None, images have more than 8
            bits per channel, or images are both in sub-folders and beside them.
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (20, 10), "red").save(folder / "red.png")
        >>> data = image_folder(folder, size=8)
        >>> data[0].x[0, :, 0, 0]
        tensor([ 1., -1., -1.])
    """
    place = path_of("folder", folder)
    wanted = None if size is None else as_size(size)
    if mode is not None:
        choice("mode", mode, CHANNELS)
    background = checked_background(background)
    names = _image_names(place)
    good, skipped = _examined(place, names, verify)
    if skipped and (strict or not good):
        remedy = "delete the file" if good else "check the folder"
        remedy += ", or leave strict out to skip such files" if strict else ""
        got = f"{len(skipped)} damaged of {len(names)}, first {skipped[0]}"
        raise fail("folder", "images that can be decoded", got, remedy)
    if skipped:
        warn(
            f"{place}: {len(skipped)} of {len(names)} files are damaged and skipped, first "
            f"{skipped[0]}; data.x.skipped lists them"
        )
    moving = [file.name for file in good if file.moving]
    if moving:
        warn(
            f"{place}: of {len(moving)} files with several pictures, first {moving[0]}, the first "
            "picture is taken"
        )
    if all(file.mode.partition(";")[0] in DEEP for file in good):
        for argument, value in (("size", size), ("mode", mode), ("background", background)):
            if value is not None:
                remedy = "leave it out, or convert the files to 8 bits"
                raise fail(argument, "None for pictures of more than 8 bits", value, remedy)
        if flip:
            raise fail("flip", "False for pictures of more than 8 bits", flip, "leave it out")
        files = Files(place, [file.name for file in good], deep_picture)
        data = arrays_of(files, place.name, "NHW", None, standardise)
        return with_classes_of_folders(data, files, labels)
    if mode is None:
        mode = "L" if all(file.mode in ("1", "L", "LA") for file in good) else "RGB"
    for file in good:
        checked_mode(file.mode, str(place / file.name))
    files = Files(place, [file.name for file in good], need("PIL.Image", "data").open)
    rows = PictureItems(
        files, wanted or _common_size(good), mode, flip, background, skipped=tuple(skipped)
    )
    return with_classes_of_folders(LazyData(rows, {}, BYTES, place.name), files, labels)


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) from one number or two."""
    if isinstance(size, list | tuple):
        if len(size) != 2:
            raise fail("size", "a number or (height, width)", size, "pass e.g. 32 or (32, 48)")
        return positive_int("size", size[0]), positive_int("size", size[1])
    side = positive_int("size", size, "pass e.g. 32 or (32, 48)")
    return side, side


def _image_names(folder: Path) -> list[str]:
    """The files below the folder with a suffix that Pillow reads, sorted."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    names = files_below(folder, picture_endings())
    if not names:
        expected = "a folder with images (.png, .jpg, .webp and whatever else Pillow reads)"
        raise fail("folder", expected, str(folder), "check the path")
    return names


def picture_endings() -> set[str]:
    """The suffixes of files that Pillow reads."""
    library = need("PIL.Image", "data")
    extensions = library.registered_extensions()
    return {end for end, kind in extensions.items() if kind in library.OPEN}


def subfolders(folder: Path) -> list[str]:
    """The sorted names of the folders in a folder, without hidden ones."""
    inside = (place.name for place in folder.iterdir() if place.is_dir())
    return sorted(name for name in inside if not name.startswith("."))


def _examined(folder: Path, names: Sequence[str], verify: bool) -> tuple[list[_File], list[str]]:
    """The headers of the files, and the damaged files with the reasons."""
    library, operations = need("PIL.Image", "data"), need("PIL.ImageOps", "data")
    good, bad = [], []
    for name in names:
        try:
            with library.open(folder / name) as image:
                mode = _stored_mode(image)  # before any pixel is decoded
                # Pillow decodes a whole PNG to find EXIF data after the pixels.
                seeks = verify or image.format != "PNG" or "exif" in image.info
                turned = seeks and image.getexif().get(0x0112, 1) >= 5
                width, height = image.size[::-1] if turned else image.size
                if turned and image.format == "TIFF":  # Pillow may have rotated the size already
                    width, height = operations.exif_transpose(image).size
                moving = bool(getattr(image, "is_animated", False))
                good.append(_File(name, mode, (height, width), moving))
                if verify:
                    image.draft("L", (1, 1))  # reads a whole JPEG, but decodes it small
                    image.load()
        except (OSError, SyntaxError, ValueError, library.DecompressionBombError) as error:
            if good and good[-1].name == name:
                good.pop()
            bad.append(f"{name} ({type(error).__name__}: {error})")
    return good, bad


def _stored_mode(image: Any) -> str:
    """Pillow's mode, with ";16" for 16-bit colours, whose lower 8 bits it would drop."""
    stored = [str(tile[3]) for tile in image.tile if len(tile) > 3]
    # "BGR;16" means 5 or 6 bits per channel, in old bitmaps.
    deep = any(";16" in text and "BGR" not in text for text in stored)
    return f"{image.mode};16" if deep and ";" not in image.mode else str(image.mode)


def _common_size(files: Sequence[_File]) -> tuple[int, int]:
    counts = Counter(file.size for file in files)
    if len(counts) > 1:
        common = ", ".join(f"{h} x {w} ({n})" for (h, w), n in counts.most_common(3))
        got = f"{len(counts)} sizes, height x width (files): {common}"
        raise ValueError(f"size: expected images of one size, got {got}; pass e.g. size=64")
    return next(iter(counts))
