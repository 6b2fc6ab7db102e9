"""The site of the documentation: links, the reference, docstrings as Markdown; without mkdocs."""

from __future__ import annotations

import configparser
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from docs.hooks import accessible, compact, links, llms, reference, search
from docs.hooks.docstrings import escaped

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("link", "source", "uri", "expected"),
    [
        ("cli.md", "docs/guidance.md", "guidance.md", "cli.md"),
        ("../cli.md", "docs/howto/a.md", "howto/a.md", "../cli.md"),
        ("docs/cli.md", "CONTRIBUTING.md", "contributing.md", "cli.md"),
        ("../CONTRIBUTING.md", "docs/index.md", "index.md", "contributing.md"),
        ("../benchmarks/results/trained.md", "docs/a.md", "a.md", "results/trained.md"),
        ("../README.md", "docs/a.md", "a.md", f"{links.REPOSITORY}/blob/main/README.md"),
        ("../examples", "docs/a.md", "a.md", f"{links.REPOSITORY}/tree/main/examples"),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(
    link: str, source: str, uri: str, expected: str
) -> None:
    pages = {file: at for at, file in links.elsewhere().items()}
    assert links.to_site(link, source, uri, pages) == (expected, None)


def test_a_picture_outside_of_the_pages_is_copied() -> None:
    picture = "benchmarks/results/trained-moons.png"
    assert links.to_site(f"../../{picture}", "docs/howto/a.md", "howto/a.md", {}) == (
        f"../{picture}",
        picture,
    )


@pytest.mark.parametrize("link", ["nowhere.md", "../scoresde/nothing.py", "../../outside.md"])
def test_a_link_to_nothing_is_an_error(link: str) -> None:
    with pytest.raises(FileNotFoundError):
        links.to_site(link, "docs/a.md", "a.md", {})


def test_links_to_the_repository_are_those_of_the_metadata() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config["metadata"]["url"] == links.REPOSITORY


def test_the_reference_shows_every_public_name_once() -> None:
    shown = [name for room in reference.rooms() for name in reference.page(room).split("\n")]
    shown = [line.removeprefix("::: ") for line in shown if line.startswith("::: ")]
    assert len(shown) == len(set(shown)) > 200
    for identifier in shown:
        module, name = identifier.rsplit(".", 1)
        assert not isinstance(getattr(importlib.import_module(module), name), ModuleType)
    found = {identifier.rsplit(".", 1)[1] for identifier in shown}
    assert found == {name for room in reference.rooms() for name in reference.names(room)}


def test_the_overview_has_the_names_of_the_top_level() -> None:
    import scoresde

    assert sorted(reference.top_level()) == scoresde.__all__
    overview = reference.overview()
    assert all(f"[`{name}`][scoresde." in overview for name in scoresde.__all__)


def test_the_text_of_a_docstring_means_itself_and_code_stays_code() -> None:
    text = "x: (B, *D), [f - g] dt, a < b, `x * y` and `Adams`.\n\nExample:\n    >>> a * b"
    found = escaped(text, {"Adams": "scoresde.solvers.Adams"})
    assert found == (
        "x: (B, \\*D), \\[f - g\\] dt, a &lt; b, `x * y` and [`Adams`][scoresde.solvers.Adams]."
        "\n\nExamples:\n    >>> a * b"
    )


def test_the_names_of_arguments_are_kept_and_what_is_said_of_them_is_escaped() -> None:
    text = (
        "Title.\n\nArgs:\n    t_end, batch_size: a * b,\n        c_d * `e_f`.\n    x: y.\nEnd_of."
    )
    assert escaped(text, {}) == (
        "Title.\n\nArgs:\n    t_end, batch_size: a \\* b,\n        c\\_d \\* `e_f`.\n    x: y.\n"
        "End\\_of."
    )


@pytest.mark.parametrize(
    ("code", "is_linked"),
    [
        ("`load`", False),
        ("`load(run)`", True),
        ("`scoresde.load`", True),
        ("`log_prob`", True),
        ("`Adams(2)`", True),
        ("`Adams.step`", True),
        ("`scoresde.ddpm.DDPM.q_step`", True),
        ("`scoresde.solvers`", False),
        ("`model.load`", False),
        ("`nothing_known`", False),
    ],
)
def test_names_in_backticks_lead_to_the_reference(code: str, is_linked: bool) -> None:
    assert (reference.linked(code, reference.identifiers()) != code) == is_linked
    assert not links.in_text("# heading ") and not links.in_text("[link ")


def test_the_text_for_programs_has_every_page_with_its_first_sentence() -> None:
    howtos = sorted(f"howto/{path.name}" for path in (ROOT / "docs/howto").glob("*.md"))
    rooms = [f"reference/{room}.md" for room in reference.rooms()]
    nav = [{"Start": "index.md"}, {"How to": [howtos[0], {"More": howtos[1:]}]}]
    nav += [{"Reference": ["reference/index.md", *rooms]}, {"Contributing": "contributing.md"}]
    text = llms.text(nav)
    lines = [line for line in text.splitlines() if line.startswith("- [")]
    assert len(lines) == len(howtos) + len(rooms) + 3
    assert all(re.fullmatch(r"- \[.+\]\([\w/]+\.html\): \S.*[.?:]", line) for line in lines), lines
    assert text.startswith("# scoresde\n\n> ") and text.count("\n## ") == 4
    assert llms.about("# T\n\n$$x$$\n\nBy **Ho** et al. 2020, `f(**k)`. More.") == (
        "T",
        "By Ho et al. 2020, `f(**k)`.",
    )


def test_wide_parts_of_a_page_can_be_scrolled_by_the_keyboard() -> None:
    page = '<table> <math> <math xmlns="" display="block"> <div role="dialog">'
    found = accessible.on_post_page(page)
    assert found == (
        '<table tabindex="0"> <math> <math tabindex="0" xmlns="" display="block"> '
        '<div role="dialog">'
    )
    assert "aria-label" in accessible.on_post_page(f"<div {accessible.DIALOG}>")


def test_the_search_holds_names_and_first_paragraphs_of_what_the_reference_shows() -> None:
    heading = '<h2 id="a" class="doc doc-heading">a</h2>'
    page = (
        f'<p>The room.</p>{heading}<div class="doc-signature highlight"><pre>a()</pre></div>'
        '<p>One.</p><p><span class="doc-section-title">Raises:</span></p><p>Two.</p><p>Three.</p>'
        f"<ul><li>x</li></ul>{heading}<p>One again.</p>"
        f"{heading.replace('h2', 'h3')}<p>Of a member.</p><p>Its second.</p>"
    )
    marked = search.shortened(page)
    assert marked.replace(" data-search-exclude", "") == page
    left = re.findall(r"<(\w+)[^<>]* data-search-exclude>([^<]*)", marked)
    assert left == [
        ("div", ""),
        ("pre", "a()"),
        ("p", ""),
        ("p", "Three."),
        ("ul", ""),
        ("p", "Its second."),
    ]


def test_a_page_loses_blanks_and_tooltips_that_say_nothing_and_keeps_its_code() -> None:
    code = "<pre>a\n\n    b</pre>"
    page = (
        f'<p>One\n\n   <a title="  TOYS\n\n  (data.TOYS)">TOYS</a>\n</p>{code}\n  \n<p>\n Two</p>'
        '<span title="typing.Any">Any</span><span title="another">x</span>\n'
        "<script>if (a)\n\n  b</script>"
    )
    assert compact.compact(page) == (
        f'<p>One\n<a title="TOYS (data.TOYS)">TOYS</a>\n</p>{code}\n<p>\nTwo</p>'
        'Any<span title="another">x</span>\n<script>if (a)\n\n  b</script>'
    )
