"""docs/training.md: the recipes, the choices in them, and what was measured of them.

Every figure is read from a file in benchmarks/results, and the defaults from the package; `python
benchmarks/page.py` writes the page, and a test fails when it differs.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from scoresde.training.recipe import RECIPES, Recipe

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.recipe import MEASURES, SOLVER, SOLVER_STEPS
from benchmarks.steps import SHAPES

__all__ = ["TRAINING", "training"]

DEFAULT = "the defaults"
RESULTS = Path(__file__).parent / "results"
TRAINING = Path(__file__).parents[1] / "docs/training.md"

OPEN = """# Training: the defaults and where they come from

`Trainer(model, data, steps=n)` and `scoresde train DATA` take every option that you do not set
from a recipe. There is one for each kind of data (vector, signal, image, volume) and each
objective: `quality` of samples, the default, or `likelihood`, which is set by
`Loss(objective="likelihood")` or `--objective likelihood`. The command line prints the values of a
run, and in Python `trainer.optim` and `trainer.loss` hold them.

`python benchmarks/page.py` writes this page from the files in `benchmarks/results` that
`recipe.py`, `steps.py` and `magnitude.py` of `benchmarks` fill, and from the tables of
`scoresde.training.recipe`; a test fails if the page is out of date.

## The recipes

`warmup` is a share of the steps, and takes at most `longest_warmup` of them; `Optim(warmup=...)`
is a number of steps.

"""

CHOSEN = """
## What was chosen, and why

"Distance" is that of samples from real data, and "bound" that of the likelihood: the less the
better. "1.3 times the distance" is a ratio to the defaults, of a training in which this one option
was changed. [The tables below](#what-was-measured) say which distance it is, and its error.

| option | chosen | why |
| --- | --- | --- |
"""

CHOICES: tuple[tuple[str, str, str], ...] = (
    (
        "what the network predicts",
        "v; F of EDM under VE and EDM",
        "eps at even times has {moons:eps, even times, AdamW at 1e-3} the distance on moons and "
        "{signal:eps, even times, AdamW at 1e-3} on the signal: near t = T its errors are "
        "divided by alpha",
    ),
    (
        "optimiser",
        "AdamW for vectors, Muon else",
        "on moons Muon has {moons:Muon} the distance, with one seed, and takes "
        "{moons:Muon:seconds} as long; AdamW at 1e-3, the default before, has "
        "{signal:v, log-normal times, AdamW at 1e-3} the distance on the signal, and on digits "
        "{digits:v, log-normal times, AdamW at 1e-3}, with twice the samples. Muon computes in "
        "float32 where the processor emulates bfloat16. The whole recipe stands beside the "
        "training examples of other libraries in [Results](results.md#time-to-quality-digits)",
    ),
    (
        "rate for vectors",
        "2e-3",
        "1e-3 has {moons:rate x 0.5} the distance on moons and {table:rate x 0.5} on the table, "
        "4e-3 {moons:rate x 2} and {table:rate x 2}: none differs by two standard errors",
    ),
    (
        "rate of Muon",
        "0.01",
        "0.005 has {digits:rate x 0.5} the distance on digits, 0.02 {digits:rate x 2}",
    ),
    (
        "batch size",
        "256 for vectors, 64 for signals and images, 16 for volumes",
        "with as many samples in all, half the batch has {digits:batch x 0.5} the distance on "
        "digits and twice the batch {digits:batch x 2}; on moons {moons:batch x 0.5} and "
        "{moons:batch x 2}. On the field, with one seed, 64 has {field:batch x 4} the distance "
        "and takes {field:batch x 4:seconds} as long, so volumes take 16, which needs less "
        "memory",
    ),
    (
        "times of the likelihood",
        "those of the bound",
        "even times have {digits:objective likelihood, even times:bound/objective likelihood} the "
        "bound on digits, and times by importance "
        "{digits:objective likelihood, times by importance:bound/objective likelihood}. On the "
        "table, which 2000 steps overfit, even times have "
        "{table:objective likelihood, even times:bound/objective likelihood} the bound, one seed",
    ),
    (
        "features of the last bits",
        "for the likelihood of data with levels",
        "without them the bound on digits is "
        "{digits:objective likelihood, without features of the input:bound/objective likelihood} "
        "as large",
    ),
    (
        "early stopping",
        "off; `Records(patience=n)`, `--patience n`",
        "a run that stops early has not come to the end of its cosine, and the model of the "
        "lowest validation loss is kept in `best/` in any case. A small table can gain by "
        "patience: the defaults overfit it, since at a quarter of the rate the loss on held-out "
        "rows is {table:rate x 0.25:loss} theirs",
    ),
    (
        "conditions left out",
        "for one sample in ten all of them; where there are several, for one more in ten a "
        "random part of them; `Loss(cond_dropout=p)`, `--cond-dropout p`",
        "guidance needs a model that has seen samples without conditions, and sampling given some "
        "of several one that has seen samples with a part of them. "
        "[Results](results.md#conditional-samples-beside-the-exact-conditional) show how close "
        "samples given one of two conditions are",
    ),
    (
        "augmentation of images",
        "off; `Loss(augment=0.15)`, `--augment 0.15`",
        "0.15 has {digits:augmentation 0.15} the distance on digits and "
        "{digits:augmentation 0.15:loss} the loss on held-out images, in a training that is too "
        "short to overfit; longer ones were not measured",
    ),
    (
        "bfloat16",
        "images, where the processor computes in it",
        "a step on 28 x 28 pixels costs {images/bf16} that in float32, on 8 x 8 {digits/bf16} "
        "and on vectors {vector/bf16}. On a signal it is {signal/bf16}, but the recipe keeps "
        "float32 there, since the spectrum of samples was not measured in bfloat16",
    ),
    (
        "channels-last weights",
        "off",
        "{images/channels-last} the cost of a step on 28 x 28 pixels, and "
        "{digits/channels-last} on 8 x 8; in bfloat16 {images/bf16, channels-last} that of "
        "float32, so it takes away what bfloat16 alone gains; "
        "`model.to(memory_format=torch.channels_last)` sets them",
    ),
    (
        "`torch.compile`",
        "off; `Optim(compile=True)`, `--compile`",
        "a step on vectors costs {vector/compiled}, after a first one of "
        "{vector/compiled:first} s; on images it was not measured",
    ),
)
"""Option, choice and reason.

{kind:row:measure/base} is the ratio of a measure, by default the distance, to that of the row
`base`, by default that of the defaults; {kind/way} is the ratio of the seconds of a step to those
in float32, and {kind/way:first} the seconds of the first step.
"""


def chosen(kinds: dict[str, Any], cells: dict[str, Any]) -> str:
    """The choices with the figures that they rest on; one whose figures lack is left out.

    Args:
        kinds: those of recipe.json.
        cells: those of steps.json.
    """

    def ratio(match: re.Match[str]) -> str:
        said, _, other = match[1].partition("/")
        if ":" not in said:
            way, _, first = other.partition(":")
            ways = cells[said]
            if first:
                return f"{ways[way]['first']:.0f}"
            return f"{ways[way]['seconds'] / ways['float32']['seconds']:.2f} times"
        name, row, key = (*said.split(":"), "distance")[:3]
        rows = kinds[name]["rows"]
        value, base = (
            statistics.fmean(cell[key] for cell in rows[r].values())
            for r in (row, other or DEFAULT)
        )
        return f"{value / base:.2f} times"

    lines = []
    for option, choice, why in CHOICES:
        try:
            lines.append(f"| {option} | {choice} | {re.sub(r'[{]([^}]+)[}]', ratio, why)} |\n")
        except (KeyError, statistics.StatisticsError):
            continue
    return CHOSEN + "".join(lines)


STEPS = """
## What a step costs

`python benchmarks/steps.py`: seconds of one thread of a processor {units} bfloat16, for a whole
step with the batch of the recipe. "First" is the first step, which compiles. Other work shared the
processor, which stretches all figures and blurs their ratios.

| samples | way | a step, s | over float32 | first, s |
| --- | --- | ---: | ---: | ---: |
"""


def steps(found: dict[str, Any]) -> str:
    """The table of bfloat16, channels-last weights and torch.compile."""
    units = "that has units for" if found["bf16_units"] else "without units for"
    text = STEPS.format(units=units)
    for kind, ways in found["cells"].items():
        base = ways["float32"]["seconds"]
        for way, cell in ways.items():
            ratio = "" if way == "float32" else f"{cell['seconds'] / base:.2f}"
            shape = " x ".join(map(str, SHAPES[kind]))
            text += (
                f"| {kind}, {shape} | {way} | {cell['seconds']:.3g} | {ratio} "
                f"| {cell['first']:.2g} |\n"
            )
    return text


MAGNITUDE = """
## Magnitude-preserving layers

`python benchmarks/magnitude.py`: the digits, {steps} steps, the U-Net beside one of the same size
with the layers of EDM2 (Karras et al. 2024, arXiv 2312.02696), with the recipe but for the
optimiser. They are not in the package, since they do not win at this size and length.

| network and optimiser | seeds | parameters | distance | loss | bound | processor, s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def magnitude(found: dict[str, Any]) -> str:
    """The table of magnitude-preserving layers."""
    text = MAGNITUDE.format(steps=found["steps"])
    for row, seeds in found["rows"].items():
        if not seeds:
            continue
        told = [
            f"{value:.4g}" + ("" if math.isnan(error) else f" ± {error:.2g}")
            for value, error in (
                mean_error([cell[key] for cell in seeds.values()])
                for key in ("distance", "loss", "bound")
            )
        ]
        first = next(iter(seeds.values()))
        text += (
            f"| {row} | {len(seeds)} | {first['parameters']:,} | {' | '.join(told)} "
            f"| {statistics.fmean(c['seconds'] for c in seeds.values()):.0f} |\n"
        )
    return text


GO_BACK = """
## Going back to earlier defaults

The defaults of the first version (a network of the noise, even times) and those before the recipe
(v, log-normal times) have a row in every table below. They are, in full:

```python
earlier = Optim(
    optimizer="adamw",
    lr=1e-3,
    batch_size=128,
    warmup=min(n // 20, 1000),
    clip=1.0,
    ema=0.999,
    weight_decay=0.0,
    precision="no",
)
first = Trainer(
    Preconditioned(net, sde, predicts="eps"),
    data,
    steps=n,
    optim=earlier,
    loss=Loss(weighting="eps", time=UniformTime()),
)
before = Trainer(
    Preconditioned(net, sde, predicts="v"),
    data,
    steps=n,
    optim=earlier,
    loss=Loss(weighting="eps", time=LogNormalTime()),
)
```

with `from scoresde.options import Loss, Optim` and
`from scoresde.losses import LogNormalTime, UniformTime`.
"""

MEASURED = """
## What was measured

Each row changes one thing and leaves the rest to the recipe; its values are means ± standard
errors over seeds. Loss is the error of eps at uniform times, bound the time integral in the bound
of the likelihood in nats per dimension, both on held-out data; the distance is that of samples by
{solver} in {steps} steps. "Over the default" is the ratio of the distances, marked where the two
differ by more than two standard errors of both. A row with one seed has no error.
"""


def there(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def recipes() -> str:
    """The options of every recipe, a column each; kinds of data with equal recipes share one."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for (kind, objective), recipe in RECIPES.items():
        said = (objective, *(str(getattr(recipe, f.name)) for f in fields(Recipe)))
        columns.setdefault(said, []).append(kind)
    rows = zip(("objective", *(f"`{f.name}`" for f in fields(Recipe))), *columns, strict=True)
    head = f"| | {' | '.join(', '.join(kinds) for kinds in columns.values())} |\n"
    rule = "| --- |" + " --- |" * len(columns) + "\n"
    return head + rule + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def mean_error(values: list[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def measured(name: str, kind: dict[str, Any]) -> str:
    """The table of one kind of data."""
    keys = ("distance", "loss", "bound", "seconds")
    found = {
        row: {key: mean_error([cell[key] for cell in seeds.values()]) for key in keys}
        for row, seeds in kind["rows"].items()
        if seeds
    }
    base = found.get(DEFAULT)
    lines = [
        f"\n### {name.replace('_', ' ')}\n",
        f"`python benchmarks/recipe.py --only {name}`; the distance is the "
        f"{MEASURES[name]}, {kind['floor']:.4g} for as many real samples.\n",
        "| row | seeds | steps | distance | over the default | loss | bound | processor, s |",
        "| --- |" + " ---: |" * 7,
    ]
    for row, values in found.items():
        cells = [
            f"{value:.4g}" + ("" if math.isnan(error) else f" ± {error:.2g}")
            for value, error in (values[key] for key in ("distance", "loss", "bound"))
        ]
        ratio = ""
        if base is not None and row != DEFAULT:
            (value, error), (least, base_error) = values["distance"], base["distance"]
            clear = abs(value - least) > 2 * math.hypot(error, base_error)
            word = (" better" if value < least else " worse") if clear else ""
            ratio = f"{value / least:.2f}{word}"
        steps = next(iter(kind["rows"][row].values()))["steps"]
        lines.append(
            f"| {row} | {len(kind['rows'][row])} | {steps} | {cells[0]} | {ratio} | {cells[1]} "
            f"| {cells[2]} | {values['seconds'][0]:.0f} |"
        )
    return "\n".join(lines) + "\n"


def training() -> str:
    """docs/training.md."""
    kinds = read("recipe")["kinds"] if there("recipe") else {}
    cells = read("steps")["cells"] if there("steps") else {}
    text = OPEN + recipes() + chosen(kinds, cells) + GO_BACK
    for name, section in (("steps", steps), ("magnitude", magnitude)):
        if there(name):
            text += section(read(name))
    if kinds:
        text += MEASURED.format(solver=SOLVER, steps=SOLVER_STEPS)
    return text + "".join(measured(name, kind) for name, kind in kinds.items())
