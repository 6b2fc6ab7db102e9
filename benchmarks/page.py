"""Writes docs/results.md and docs/training.md from what benchmarks left in benchmarks/results.

`training_page.py` has the second of them.

    python benchmarks/page.py

Every figure of the pages is read from a JSON file there, and the defaults from the package; a test
fails when a page differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.training_page import TRAINING, training

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/results.md"
RUNS = {
    "unet-quality": "U-Net, quality",
    "unet-likelihood": "U-Net, likelihood",
    "uvit-quality": "U-ViT, quality",
    "uvit-likelihood": "U-ViT, likelihood",
}
EARLIER = {"unet": "U-Net", "uvit": "U-ViT"}
"""The runs before there were two objectives; they are shown until a later one exists."""

HEAD = """# Results of training

What the defaults learn, how long it takes, and how far it is from the truth where that is known.
All commands ran on two cores of a CPU that other work shared, so seconds are upper bounds.
`python benchmarks/page.py` writes this page from what they left in `benchmarks/results`; a test
fails if the page is out of date.
"""

FASHION = """
## Fashion-MNIST

The models are class-conditional, for 28 x 28 pixels with 256 grey levels. They are trained on the
training images except a holdout of 1 % and evaluated on the 10,000 test images, with one seed
each. The bound and the likelihood of the flow are those of the discrete data given the labels, in
bits per dimension, ± the standard error over images. Distances are between {count:,} samples, as
many of each class, and {against:,} test images. In brackets is the distance between two halves of
the test set, which perfect samples would have. The features are those of a `Judge`, a small
convolutional network that classifies {accuracy:.1%} of the test images correctly, so the Frechet
distance is no FID. The last rows are the classification accuracy score: the share of the test set
that a classifier trained only on the samples classifies correctly.
"""

SLOWER = """
Both networks of the objective quality took the same number of steps and the same processor time,
on processors with units for bfloat16. The textures of the U-ViT are still noisy.
"""

EARLIER_VERDICT = """
These runs are of the defaults and networks before the recipes (eps, even times, AdamW); the
same commands train otherwise now. The U-Net is near the floor in precision and below it in
coverage. The U-ViT, with 4 x 4 patches and fewer steps, has not learned to match neighbouring
patches: a transformer of this size needs smaller patches and longer training than an hour on
two cores.
"""


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def pm(pair: list[float], digits: int = 3) -> str:
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def table(rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    head = f"| | {' | '.join(columns)} |\n| --- |" + " ---: |" * len(columns) + "\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def fashion(found: dict[str, dict[str, Any]], titles: dict[str, str] = RUNS) -> str:
    """The section of the runs, a column each."""
    training = {run: f["training"] for run, f in found.items()}
    judged = {run: f["judged"] for run, f in found.items()}
    runs = list(found)
    count = judged[runs[0]]["sampling"]["count"]

    def row(title: str, value: Any) -> tuple[str, ...]:
        return (title, *(value(run) for run in runs))

    def bits(run: str, key: str) -> str:
        measured: dict[str, list[float]] = judged[run]["bits"]
        return pm(measured[key]) if key in measured else ""

    batches = {training[run].get("batch_size", 64) for run in runs}
    rows = [
        row("parameters", lambda n: f"{training[n]['parameters'] / 1e6:.2f} M"),
        row(f"steps of {batches.pop()}", lambda n: f"{training[n]['steps']}")
        if len(batches) == 1
        else row("steps", lambda n: f"{training[n]['steps']} of {training[n]['batch_size']}"),
    ]
    if all("optimizer" in training[run] for run in runs):
        rows.append(
            row(
                "optimiser, rate, precision",
                lambda n: ", ".join(
                    str(training[n][key]) for key in ("optimizer", "lr", "precision")
                ),
            )
        )
    rows += [
        row("minutes, training", lambda n: f"{training[n]['seconds'] / 60:.0f}"),
        row("core minutes, training", lambda n: f"{training[n]['core_seconds'] / 60:.0f}"),
        row("minutes, judging", lambda n: f"{judged[n]['seconds'] / 60:.0f}"),
        row("bound, bits/dim", lambda n: bits(n, "bound")),
        row("bound, first 32 images", lambda n: bits(n, "bound_of_the_32")),
        row("flow, first 32 images", lambda n: bits(n, "flow_of_the_32")),
    ]
    for name in judged[runs[0]]["distances"]:

        def value(run: str, name: str = name) -> str:
            m = judged[run]["distances"][name]
            return f"{m['value']:.3g} ({m['floor_mean']:.3g} ± {m['floor_std']:.2g})"

        title = name if name not in ("frechet", "kernel") else f"{name} distance"
        rows.append(row(f"{title} (two real halves)", value))
    if all("auto" in judged[run] for run in runs):
        for steps in judged[runs[0]]["auto"]:

            def fast(run: str, steps: str = steps) -> str:
                m = judged[run]["auto"].get(steps)
                return f"{m['frechet']:.3g} ({m['nfe']} calls)" if m else ""

            rows.append(row(f"frechet distance, `auto` in {steps} steps", fast))
    rows += guided_rows(judged)
    rows += [
        row(
            "samples of the requested class, by the classifier",
            lambda n: f"{judged[n]['conditional_accuracy']:.1%}",
        ),
        row(
            f"accuracy when trained on {count:,} samples",
            lambda n: f"{judged[n]['trained_on_samples']:.1%}",
        ),
        row(
            f"accuracy when trained on {count:,} real images",
            lambda n: f"{judged[n]['trained_on_as_many_real']:.1%}",
        ),
    ]
    text = FASHION.format(
        accuracy=judged[runs[0]]["classifier_accuracy"],
        count=count,
        against=judged[runs[0]]["distances"]["frechet"]["count"],
    )
    if titles is EARLIER:
        text += EARLIER_VERDICT
    elif "uvit-quality" in found:
        text += SLOWER
    for run in runs:
        text += f"\n    {found[run]['command']}\n"
        if "guided" in judged[run]:
            text += f"\n    {found[run]['command']} --guided\n"
    text += "\n" + table(rows, tuple(titles[run] for run in runs))
    if titles is RUNS:
        text += aims(found)
    for run in runs:
        text += (
            f"\n![Samples of the {titles[run]}, a row for each class](images/fashion-{run}.png)\n"
            f"\n![Loss of the {titles[run]} on the holdout, by time]"
            f"(images/fashion-{run}-loss.png)\n"
        )
    return text


def guided_rows(judged: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of samples with guidance, which stay empty for runs that were judged without."""
    there = [run["guided"] for run in judged.values() if "guided" in run]
    if not there:
        return []
    low, high = there[0]["interval"]
    title = f"guidance {there[0]['scale']:g} on the log-SNRs from {low:g} to {high:g}"

    def row(said: str, value: Any) -> tuple[str, ...]:
        return (
            f"{title}: {said}",
            *(value(run["guided"]) if "guided" in run else "" for run in judged.values()),
        )

    def metric(name: str) -> Any:
        return lambda g: f"{g['distances'][name]['value']:.3g}"

    return [
        row("frechet distance", lambda g: f"{metric('frechet')(g)} ({g['nfe']} calls)"),
        row("precision", metric("precision")),
        row("recall", metric("recall")),
        row("samples of the requested class", lambda g: f"{g['conditional_accuracy']:.1%}"),
        row("accuracy when trained on them", lambda g: f"{g['trained_on_samples']:.1%}"),
    ]


def aims(found: dict[str, dict[str, Any]]) -> str:
    """What was aimed at, and whether it was reached."""
    judged = {run: f["judged"] for run, f in found.items()}

    def frechet(run: str) -> dict[str, float]:
        value: dict[str, float] = judged[run]["distances"]["frechet"]
        return value

    rows = []

    def aim(said: str, value: float, most: float, digits: str = ".3f") -> None:
        reached = "reached" if value <= most else "not reached"
        rows.append((said, f"{value:{digits}}", f"{most:{digits}}", reached))

    if "unet-likelihood" in judged:
        aim("bound of the U-Net, bits/dim", judged["unet-likelihood"]["bits"]["bound"][0], 2.96)
    if "unet-quality" in judged:
        m, run = frechet("unet-quality"), judged["unet-quality"]
        floors = {"": m["value"]}
        for steps, fast in run.get("auto", {}).items():
            floors[f", `auto` in {steps} steps"] = fast["frechet"]
        if guided := run.get("guided"):
            floors[f", guidance {guided['scale']}"] = guided["distances"]["frechet"]["value"]
        for way, value in floors.items():
            said = f"Frechet distance of the U-Net over the halves'{way}"
            aim(said, value / m["floor_mean"], 2.0)
        gap = run["trained_on_as_many_real"] - run["trained_on_samples"]
        aim("accuracy lost by training on samples, %", 100 * gap, 1.0, ".1f")
    if {"unet-quality", "uvit-quality"} <= set(judged):
        ratio = frechet("uvit-quality")["value"] / frechet("unet-quality")["value"]
        long, short = (found[f"{net}-quality"]["training"]["steps"] for net in ("unet", "uvit"))
        aim(
            f"Frechet distance of the U-ViT of {short} steps over the U-Net's of {long}",
            ratio,
            1.5,
        )
    said = "\nWhat was aimed at, and what was found:\n\n"
    return said + table(rows, ("found", "at most", "")) if rows else ""


def included(title: str, name: str) -> str:
    """A results file under a heading of this page; nothing if there is none."""
    file = RESULTS / f"{name}.md"
    if not file.exists():
        return ""
    body = file.read_text(encoding="utf-8").split("\n", 1)[1]
    body = body.replace(f"]({name}.png)", f"](../benchmarks/results/{name}.png)")
    return f"\n## {title}\n{body.replace(chr(10) + '## ', chr(10) + '### ')}"


def page() -> str:
    def runs(names: dict[str, str]) -> dict[str, dict[str, Any]]:
        there = [n for n in names if (RESULTS / f"fashion-{n}.json").exists()]
        return {name: read(f"fashion-{name}") for name in there}

    later = runs(RUNS)
    return (
        HEAD
        + (fashion(later) if later else fashion(runs(EARLIER), EARLIER))
        + included("How the sampling changes the samples of Fashion-MNIST", "fashion-sampling")
        + (included("What training costs", "training") if "races" in read("training") else "")
        + included("Conditional samples beside the exact conditional", "conditional")
        + included("Signals and fields of known spectrum", "spectra")
        + included("Learned densities beside the truth", "densities")
        + included("Weighting, sampling of time and prediction", "ablation")
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    TRAINING.write_text(training(), encoding="utf-8")
    print(f"wrote {PAGE} and {TRAINING}")
