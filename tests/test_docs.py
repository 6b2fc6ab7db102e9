"""What README.md shows runs, links lead somewhere, pages are those of their figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import code_of

from benchmarks import choosing
from docs.hooks import reference
from scoresde import VPSDE, Gaussian
from scoresde.data import toy
from scoresde.metrics import sliced_wasserstein

ROOT = Path(__file__).parent.parent


def test_the_ten_lines_of_the_readme_run_and_give_moons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (shown,) = code_of(ROOT / "README.md")
    exec(shown, names)
    assert names["solution"].nfe == 37 and names["found"].nats.shape == (50,)
    moons_that_one_would_show(names)


def test_the_python_blocks_of_the_tour_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # it saves a model
    names: dict[str, Any] = {}
    for block in code_of(ROOT / "docs/tour.md"):
        exec(block, names)
    assert names["samples"].shape == (1000, 2)
    assert abs(float(names["samples"].std()) - 1) < 0.05
    assert names["solution"].nfe == 37
    moons_that_one_would_show(names)
    assert (tmp_path / "models/moons/config.json").exists()


def moons_that_one_would_show(names: dict[str, Any]) -> None:
    """The training gives moons, and not just some tensor."""
    data, x = names["moons"], names["solution"].x
    assert (x.std(0) / data.std(0) - 1).abs().max() < 0.1
    other = toy("moons", 4000, seed=1).x
    assert sliced_wasserstein(x, other) < 3 * sliced_wasserstein(data, other)


def test_the_python_blocks_of_the_page_of_guidance_run() -> None:
    names: dict[str, Any] = {}
    for block in code_of(ROOT / "docs/guidance.md"):
        exec(block, names)
    found = names["spread"]
    assert found[0.0] == (0.0, pytest.approx(1.0, abs=0.05))
    assert found[1.0] == (2.0, pytest.approx(0.5 * found[0.0][1], abs=0.02))
    assert found[3.0][0] > 2.0 and found[3.0][1] == pytest.approx(0.13, abs=0.02)
    law = names["law"]
    assert law["exact"] == (pytest.approx(-1.29, abs=0.01), pytest.approx(0.80, abs=0.01))
    assert law["dpmpp_2m"] == (pytest.approx(-1.99, abs=0.05), pytest.approx(0.63, abs=0.05))
    assert law["sa_solver_p2_v"] == (pytest.approx(-1.68, abs=0.05), pytest.approx(0.78, abs=0.05))
    assert law["corrected"] == pytest.approx(law["exact"], abs=0.06)
    assert names["log_z"][1] == pytest.approx(names["log_z"][0], abs=0.12)


def test_the_python_blocks_of_the_page_of_posteriors_run() -> None:
    names: dict[str, Any] = {}
    for block in code_of(ROOT / "docs/posteriors.md"):
        exec(block, names)
    exact = names["truth"].posterior().means[0].float()
    assert float((names["samples"].mean(0) - exact).abs().max()) < 0.06
    found = names["found"]
    gap = float(found.log_evidence[0] - names["truth"].log_evidence())
    assert abs(gap) < 4 * float(found.log_evidence_error[0]) + 0.02
    assert float((found.mean[0] - exact).abs().max()) < 0.15


def test_the_python_blocks_of_the_page_of_the_doctor_run() -> None:
    names: dict[str, Any] = {}
    first, *others = code_of(ROOT / "docs/doctor.md")
    exec(first, names)
    assert names["report"].healthy
    exec(others[0], names)
    assert names["report"].first.name == "coordinate"
    exec(others[1], names)
    assert sum(names["split"].parts.values()) == pytest.approx(names["split"].total)


def test_the_python_blocks_of_the_page_of_adapters_run() -> None:
    names: dict[str, Any] = {}
    for block in code_of(ROOT / "docs/adapters.md"):
        exec(block, names)
    assert names["images"].shape == (2, 3, 8, 8) and names["unit"].shape == (2, 1, 8, 8)
    assert names["points"].shape == (5, 2) and names["back"].shape == (1000, 2)
    assert 'from_hub("user/points")' in names["card"] and names["again"].sde == VPSDE()


def test_the_python_blocks_of_the_page_of_migrating_run() -> None:
    """Each of the five samples the data that its stand-in is exact for."""
    names: dict[str, Any] = {}
    score_sde, k_diffusion, diffusers, azula, sbi = code_of(ROOT / "docs/migrating.md")
    exec(score_sde, names)
    x = names["x"]
    assert float(x.std()) == pytest.approx(1.0, abs=0.06)
    unit = Gaussian(torch.zeros(192), torch.tensor(1.0)).log_prob(x[:2].flatten(1))
    assert names["nats"].tolist() == pytest.approx(unit.tolist(), abs=0.02)
    exec(k_diffusion, names)
    assert float(names["images"].std()) == pytest.approx(0.5, abs=0.03)
    exec(diffusers, names)
    assert names["unit"].shape == (16, 3, 8, 8) and float(names["unit"].min()) >= 0
    exec(azula, names)
    assert float(names["x"].std()) == pytest.approx(1.0, abs=0.03)
    exec(sbi, names)
    samples = names["samples"]
    assert samples.mean(0).tolist() == pytest.approx([0.8, -0.8], abs=0.15)
    assert samples.std(0).tolist() == pytest.approx([0.447, 0.447], abs=0.1)


def test_the_python_blocks_of_the_first_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # it saves a model
    names: dict[str, Any] = {}
    for block in code_of(ROOT / "docs/index.md"):
        exec(block, names)
    assert (names["samples"].std(0) - 1).abs().max() < 0.1
    assert (names["x"].mean(0) - torch.tensor([1.5, 1.2])).abs().max() < 0.1
    assert names["found"].nats.shape == (20,)


def test_every_page_and_every_room_has_a_place_on_the_site() -> None:
    """The remedy is a line in `nav` of mkdocs.yml, or a word in `GROUPS` of the hook."""
    shown = set(
        re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    )
    written = {
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert shown == written | {"contributing.md", "changelog.md"} | {
        "results/index.md",
        "reference/index.md",
    }
    assert "training" in reference.rooms()


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_and_headings_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if target.startswith("http"):
            continue
        place = (ROOT / page).parent / target if target else ROOT / page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


def test_the_page_of_the_automatic_choice_is_that_of_its_figures() -> None:
    """docs/choosing.md and `solver="auto"` say what benchmarks/results/choosing.json holds."""
    saved = choosing.load()
    assert (saved["nodes"], saved["taken"]) == (choosing.fingerprint(), choosing.taken())
    assert {p["seed"] for p in saved["problems"]} >= set(choosing.HELD_OUT)
    assert choosing.PAGE.read_text(encoding="utf-8") == choosing.page(saved)
