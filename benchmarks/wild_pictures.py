"""Small pictures of the errors in the wild: the figures of an entry beside the exact answer.

They are written as SVG text, without a library, so that the same figures make the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Drawn", "picture"]

WIDTH, LEFT, RIGHT, ROW, TOP = 820, 410, 130, 26, 34
"""The width, the margins for names and figures, the height of a row, and that of the head."""

SOUND, OFF, INK, SOFT = "#0072B2", "#B34700", "#222222", "#6B6B6B"


@dataclass(frozen=True)
class Drawn:
    """How the figures of an entry are drawn.

    Attributes:
        head: what the figures of a row are. With "standard deviation" second, a row is one dot,
            the mean, and a bar of one standard deviation on both sides.
        within: figures closer to the exact answer than this are drawn as right.
        digits: of the figures.
    """

    head: tuple[str, ...]
    within: float
    digits: int

    @property
    def spread(self) -> bool:
        """Whether the figures are a mean and a standard deviation."""
        return "standard deviation" in self.head

    @property
    def caption(self) -> str:
        """What the dots are."""
        if self.spread:
            return "mean error in nats, and one standard deviation on both sides"
        if len(self.head) == 1:
            return self.head[0]
        return f"from the small dot to the large one: {', '.join(self.head)}"

    def ends(self, values: Sequence[float]) -> list[float]:
        """The values, or one standard deviation on both sides of the mean."""
        return [values[0] - values[1], values[0] + values[1]] if self.spread else list(values)

    def told(self, values: Sequence[float]) -> str:
        """The last figure, or two that fit, which is beside the dot furthest to the right."""
        shown = values if len(values) == 2 else values[-1:]
        between = " ± " if self.spread else ", "
        return between.join(f"{value:.{self.digits}f}" for value in shown).replace("-", "−")


def picture(
    title: str, exact: float, rows: Sequence[tuple[str, Sequence[float]]], drawn: Drawn
) -> str:
    """One line for each row, with a dot for each figure, and a dashed line at the exact answer.

    Args:
        title: the title, for readers who cannot see the picture.
        exact: the exact answer.
        rows: name and figures.
        drawn: how they are drawn.
    """
    ends = [end for _, values in rows for end in drawn.ends(values)]
    low, high = min(0.0, exact, *ends), max(exact, *ends)
    below = TOP + ROW * len(rows)

    def at(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {below + 28}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{below + 28}" rx="6" fill="#FFFFFF"/>',
        _line(at(exact), TOP - 8, at(exact), below, SOFT, ' stroke-dasharray="4 3"'),
        _text(at(exact), TOP - 14, f"exact: {exact:g}", SOFT, "middle"),
    ]
    for number, (name, values) in enumerate(rows):
        y = TOP + ROW * number + ROW // 2
        ends = drawn.ends(values)
        colour = OFF if any(abs(end - exact) > drawn.within for end in ends) else SOUND
        parts.append(_text(LEFT - 14, y + 4, name.replace("`", ""), INK, "end"))
        parts.append(_line(at(min(ends)), y, at(max(ends)), y, colour, ' stroke-width="2"'))
        dots = values[:1] if drawn.spread else values
        for step, value in enumerate(dots):
            radius = 5 if len(dots) == 1 else 3 + 1.5 * step
            parts.append(f'<circle cx="{at(value):g}" cy="{y}" r="{radius:g}" fill="{colour}"/>')
        parts.append(_text(at(max(ends)) + 13, y + 4, drawn.told(values), colour, "start"))
    parts.append(_text(LEFT - 14, below + 18, drawn.caption, SOFT, "middle"))
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"{more}/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    words = escape(text)
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}">{words}</text>'
