"""Model cards say what the folder holds; transfers send and fetch three files, and verify them."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_hub import Hub
from torch import nn

from scoresde import (
    DDPM,
    VPSDE,
    Preconditioned,
    Quantisation,
    ReverseSDE,
    ScoreModel,
    Trainer,
    load,
    save,
)
from scoresde.calibration import Calibration, calibrate
from scoresde.calibration.stored import valid
from scoresde.ddpm import ChainTime
from scoresde.hub import from_hub, model_card, prepare_for_hub, push_to_hub
from scoresde.metrics import compare_sets
from scoresde.nets import MLP, UNet
from scoresde.options import Optim, Records
from scoresde.solvers import Adams
from scoresde.training import read_config
from scoresde.training.checkpoint import add_calibrations
from scoresde.training.files import rewrite

SENT = {"README.md", "config.json", "model.safetensors"}
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data with two classes, with a calibration."""
    out = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    Trainer(
        Preconditioned(MLP(2, width=8, depth=1, classes=2), VPSDE()),
        (X, {"label": torch.arange(64) % 2}),
        steps=4,
        optim=Optim(batch_size=16),
        records=Records(calibrate=None, tensorboard=False, validate_every=2),
        validation=(X, {"label": torch.arange(64) % 2}),
        out=out,
        device="cpu",
    ).fit()
    model = load(out)
    add_calibrations(out, model, {"4": _calibrated(model)})
    return out


def _calibrated(model: ScoreModel) -> Calibration:
    cond = {"label": torch.arange(12) % 2}
    process = ReverseSDE(model.sde, model, 0.0, cond=cond)
    return calibrate(process, (2,), steps=4, trajectories=12, iterations=4, solver=Adams(2))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


# There and back


def test_a_model_comes_back_to_the_bit(run: Path, hub: Hub, tmp_path: Path) -> None:
    assert push_to_hub(run, "me/ring") == "https://hub/me/ring"
    model, again = load(run), from_hub("me/ring", cache_dir=tmp_path / "cache")
    cond = {"label": torch.tensor([0, 1, 1])}
    assert torch.equal(again(0.3, X[:3], cond).x0, model(0.3, X[:3], cond).x0)
    assert again.sde == model.sde and list(valid(again)) == ["4"]
    assert model.data is not None and again.data is not None
    assert again.data.to_dict() == model.data.to_dict()


def test_three_files_are_sent_and_two_fetched(run: Path, hub: Hub) -> None:
    push_to_hub(run, "me/ring", message="first", token="secret")
    assert {file.name for file in (hub.root / "me/ring").iterdir()} == SENT
    config = json.loads((hub.root / "me/ring/config.json").read_text())
    assert "training" not in config and list(config["files"]) == ["model.safetensors"]
    assert hub.asked == [
        ("create", {"private": True, "token": "secret"}),
        ("upload", {"message": "first"}),
    ]
    from_hub("me/ring", revision="v1", local_files_only=True)
    assert hub.asked[2:] == [
        (
            "download",
            {
                "files": ["config.json", "model.safetensors"],
                "revision": "v1",
                "local_files_only": True,
                "token": None,
            },
        )
    ]


def test_a_prepared_folder_is_that_of_the_upload(run: Path, hub: Hub, tmp_path: Path) -> None:
    for _ in range(2):  # it may be prepared again
        ready = prepare_for_hub(run, tmp_path / "ready", repo_id="me/ring", license="mit")
    push_to_hub(run, "me/ring", license="mit", private=False)
    assert {file.name for file in ready.iterdir()} == SENT
    for name in SENT:
        assert (ready / name).read_bytes() == (hub.root / "me/ring" / name).read_bytes()
    assert hub.asked[0][1]["private"] is False
    assert load(ready).sde == VPSDE()


def test_the_text_of_a_card_may_be_given(run: Path, tmp_path: Path) -> None:
    ready = prepare_for_hub(run, tmp_path / "ready", card="mine")
    assert (ready / "README.md").read_text() == "mine"


def test_a_network_of_your_own_is_given_again(hub: Hub, tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out

    model = Preconditioned(Mine(), VPSDE())
    push_to_hub(save(model, tmp_path / "mine"), "mine")
    again = from_hub("mine", net=Mine())
    assert torch.equal(again(0.3, X).x0, model.eval()(0.3, X).x0)
    assert 'from_hub("mine", net=net)' in (hub.root / "mine/README.md").read_text()


def test_the_functions_of_the_library_take_what_they_are_given(tmp_path: Path) -> None:
    real = pytest.importorskip("huggingface_hub")
    for name, options in (
        ("create_repo", ("private", "exist_ok", "token")),
        ("upload_folder", ("folder_path", "commit_message", "token")),
        (
            "snapshot_download",
            ("revision", "cache_dir", "allow_patterns", "local_files_only", "token"),
        ),
    ):
        inspect.signature(getattr(real, name)).bind(repo_id="me/x", **dict.fromkeys(options))
    with pytest.raises(OSError, match="repo_id: expected an answer of the hub for 'me/x', got L"):
        from_hub("me/x", local_files_only=True, cache_dir=tmp_path)


# The card


def test_the_card_says_what_the_run_holds(run: Path) -> None:
    card, config = model_card(run, repo_id="me/ring", license="mit"), read_config(run)
    head, body = card.split("---\n")[1:]
    assert "library_name: scoresde\nlicense: mit\n" in head
    choices, calibration = config["training"]["choices"], load(run).calibrations["4"]
    for line in (
        "| SDE | `VPSDE(beta_min=0.1, beta_max=20.0)` |",
        "| samples | 64 |",
        "| classes | 2: 0 (32), 1 (32) |",
        "| step | 4 |",
        "| samples in a step | 16 |",
        f"| `objective` | `{choices['objective']}` |",
        f"| validation loss | {config['training']['validations'][-1][1]:.4f}, at times drawn",
        f"| 4 | {calibration.held_before.typical:.3g} | {calibration.held.typical:.3g} | ",
        'model = from_hub("me/ring")\n',
        "sampler.sample((16, 2), seed=0, cond=cond)",
        "Its quality was not measured",
    ):
        assert line in body, line
    code = model_card(run).split("```python\n")[1].split("```")[0].replace("FOLDER", str(run))
    names: dict[str, Any] = {}
    exec(code, names)  # as it is copied from the card
    assert names["samples"].shape == (16, 2)
    assert names["cond"]["label"].tolist() == [0, 1] * 8


def test_metrics_stand_beside_their_floors(run: Path) -> None:
    found = compare_sets(X[:32] + 1.0, X[32:], X[:32], metrics=("energy",))
    card = model_card(run, metrics=found)
    energy = found["energy"]
    assert f"| energy | {energy.value:.4g}" in card and f"{energy.floor_mean:.4g} ±" in card
    assert "not measured" not in card and f"Of {found.count} samples" in card


def test_what_is_unknown_is_said(tmp_path: Path) -> None:
    card = model_card(save(Preconditioned(MLP(3, width=8), VPSDE()), tmp_path / "model"))
    for line in (
        "does not say on which data",
        "does not say how the model was trained",
        "calibrated for no number of steps",
        "sample((16, 3), seed=0)",  # the network knows it
        'load("FOLDER")',
        "from scoresde import ReverseSampler, load",
    ):
        assert line in card, line
    assert "license:" not in card
    free = save(Preconditioned(UNet(1, width=8), VPSDE()), tmp_path / "any size")
    assert "sample((16, ...), seed=0)" in model_card(free)


def test_chains_and_levels_are_described(tmp_path: Path) -> None:
    chain = DDPM.linear(20)
    model = Preconditioned(MLP(3, width=8), chain.to_sde(), "eps", ChainTime("i-1", 20))
    place = save(model, tmp_path / "model", quantisation=Quantisation(256))
    for line in (
        "| SDE | `ChainSDE(betas=<20 values>)` |",
        "| predicts | `eps`, told the step of a chain as its time |",
        "| levels | 256 from -1 to 1 |",
    ):
        assert line in model_card(place), line


def test_names_format_nothing(run: Path, tmp_path: Path) -> None:
    place = shutil.copytree(run / "checkpoint", tmp_path / "model")
    config = read_config(place)
    config["data"] |= {"name": "/home/me/secret/a|b_*c*", "class_names": ["|x|", "y`z"]}
    rewrite(place, config)
    ready = prepare_for_hub(place, tmp_path / "ready")
    card, stored = (ready / "README.md").read_text(), (ready / "config.json").read_text()
    assert "secret" not in card + stored
    assert r"# Score model of a\|b\_\*c\*" in card
    assert r"2: \|x\| (32), y\`z (32)" in card


@pytest.mark.parametrize("name", ["/home/me/secret/ring", r"C:\me\secret\ring", "ring"])
def test_data_that_are_named_by_a_path_keep_the_calibrations_and_lose_the_path(
    run: Path, hub: Hub, tmp_path: Path, name: str
) -> None:
    """The fingerprint of a calibration has the name of the data, so it must not be a path."""
    model = load(run)
    assert model.data is not None
    model.data = replace(model.data, name=name)
    made = _calibrated(model)
    place = save(model, tmp_path / "model", calibrations={"4": made})
    push_to_hub(place, "me/ring")
    sent = b"".join(file.read_bytes() for file in (hub.root / "me/ring").iterdir())
    assert b"secret" not in sent and b"Score model of ring" in sent
    again = from_hub("me/ring", cache_dir=tmp_path / "cache")
    assert list(valid(again)) == ["4"] and again.data is not None and again.data.name == "ring"
    made.check(again.sde, again)


# Bad input


def test_nothing_is_sent_of_a_damaged_run(run: Path, hub: Hub, tmp_path: Path) -> None:
    place = shutil.copytree(run / "checkpoint", tmp_path / "copy")
    file = place / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="hash"):
        push_to_hub(place, "me/ring")
    diverged = Preconditioned(MLP(2, width=8), VPSDE())
    next(iter(diverged.parameters())).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="run: expected finite weights, got 'NaN or infinity in"):
        push_to_hub(save(diverged, tmp_path / "nan"), "me/ring")
    assert hub.asked == []


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x", "me/", "/x", 3])
def test_names_of_no_repository_are_refused(
    run: Path, hub: Hub, name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where none of the names is a folder
    for call in (lambda: push_to_hub(run, name), lambda: from_hub(name)):
        with pytest.raises(ValueError, match="repo_id: expected a repository of the hub such as"):
            call()
    assert hub.asked == []


def test_a_folder_here_is_not_asked_of_the_hub(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    with pytest.raises(ValueError, match=r"got 'run, a folder here'; .*scoresde\.load\('run'\)"):
        from_hub("run")
    with pytest.raises(ValueError, match=r"a folder here'; .* by scoresde\.load"):
        from_hub("./run")
    assert hub.asked == []


def test_a_repository_of_something_else_is_refused(hub: Hub) -> None:
    (hub.root / "me/bert").mkdir(parents=True)
    (hub.root / "me/bert/pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"me/bert without config\.json and model\.safetensors"):
        from_hub("me/bert")


def test_errors_of_the_hub_name_the_repository_and_the_remedy(hub: Hub) -> None:
    message = r"answer of the hub for 'me/none', got OSError: 404 Client Error\. Repo.*; check"
    with pytest.raises(OSError, match=message):
        from_hub("me/none")


def test_errors_without_an_answer_are_of_the_same_form_and_show_no_token(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx raises errors that are no OSError, and quotes the header that holds the token."""

    class NoConnection(Exception):
        __module__ = "httpx"

    def fail(*_: Any, **__: Any) -> str:
        raise NoConnection("Illegal header value b'Bearer hf_Abc123' of SECRET")

    monkeypatch.setattr(hub, "create_repo", fail)
    with pytest.raises(OSError, match="got NoConnection: Illegal header") as found:
        push_to_hub(run, "me/ring", token="SECRET")
    shown = "".join(traceback.format_exception(found.value))
    assert "Abc123" not in shown and "SECRET" not in shown.replace('token="SECRET"', "")
    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: 1 / 0)  # no error of the hub
    with pytest.raises(ZeroDivisionError):
        push_to_hub(run, "me/ring")


def test_places_and_texts_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out: expected a new folder, .* training\.safetensors"):
        prepare_for_hub(run, run / "checkpoint")
    alone = save(load(run), tmp_path / "model")
    with pytest.raises(ValueError, match="out: expected another folder than the run"):
        prepare_for_hub(alone, alone)
    with pytest.raises(ValueError, match="license: expected an identifier of the hub"):
        model_card(run, license="MIT\ntags: x")
    with pytest.raises(TypeError, match="metrics: expected a Comparison"):
        model_card(run, metrics={"energy": 0.1})  # type: ignore[arg-type]


def test_without_the_package_the_command_that_installs_it_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: push_to_hub(run, "me/ring"), lambda: from_hub("me/ring")):
        with pytest.raises(ImportError, match=r"pip install 'scoresde\[hub\]'"):
            call()


def test_nothing_of_the_hub_is_imported_before_it_is_asked() -> None:
    code = "import sys, scoresde.hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
