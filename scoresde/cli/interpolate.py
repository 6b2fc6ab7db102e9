"""`scoresde interpolate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde._io import replacing
from scoresde.cli.common import check_folder, claimed, emit, is_first
from scoresde.cli.config import Call
from scoresde.cli.encode import flow_solver, raw_values
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.guiding import Guiding, guided
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.pictures import draw, drawable, why_not
from scoresde.cli.samples import open_samples

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde.model import ScoreModel

__all__ = ["Interpolate"]


@final
@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Walk from one sample to another through the latent space of the probability flow.

    Both ends are encoded, the codes between them lie on the great circle that joins them (slerp),
    and every code is decoded. The ends are two samples of a data set (DATA, --between) or two
    draws of the prior (--seeds). The folder gets interpolation.png (for images and 2-D data),
    interpolation.npz with x (rows, frames, ...), z and, as `scoresde decode` writes it, raw in the
    units of the training data, and config.json.
    """

    EXAMPLES: ClassVar[str] = """
scoresde interpolate runs/digits digits --between 3,17 --out runs/between
scoresde interpolate runs/digits --seeds 0,1 --seeds 2,3 --frames 9 --out runs/seeds
"""

    model: Path = argument("MODEL")
    data: str | None = argument("DATA", None)
    """A data set, as for scoresde train, for --between."""
    out: Path = flag(metavar="FOLDER")
    """The folder of the results."""
    data_option: list[str] = field(default_factory=list)
    between: list[str] = flag(metavar="I,J", many=True)
    """The numbers of two samples of DATA, from 0. The flag may be repeated for further rows."""
    seeds: list[str] = flag(metavar="A,B", many=True)
    """The seeds of two codes of the prior. The flag may be repeated for further rows."""
    unconditional: bool = False
    label: str | None = flag(None, metavar="CLASS")
    """Decode as this class, by name or number. By default it is that of the first sample of a
    pair, or no class for --seeds; none takes no class."""
    frames: int = 9
    """The number of samples from one end to the other, both included."""
    shape: str | None = flag(None, metavar="CxHxW")
    tolerance: float = 1e-5
    batch_size: int = 256
    device: str | None = None
    calling: Calling = Calling()
    guiding: Guiding = Guiding()

    def run(self, call: Call) -> None:
        """Interpolate."""
        import numpy as np

        from scoresde._check import fail

        out, between, seeds = self.out, self.between, self.seeds
        if bool(between) == bool(seeds) or bool(between) != (self.data is not None):
            got = {"data": self.data, "between": between, "seeds": seeds}
            remedy = "pass digits --between 3,17, or --seeds 0,1"
            expected = "a data set and two of its samples, or two seeds"
            raise fail("between, seeds", expected, got, remedy)
        if self.frames < 2:
            raise fail("frames", "at least 2, the two ends", self.frames, "pass e.g. --frames 9")
        check_folder(out, self.calling.overwrite)
        opened = open_checkpoint(self.model, self.device)
        pairs = [_pair("between" if between else "seeds", text) for text in between or seeds]
        if self.data is not None:
            ends = self._encoded(opened, self.data, pairs)
        else:
            ends = _drawn(opened, pairs, opened.shape(self.shape))
        wanted = ends[2]
        if self.label is not None:
            others = {name: value for name, value in wanted.items() if name != "label"}
            wanted = others | opened.labels(self.label, len(pairs))
        work = (self.tolerance, self.batch_size)
        model = guided(opened, self.guiding, wanted)
        x, z = _interpolate(model, ends[0], ends[1], wanted, self.frames, work)
        result: dict[str, Any] = {
            "out": str(out),
            "pairs": pairs,
            "frames": self.frames,
            "shape": tuple(x.shape[2:]),
            "picture": None,
            "arrays": str(out / "interpolation.npz"),
        }
        if is_first():
            with claimed(out, self.calling.overwrite, ("interpolation.*",), "interpolation.npz"):
                if drawable(x.shape[2:]):
                    result["picture"] = str(out / "interpolation.png")
                    _draw(x, out / "interpolation.png", opened)
                call.write(out)
                with replacing(out / "interpolation.npz") as half:
                    np.savez(half, x=x.numpy(), z=z.numpy(), **raw_values(opened, x))
        names = ("interpolation.npz", result["picture"] and "interpolation.png")
        text = f"{len(pairs)} x {self.frames} samples in {out}: "
        text += ", ".join(name for name in names if name)
        if not drawable(x.shape[2:]):
            text += f"\nno picture: {why_not(x.shape[2:])}"
        emit(result, text, self.calling.json)

    def _encoded(self, opened: Opened, data: str, pairs: list[tuple[int, int]]) -> Ends:
        import torch

        from scoresde._check import fail
        from scoresde.sampler import encode

        samples = open_samples(opened, data, self.data_option, unconditional=self.unconditional)
        highest = max(max(pair) for pair in pairs)
        if highest >= len(samples):
            expected = f"numbers below {len(samples)}, as many samples"
            raise fail("between", expected, highest, "count from 0")
        model = guided(opened, self.guiding, samples.names)
        solver, codes, conds = flow_solver(self.tolerance), [], []
        for end in (0, 1):
            x, cond = samples.take(torch.tensor([pair[end] for pair in pairs]))
            codes.append(encode(model.sde, model, x, solver=solver, cond=cond or None).z)
            conds.append(cond)
        return codes[0], codes[1], conds[0]


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
"""The codes of the two ends of each pair, and the conditions for decoding."""


def _drawn(opened: Opened, pairs: list[tuple[int, int]], shape: tuple[int, ...]) -> Ends:
    """Draw codes of the prior, as `scoresde sample` does for the first sample of a seed."""
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


def _interpolate(
    model: ScoreModel,
    first: Tensor,
    second: Tensor,
    cond: dict[str, Tensor],
    frames: int,
    work: tuple[float, int],
) -> tuple[Tensor, Tensor]:
    """Compute samples and codes (pairs, frames, *D) on the great circles between the ends."""
    import torch

    from scoresde._tensor import batches
    from scoresde.sampler import decode, slerp

    shares = torch.arange(frames, dtype=torch.float64) / (frames - 1)
    z = torch.stack([slerp(first, second, float(w)) for w in shares], 1)
    flat = z.flatten(0, 1)
    whole = {name: value.repeat_interleave(frames, 0) for name, value in cond.items()}
    parts, (tolerance, size) = [], work
    for rows, part in batches(len(flat), size, whole):
        solver = flow_solver(tolerance)
        x = decode(model.sde, model, flat[rows], solver=solver, cond=part)
        parts.append(x.cpu())
    return torch.cat(parts).reshape(z.shape), z.cpu()
