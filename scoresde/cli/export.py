"""`scoresde export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from scoresde.cli.common import check_file, emit, is_first
from scoresde.cli.config import Call
from scoresde.cli.flags import argument, flag
from scoresde.cli.opened import open_checkpoint

__all__ = ["Export"]

ENDINGS = {"onnx": ".onnx", "program": ".pt2"}


@final
@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the network with its preconditioning for another runtime, and verify it.

    The file takes x (B, ...), t (B,) in the time of the SDE and, if the model has classes, label
    (B,), and returns the denoised state or another coordinate of the prediction. It gets its
    name only if it answers as the model does, to float32 rounding, at ten times and several batch
    sizes. What is needed to sample with it elsewhere (SDE, schedule, prior, and of the data the
    levels, the scaling, the columns and the names of the classes) is in the file itself; --json
    prints it, but for the table of the schedule. Needs the extra scoresde[export].
    """

    EXAMPLES: ClassVar[str] = """
scoresde export runs/digits --out digits.onnx
scoresde export runs/digits --to program --out digits.pt2
scoresde export runs/images --output eps --shape 3x32x32 --out images.onnx
"""

    model: Path = argument("MODEL")
    out: Path = flag()
    """The file: .onnx, or .pt2 for a program."""
    to: str | None = None
    """The format: onnx, or program for torch.export. By default the ending of the file says it."""
    output: str | None = None
    """What the file returns: x0, eps, v, score or flow. The default is x0."""
    shape: str | None = flag(None, metavar="SIZES")
    opset: int | None = None
    """The opset of ONNX. By default it is that of PyTorch."""
    overwrite: bool = False
    json: bool = False

    def run(self, call: Call) -> None:
        """Export."""
        out, kind = self.out, _kind(self.out, self.to)
        if kind == "program" and self.opset is not None:
            raise ValueError(f"opset: expected none for a program, got {self.opset}; leave it out")
        check_file(out, self.overwrite)
        opened = open_checkpoint(self.model, "cpu")
        if not is_first():
            return
        from scoresde.export import BOUND, export_onnx, export_program

        model, sizes, levels = opened.model, opened.shape(self.shape), opened.quantisation
        if kind == "onnx":
            made = export_onnx(
                model, out, sizes, output=self.output, quantisation=levels, opset=self.opset
            )
        else:
            made = export_program(model, out, sizes, output=self.output, quantisation=levels)
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
            f"{made.path}: {made.output} of {type(model.net).__name__}, {size / 1e6:.2f} MB\n"
            f"verified at {made.checked} times in 3 batches: deviation {made.deviation:.1e}, "
            f"bound {BOUND:.1e}"
        )
        emit(result, text, self.json)


def _kind(out: Path, to: str | None) -> str:
    """The format onnx or program, from its name or from the ending, which must agree."""
    from scoresde._check import choice

    if to is not None:
        choice("to", to, ENDINGS)
    ending = {suffix: kind for kind, suffix in ENDINGS.items()}.get(out.suffix)
    if ending is None or to not in (None, ending):
        expected = ENDINGS.get(to or "", ".onnx or .pt2")
        raise ValueError(f"out: expected a name that ends in {expected}, got {str(out)!r}")
    return ending
