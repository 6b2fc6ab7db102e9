"""llms.txt: one page of plain text that says what the site has, for readers that are programs.

It follows llmstxt.org: a title, a summary, and lists of links with what each page is about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from docs.hooks.links import ROOT, elsewhere
from docs.hooks.reference import overview, page, summary

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

SUMMARY = """\
> Score-based generative modelling in continuous time, on PyTorch: SDEs that turn data into noise,
> score models of their marginals, and solvers that integrate the reverse process."""

CONVENTIONS = """\
Vector fields and models take time first, `score(t, x)`; t = 0 is data and t = T noise. `x` is
(B, *D) for any D. Randomness is an argument, `seed`; sample i of a seed has the same noise for any
batch size. Conditions ride in `cond`, a mapping from names to tensors with leading B. `eta` is the
stochasticity of the process, 0 for the probability flow and 1 for the reverse SDE; `steps` and
`grid` are those of the schedule. No public function takes `**kwargs`: a typo is a TypeError."""


def source(uri: str) -> str:
    """The Markdown of a page of the site."""
    if uri == "reference/index.md":
        return overview()
    if uri.startswith("reference/"):
        return page(uri.removeprefix("reference/").removesuffix(".md"))
    file = elsewhere().get(uri, f"docs/{uri}")
    return (ROOT / file).read_text(encoding="utf-8")


def about(markdown: str) -> tuple[str, str]:
    """The title of a page and the first sentence of its first paragraph."""
    title = markdown.split("\n", 1)[0].removeprefix("# ").strip()
    plain = re.compile(r"[A-Za-z`*\[]")
    paragraphs = (part.strip() for part in markdown.split("\n\n")[1:])
    first = next((part for part in paragraphs if plain.match(part)), "")
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(first.split()))
    text = re.sub(r"(?<!`)\*\*([^*`]+)\*\*", r"\1", text)
    return title, re.split(r"(?<=[.?!])(?<! al\.)\s(?=[A-Z`])", text, maxsplit=1)[0]


def pages(nav: Any) -> list[str]:
    """All pages of a part of the navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [uri for part in parts for uri in pages(part)]


def text(nav: list[dict[str, Any]], read: Callable[[str], str] = source) -> str:
    """The text for a navigation: one list for each of its sections."""
    lines = ["# scoresde", "", SUMMARY, "", CONVENTIONS, ""]
    for entry in nav:
        ((section, part),) = entry.items()
        lines += [f"## {section}", ""]
        for uri in pages(part):
            if uri.startswith("reference/") and uri != "reference/index.md":
                room = uri.removeprefix("reference/").removesuffix(".md")
                title = f"scoresde.{room}"
                first = " ".join(summary(room).split("\n\n")[0].split())
            else:
                title, first = about(read(uri))
            link = uri.removesuffix(".md") + ".html"
            lines.append(f"- [{title}]({link}){f': {first}' if first else ''}")
        lines.append("")
    return "\n".join(lines)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add llms.txt; this hook is the last, so the navigation is complete."""
    from mkdocs.structure.files import File

    assert config.nav is not None
    files.append(File.generated(config, "llms.txt", content=text(config.nav)))
    return files
