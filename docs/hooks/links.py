"""Pages that lie outside of docs/, and links that lead there, for the site.

The files of the repository link to each other by relative paths, which work on GitHub and in an
editor. For the site, a link to a page that the site has becomes a link to that page, a picture is
copied, and a link to any other file becomes one to the repository. A link to nothing is a warning,
with which `mkdocs build --strict` fails. Names of the package in backticks become links to the
reference.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docs.hooks.reference import identifiers, linked

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/scoresde/scoresde"
PICTURES = (".gif", ".png", ".svg")
FILE = re.compile(r"`((?:benchmarks|examples|scoresde|tests)/[\w/]+\.py)(?:::\w+)?`")
LINK = re.compile(r"(\]\()([^)\s#]*)((?:#[^)\s]*)?(?:\s+\"[^\"]*\")?\))")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)

log = logging.getLogger("mkdocs.hooks.links")


def slug(text: str, separator: str = "-") -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", separator)


def elsewhere() -> dict[str, str]:
    """Page of the site -> file of the repository outside of docs/ that holds it."""
    pages = {
        "contributing.md": "CONTRIBUTING.md",
        "changelog.md": "CHANGELOG.md",
        "results/index.md": "benchmarks/README.md",
    }
    for file in sorted((ROOT / "benchmarks/results").glob("*.md")):
        if not file.stem.endswith("-quick"):
            pages[f"results/{file.name}"] = f"benchmarks/results/{file.name}"
    return pages


def to_site(link: str, source: str, uri: str, pages: dict[str, str]) -> tuple[str, str | None]:
    """The link of a page as the site needs it, and the picture to copy, if it is one.

    Args:
        link: a path relative to the folder of the page in the repository.
        source: the page in the repository, such as "docs/cli.md".
        uri: the page on the site, such as "cli.md".
        pages: file of the repository -> page of the site, for those outside of docs/.

    Raises:
        FileNotFoundError: the repository has no such file.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    here = posixpath.dirname(uri) or "."
    if target.startswith("docs/reference/") or target in pages:
        target = pages.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(target, here), None
    if not (ROOT / target).exists() or target.startswith(".."):
        raise FileNotFoundError(target)
    if target.startswith("docs/"):
        return posixpath.relpath(target.removeprefix("docs/"), here), None
    if target.endswith(PICTURES):
        return posixpath.relpath(target, here), target
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{target}", None


def to_code(code: str, known: dict[str, str]) -> str:
    """Code with its backticks as a link: to the reference, or to a file of the repository.

    Raises:
        FileNotFoundError: the repository has no such file.
    """
    found = FILE.fullmatch(code)
    if found is None:
        return linked(code, known)
    if not (ROOT / found[1]).exists():
        raise FileNotFoundError(found[1])
    return f"[{code}]({REPOSITORY}/blob/main/{found[1]})"


def in_text(before: str) -> bool:
    """Whether code at the end of this text stands in a paragraph: in no heading and no link."""
    line = before.rsplit("\n", 1)[-1]
    return not line.startswith("#") and line.count("[") <= line.count("]")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the tables of the benchmarks into the navigation."""
    assert config.nav is not None
    section = next(entry for entry in config.nav if "Results" in entry)
    tables = [uri for uri in elsewhere() if uri.startswith("results/")]
    section["Results"] += [uri for uri in tables if uri != "results/index.md"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for uri, source in elsewhere().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    from mkdocs.structure.files import File

    uri, outside = page.file.src_uri, elsewhere()
    source = outside.get(uri, f"docs/{uri}")
    pages = {file: at for at, file in outside.items()}
    if uri in outside and uri != "contributing.md":
        page.meta["search"] = {"exclude": True}  # long tables, which no search should answer with

    def rewrite(match: re.Match[str]) -> str:
        opening, link, rest = match.groups()
        if not link or ":" in link:
            return match[0]
        try:
            new, picture = to_site(link, source, uri, pages)
        except FileNotFoundError as error:
            log.warning("%s: a link leads to %s, which does not exist", source, error)
            return match[0]
        if picture is not None and files.get_file_from_path(picture) is None:
            files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
        return f"{opening}{new}{rest}"

    known = {} if uri.startswith("reference/") else identifiers()
    result = ""
    for i, part in enumerate(CODE.split(markdown)):
        if i % 2 == 0:
            result += LINK.sub(rewrite, part)
            continue
        try:
            result += to_code(part, known) if in_text(result) else part
        except FileNotFoundError as error:
            log.warning("%s: it names %s, which does not exist", source, error)
    return result
