"""Export of a score model to one file: ONNX, or a program of torch.export."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, need, path_of
from scoresde._html import Shown
from scoresde._io import replacing
from scoresde.export.about import BOUND, about_network
from scoresde.export.network import Trial, prepare
from scoresde.model import ScoreModel
from scoresde.quantisation import Quantisation

__all__ = ["BOUND", "Exported", "export_onnx", "export_program"]

KEY = "scoresde"
LARGEST = 2**31 - 2**24  # the most bytes of weights in an ONNX file, with room for the graph

Run: TypeAlias = Callable[[tuple[Tensor, ...]], Tensor]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Exported(Shown):
    """An exported file and its verification against the model.

    Attributes:
        path: the file.
        kind: "onnx" or "program".
        output: the coordinate that it returns: "x0", "eps", "v", "score" or "flow".
        deviation: the largest difference from the model, relative to the largest term of the
            output (see `export_onnx`); at most `BOUND`.
        checked: the number of samples, each with its own time, that were compared.
        metadata: the metadata in the file.
    """

    path: Path
    kind: str
    output: str
    deviation: float
    checked: int
    metadata: Mapping[str, object]


def export_onnx(
    model: ScoreModel,
    path: str | os.PathLike[str],
    shape: Sequence[int],
    *,
    output: str | None = None,
    classes: int | None = None,
    quantisation: Quantisation | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a model, network and preconditioning, as a verified ONNX file.

    The inputs of the graph are x: (B, *D) float32, the state; t: (B,) float64, the times of the
    SDE (not of the network; in float64 because 1 - t matters near T); and for a model with classes
    label: (B,) int64, -1 for none. B is arbitrary. The output is one coordinate of the prediction,
    (B, *D) float32. Weights are stored in float32; a model in another dtype is converted.

    Before the file gets its name, onnxruntime runs it on random states at ten times from T to
    t_end, in batches of 1, 2 and 7. If the output of the model is A x + B value, with value the
    output of its network, the outputs may differ by at most 3e-5 (256 float32 roundings) of the
    larger of max |A x| and max |B value| in a sample. A larger deviation is an error and leaves no
    file.

    The metadata suffice to sample elsewhere. They are JSON, in Python
    `json.loads(session.get_modelmeta().custom_metadata_map["scoresde"])`, and contain the output,
    the inputs, the SDE, the standard deviation of the prior, and `schedule`: t, alpha, sigma and
    log_snr at 201 nodes from T to t_end, equidistant in log_snr, of which every (200 / N)-th is a
    node of the "log_snr" grid of N steps. `data` is the summary of the training data: range, names
    of classes and of columns, and `scaling`: a raw value is mean + std x, or a table has `parts`,
    the fields of `scoresde.columns.Number` and `Category` for each column.

    Args:
        model: the model, which is copied and not changed.
        path: the file, ending in .onnx.
        shape: (*D), the shape of one sample.
        output: "x0", "eps", "v", "score" or "flow". The default is "x0", the denoised state, which
            fits every sampler and any prediction of the network, or "score" under an SDE that is
            not affine.
        classes: number of classes of the label input; by default that of a network of
            `scoresde.nets`, and 0 for any other.
        quantisation: which integers the data stand for; goes into the metadata.
        opset: the ONNX opset; by default that of the installed PyTorch.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing; install 'scoresde[export]'.
        TypeError: the model is not a `ScoreModel`.
        ValueError: the suffix, output or shape is wrong, the model cannot be traced, the weights
            exceed 2 GB, or the file deviates from its model.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE, Preconditioned
        >>> from scoresde.nets import MLP
        >>> model = Preconditioned(MLP(2, width=8), VPSDE())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export_onnx(model, f"{folder}/model.onnx", (2,))
        ...     exported.output, exported.deviation < BOUND, exported.path.exists()
        ('x0', True, True)
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        need(name, "export")
    place = _place(path, ".onnx")
    network, example, trials = prepare(model, shape, output, classes)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    if weights > LARGEST:
        remedy = "take export_program: an ONNX file ends at 2 GB"
        raise fail("model", "less than 2 GB of weights", f"{weights / 1e9:.1f} GB", remedy)
    with _quiet(), _explained("torch.onnx.export"):
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=opset,
            input_names=list(_names(example)),
            output_names=[network.output],
            dynamic_shapes=tuple({0: batch} for _ in example),
        )
    proto = program.model_proto  # type: ignore[union-attr]  # None only for the old exporter
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    if opset is not None and opsets["ai.onnx"] != opset:
        remedy = "leave it out, or take one that PyTorch can convert to"
        expected = f"one that this model can be written in, as {opsets['ai.onnx']}"
        raise fail("opset", expected, opset, remedy)
    about = about_network(network, example, quantisation, "onnx onnxscript onnxruntime") | {
        "opset": opsets["ai.onnx"]
    }
    need("onnx.helper", "export").set_model_props(proto, {KEY: json.dumps(about)})

    def write(file: Path) -> None:
        file.write_bytes(proto.SerializeToString())

    return _finish(place, "onnx", network.output, trials, about, write, _onnx_runner)


def export_program(
    model: ScoreModel,
    path: str | os.PathLike[str],
    shape: Sequence[int],
    *,
    output: str | None = None,
    classes: int | None = None,
    quantisation: Quantisation | None = None,
) -> Exported:
    """Write a model as a verified program of torch.export.

    Inputs, output and verification are those of `export_onnx`.
    `torch.export.load(path).module()(x, t)` runs it without this library; the metadata are the
    extra file "scoresde.json":
    `torch.export.load(path, extra_files=(files := {"scoresde.json": ""}))`. PyTorch does not
    guarantee that other versions of it can read the file, and unpickles parts of it: load only
    files that you trust.

    Args:
        model, shape, output, classes, quantisation: see `export_onnx`.
        path: the file, ending in .pt2.

    Raises:
        TypeError, ValueError: see `export_onnx`.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE, Preconditioned
        >>> from scoresde.nets import MLP
        >>> model = Preconditioned(MLP(2, width=8), VPSDE())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export_program(model, f"{folder}/model.pt2", (2,), output="eps")
        ...     program = torch.export.load(exported.path).module()
        >>> program(torch.zeros(3, 2), torch.full((3,), 0.5, dtype=torch.float64)).shape
        torch.Size([3, 2])
    """
    place = _place(path, ".pt2")
    network, example, trials = prepare(model, shape, output, classes)
    about = about_network(network, example, quantisation, "")
    with _quiet(), _explained("torch.export"):
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            network, example, dynamic_shapes=tuple({0: batch} for _ in example)
        )

    def write(file: Path) -> None:
        with _quiet():
            torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(about)})

    return _finish(place, "program", network.output, trials, about, write, _program_runner)


def _names(inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
    return ("x", "t", "label")[: len(inputs)]


def _finish(
    place: Path,
    kind: str,
    output: str,
    trials: Sequence[Trial],
    about: Mapping[str, object],
    write: Callable[[Path], None],
    runner: Callable[[Path], Run],
) -> Exported:
    """Write to a temporary file, run it, compare with the model, and rename it."""
    with replacing(place) as half:
        write(half)
        run = runner(half)
        worst = max(trial.deviation(run(trial.inputs)) for trial in trials)
        if not worst <= BOUND:  # NaN, too
            remedy = "the file was removed: keep to PyTorch, or report the layers of the network"
            expected = f"a file that is within {BOUND:.1g} of its model"
            raise fail("model", expected, f"a deviation of {worst:.3g}", remedy)
    checked = sum(len(trial.size) for trial in trials)
    return Exported(place, kind, output, worst, checked, about)


def _onnx_runner(file: Path) -> Run:
    runtime = need("onnxruntime", "export")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        feed = dict(zip(_names(inputs), (value.numpy() for value in inputs), strict=True))
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def _program_runner(file: Path) -> Run:
    with _quiet():
        program = torch.export.load(file).module()

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            out: Tensor = program(*inputs)
        return out

    return run


# The exporters of PyTorch


def _place(path: str | os.PathLike[str], suffix: str) -> Path:
    place = path_of("path", path)
    if place.suffix != suffix:
        raise fail(
            "path", f"a file that ends in {suffix}", str(path), f"pass {place.stem}{suffix}"
        )
    if place.is_dir():
        raise fail("path", "a file", str(path), "a folder stands there; name another")
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages of PyTorch about its internals and about optional packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _explained(tool: str) -> Iterator[None]:
    """Re-raise an exporter's error with its first line and a remedy."""
    try:
        yield
    except Exception as error:  # the exporters raise whatever the traced code raises
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        remedy = (
            "the network and the SDE must consist of torch operations, without branches on "
            "values; its whole message is the cause of this error"
        )
        got = f"{type(error).__name__}: {first}"
        raise fail("model", f"a model that {tool} can trace", got, remedy) from error
