"""`--guidance` of the commands: what the library computes, and errors that say what is missing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call

from scoresde import VPSDE, ClassifierFree, Preconditioned, ReverseSampler, load, save
from scoresde.data import samples
from scoresde.nets import MLP, Vector
from scoresde.summary import ConditionSummary, DataSummary


def filled(**options: Any) -> MLP:
    net = MLP(2, width=8, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return net


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Preconditioned(filled(classes=3, conditions={"y": Vector(2)}), VPSDE())
    made.data = DataSummary(
        5, (2,), 0.0, 1.0, -3.0, 3.0, classes=3, conditions={"y": ConditionSummary((2,))}
    )
    return save(made, tmp_path_factory.mktemp("model") / "run")


def drawn(model: Path, out: Path, options: str) -> torch.Tensor:
    call(f"sample {model} --n 6 --steps 3 --solver ddim --out {out} --device cpu {options}")
    return samples(out).load().x


@pytest.mark.parametrize("given", ["", "--given y=0.5,-1"])
@pytest.mark.parametrize("interval", [None, (-3.0, 1.0)])
def test_guided_samples_are_those_of_the_library(
    model: Path, tmp_path: Path, given: str, interval: Any
) -> None:
    limits = "--guidance-interval=-3,1" if interval else ""
    got = drawn(model, tmp_path / "a", f"--label 1,2 --guidance 2.5 {limits} {given}")
    inner = load(model)
    cond = {"label": torch.tensor([1, 2] * 3)}
    if given:
        cond["y"] = torch.tensor([[0.5, -1.0]] * 6)
    guided = ClassifierFree(inner, 2.5, interval=interval)
    truth = ReverseSampler(inner.sde, guided, "ddim", steps=3).sample((6, 2), seed=0, cond=cond)
    torch.testing.assert_close(got, truth)
    plain = drawn(model, tmp_path / "b", f"--label 1,2 --guidance 1 {given}")
    assert not torch.allclose(got, plain)
    assert torch.equal(plain, drawn(model, tmp_path / "c", f"--label 1,2 {given}"))


def test_a_resumed_call_with_another_scale_is_refused_and_the_calls_are_counted(
    model: Path, tmp_path: Path
) -> None:
    line = f"sample {model} --n 4 --steps 3 --solver ddim --out {tmp_path / 'a'} --label 1"
    found = answer(f"{line} --guidance 2.0")
    assert (found["guidance"], found["nfe"]) == (2.0, 8)
    assert "nothing was changed" in call(f"{line} --guidance 3.0", 2).stderr
    assert answer(f"{line} --guidance 2.0")["drawn"] == 0
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert config["guidance"] == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--label none --guidance 2.0", "--guidance: expected 1, for the samples have no cond"),
        ("--guidance-interval=0,1", "--guidance-interval: expected none without a scale"),
        ("--guidance 2 --guidance-interval=1,0", "--guidance-interval: expected two increasing"),
        ("--guidance nan", "--guidance: expected a finite number"),
    ],
)
def test_bad_input(model: Path, tmp_path: Path, options: str, words: str) -> None:
    result = call(f"sample {model} --n 2 --steps 2 --out {tmp_path / 'a'} {options}", 2)
    assert words in result.stderr and not (tmp_path / "a").exists()


def test_a_model_without_conditions_or_without_nulls_says_so(tmp_path: Path) -> None:
    place = save(Preconditioned(filled(), VPSDE()), tmp_path / "plain")
    result = call(f"sample {place} --guidance 2 --steps 2 --out {tmp_path / 'a'}", 2)
    assert "the samples have no condition" in result.stderr
    place = save(Preconditioned(filled(classes=3), VPSDE(), null={}), tmp_path / "bare")
    line = f"sample {place} --guidance 2 --steps 2 --label 1 --out {tmp_path / 'a'}"
    assert "value for 'not given' of label, got 'one that has it for none'" in call(line, 2).stderr


def test_a_model_that_was_trained_without_dropout_is_named(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 2)), label=[0, 1] * 30
    )
    for dropout, warns in ((0, True), (0.2, False)):
        run = tmp_path / f"run{dropout}"
        call(
            f"train {tmp_path / 'd.npz'} --steps 2 --batch-size 8 --net-option width=8 "
            f"--calibrate 0 --cond-dropout {dropout} --out {run}"
        )
        line = f"sample {run} -n 2 --steps 2 --guidance 2 --out {tmp_path / f'out{dropout}'}"
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call(line)
        said = "\n".join(str(one.message) for one in found)
        assert ("train with Loss(cond_dropout" in said) == warns


def test_codes_of_the_guided_flow_are_decoded_by_the_same(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, label=[0, 1, 2] * 2)
    data = f"{tmp_path / 'd.npz'} --guidance 2.0 --tolerance 2e-6"
    codes = tmp_path / "z.npz"
    found = answer(f"encode {model} {data} --check --out {codes}")
    assert found["round_trip_max"] < 1e-3
    backs = {}
    for name, options in (("same", "--guidance 2.0"), ("plain", "--guidance 1")):
        call(f"decode {model} {codes} {options} --tolerance 2e-6 --out {tmp_path / name}.npz")
        backs[name] = np.load(tmp_path / f"{name}.npz")["x"]
    assert np.abs(backs["same"] - x).max() < 1e-3 < np.abs(backs["plain"] - x).max()
    line = f"interpolate {model} {data} --between 0,4 --frames 3 --out {tmp_path / 'between'}"
    call(line)
    path = np.load(tmp_path / "between/interpolation.npz")["x"]
    assert np.abs(path[0, 0] - x[0]).max() < 1e-3
    seeds = f"interpolate {model} --seeds 0,1 --guidance 2 --out {tmp_path / 'none'}"
    assert "the samples have no condition" in call(seeds, 2).stderr


def test_solvers_are_compared_on_the_guided_model(model: Path, tmp_path: Path) -> None:
    options = f"compare {model} --solvers ddim --steps 2 --n 8 --rounds 1"
    none = f"{options} --guidance 2 --out {tmp_path / 'c'}"
    assert "no condition" in call(none, 2).stderr
    options += " --label 1"
    found = answer(f"{options} --guidance 2.0 --out {tmp_path / 'a'}")
    plain = answer(f"{options} --out {tmp_path / 'b'}")
    calls = [each["rows"][0]["nfe"] for each in (found, plain)]
    assert calls[0] == 2 * calls[1]
