"""The gallery: a card for each example and for benchmarks that draw, with a small picture.

    python -m docs.hooks.gallery                                      # write docs/gallery.md
    python -m docs.hooks.gallery --pictures evidence-evidence.webp    # and this picture, or "all"

The pictures are those that the commands on the cards write, so run these before. The line on the
card of an example is the first one of its docstring. A test compares the page with the table below
and the table with the examples.
"""

from __future__ import annotations

import argparse
import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/gallery.md"
PICTURES = ROOT / "docs/images/gallery"
FRONT = ROOT / "docs/images/there_and_back.webp"
SIZE = (720, 360)
LARGEST = 40_000  # bytes of a small picture

INTRODUCTION = """\
# Gallery

Each picture was made by the program below it. The commands run in a clone of the repository
with the extras `cli`, `train` and `data`, on a CPU, in about the time that is given.
The score of most examples is exact, so what they show is the work of the method alone.
"""


@dataclass(frozen=True)
class Card:
    """What one command shows.

    Args:
        title: a few words.
        command: the line to type.
        picture: the file that the command writes, relative to the repository.
        shows: the picture in words, for readers who do not see it.
        time: how long it takes, "" if that is not known.
        line: a sentence on it; None takes the first line of the docstring of an example.
        box: the part of the picture to show, (left, top, right, bottom) as shares of its sides.
    """

    title: str
    command: str
    picture: str
    shows: str
    time: str
    line: str | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def program(self) -> str:
        """The file that the command runs, relative to the repository."""
        return self.command.split()[1]

    @property
    def name(self) -> str:
        """The name of the small picture."""
        return f"{Path(self.program).stem}-{Path(self.picture).stem}.webp"

    @property
    def about(self) -> str:
        """The sentence on the card."""
        if self.line is not None:
            return self.line
        text = (ROOT / self.program).read_text(encoding="utf-8")
        return (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)[0]


SECTIONS = {
    "Sampling": (
        Card(
            "There and back",
            "python examples/there_and_back.py",
            "runs/there_and_back/there_and_back.png",
            "Rough paths from four peaks of data into noise, and smooth ones back to them",
            "10 seconds",
        ),
        Card(
            "A mixture in the plane",
            "python examples/oracle_2d.py",
            "runs/oracle_2d/paths.png",
            "Curved paths from scattered starts into three clusters of points",
            "10 seconds",
        ),
    ),
    "Training": (
        Card(
            "Digits",
            "python examples/train_vp.py",
            "docs/images/digits.png",
            "Handwritten digits drawn by the model, a column for each class",
            "8 minutes",
            box=(0.0, 0.0, 1.0, 0.53),
        ),
        Card(
            "Two moons",
            "python examples/train_vp.py --data moons",
            "runs/moons/samples.png",
            "Two interleaved half circles of points: the data, and the same from nine solvers",
            "2 minutes",
            "The same on points in the plane: what nine solvers make of one trained network.",
            (0.0, 0.0, 1.0, 0.66),
        ),
        Card(
            "Fashion-MNIST",
            "python benchmarks/fashion.py --net unet --objective quality --steps 6400",
            "docs/images/fashion-unet-quality.png",
            "Rows of small grey pictures of clothes and shoes, one row for each class",
            "2 hours",
            "Clothes by a network of 1.1 million weights, trained for 80 minutes of one core.",
            (0.0, 0.0, 1.0, 0.5),
        ),
    ),
    "Densities and likelihoods": (
        Card(
            "The Fokker-Planck equation",
            "python examples/fokker_planck_1d.py",
            "runs/fokker_planck_1d/mixture.png",
            "Three peaks that spread over time into one bell curve, with random paths over them",
            "15 seconds",
        ),
        Card(
            "A likelihood and its errors",
            "python examples/likelihood_2d.py",
            "runs/likelihood_2d/likelihood.png",
            "Eight peaks on a ring, and the errors of four ways to compute the density",
            "15 seconds",
        ),
        Card(
            "The bound of a chain",
            "python examples/ddpm_chain.py",
            "runs/ddpm_chain/terms.png",
            "Terms of the bound by noise level, and the bound falling to the truth",
            "30 seconds",
        ),
        Card(
            "A learned density",
            "python benchmarks/densities.py",
            "benchmarks/results/densities.png",
            "A ring of eight peaks: the true density beside those of a trained network",
            "30 minutes",
            "The density that a trained network has learned, beside the true one.",
        ),
    ),
    "Measurements": (
        Card(
            "Inverse problems",
            "python examples/inverse_problems.py",
            "runs/inverse_problems/upper-half.png",
            "Digits without their lower half: truth, measurement, mean, deviation, samples",
            "8 minutes",
            box=(0.0, 0.0, 1.0, 0.56),
        ),
        Card(
            "The evidence",
            "python examples/evidence.py",
            "runs/evidence/evidence.png",
            "Six digits above their coarse measurements, with instruments and Bayes factors",
            "1 minute",
        ),
    ),
    "Beside other libraries": (
        Card(
            "Solvers",
            "python benchmarks/solvers.py",
            "benchmarks/results/pareto-b1-vp-log_snr-ode.png",
            "Error against network calls and seconds, of our solvers and of other libraries",
            "",
            "The error of every solver at equal network calls, beside other libraries.",
        ),
        Card(
            "Trained networks",
            "python benchmarks/trained.py",
            "benchmarks/results/trained-digits.png",
            "Distance of samples from data against network calls, a curve for each solver",
            "",
            "Where a smaller error of the solver no longer shows in the samples.",
        ),
    ),
}


def cards() -> list[Card]:
    """All cards in their order."""
    return [card for section in SECTIONS.values() for card in section]


def page() -> str:
    """The page in Markdown."""
    lines = [INTRODUCTION]
    for title, section in SECTIONS.items():
        lines += [f"## {title}", "", '<div class="grid cards" markdown>', ""]
        for card in section:
            lines += [
                f"-   ![{card.shows}](images/gallery/{card.name})",
                "",
                f"    **[{card.title}](../{card.program})**" + (card.time and f", {card.time}"),
                "",
                f"    {card.about}",
                "",
                "    ```sh",
                f"    {card.command}",
                "    ```",
                "",
            ]
        lines += ["</div>", ""]
    return "\n".join(lines)


def small(card: Card) -> None:
    """Write the small picture of a card, on a canvas that is the same for all."""
    from PIL import Image

    image = Image.open(ROOT / card.picture).convert("RGB")
    ground = image.getpixel((0, 0))
    w, h = image.size
    left, top, right, bottom = card.box
    image = image.crop((int(left * w), int(top * h), int(right * w), int(bottom * h)))
    image.thumbnail(SIZE, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", SIZE, ground)
    canvas.paste(image, ((SIZE[0] - image.width) // 2, (SIZE[1] - image.height) // 2))
    target = PICTURES / card.name
    for quality in range(90, 30, -10):
        canvas.save(target, quality=quality, method=6)
        if target.stat().st_size <= LARGEST:
            return
    raise ValueError(f"{card.name}: expected at most {LARGEST} bytes; choose a smaller `box`")


def front() -> None:
    """Write the picture of the README."""
    from PIL import Image

    picture = Image.open(ROOT / "runs/there_and_back/there_and_back.png").convert("RGB")
    picture.save(FRONT, quality=85, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--pictures", nargs="+", default=[], metavar="NAME", help="small pictures to make, or all"
    )
    chosen = parser.parse_args().pictures
    PICTURES.mkdir(parents=True, exist_ok=True)
    for card in cards():
        if "all" in chosen or card.name in chosen:
            small(card)
            if card.name.startswith("there_and_back"):
                front()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
