"""`scoresde push` and `pull`: to a folder and back, to a hub that is a folder, bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from command_line import answer, call, refused
from local_hub import Hub

from scoresde import load
from scoresde.cli.hub import folder_of

SENT = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub") / "moons"
    call(
        f"train moons --steps 20 --batch-size 64 --net-option width=16 --calibrate 0 "
        f"--sample-every 0 --device cpu --out {place}"
    )
    return place


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_a_model_goes_to_a_folder_and_comes_back_as_a_run(run: Path, tmp_path: Path) -> None:
    ready, back = tmp_path / "ready", tmp_path / "back"
    assert answer(f"push {run} {ready} --license mit") == {"out": str(ready), "sent": False}
    assert {file.name for file in ready.iterdir()} == SENT
    card = (ready / "README.md").read_text()
    assert "license: mit" in card and "# Score model of moons" in card and 'load("FOLDER")' in card
    found = answer(f"pull {ready} --out {back}")
    assert found == {"out": str(back), "checkpoint": str(back / "checkpoint")}
    assert (back / "checkpoint/README.md").read_text() == card
    x = torch.randn(3, 2)
    assert torch.equal(load(back)(0.3, x).x0, load(run)(0.3, x).x0)
    assert call(f"sample {back} --n 2 --steps 2 --device cpu --out {tmp_path / 'samples'}").stdout
    assert "moons" in call(f"inspect {back}").stdout


def test_a_model_goes_to_the_hub_and_comes_back(run: Path, hub: Hub, tmp_path: Path) -> None:
    found = answer(f"push {run} me/moons --message 'the first' --public")
    assert found == {"out": "https://hub/me/moons", "sent": True}
    assert [name for name, _ in hub.asked] == ["create", "upload"]
    assert hub.asked[0][1] == {"private": False, "token": None}
    assert hub.asked[1][1] == {"message": "the first"}
    assert 'from_hub("me/moons")' in (hub.root / "me/moons/README.md").read_text()
    back = tmp_path / "back"
    assert call(f"pull me/moons --revision v1 --cached --out {back}").stdout.strip() == str(back)
    asked = {"revision": "v1", "local_files_only": True, "token": None}
    assert asked.items() <= hub.asked[2][1].items()
    x = torch.randn(3, 2)
    assert torch.equal(load(back)(0.3, x).x0, load(run)(0.3, x).x0)
    about = json.loads((back / "config.json").read_text())
    assert about["repo"] == "me/moons" and about["about"]["command"] == "pull"


def test_a_card_may_be_a_file(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.md"
    own.write_text("mine", encoding="utf-8")
    call(f"push {run} {tmp_path / 'ready'} --card {own}")
    assert (tmp_path / "ready/README.md").read_text() == "mine"
    refused(f"push {run} {tmp_path / 'other'} --card {tmp_path / 'none'}", "--card: expected")


def test_a_target_is_a_folder_or_a_repository_and_never_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert folder_of("./ready") == Path("ready") and folder_of("../x") == Path("../x")
    assert folder_of("/x") == Path("/x") and folder_of("~/x") == Path("~/x").expanduser()
    assert folder_of("me/ring") is None and folder_of("ring") is None
    for name in ("runs", "runs/new"):
        with pytest.raises(ValueError, match=rf"and runs is here; write \./{name} for the folder"):
            folder_of(name)


def test_bad_input_names_its_flag_and_nothing_is_sent(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "back"
    refused(f"push {tmp_path / 'none'} me/ring", "MODEL: expected a checkpoint folder")
    refused(f"push {run} a/b/c", "REPO: expected a repository of the hub such as 'user/model'")
    refused(f"push {run} me/ring --license 'MIT!'", "--license: expected an identifier")
    refused(f"push {run} {run}", "REPO: expected a new or empty folder", "--overwrite")
    refused(f"pull {tmp_path / 'none'} --out {out}", "REPO: expected a repository with a model")
    refused(f"pull {run} --out {run}", "--out: expected a new or empty folder")
    refused(f"pull {run} --out {run} --overwrite", "--out: expected another folder", "new name")
    call(f"inspect {run}")
    refused(f"pull ./x --revision v1 --out {out}", "--revision: expected none for the folder")
    assert hub.asked == [] and not out.exists()
    text = call(f"pull me/none --out {out}", 1).stderr
    assert "REPO: expected an answer of the hub for 'me/none'" in text
    assert "hf auth login" in text and "token=" not in text and not out.exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(f"push {run} me/ring", "pip install 'scoresde[hub]'")


def test_a_damaged_folder_is_not_pulled(run: Path, tmp_path: Path) -> None:
    ready, out = tmp_path / "ready", tmp_path / "back"
    call(f"push {run} {ready}")
    weights = ready / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "hash" in refused(f"pull {ready} --out {out}")
    assert not (out / "checkpoint").exists()
