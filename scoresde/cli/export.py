"""`scoresde export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scoresde.cli.common import Json, Model, Overwrite, check_file, emit, is_first
from scoresde.cli.opened import open_checkpoint

__all__ = ["EXAMPLES", "export"]

EXAMPLES = """Examples:

scoresde export runs/digits --out digits.onnx

scoresde export runs/digits --to program --out digits.pt2

scoresde export runs/images --output eps --shape 3x32x32 --out images.onnx
"""

ENDINGS = {"onnx": ".onnx", "program": ".pt2"}


def _panel(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="File")


def export(
    model: Model,
    out: Annotated[
        Path, _panel("The file: .onnx, or .pt2 for a program.", "--out", metavar="FILE")
    ],
    to: Annotated[
        str | None,
        _panel("onnx, or program for torch.export; by default what the ending says.", "--to"),
    ] = None,
    output: Annotated[
        str | None,
        _panel("What it returns: x0, eps, v, score or flow; x0 by default.", metavar="NAME"),
    ] = None,
    shape: Annotated[
        str | None,
        _panel(
            "The shape of one sample, for example 1x28x28, if the checkpoint does not say it.",
            metavar="SIZES",
        ),
    ] = None,
    opset: Annotated[int | None, _panel("The opset of ONNX; PyTorch's by default.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the network with its preconditioning for another runtime, and verify it.

    The file takes x (B, ...), t (B,) in the time of the SDE and, of a model with classes, label
    (B,), and returns the denoised state or another coordinate of the prediction. It gets its
    name only if it answers as the model does, to float32 rounding, at ten times and several batch
    sizes. What is needed to sample with it elsewhere (SDE, schedule, prior, and of the data the
    levels, the scaling, the columns and the names of the classes) is in the file itself; --json
    prints it, but for the table of the schedule. Needs the extra scoresde[export].
    """
    kind = _kind(out, to)
    if kind == "program" and opset is not None:
        raise ValueError(f"opset: expected none for a program, got {opset}; leave it out")
    check_file(out, overwrite)
    opened = open_checkpoint(model, "cpu")
    if not is_first():
        return
    from scoresde.export import BOUND, export_onnx, export_program

    sizes = opened.shape(shape)
    if kind == "onnx":
        made = export_onnx(
            opened.model, out, sizes, output=output, quantisation=opened.quantisation, opset=opset
        )
    else:
        made = export_program(
            opened.model, out, sizes, output=output, quantisation=opened.quantisation
        )
    size = made.path.stat().st_size
    result = {
        "out": str(made.path),
        "kind": made.kind,
        "bytes": size,
        "output": made.output,
        "deviation": made.deviation,
        "bound": BOUND,
        "checked": made.checked,
        "metadata": {k: v for k, v in made.metadata.items() if k != "schedule"},
    }
    text = (
        f"{made.path}: {made.output} of {type(opened.model.net).__name__}, "
        f"{size / 1e6:.2f} MB\n"
        f"verified at {made.checked} times in 3 batches: deviation {made.deviation:.1e}, "
        f"bound {BOUND:.1e}"
    )
    emit(result, text, as_json)


def _kind(out: Path, to: str | None) -> str:
    """onnx or program, by name or by the ending, which must agree."""
    from scoresde._check import choice

    if to is not None:
        choice("to", to, ENDINGS)
    ending = {suffix: kind for kind, suffix in ENDINGS.items()}.get(out.suffix)
    if ending is None or to not in (None, ending):
        expected = ENDINGS.get(to or "", ".onnx or .pt2")
        raise ValueError(f"out: expected a name that ends in {expected}, got {str(out)!r}")
    return ending
