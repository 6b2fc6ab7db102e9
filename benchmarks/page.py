"""Writes docs/results.md from what the benchmarks of training left in benchmarks/results.

    python benchmarks/page.py

Every figure of the page is read from a JSON file there; a test fails when the two differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/results.md"
NETS = {"unet": "U-Net", "uvit": "U-ViT"}

HEAD = """# Results of training

`python benchmarks/page.py` writes this page from the results of the commands named here in
`benchmarks/results`; a test fails if the page is out of date. All commands ran on two cores of a
CPU that other work shared, so seconds are upper bounds.
"""

FASHION = """
## Fashion-MNIST

The models are class-conditional, for 28 x 28 pixels with 256 grey levels. They are trained on the
training images except a holdout of 1 % and evaluated on the 10,000 test images, with one seed
each. The bound and the likelihood of the flow are those of the discrete data given the labels, in
bits per dimension, ± the standard error over images. Distances are between {count:,} samples, as
many of each class, and {against:,} test images, in the features of a convolutional `Judge`, a
small network trained on the training images, which classifies {accuracy:.1%} of the test images
correctly. The same distance for two halves of the test set is in brackets. They are not an FID.
The last rows are the classification accuracy score: the share of the test set that a classifier
trained only on the samples classifies correctly.

The U-Net is near the floor in precision and below it in coverage. The U-ViT, with 4 x 4 patches
and fewer steps, has not learned to match neighbouring patches: a transformer of this size needs
smaller patches and longer training than an hour on two cores.
"""


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def pm(pair: list[float], digits: int = 3) -> str:
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def table(rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    head = f"| | {' | '.join(columns)} |\n| --- |" + " ---: |" * len(columns) + "\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def fashion(found: dict[str, dict[str, Any]]) -> str:
    training = {net: f["training"] for net, f in found.items()}
    judged = {net: f["judged"] for net, f in found.items()}
    nets = list(found)
    count = judged[nets[0]]["sampling"]["count"]

    def row(title: str, value: Any) -> tuple[str, ...]:
        return (title, *(value(net) for net in nets))

    def bits(net: str, key: str) -> str:
        return pm(judged[net]["bits"][key])

    rows = [
        row("parameters", lambda n: f"{training[n]['parameters'] / 1e6:.2f} M"),
        row("steps of 64", lambda n: f"{training[n]['steps']}"),
        row("minutes, training", lambda n: f"{training[n]['seconds'] / 60:.0f}"),
        row("core minutes, training", lambda n: f"{training[n]['core_seconds'] / 60:.0f}"),
        row("minutes, judging", lambda n: f"{judged[n]['seconds'] / 60:.0f}"),
        row("bound, bits/dim", lambda n: bits(n, "bound")),
        row("bound, first 32 images", lambda n: bits(n, "bound_of_the_32")),
        row("flow, first 32 images", lambda n: bits(n, "flow_of_the_32")),
    ]
    for name in judged[nets[0]]["distances"]:

        def value(net: str, name: str = name) -> str:
            m = judged[net]["distances"][name]
            return f"{m['value']:.3g} ({m['floor_mean']:.3g} ± {m['floor_std']:.2g})"

        title = name if name not in ("frechet", "kernel") else f"{name} distance"
        rows.append(row(f"{title} (two real halves)", value))
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
        accuracy=judged[nets[0]]["classifier_accuracy"],
        count=count,
        against=judged[nets[0]]["distances"]["frechet"]["count"],
    )
    for net in nets:
        text += f"\n    {found[net]['command']}\n"
    text += "\n" + table(rows, tuple(NETS[net] for net in nets))
    for net in nets:
        text += (
            f"\n![Samples of the {NETS[net]}, a row for each class](images/fashion-{net}.png)\n"
            f"\n![Loss of the {NETS[net]} on the holdout, by time]"
            f"(images/fashion-{net}-loss.png)\n"
        )
    return text


def included(title: str, name: str) -> str:
    """A results file under a heading of this page."""
    body = (RESULTS / f"{name}.md").read_text(encoding="utf-8").split("\n", 1)[1]
    body = body.replace("](densities.png)", "](../benchmarks/results/densities.png)")
    return f"\n## {title}\n{body}"


def page() -> str:
    nets = {
        net: read(f"fashion-{net}") for net in NETS if (RESULTS / f"fashion-{net}.json").exists()
    }
    return (
        HEAD
        + fashion(nets)
        + included("Learned densities beside the truth", "densities")
        + included("Weighting, sampling of time and prediction", "ablation")
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
