"""Samples by the ten thousand, written as shards in constant memory by any number of processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from scoresde._check import (
    choice,
    fail,
    instance,
    need,
    no_mask,
    path_of,
    positive_int,
    warn,
    wrong_type,
)
from scoresde._check import seed as as_seed
from scoresde._html import Shown
from scoresde._io import remove, replacing
from scoresde._progress import progress as progress_of
from scoresde._tensor import state_kind
from scoresde.data.samples import (
    MODES,
    csv_text,
    image_name,
    labels_of,
    missing,
    shard_name,
    shards_of,
    whole,
)
from scoresde.nets.embed import LabelEmbedding
from scoresde.quantisation import Quantisation
from scoresde.sampler.manifest import claim, explained_shard, mine, settings_of, sweep_shards, turn
from scoresde.sampler.plan import check_shape
from scoresde.sampler.reverse import ReverseSampler
from scoresde.solvers.base import Unfinished, UnfinishedWarning
from scoresde.summary import DataRangeWarning, DataSummary, units_of

__all__ = ["ShardFiles", "Shards", "sample_to"]

FORMATS = ("npz", "png", "csv")


@final
@dataclass(frozen=True)
class Shards(Shown):
    """The shards that one process wrote into a folder of samples.

    Attributes:
        folder: the folder of the shards; `scoresde.data.samples` reads them.
        total: the number of shards of the whole run.
        drawn: the number of shards that this process drew in this call.
        kept: the number of shards of this process that existed already.
        nfe: network evaluations for each sample; 0 if nothing was drawn.
        missing: the number of shards that did not exist at the end; other processes may be
            drawing them.
    """

    folder: Path
    total: int
    drawn: int
    kept: int
    nfe: int
    missing: int


@final
@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """The format in which samples are stored."""

    format: str = "npz"
    """The format. "npz": arrays x (S, *D), index and, with labels, label; with units also raw, (S,
    *D) float64 in these units (of a table (S, K), with the numbers of categories and NaN for
    missing cells), and the names of the columns, if they have any; and class_names, if they are
    known. "png": each shard is a folder of pictures named by the number of their sample;
    (C, H, W) of 1, 3 or 4 channels and a quantisation of at most 256 levels, which are spread over
    0 ... 255. "csv": a table, of vectors (D,), in the units of the data where they are known, with
    the names of its columns and, with labels, a column of class names."""

    quantisation: Quantisation | None = None
    """Store whole numbers, the nearest level of each value. By default floats are stored."""

    floats: bool = False
    """Store the samples in model units only: without raw, and tables as plain numbers. The folder
    still records their units, so `scoresde.data.samples` reads the same."""

    shard: int = 500
    """The number S of samples in a shard. A process draws S samples at a time, and a kill loses at
    most S of them."""


def sample_to(
    sampler: ReverseSampler,
    out: str | os.PathLike[str],
    n: int,
    shape: Sequence[int],
    *,
    seed: int = 0,
    first: int = 0,
    labels: int | Sequence[int] | None = None,
    data: DataSummary | None = None,
    files: ShardFiles = ShardFiles(),
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    threads: int | None = None,
    process: tuple[int, int] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Shards:
    """Write n samples into a folder, shard by shard, so that memory does not grow with n.

    Shard k holds the samples with numbers first + k S to first + (k + 1) S - 1, and the noise of
    sample i is a function of (seed, i). So it does not matter which process draws a shard: under
    ``torchrun --nproc-per-node K`` process r takes the shards r, r + K, ..., nothing is
    communicated, and the folder is the same as with one process; on the CPU to the bit, where
    ``threads`` are the same.

    A shard is written under a temporary name, flushed to the disk and renamed, so that it is
    either complete or absent. After a kill or an error, the same call, with any number of
    processes, draws the missing shards. `sampling.json` holds the settings; a call with other
    settings is refused.

    Args:
        sampler: the sampler that draws; its model must be in eval mode.
        out: the folder: a new or empty one, or that of an earlier call with the same settings.
        n: number of samples.
        shape: the shape of one sample, (*D).
        seed: the seed of the noise.
        first: the number of the first sample; a later call with first=n draws the next ones.
        labels: sample i gets the class labels[i mod len(labels)], so 3 means class 3 for all
            samples and range(10) gives equally many of ten classes; with None the model gets no
            label.
        data: the units of the samples and the names of their classes; by default those that the
            model has stored of its training data.
        files: the format and the size of the shards; see `ShardFiles`.
        batch_size: the number of samples solved at a time; by default the whole shard.
        dtype, device: those of the state; by default those of the model's parameters.
        threads: the number of CPU threads. By default that of the first process, which the
            others adopt; a matrix product can round differently on another number of threads.
        process: (r, K), the number of this process and the number of processes; by default from
            the environment variables RANK and WORLD_SIZE, which torchrun sets, and (0, 1) without
            them.
        overwrite: remove the samples in the folder if they have other settings, as soon as the
            first new shard is drawn. Only one process may do this.
        progress: show a bar.

    Returns:
        The record of this process. Of several processes, the last one to end finds no shard
        missing.

    Raises:
        TypeError, ValueError: an argument does not fit; the folder holds something else or
            samples of other settings; another process draws the same shards; the model drops
            features at random; a sample is not finite.
        Unfinished: an adaptive solver stopped before the end; the shard of that sample is not
            written.
        OSError: there is no space or no permission; finished shards are kept.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE
        >>> from scoresde.data import samples
        >>> sampler = ReverseSampler(VPSDE(), lambda t, x: -x, "ddim", steps=5)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     sample_to(sampler, out, 1000, (2,)).drawn, samples(out)[:3].x.shape
        (2, torch.Size([3, 2]))
    """
    instance("sampler", sampler, ReverseSampler, "pass ReverseSampler(sde, model)")
    instance("files", files, ShardFiles, "pass e.g. ShardFiles(shard=100)")
    quantisation, format, floats = files.quantisation, files.format, files.floats
    number, count = turn(process)
    dtype, device = state_kind(sampler.model, dtype, device)
    if data is not None:
        instance("data", data, DataSummary, "pass model.data")
    known = sampler.model.data if data is None else data
    settings = {
        **_checked(
            sampler, n, shape, seed, first, labels, quantisation, format, files.shard, batch_size
        ),
        **_units(known, quantisation, labels is not None, floats),
        **settings_of(sampler),
        "state": str(dtype).removeprefix("torch."),
        "device": device.type,
    }
    if quantisation is None:
        settings["dtype"] = "float64" if dtype == torch.float64 else "float32"
    if overwrite and count > 1:
        remedy = "remove the folder first"
        raise fail("overwrite", "False with several processes", overwrite, remedy)
    folder = path_of("out", out).absolute()
    workers = None if threads is None else positive_int("threads", threads)
    numbers = shards_of(settings)

    def drawn_shard(k: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
        return _draw(sampler, settings, quantisation, numbers[k], dtype, device)

    ahead = []  # the first shard, if other samples are removed when it is there

    def draw_first(threads: int) -> None:
        with _threads(threads):
            ahead.append(drawn_shard(0))

    manifest, file = claim(folder, settings, workers, draw_first if overwrite else None)
    own = range(number, len(numbers), count)
    with file, _threads(manifest["threads"]), _bar(progress, number, own, numbers) as advance:
        mine(file, own, folder)
        for half in sweep_shards(folder, own, format):
            warn(f"{half} was half-written by a killed process: removed")
        drawn = nfe = 0
        for k in own:
            place = folder / shard_name(k, format)
            if not _there(place, settings, numbers[k]):
                with warnings.catch_warnings():
                    if drawn:  # warn at the first shard only
                        warnings.simplefilter("ignore", DataRangeWarning)
                    content, nfe = ahead.pop() if ahead else drawn_shard(k)
                with explained_shard(place):
                    _write(place, content, settings, quantisation)
                drawn += 1
            advance(len(numbers[k]))
        left = len(missing(folder, settings))
    return Shards(folder, len(numbers), drawn, len(own) - drawn, nfe, left)


def _checked(
    sampler: ReverseSampler,
    n: int,
    shape: Sequence[int],
    seed: int,
    first: int,
    labels: int | Sequence[int] | None,
    quantisation: Quantisation | None,
    format: str,
    shard: int,
    batch_size: int | None,
) -> dict[str, Any]:
    """Check the arguments and return them as settings of the manifest."""
    n, shard = positive_int("n", n), positive_int("shard", shard)
    if isinstance(shape, int) or not isinstance(shape, Sequence) or not shape:
        raise wrong_type("shape", "(*D), that of one sample", shape, "pass e.g. (1, 28, 28)")
    sizes = check_shape((n, *shape))[1:]
    seed, first = as_seed(seed), as_seed(first, "first")
    size = None if batch_size is None else min(positive_int("batch_size", batch_size), shard)
    if quantisation is not None:
        instance("quantisation", quantisation, Quantisation, "pass e.g. Quantisation(256)")
    if choice("format", format, FORMATS) == "png":
        _check_pictures(sizes, quantisation)
    elif format == "csv" and len(sizes) != 1:
        raise fail("shape", "vectors (D,) for format='csv'", sizes, "take format='npz'")
    _check_model(sampler.model)
    return {
        "n": n,
        "first": first,
        "shape": list(sizes),
        "seed": seed,
        "labels": _labels(sampler.model, labels),
        "quantisation": None if quantisation is None else quantisation.to_dict(),
        "dtype": "" if quantisation is None else np.min_scalar_type(quantisation.levels - 1).name,
        "format": format,
        "shard": shard,
        "batch_size": shard if size is None else size,
    }


def _units(
    data: DataSummary | None, quantisation: Quantisation | None, labelled: bool, floats: bool
) -> dict[str, Any]:
    """The units of the samples and the names of their classes, as settings."""
    scaling = None if data is None or quantisation is not None else data.scaling
    return {
        "scaling": None if scaling is None else scaling.to_dict(),
        "class_names": list(data.class_names) if data is not None and labelled else [],
        **({"floats": True} if floats and scaling is not None else {}),
    }


def _check_pictures(shape: tuple[int, ...], quantisation: Quantisation | None) -> None:
    need("PIL.Image", "data")
    if len(shape) != 3 or shape[0] not in MODES:
        expected = "(C, H, W) with 1, 3 or 4 channels for format='png'"
        raise fail("shape", expected, shape, "take format='npz'")
    if quantisation is None or quantisation.levels > 256:
        remedy = "pass e.g. quantisation=Quantisation(256), or take format='npz'"
        raise fail(
            "quantisation", "one of at most 256 levels for format='png'", quantisation, remedy
        )


def _check_model(model: nn.Module) -> None:
    """Refuse a model whose output changes from call to call."""
    random = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm
    if any(isinstance(m, random) and m.training and getattr(m, "p", 1) for m in model.modules()):
        got = "dropout or batch norm in training mode"
        raise fail("model", "the same answer to the same call", got, "call model.eval() first")


def _labels(model: nn.Module, labels: int | Sequence[int] | None) -> list[int] | None:
    """Check the labels that are repeated in turn against the classes of the model."""
    if labels is None:
        return None
    no_mask("labels", labels)
    values = np.asarray(labels).reshape(-1)
    if values.dtype.kind not in "iu":
        remedy = "pass a class, or classes that take turns, e.g. range(10)"
        raise wrong_type("labels", "whole numbers", labels, remedy)
    limit = min((m.null for m in model.modules() if isinstance(m, LabelEmbedding)), default=None)
    wrong = values[(values < 0) | (values >= (np.inf if limit is None else limit))]
    if len(wrong):
        expected = "classes from 0" + (f" to {limit - 1}" if limit else "")
        raise fail("labels", expected, int(wrong[0]), "None is for no label")
    return [int(label) for label in values]


def _there(place: Path, settings: dict[str, Any], numbers: range) -> bool:
    """Return whether the shard exists; a damaged one is removed, with a warning."""
    if not place.exists():
        return False
    if whole(place, settings, numbers):
        return True
    warn(f"{place} is damaged: drawn anew")
    with explained_shard(place):
        remove(place)
    return False


def _draw(
    sampler: ReverseSampler,
    settings: dict[str, Any],
    quantisation: Quantisation | None,
    numbers: range,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
    """Draw a shard: its arrays, and the number of network evaluations."""
    labels = labels_of(settings, numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfinishedWarning)
        solution = sampler.solve(
            (len(numbers), *settings["shape"]),
            seed=settings["seed"],
            first=numbers.start,
            cond=None if labels is None else {"label": labels},
            batch_size=settings["batch_size"],
            dtype=dtype,
            device=device,
        )
    if solution.status != "done":
        raise Unfinished(f"samples from number {numbers.start}: {solution.unfinished}", solution)
    pieces = torch.split(solution.x.cpu(), settings["batch_size"])
    kind = np.dtype(settings["dtype"])
    x = np.concatenate([_stored(piece, quantisation).astype(kind) for piece in pieces])
    arrays = {"x": x, "index": np.array(numbers, np.int64)}
    if labels is not None:
        arrays["label"] = labels.numpy()
    if settings["class_names"]:
        arrays["class_names"] = np.array(settings["class_names"])
    scaling = None if settings.get("floats") else units_of(settings["scaling"])
    if scaling is not None:
        arrays["raw"] = scaling.decode(torch.from_numpy(x).double()).numpy()
        if scaling.columns:
            arrays["columns"] = np.array(scaling.columns)
    return arrays, solution.nfe


def _stored(x: Tensor, quantisation: Quantisation | None) -> np.ndarray[Any, Any]:
    """Return the levels of the quantisation, or floats of a type that numpy has."""
    if quantisation is not None:
        return quantisation.decode(x).numpy()
    return (x if x.dtype == torch.float64 else x.float()).numpy()


def _write(
    place: Path,
    arrays: dict[str, np.ndarray[Any, Any]],
    settings: dict[str, Any],
    quantisation: Quantisation | None,
) -> None:
    """Write the file or folder of a shard under a temporary name, flush it and rename it."""
    with replacing(place) as half:
        if settings["format"] == "npz":
            np.savez(half, **arrays)  # type: ignore[arg-type]
        elif settings["format"] == "csv":
            scaling = None if settings.get("floats") else settings["scaling"]
            half.write_bytes(csv_text(arrays, scaling).encode())
        else:
            half.mkdir()
            grey = 255 / (quantisation.levels - 1) if quantisation is not None else 1.0
            _write_pictures(half, (arrays["x"] * grey).round().astype(np.uint8), arrays["index"])


def _write_pictures(folder: Path, x: np.ndarray[Any, Any], index: np.ndarray[Any, Any]) -> None:
    library = need("PIL.Image", "data")
    for levels, number in zip(x, index.tolist(), strict=True):
        picture = (
            levels[0] if len(levels) == 1 else np.ascontiguousarray(np.moveaxis(levels, 0, -1))
        )
        library.fromarray(picture).save(folder / image_name(number), format="PNG")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of threads of torch inside the block, and restore it afterwards."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


@contextmanager
def _bar(
    progress: bool, number: int, own: range, numbers: list[range]
) -> Iterator[Callable[[int], Any]]:
    """Yield a function to call with the number of samples of each shard; it updates the bar."""
    if not progress:
        yield lambda samples: None
        return
    total = sum(len(numbers[k]) for k in own)
    with closing(progress_of(total, f"process {number}", "samples", position=number)) as bar:
        yield bar.update
