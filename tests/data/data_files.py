"""Files and checks that the tests of several formats share."""

import gzip
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from scoresde.data import LazyData, npy
from scoresde.quantisation import Quantisation

BYTES = Quantisation(256)


def levels(*shape: int, seed: int = 0, top: int = 256) -> np.ndarray[Any, Any]:
    made = np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)
    made.flat[0], made.flat[-1] = 0, top - 1
    return made


def decoded(x: Tensor) -> np.ndarray[Any, Any]:
    return BYTES.decode(x).numpy()


def refuses(
    call: Callable[[], Any], words: list[str], error: type[Exception] = ValueError
) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def file_of(folder: Path, x: np.ndarray[Any, Any], name: str = "x.npy") -> LazyData:
    np.save(folder / name, x)
    return npy(folder / name)


CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array: np.ndarray[Any, Any], code: str = "u1") -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, CODES[code], array.ndim]) + sizes + array.astype(code).tobytes()


def mnist_like(folder: Path, n: int = 12, packed: bool = True) -> dict[str, Any]:
    """The four files of a small data set, and what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {}
    for seed, (name, stem) in enumerate((("train", "train"), ("test", "t10k"))):
        images, labels = levels(n - seed, 28, 28, seed=seed), np.arange(n - seed) % 10
        held[name] = (images, labels)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            file = folder / f"{stem}-{kind}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content) if packed else content)
    return held


def picture(h: int, w: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(levels(h, w, *channels, seed=seed))


def zoo(folder: Path, ending: str = "png", mode: str = "RGB") -> list[Image.Image]:
    made = []
    for i, name in enumerate(("cat/1", "cat/2", "dog/1", "dog/deep/3")):
        file = folder / f"{name}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        made.append(picture(6, 8, mode, seed=i))
        made[-1].save(file)
    return made


def written(folder: Path, text: str, name: str = "t.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


class Items(Dataset[Any]):
    """A map-style data set of given items."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(torch.zeros(3, 2))
