"""Options in groups: the functions, the command line and config.json share these dataclasses.

Each default stands here and nowhere else. A field of a plain type (a number, a string, a switch)
is at the same time a flag of the command line, with the docstring below it as its help, so a new
option is one line and its docstring. This module does not load torch, which `--help` can do
without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

from scoresde._check import (
    check_decay,
    check_width,
    choice,
    fail,
    finite,
    instance,
    keep,
    nonnegative,
    positive,
    positive_int,
    switch,
    whole,
    wrong_type,
)
from scoresde._html import Shown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DIVERGENCES",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PRECISIONS",
    "PROBES",
    "SCHEDULES",
    "Divergence",
    "Loss",
    "Optim",
    "Pictures",
    "Records",
    "Table",
    "Tolerances",
    "known",
]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""The learning rate after the warm-up, as a share of `lr` at a progress from 0 to 1."""

DIVERGENCES = ("hutchinson", "exact", "hutch++")
"""Estimators of tr J.

- "hutchinson": the mean of v^T J v over probes v with E v v^T = I (Hutchinson 1990), as in
  Grathwohl et al. 2019 (FFJORD, arXiv 1810.01367);
- "exact": one product for each dimension;
- "hutch++": half of the vectors span J S for a random S, on which the trace is exact, and the
  others probe its complement (Meyer et al. 2021, arXiv 2010.09649). The span is computed once, at
  the data, so that the field is one fixed function throughout the solve.
"""

PROBES = ("rademacher", "gaussian")
"""Distributions of the probes."""

OPTIMIZERS = ("adamw", "muon")
"""The optimisers (see `scoresde.training.optimizer`)."""

PRECISIONS = ("no", "bf16", "auto")
"""The precisions of the network in training."""

OBJECTIVES = ("quality", "likelihood")
"""What a recipe is for: the quality of samples, or the likelihood of data."""

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class Optim:
    """Options of the optimiser.

    A step takes `batch_size` x `accumulate` x processes samples. Every field that is None is set
    by the recipe for the data and the objective, a `scoresde.training.Recipe`; a `Trainer` has
    the values of its run in `trainer.optim`.

    Raises:
        TypeError, ValueError: a value is of another type or out of range, or both `ema` and
            `ema_width` are given.

    Example:
        >>> Optim(lr=2e-3).schedule
        'cosine'
        >>> Optim(lr=0.0)
        Traceback (most recent call last):
        ValueError: lr: expected a finite number > 0, got 0.0; pass a number above 0
    """

    batch_size: int | None = None
    """Number of samples in one forward pass of one process. By default that of the recipe."""

    accumulate: int = 1
    """Number of forward passes whose gradients are averaged for one step."""

    optimizer: str | None = None
    """The optimiser: adamw, or muon for the matrices of the hidden layers and adamw for the
    rest, with one learning rate for both. By default that of the recipe."""

    lr: float | None = None
    """The highest learning rate. By default that of the recipe."""

    warmup: int | None = None
    """Number of steps in which the learning rate rises from 0. By default a share of all steps,
    that of the recipe."""

    schedule: str = "cosine"
    """The learning rate after the warm-up: cosine (it falls to 0 at the last step) or constant."""

    weight_decay: float | None = None
    """The weight decay, of AdamW and of Muon. By default that of the recipe."""

    clip: float | None = None
    """The largest norm of the gradient. 0 disables the limit. By default that of the recipe."""

    ema: float | None = None
    """The decay of the exponential moving average of the weights, in [0, 1). With 0 no average is
    kept. By default the average is that of --ema-width."""

    ema_width: float | None = None
    """The length of the average of the weights as a share of the run: the width of its profile,
    from 0 to 0.2886 (see `scoresde.training.EMA`). By default that of the recipe."""

    precision: str | None = None
    """The precision of the network: no, bf16 for autocast (the weights stay as they are), or
    auto for bf16 where the processor computes in it. By default that of the recipe."""

    compile: bool | None = None
    """Send the network through torch.compile. By default the recipe decides."""

    freeze: tuple[str, ...] = ()
    """Patterns of the names of parameters that are not trained, for example condition.*,enter.*"""

    max_nonfinite: int = 10
    """Number of steps in a row without a finite loss and gradient that ends the run."""

    def __post_init__(self) -> None:
        for name in ("accumulate", "max_nonfinite"):
            keep(self, name, positive_int)
        keep(self, "batch_size", positive_int, optional=True)
        if self.optimizer is not None:
            choice("optimizer", self.optimizer, OPTIMIZERS)
        keep(self, "lr", positive, optional=True)
        keep(self, "warmup", _steps, optional=True)
        for name in ("weight_decay", "clip"):
            keep(self, name, nonnegative, optional=True)
        choice("schedule", self.schedule, SCHEDULES)
        keep(self, "ema", check_decay, optional=True)
        keep(self, "ema_width", check_width, optional=True)
        if self.ema is not None and self.ema_width is not None:
            remedy = "pass one of them: a decay, or a width as a share of the run"
            raise fail("ema_width", "None beside ema", self.ema_width, remedy)
        keep(self, "compile", switch, optional=True)
        if self.precision is not None:
            choice("precision", self.precision, PRECISIONS)
        keep(self, "freeze", _names, "pass ('enter.*',)")

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step number `step`, from 0, of so many: warm-up, then schedule.

        It needs `lr` and `warmup`, which the recipe fills in.
        """
        warmup, lr = known(self.warmup), known(self.lr)
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, steps - warmup)
        return lr * SCHEDULES[self.schedule](progress)


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Loss(Shown):
    """Options of the loss.

    Every field that is None is set by the recipe for the data and the objective, a
    `scoresde.training.Recipe`; a `Trainer` has the values of its run in `trainer.loss`.

    Raises:
        TypeError, ValueError: a value is of another type or out of range.
    """

    objective: str = "quality"
    """What the recipe is for: quality of samples, or likelihood (bits/dim)."""

    function: Callable[..., Tensor] | None = None
    """The loss(model, x0, *, weighting, time, cond, cond_dropout, generator) -> (B,). By default
    `scoresde.dsm_loss`."""

    weighting: str | Callable[..., Any] | None = None  # Any: the number or tensor w(node)
    """The weighting of the loss: a key of `scoresde.losses.WEIGHTINGS`, or in Python a function
    w(node) on the squared error of eps. By default that of the recipe."""

    time: Any = None  # a TimeSampler, which stands in a higher layer
    """How times are drawn. By default as the recipe says (`scoresde.losses.TIMES`)."""

    cond_dropout: float | None = None
    """Probability of training a sample without its conditions, and of several with a random part
    of them alone. By default that of the recipe where the model has a null value for each
    condition of the data, such as labels, else 0."""

    augment: float | None = None
    """Probability of each of the transformations of images: mirror, scale, rotation and shift.
    The network sees them as a condition, so samples do not show them. By default that of the
    recipe."""

    def __post_init__(self) -> None:
        for name in ("cond_dropout", "augment"):
            keep(self, name, _probability, optional=True)
        choice("objective", self.objective, OBJECTIVES)
        if self.function is not None and not callable(self.function):
            raise wrong_type("loss", "a function like dsm_loss", self.function, "pass dsm_loss")


@final
@dataclass(frozen=True, kw_only=True)
class Records:
    """Logging and checkpoint options.

    Raises:
        TypeError, ValueError: a value is of another type or out of range.
    """

    log_every: int = 50
    """Number of steps between two rows of history.csv, where the device is waited for."""

    checkpoint_every: int = 1000
    """Number of steps between two checkpoints. One is always written at the end."""

    keep: int = 1
    """Number of checkpoints to keep. With more than one, the last ones are in checkpoints/STEP,
    and where checkpoint/ is damaged a run resumes from the one before it."""

    validate_every: int | None = None
    """Number of steps between two validations. By default that between two checkpoints, or a
    tenth of all steps if that is less."""

    buckets: int = 8
    """Number of equal parts of the time interval in each of which the validation loss is taken."""

    patience: int | None = None
    """Number of validations in a row without a lower loss after which the run ends. The result is
    then the averaged model of the lowest loss. By default a run makes all its steps."""

    snapshot_every: int | None = None
    """Number of steps between two snapshots of two averages of the weights, from which
    `posthoc_ema` makes an average of any length. By default none is written."""

    widths: tuple[float, float] = (0.05, 0.10)
    """The widths of the profiles of these two averages (see `PowerEMA`)."""

    calibrate: tuple[int, ...] | None = (5, 10, 20)
    """Numbers of steps for which the solver is calibrated to the model at the end, within 3 % of
    the training's network evaluations; fewer where these do not suffice. solver="auto" uses the
    calibrations. With None, on the command line 0, none is made."""

    tensorboard: bool | None = None
    """Write the files of TensorBoard too. By default they are written if it is installed."""

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep", "buckets"):
            keep(self, name, positive_int)
        for name in ("validate_every", "snapshot_every", "patience"):
            keep(self, name, positive_int, optional=True)
        if self.calibrate is not None:
            counts: object = self.calibrate
            if not isinstance(counts, Sequence) or isinstance(counts, str):
                remedy = "pass (5, 10, 20), or None for no calibration"
                raise wrong_type("calibrate", "numbers of steps", counts, remedy)
            wanted = tuple(counts) not in ((), (0,))
            checked_counts = tuple(positive_int("calibrate", n) for n in counts if wanted)
            _set(self, "calibrate", checked_counts or None)
        if not isinstance(self.widths, Sequence) or isinstance(self.widths, str):
            raise wrong_type("widths", "two widths", self.widths, "pass (0.05, 0.10)")
        checked = tuple(check_width("widths", width) for width in self.widths)
        if len(checked) != 2 or checked[0] == checked[1]:
            raise fail("widths", "two different widths", self.widths, "pass (0.05, 0.10)")
        _set(self, "widths", checked)

    def validates_every(self, steps: int) -> int:
        """The number of steps between two validations in a run of so many steps."""
        return self.validate_every or min(self.checkpoint_every, math.ceil(steps / 10))

    def validates(self, done: int, steps: int) -> bool:
        """Whether a run of so many steps is validated after step number `done`."""
        return done == steps or done % self.validates_every(steps) == 0


@final
@dataclass(frozen=True)
class Tolerances:
    """Tolerances of an adaptive solve.

    Raises:
        TypeError, ValueError: a value is of another type or out of range.
    """

    rtol: float = 1e-5
    """The relative tolerance of a step."""

    atol: float = 1e-5
    """The absolute tolerance of a step."""

    max_nfe: int = 10_000
    """The most network calls for a sample. Samples that would need more are NaN."""

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            keep(self, name, positive)
        keep(self, "max_nfe", positive_int)


@final
@dataclass(frozen=True, repr=False)
class Divergence(Shown):
    """Options of the estimate of the divergence of the probability flow.

    Raises:
        TypeError, ValueError: a value is of another type or out of range.

    Example:
        >>> Divergence("hutch++", probes=4)
        Divergence(kind='hutch++', probes=4, probe='rademacher')
    """

    kind: str = "hutchinson"
    """The estimator: hutchinson, exact (D products) or hutch++ (K // 2 of the probes define a
    subspace)."""

    probes: int = 1
    """The number K of random vectors. Two or more (four for hutch++) give standard errors."""

    probe: str = "rademacher"
    """The distribution of the vectors: rademacher or gaussian."""

    control: Any = None  # a Gaussian, which stands in a higher layer
    """The control variate, for example `Gaussian.fit(data)`, from many more samples than
    dimensions. It reduces the variance for correlated data that are nearly Gaussian; for data in
    narrow clusters it can increase the variance: compare the standard errors."""

    def __post_init__(self) -> None:
        choice("divergence", self.kind, DIVERGENCES)
        choice("probe", self.probe, PROBES)
        count = keep(self, "probes", positive_int, "pass at least one, or divergence='exact'")
        if self.kind == "hutch++" and count < 2:
            raise fail("probes", "at least 2 for hutch++", count, "half of them make the span")

    @classmethod
    def of(cls, value: str | Divergence) -> Divergence:
        """The options that a name stands for; options stay as they are."""
        if isinstance(value, str):
            return cls(value)
        instance("divergence", value, cls, "pass e.g. Divergence(probes=4), or 'exact'")
        return value


@final
@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Options of a folder of images, for `scoresde.data.load_data`; see `image_folder`."""

    size: int | tuple[int, int] | None = None
    """Pixels (H, W), or one number for a square: an image is resized (Lanczos) until it covers
    that, and its centre is cut out. By default images are taken as they are, if all are of one
    size."""

    mode: str | None = None
    """L (grey), RGB or RGBA. By default L if all images are grey, else RGB."""

    flip: bool | None = None
    """Also take the mirror image of every image: the data are twice as long."""

    background: int | str | None = None
    """The grey level, 0 to 255, or black, grey or white, behind images that are transparent. By
    default white, with a warning."""

    strict: bool | None = None
    """Refuse damaged files. By default they are skipped with a warning, and listed in
    `data.x.skipped`."""


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Table(Shown):
    """Options of a table, for `scoresde.data.load_data`; see `csv_table`."""

    columns: Sequence[str] | None = None
    """The columns to take, in this order. By default all but those of `label` and `drop`."""

    drop: Sequence[str] | None = None
    """The columns to leave out."""

    delimiter: str | None = None
    """What stands between the cells of a CSV file. By default it is the one of comma, semicolon,
    tab and | that cuts the first lines into rows of one length with most numbers."""

    decimal: str | None = None
    """The decimal mark of a CSV file, "." or ",". By default a comma if the cells show it and it
    is not the delimiter. Separators of thousands are refused."""

    header: bool | None = None
    """Whether the first line of a CSV file names the columns. By default it does unless it holds
    only numbers."""

    condition: Sequence[str] | Mapping[str, Sequence[str]] | None = None
    """The columns that are given and not modelled. They become the condition "given" of the
    network: numbers in their units, categories as 0 and 1, and missing cells as not given. In a
    .npz file, the arrays that are conditions under their own names; [] for none."""

    categories: Sequence[str] | None = None
    """The columns of categories whose cells look like numbers. Columns of names are categories
    anyway."""

    coding: str | None = None
    """The coding of categories: bits, the digits of their number, or one_hot, an entry each. By
    default bits, or that of the other data."""

    bounds: Mapping[str, Sequence[float | None]] | None = None
    """The bounds of columns, within which samples stay: {"age": (0, 120), "income": (0, None)}, or
    age:0:120,income:0: on the command line."""

    missing: str = "model"
    """What to do with missing cells: model (an indicator beside the value), drop (leave the rows
    out) or refuse."""


def known(value: T | None) -> T:
    """An option of a run, which the recipe has filled in."""
    if value is None:
        raise ValueError("options: expected those of a run, which a recipe filled in, got None")
    return value


def _steps(name: str, value: object) -> int:
    """`value` as a whole number of at least 0."""
    number, steps = nonnegative(name, value), whole(value)
    if steps is None:
        remedy = f"pass a number of steps: {number:g} of 10,000 steps is {round(number * 10_000)}"
        remedy = remedy if number < 1 else f"pass {name}={round(number)}"
        raise wrong_type(name, "a whole number of steps", value, remedy)
    return steps


def _probability(name: str, value: object) -> float:
    number = finite(name, value, "pass e.g. 0.1")
    if not 0.0 <= number <= 1.0:
        raise fail(name, "a probability in [0, 1]", value, "pass e.g. 0.1")
    return number


def _names(name: str, value: object, remedy: str) -> tuple[str, ...]:
    """A sequence of strings as a tuple."""
    names = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (0,)
    if not all(isinstance(n, str) for n in names):
        raise wrong_type(name, "names", value, remedy)
    return names


def _set(group: object, name: str, value: object) -> None:
    """Set the field of a frozen dataclass, in its `__post_init__`, to the value as it is kept."""
    object.__setattr__(group, name, value)
