"""`scoresde interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scoresde.cli.common import (
    BatchSize,
    Device,
    Json,
    Model,
    Overwrite,
    check_folder,
    claim_folder,
    emit,
    is_first,
)
from scoresde.cli.config import ConfigFile, write_config
from scoresde.cli.encode import Tolerance, flow_solver, raw_values
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.pictures import draw, drawable, why_not
from scoresde.cli.samples import Unconditional, open_samples
from scoresde.cli.source import DataOptions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXAMPLES", "interpolate"]

EXAMPLES = """Examples:

scoresde interpolate runs/digits digits --between 3,17 --out runs/between

scoresde interpolate runs/digits --seeds 0,1 --seeds 2,3 --frames 9 --out runs/seeds
"""


def interpolate(
    ctx: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the results.", rich_help_panel="This call", metavar="FOLDER"
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="A data set, as of `train`, for --between.", metavar="DATA"),
    ] = None,
    data_option: DataOptions = None,
    between: Annotated[
        list[str] | None,
        typer.Option(
            help="The numbers of two samples of DATA, from 0; again for another row.",
            metavar="I,J",
            rich_help_panel="Data",
        ),
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            help="The seeds of two codes of the prior; again for another row.",
            metavar="A,B",
            rich_help_panel="Data",
        ),
    ] = None,
    unconditional: Unconditional = False,
    label: Annotated[
        str | None,
        typer.Option(
            help="Decode as this class, by name or number; by default as that of the first sample "
            "of a pair, or no class for --seeds; none for no class.",
            metavar="CLASS",
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(help="Samples from one end to the other, both included.", metavar="N")
    ] = 9,
    shape: Annotated[
        str | None,
        typer.Option(
            help="The shape of one sample, e.g. 1x28x28, if the checkpoint does not say it.",
            metavar="CxHxW",
        ),
    ] = None,
    tolerance: Tolerance = 1e-5,
    batch_size: BatchSize = 256,
    device: Device = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Walk from one sample to another through the latent space of the probability flow.

    Both ends are encoded, the codes between them lie on the great circle that joins them (slerp),
    and every code is decoded. The ends are two samples of a data set (DATA, --between) or two
    draws of the prior (--seeds). Written are interpolation.png (for images and 2-D data),
    interpolation.npz with x (rows, frames, ...), z and, as of `scoresde decode`, raw in the units
    of the training data, and config.json.
    """
    import numpy as np

    from scoresde._check import fail

    if bool(between) == bool(seeds) or bool(between) != (data is not None):
        got = {"data": data, "between": between, "seeds": seeds}
        remedy = "pass digits --between 3,17, or --seeds 0,1"
        raise fail(
            "between, seeds", "a data set and two of its samples, or two seeds", got, remedy
        )
    if frames < 2:
        raise fail("frames", "at least 2, the two ends", frames, "pass e.g. --frames 9")
    check_folder(out, overwrite)
    opened = open_checkpoint(model, device)
    pairs = [_pair("between" if between else "seeds", text) for text in between or seeds or ()]
    if data is not None:
        ends = _encoded(opened, data, data_option, pairs, tolerance, unconditional)
    else:
        ends = _drawn(opened, pairs, opened.shape(shape))
    wanted = ends[2] if label is None else opened.labels(label, len(pairs))
    x, z = _walk(opened, ends[0], ends[1], wanted, frames, (tolerance, batch_size))
    claim_folder(out, overwrite, ("interpolation.*",))
    result: dict[str, Any] = {
        "out": str(out),
        "pairs": pairs,
        "frames": frames,
        "shape": tuple(x.shape[2:]),
        "picture": None,
        "arrays": str(out / "interpolation.npz"),
    }
    if is_first():
        write_config(ctx, out)
        np.savez(out / "interpolation.npz", x=x.numpy(), z=z.numpy(), **raw_values(opened, x))
        if drawable(x.shape[2:]):
            result["picture"] = str(out / "interpolation.png")
            _draw(x, out / "interpolation.png", opened)
    text = f"{len(pairs)} x {frames} samples in {out}: " + ", ".join(
        name for name in ("interpolation.npz", result["picture"] and "interpolation.png") if name
    )
    if not drawable(x.shape[2:]):
        text += f"\nno picture: {why_not(x.shape[2:])}"
    emit(result, text, as_json)


def _draw(x: Tensor, file: Path, opened: Opened) -> None:
    """Images (pairs, frames, C, H, W), a row for each pair; or paths in the plane."""
    if x.ndim > 3:
        draw(x.flatten(0, 1), file, quantisation=opened.quantisation, columns=x.shape[1])
        return
    from scoresde import plot

    plot.save(plot.paths_2d(x.transpose(0, 1).float()), file)


def _pair(option: str, text: str) -> tuple[int, int]:
    try:
        first, second = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option}: expected two numbers, e.g. 3,17, got {text!r}") from None
    if min(first, second) < 0:
        raise ValueError(f"{option}: expected numbers of 0 or above, got {text!r}")
    return first, second


Ends = tuple["Tensor", "Tensor", dict[str, "Tensor"]]
"""Codes of the two ends of each pair, and the conditions to decode with."""


def _encoded(
    opened: Opened,
    data: str,
    options: list[str] | None,
    pairs: list[tuple[int, int]],
    tolerance: float,
    unconditional: bool,
) -> Ends:
    import torch

    from scoresde._check import fail
    from scoresde.sampler import encode

    samples = open_samples(opened, data, options, unconditional=unconditional)
    highest = max(max(pair) for pair in pairs)
    if highest >= len(samples):
        remedy = "count from 0"
        raise fail("between", f"numbers below {len(samples)}, as many samples", highest, remedy)
    sde, solver, codes, conds = opened.model.sde, flow_solver(tolerance), [], []
    for end in (0, 1):
        x, cond = samples.take(torch.tensor([pair[end] for pair in pairs]))
        codes.append(encode(sde, opened.model, x, solver=solver, cond=cond or None).z)
        conds.append(cond)
    return codes[0], codes[1], conds[0]


def _drawn(opened: Opened, pairs: list[tuple[int, int]], shape: tuple[int, ...]) -> Ends:
    """Codes of the prior, those with which `scoresde sample` starts its first sample of a seed."""
    import torch

    from scoresde.noise import Independent

    sde, codes = opened.model.sde, []
    like = torch.empty(1, *shape, dtype=_dtype(opened), device=opened.device)
    for end in (0, 1):
        drawn = [sde.sample_prior(Independent(pair[end]).prior(like)) for pair in pairs]
        codes.append(torch.cat(drawn))
    return codes[0], codes[1], {}


def _dtype(opened: Opened) -> Any:
    return next(opened.model.parameters()).dtype


def _walk(
    opened: Opened,
    first: Tensor,
    second: Tensor,
    cond: dict[str, Tensor],
    frames: int,
    work: tuple[float, int],
) -> tuple[Tensor, Tensor]:
    """Samples and codes (pairs, frames, *D) on the great circles between the ends."""
    import torch

    from scoresde.sampler import decode, slerp

    shares = torch.arange(frames, dtype=torch.float64) / (frames - 1)
    z = torch.stack([slerp(first, second, float(w)) for w in shares], 1)
    flat = z.flatten(0, 1)
    whole = {name: value.repeat_interleave(frames) for name, value in cond.items()}
    parts, (tolerance, size) = [], work
    for start in range(0, len(flat), size):
        rows = slice(start, start + size)
        part = {name: value[rows] for name, value in whole.items()}
        solver = flow_solver(tolerance)
        x = decode(opened.model.sde, opened.model, flat[rows], solver=solver, cond=part or None)
        parts.append(x.cpu())
    return torch.cat(parts).reshape(z.shape), z.cpu()
