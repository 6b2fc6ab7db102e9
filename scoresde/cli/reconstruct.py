"""`scoresde reconstruct`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

from scoresde.cli.common import check_folder, claimed, counted, emit, is_first, say, watched
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.guiding import Guiding, guided
from scoresde.cli.npz import numbers_in, read_npz
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.pictures import drawable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scoresde.measurement import LinearOperator, Measurement
    from scoresde.model import ScoreModel
    from scoresde.posterior import PosteriorSamples

__all__ = ["Drawing", "Measuring", "Reconstruct"]

ARRAYS, PICTURE = "reconstruction.npz", "grid.png"
OPERATORS = ("identity", "mask", "superresolution", "blur", "radon", "fourier", "matrix")


@final
@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Measurement options."""

    operator: str = flag(metavar="NAME")
    """What was measured of each sample: identity (all of it, with NaN in y where nothing was
    observed), mask (the entries where the array mask of the file is true; y holds these, or whole
    samples), superresolution (means over blocks of --factor pixels), blur (by the array kernel, or
    a Gaussian of --blur pixels), radon (projections at --angles angles), fourier (the frequencies
    where the array mask is true), matrix (the array matrix, with a row for each number of y)."""
    noise: float = 0.05
    """The standard deviation of the noise, in the units of y. 0 imposes y exactly, as far as a
    method for that exists."""
    factor: int = 2
    """The size of the blocks of superresolution, in pixels."""
    blur: float = 1.0
    """The standard deviation of the Gaussian blur, in pixels."""
    angles: int = 16
    """The number of angles of radon, evenly spaced over half a turn."""


@final
@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Sampling options."""

    n: int = flag(200, alias="-n")
    """The number of samples of each measurement."""
    method: str = "auto"
    """auto, or twisted, mmps, pigdm, tmpd, ddrm, dps, daps, ddnm or repaint. auto takes twisted,
    which is exact as its particles grow and gives log p(y), if --calls suffice, else the one that
    was closest to exact posteriors."""
    calls: int = 400
    """The network calls and their derivatives for each sample, about."""
    steps: int | None = None
    """The number of steps of the solver, by default as many as --calls allow, at most 100."""


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Draw samples of p(x | y) for measurements y: in-painting, deblurring, tomography and more.

    The file is a .npz with the measurements y, one or several along the first axis; or, with
    --simulate, with clean samples x, from which y is made, and beside which the result is judged.
    Values are in the units of the training data, such as levels of pixels, or in model units with
    --floats. The folder gets reconstruction.npz (x, the samples of each measurement; mean, std,
    low and high, the ends of the 90 % intervals; y), reconstruction.json, config.json, with which
    --config repeats the call, and grid.png for images.
    """

    EXAMPLES: ClassVar[str] = """
scoresde reconstruct runs/digits --operator mask --data y.npz --noise 0.5 --out filled
scoresde reconstruct runs/digits --operator superresolution --factor 2 --data y.npz --out sharp
scoresde reconstruct runs/digits --operator blur --data x.npz --simulate --method mmps --out test
scoresde reconstruct runs/digits --operator matrix --data y.npz --label 3 --n 500 --out threes
"""

    model: Path = argument("MODEL")
    data: Path = flag(metavar="FILE.npz")
    """The file with the arrays y (or x), and mask, kernel or matrix."""
    out: Path = flag(metavar="FOLDER")
    """The folder of the results."""
    simulate: bool = False
    """Measure the clean samples x of the file, and judge the result by them."""
    limit: int | None = None
    """Take this many measurements, the first ones. By default all of them are taken."""
    label: str | None = flag(None, metavar="CLASS")
    """The class of all samples by name or number. By default no class is given."""
    given: list[str] = flag(metavar="NAME=VALUE", many=True)
    """A condition of all samples, as for scoresde sample. The flag may be repeated."""
    floats: bool = False
    """The file and the results are in model units, in place of levels or raw units."""
    shape: str | None = flag(None, metavar="CxHxW")
    seed: int = 0
    batch_size: int = 500
    device: str | None = None
    calling: Calling = Calling()
    guiding: Guiding = Guiding()
    measuring: Measuring = Measuring(operator="identity")
    drawing: Drawing = Drawing()

    def run(self, call: Call) -> None:
        """Reconstruct."""
        import torch

        from scoresde._check import positive_int
        from scoresde.posterior import posterior

        began = time.monotonic()
        check_folder(self.out, self.calling.overwrite)
        opened = open_checkpoint(self.model, self.device)
        shape = opened.shape(self.shape)
        arrays = read_npz("data", self.data, 'write it with numpy.savez("y.npz", y=...)')
        operator = _operator(self.measuring, shape, arrays, self.data)
        units = _Units.of(opened, self.floats)
        measurement, y, truth = _measured(self, operator, units, arrays, shape)
        if self.limit is not None:
            most = positive_int("limit", self.limit)
            y, truth = y[:most], None if truth is None else truth[:most]
        found = posterior(
            _model(self, opened),
            measurement,
            shape,
            method=self.drawing.method,
            n=self.drawing.n,
            calls=self.drawing.calls,
            steps=self.drawing.steps,
            seed=self.seed,
            cond={"y": y.float().to(opened.device)},
            batch_size=self.batch_size,
            dtype=torch.float32,
            device=opened.device,
            progress=watched(self.calling.json),
        )
        judged = {} if truth is None else _judged(found, truth)
        result = {
            "out": str(self.out),
            "measurements": len(y),
            "noise": self.measuring.noise,
            "n": self.drawing.n,
            "method": found.method,
            "why": found.why,
            "bias": found.bias,
            "steps": found.steps,
            "nfe": found.nfe,
            "products": found.products,
            **_evidence(found, units, y),
            **judged,
            "picture": None,
            "seconds": time.monotonic() - began,
        }
        if is_first():
            last = "reconstruction.json"
            with claimed(self.out, self.calling.overwrite, (last, ARRAYS, PICTURE), last) as out:
                result["picture"] = _save(out, opened, found, measurement, y, truth, units)
                call.write(out)
                _write_json(out / last, result)
        emit(result, _text(result), self.calling.json)


@final
@dataclass(frozen=True)
class _Units:
    """The map from the units of a file to those of the model: model = low + width file."""

    low: float
    width: float

    @classmethod
    def of(cls, opened: Opened, floats: bool) -> _Units:
        """That of the levels or of the scaling of the training data, if it is one for all."""
        from scoresde._check import fail
        from scoresde.summary import Scaling

        if floats:
            return cls(0.0, 1.0)
        if opened.quantisation is not None:
            return cls(opened.quantisation.low, opened.quantisation.bin_width)
        scaling = None if opened.data is None else opened.data.scaling
        if scaling is None:
            return cls(0.0, 1.0)
        if not isinstance(scaling, Scaling) or scaling.std.numel() != 1:
            remedy = "pass --floats, with y of standardised values"
            raise fail("floats", "true for data with a scale for each column", floats, remedy)
        std = float(scaling.std)
        return cls(-float(scaling.mean) / std, 1.0 / std)

    def decode(self, x: Tensor) -> Tensor:
        """Model units to those of the file."""
        return (x - self.low) / self.width


Arrays: TypeAlias = Mapping[str, "np.ndarray[Any, Any]"]
"""The arrays of the file by name."""


def _array(arrays: Arrays, name: str, file: Path, why: str) -> Tensor:
    import torch

    from scoresde._check import fail

    remedy = "numpy.savez writes several arrays by name"
    if name not in arrays:
        raise fail("data", f"an array {name} in {file}, {why}", list(arrays), remedy)
    return torch.from_numpy(numbers_in(arrays, name, "data", remedy))


def _operator(
    how: Measuring, shape: tuple[int, ...], arrays: Arrays, file: Path
) -> LinearOperator:
    """The operator of this name, for samples of this shape."""
    from scoresde import measurement as room
    from scoresde._check import choice, fail, positive, positive_int

    name = choice("operator", how.operator, OPERATORS)
    if name == "identity":
        return room.Identity()
    if name in ("mask", "fourier"):
        mask = _array(arrays, "mask", file, f"which the operator {name} takes").bool()
        if name == "fourier":
            return room.Fourier(mask)
        if mask.shape == shape[1:] and len(shape) > 1:
            mask = mask.expand(shape)
        if tuple(mask.shape) != shape:
            remedy = "give it one entry for each of a sample, or for each pixel, of all channels"
            raise fail("data", f"a mask of shape {shape}, that of a sample", mask, remedy)
        return room.Mask(mask)
    if name == "superresolution":
        factor = positive_int("factor", how.factor)
        return room.SuperResolution(factor, dims=max(len(shape) - 1, 1))
    if name == "radon":
        if len(shape) != 3 or shape[1] != shape[2]:
            raise fail("operator", "square images for radon", shape, "take another operator")
        return room.Radon(shape[-1], positive_int("angles", how.angles))
    if name == "blur":
        if "kernel" in arrays:
            kernel = _array(arrays, "kernel", file, "which the operator blur takes")
            return room.Blur(kernel.double())
        dims = 2 if len(shape) == 3 else max(len(shape) - 1, 1)
        return room.Blur(room.gaussian_kernel(positive("blur", how.blur), dims=dims))
    matrix = _array(arrays, "matrix", file, "which the operator matrix takes")
    return room.Matrix(matrix.double(), shape)


def _measured(
    call: Reconstruct,
    operator: LinearOperator,
    units: _Units,
    arrays: Arrays,
    shape: tuple[int, ...],
) -> tuple[Measurement, Tensor, Tensor | None]:
    """The measurement, and y, (P, *M), and the truth, if there is one, in model units."""
    import torch

    from scoresde._check import fail, nonnegative
    from scoresde.measurement import Mask, Measurement

    noise = nonnegative("noise", call.measuring.noise) * units.width
    measurement = Measurement(operator, noise=noise)
    like = torch.zeros((1, *shape), dtype=torch.float64)
    offset = units.low * measurement.mean(
        torch.ones_like(like)
    )  # A is linear, so A(low) = low A(1)
    if call.simulate:
        x = _array(arrays, "x", call.data, "which --simulate measures").double()
        x = x[None] if tuple(x.shape) == shape else x
        if tuple(x.shape[1:]) != shape:
            raise fail("data", f"samples x of shape (P, {shape})", x, "--shape says another one")
        truth = units.low + units.width * x
        return measurement, measurement.simulate(truth, seed=call.seed), truth
    y = _array(arrays, "y", call.data, "or x and --simulate").double()
    sizes = measurement.shape(like)
    masked = isinstance(operator, Mask)
    if masked and tuple(y.shape[-len(shape) :]) == shape:  # whole samples: the mask selects
        y = operator(y.reshape(-1, *shape))
    y = y[None] if tuple(y.shape) == sizes else y
    if tuple(y.shape[1:]) != sizes:
        many = ", ".join(str(size) for size in ("P", *sizes))
        whole = f", or whole samples, (P, {', '.join(map(str, shape))})" if masked else ""
        expected = f"y of shape {sizes}, or ({many}) for P measurements{whole}"
        raise fail("data", expected, y, "check --operator and its options")
    return measurement, offset + units.width * y, None


def _model(call: Reconstruct, opened: Opened) -> ScoreModel:
    """The model, guided, with the conditions of the command line fixed."""
    import torch

    from scoresde._check import fail
    from scoresde.conditioned import Conditioned

    cond = opened.given(call.given)
    turns = opened.turns(call.label)
    if turns is not None:
        if len(turns) != 1:
            raise fail("label", "one class for all samples", call.label, "leave it out for any")
        cond["label"] = torch.tensor(turns[0], device=opened.device)
    elif opened.classes:
        say("samples are not given a class (--label gives it)")
    model = guided(opened, call.guiding, cond)
    return Conditioned(model, cond) if cond else model


def _evidence(found: PosteriorSamples, units: _Units, y: Tensor) -> dict[str, Any]:
    """log p(y) in the units of the file, and its standard error."""
    import math

    if found.log_evidence is None or found.log_evidence_error is None:
        return {"log_evidence": None, "log_evidence_error": None}
    # A density per unit of the file is that per unit of the model times its width, each number.
    counts = (~y.isnan()).flatten(1).sum(1).to(found.log_evidence)
    value = found.log_evidence + counts * math.log(units.width)
    return {
        "log_evidence": value.tolist(),
        "log_evidence_error": found.log_evidence_error.tolist(),
    }


def _judged(found: PosteriorSamples, truth: Tensor) -> dict[str, float | None]:
    """The peak signal-to-noise ratio of the mean, and the coverage of the 90 % intervals.

    A truth that is constant has no peak, and the ratio is None.
    """
    import math

    low, high = (end.double().cpu() for end in found.interval(0.9))
    mean = found.mean.double().cpu()
    error = float((mean - truth).square().mean())
    peak = float(truth.max() - truth.min())
    inside = ((truth >= low) & (truth <= high)).double().mean()
    return {
        "psnr": 10.0 * math.log10(peak**2 / max(error, 1e-30)) if peak else None,
        "coverage_90": float(inside),
    }


def _save(
    out: Path,
    opened: Opened,
    found: PosteriorSamples,
    measurement: Measurement,
    y: Tensor,
    truth: Tensor | None,
    units: _Units,
) -> str | None:
    """Write the arrays and the picture, and return the place of the picture if there is one."""
    import numpy as np

    from scoresde._io import replacing

    low, high = found.interval(0.9)
    arrays = {"x": found.x, "mean": found.mean, "low": low, "high": high}
    stored = {name: units.decode(value.double().cpu()) for name, value in arrays.items()}
    stored["std"] = found.std.double().cpu() / units.width
    offset = units.low * measurement.mean(y.new_ones((1, *found.x.shape[2:])))
    stored["y"] = (y - offset) / units.width
    if truth is not None:
        stored["truth"] = units.decode(truth)
    with replacing(out / ARRAYS) as place, place.open("wb") as file:
        arrays_of_file: dict[str, Any] = {name: value.numpy() for name, value in stored.items()}
        np.savez(file, **arrays_of_file)
    if not drawable(found.x.shape[2:]) or found.x.ndim != 5:
        return None
    picture = out / PICTURE
    _draw(picture, opened, found, measurement, y, truth)
    return str(picture)


MOST_ROWS, SHOWN = 8, 3
"""The measurements in a picture, and the samples of each."""


def _draw(
    picture: Path,
    opened: Opened,
    found: PosteriorSamples,
    measurement: Measurement,
    y: Tensor,
    truth: Tensor | None,
) -> None:
    from scoresde import plot

    quantisation = opened.quantisation
    low, high = (-1.0, 1.0) if quantisation is None else (quantisation.low, quantisation.high)
    back = measurement.back_projection(y[:MOST_ROWS])
    if not measurement.need_linear("reconstruct").decomposable:  # A^T y has a range of its own
        back = low + (high - low) * (back - back.min()) / (back.max() - back.min()).clamp_min(1e-9)
    figure = plot.reconstructions(
        back,
        found.mean[:MOST_ROWS],
        found.std[:MOST_ROWS],
        found.x[:MOST_ROWS, :SHOWN],
        truth=None if truth is None else truth[:MOST_ROWS],
        low=low,
        high=high,
    )
    plot.save(figure, picture)


def _write_json(file: Path, result: Mapping[str, Any]) -> None:
    import json

    from scoresde._io import write

    write(file, (json.dumps(result, indent=1) + "\n").encode())


def _text(result: Mapping[str, Any]) -> str:
    """The result for a reader."""
    lines = [
        f"{result['out']}: {counted(result['n'], 'sample')} for each of "
        f"{counted(result['measurements'], 'measurement')}, by {result['method']!r} in "
        f"{counted(result['steps'], 'step')}",
        f"noise of standard deviation {result['noise']:g}, in the units of y",
        f"why: {result['why']}",
        f"bias: {result['bias']}",
    ]
    if result["log_evidence"] is not None:
        pairs = zip(result["log_evidence"], result["log_evidence_error"], strict=True)
        said = ", ".join(f"{value:.2f} +- {error:.2f}" for value, error in list(pairs)[:8])
        lines.append(f"log p(y) in nats: {said}")
    if "psnr" in result:
        ratio = "not defined" if result["psnr"] is None else f"{result['psnr']:.1f} dB"
        lines.append(
            f"beside the truth: PSNR of the mean {ratio}, coverage of the 90 % intervals "
            f"{100 * result['coverage_90']:.0f} %"
        )
    if result["picture"]:
        lines.append(f"{result['picture']}: truth or measurement, mean, std and samples")
    return "\n".join(lines)
