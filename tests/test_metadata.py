"""What stands beside the package: one version, its addresses, the workflows."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import scoresde

ROOT = Path(__file__).parents[1]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read_string(read("setup.cfg"))
    return config


def test_the_version_stands_in_one_place_and_is_read_without_an_import() -> None:
    """setuptools evaluates a literal of the syntax tree, so building needs no torch."""
    assert setup()["metadata"]["version"] == "attr: scoresde.__version__"
    literals = [
        ast.literal_eval(node.value)
        for node in ast.parse(read("scoresde/__init__.py")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert literals == [scoresde.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+", scoresde.__version__)
    assert "version" not in re.findall(r"^(\w+):", read("CITATION.cff"), re.MULTILINE)


def test_all_addresses_are_of_one_repository() -> None:
    meta = setup()["metadata"]
    urls = [meta["url"], *re.findall(r"= (http\S+)", meta["project_urls"])]
    assert len(urls) >= 5 and all(url.startswith(meta["url"]) for url in urls)
    assert f'repository-code: "{meta["url"]}"' in read("CITATION.cff")


def test_there_is_no_extra_for_documentation_that_cannot_be_built() -> None:
    assert ("docs" in setup()["options.extras_require"]) == (ROOT / "mkdocs.yml").exists()


def test_continuous_integration_runs_the_oldest_torch_we_promise() -> None:
    (bound,) = re.findall(r"^torch>=([\d.]+)$", setup()["options"]["install_requires"], re.M)
    assert re.findall(r'"torch==([\d.]+)"', read(".github/workflows/ci.yml")) == [f"{bound}.0"]


def test_the_peers_have_one_version_in_the_extra_and_in_make_bench() -> None:
    """What an adapter is equal to is a version: another one may have another convention."""
    pinned = setup()["options.extras_require"]["bench"].split()
    made = re.findall(r"[\w-]+==[\w.]+", read("Makefile"))
    assert len(pinned) == 10 and set(pinned) <= set(made)


def test_the_nightly_run_takes_the_newest_of_all_and_runs_every_test() -> None:
    workflow = read(".github/workflows/nightly.yml")
    assert "--upgrade-strategy eager" in workflow
    assert "-c constraints.txt" not in workflow
    assert re.findall(r"tests: \[(.*)\]", workflow) == ['"not slow", "slow"']


def test_a_tag_publishes_what_was_used_as_an_installed_wheel_and_without_a_password() -> None:
    workflow = read(".github/workflows/release.yml")
    build, rest = workflow.split("\n  publish:\n")
    publish = rest.split("\n  site:\n")[0]
    assert 'tags: ["v*"]' in build and "branches" not in workflow
    assert ".ci/wheel empty/bin" in build and "twine check --strict" in build
    assert "needs: build" in publish and "gh-action-pypi-publish" in publish
    assert "id-token: write" in publish and "id-token" not in build
    assert "secrets." not in workflow and "password:" not in workflow
    assert ".ci/wheel build/empty/bin" in read("Makefile") and "dist-check" in read(".ci/run")


def test_a_release_adds_its_documentation_after_it_is_published() -> None:
    """One version of the site for each minor release, of which a page of the theme chooses."""
    site = read(".github/workflows/release.yml").split("\n  site:\n")[1]
    assert "needs: publish" in site and "contents: write" in site and "id-token" not in site
    assert '.ci/site "$GITHUB_REF_NAME" --push' in site and "mike==" in site
    assert "provider: mike" in read("mkdocs.yml")


def test_the_readme_on_pypi_has_no_link_beside_it() -> None:
    shown = subprocess.run(
        [sys.executable, ROOT / ".ci/readme", "v1.2.3"], capture_output=True, text=True, check=True
    ).stdout
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", shown)
    assert len(links) == len(re.findall(r"\]\(", read("README.md"))) > 20
    assert all(link.startswith("https://") for _, link in links)
    url = setup()["metadata"]["url"]
    raw = url.replace("github.com", "raw.githubusercontent.com")
    assert [link for mark, link in links if mark] == [
        f"{raw}/v1.2.3/docs/images/there_and_back.webp"
    ]
    assert f"({url}/blob/v1.2.3/docs/tour.md)" in shown
    assert '.ci/readme "$GITHUB_REF_NAME"' in read(".github/workflows/release.yml")


def test_the_changelog_has_the_version_and_room_for_the_next() -> None:
    headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(scoresde.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_all_files_of_the_package_that_are_no_code_are_installed() -> None:
    package = ROOT / "scoresde"
    files = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert files == set(setup()["options.package_data"]["scoresde"].split())
