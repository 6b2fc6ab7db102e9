"""Every how-to has a question, an answer, code that runs and what to look at."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

import pytest
from shared import code_of

from scoresde.solvers import SOLVERS

HOWTO = Path(__file__).parents[1] / "docs/howto"
PAGES = sorted(path.stem for path in HOWTO.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_how_to_runs_in_an_empty_folder(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SOLVERS, "midpoint", None)  # type: ignore[arg-type]  # removed afterwards
    start = time.process_time()
    names: dict[str, object] = {"__name__": f"howto_{page}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tiny models leave the range of their data
        for block in code_of(HOWTO / f"{page}.md"):
            exec(block, names)
    assert time.process_time() - start < 20  # seconds of the processor; most need one


@pytest.mark.parametrize("page", PAGES)
def test_a_how_to_is_a_question_a_short_answer_code_and_what_to_look_at(page: str) -> None:
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    title, answer, *_ = text.split("\n\n")
    assert title.startswith("# ") and title.rstrip().endswith("?")
    assert 1 <= len(re.findall(r"[.?](?=\s|$)", answer)) <= 3
    assert text.count("```python\n") == 1
    assert text.rsplit("```", 1)[1].count("\n- ") >= 2
    assert len(text.splitlines()) <= 66


def test_the_list_of_how_tos_has_them_all_with_their_titles() -> None:
    listed = (HOWTO / "index.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"- \[(.*)\]\((\w+)\.md\)", listed))
    titles = {(HOWTO / f"{page}.md").read_text("utf-8").split("\n")[0][2:]: page for page in PAGES}
    assert found == titles
    assert len(found) >= 30


def test_an_error_in_a_block_names_the_page_and_the_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\nText.\n\n```python\ny = x / 0\n```\n")
    names: dict[str, object] = {}
    first, second = code_of(page)
    exec(first, names)
    with pytest.raises(ZeroDivisionError) as caught:
        exec(second, names)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 10)
