"""The command line: options, files, exit codes, and numbers equal to those of the library."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call, refused

import scoresde.data
from scoresde import ReverseSampler, Trainer, elbo, encode, load, log_prob
from scoresde.cli.app import COMMANDS, command
from scoresde.cli.common import guarded, key_values
from scoresde.cli.flags import flags_of
from scoresde.likelihood import discrete_log_prob
from scoresde.options import Divergence, Loss, Optim, Records, Tolerances
from scoresde.solvers import AdaptiveODE
from scoresde.training import Diverged

ROOT = Path(__file__).parents[2]
QUICK = "--sample-every 0 --no-tensorboard --log-every 2 --batch-size 16"
MOONS = f"train moons --data-option n=400 --net-option width=8 --net-option depth=1 {QUICK}"
DIGITS = (
    f"train digits --net-option width=8 --net-option multipliers=[1] --net-option heads=1 {QUICK}"
)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def weights(run: Path) -> bytes:
    return (run / "checkpoint/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("moons") / "run"
    call(f"{MOONS} --steps 4 --checkpoint-every 2 --seed 3 --ema 0.5 --out {out}")
    return out


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    call(f"{DIGITS} --steps 2 --ema 0 --out {out}")
    return out


# The program itself


def program(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scoresde", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | more.pop("env", {}),
        **more,
    )


def test_help_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\nfrom scoresde.cli import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    for arguments in (["--help"], ["train", "--help"]):
        shown = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
        )
        assert shown.stdout.splitlines()[-1] == "[]" and "usage: scoresde" in shown.stdout


def test_exit_codes_of_the_program(tmp_path: Path) -> None:
    assert program("--version").stdout.startswith("scoresde ")
    missing = program("inspect", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("scoresde: MODEL: expected a checkpoint folder")
    assert len(missing.stderr.splitlines()) == 1
    loud = program("inspect", str(tmp_path / "none"), env={"SCORESDE_TRACEBACK": "1"})
    assert loud.returncode == 1 and "Traceback" in loud.stderr


def test_without_tyro_it_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['tyro'] = None; from scoresde.cli import main; main(['x'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 2 and "pip install 'scoresde[cli]'" in found.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x: expected"), 2),
        (TypeError("x"), 2),
        (FileNotFoundError("x"), 2),
        (PermissionError("x"), 2),
        (ImportError("x"), 2),
        (Diverged("x"), 1),
        (RuntimeError("x"), 1),
        (KeyError("x"), 1),
        (OSError(28, "no space left"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_errors_are_exit_codes(error: BaseException, code: int) -> None:
    with pytest.raises(SystemExit) as caught, guarded({}):
        raise error
    assert caught.value.code == code


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_saves_the_run_and_resume_ends_at_the_same_bits(
    tmp_path: Path, number: int
) -> None:
    line = f"{MOONS} --checkpoint-every 100000 --holdout 0 --steps 1000 --ema 0.9"
    call(f"{line} --out {tmp_path / 'whole'}")
    run = tmp_path / "parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "scoresde", *shlex.split(line), "--out", str(run)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    history = run / "history.csv"
    while process.poll() is None and not (history.exists() and history.stat().st_size > 200):
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    again = f"scoresde train --config {run / 'config.json'} --resume"
    assert f"stopped; to go on: {again}" in said and "Traceback" not in said
    assert answer(f"inspect {run}")["step"] < 1000
    call(again.removeprefix("scoresde "))
    assert weights(run) == weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_write_one_run(tmp_path: Path) -> None:
    line = f"{MOONS} --steps 3 --out {tmp_path / 'run'} --json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "scoresde", *shlex.split(line)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["steps"] == 3  # one object, of the first process
    assert found.stderr.count("sde      VPSDE") == 1
    call(f"inspect {tmp_path / 'run'}")


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_worth_reading(name: str) -> None:
    shown, _, examples = call(f"{name} --help").stdout.partition("Examples:")
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", shown))
    assert "--json" in options and examples.count(f"scoresde {name}") >= 2
    for line in examples.splitlines():
        if line.startswith("scoresde "):
            assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", line)) <= options, line


def test_a_mistyped_flag_or_command_names_the_nearest() -> None:
    refused("train moons --out x --setps 3", "--setps", "--steps")
    refused("trian moons", "trian", "train")
    refused("train moons", "--out")


# Options from a file


def test_every_option_of_the_trainer_is_reachable() -> None:
    import inspect

    ours = set(flags_of(command("train")))
    theirs = set(inspect.signature(Trainer).parameters) - {"optim", "loss", "records"}
    theirs |= {f.name for group in (Optim, Loss, Records) for f in fields(group)}
    made = {"model", "function", "progress", "quantisation", "validation"}
    assert theirs - ours == made | {"callback", "callback_every"}  # by --holdout, --sample-every


def test_a_run_is_repeated_from_its_folder_to_the_bit(moons: Path, tmp_path: Path) -> None:
    call(f"train --config {moons / 'config.json'} --out {tmp_path / 'again'}")
    assert weights(tmp_path / "again") == weights(moons)
    call(f"train --config {moons / 'config.json'} --seed 4 --out {tmp_path / 'other'}")
    assert weights(tmp_path / "other") != weights(moons)
    theirs, ours = (
        json.loads((run / "config.json").read_text()) for run in (moons, tmp_path / "again")
    )
    assert ours | {"out": str(moons)} == theirs
    assert theirs["steps"] == 4 and theirs["about"]["command"] == "train"


def test_toml_and_flags_mean_the_same_and_flags_win(moons: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'data = "moons"\nsteps = 9\nbatch-size = 16\nseed = 3\nema = 0.5\nlog_every = 2\n'
        "sample_every = 0\ntensorboard = false\ncheckpoint_every = 2\n"
        "[data_option]\nn = 400\n[net_option]\nwidth = 8\ndepth = 1\n"
    )
    call(f"train --config {file} --steps 4 --out {tmp_path / 'run'}")
    assert weights(tmp_path / "run") == weights(moons)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"batchsize": 3}', ("batch_size", "'batchsize'", "did you mean")),
        ('{"steps": "many"}', ("--steps: expected a whole number, got 'many'", "c.json")),
        ('{"steps": [3]}', ("steps: expected one value",)),
        ('{"about": {"command": "sample"}}', ("scoresde sample", "not of `scoresde train`")),
        ('{"overwrite": true}', ("'overwrite'",)),
        ("{", ("is no JSON",)),
        ("[]", ("a table of options",)),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "c.json").write_text(text)
    refused(f"train moons --out {tmp_path / 'run'} --config {tmp_path / 'c.json'}", *words)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    refused(f"train moons --out x --config {tmp_path / 'c.toml'}", "a .toml or .json file")
    (tmp_path / "c.yaml").write_text("steps: 3")
    refused(f"train moons --out x --config {tmp_path / 'c.yaml'}", "ends in .toml or .json")


def test_key_values() -> None:
    found = key_values("o", ["width=64", "multipliers=[1,2]", "mode=RGB", "flip=true", "a-b=1e-3"])
    assert found == {"width": 64, "multipliers": [1, 2], "mode": "RGB", "flip": True, "a_b": 1e-3}
    for wrong in (["width"], ["=3"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match="o: expected"):
            key_values("o", wrong)


# Output folders


def test_an_existing_folder_is_refused_and_untouched(moons: Path, tmp_path: Path) -> None:
    before = contents(moons)
    refused(f"{MOONS} --steps 1 --out {moons}", "expected a new or empty folder", "--overwrite")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("all of it")
    refused(f"{MOONS} --steps 1 --out {tmp_path / 'mine'} --overwrite", "no config.json")
    refused(f"{MOONS} --steps 1 --out {tmp_path / 'mine/thesis.tex'}", "a folder")
    assert contents(moons) == before
    assert contents(tmp_path / "mine").keys() == {"thesis.tex"}


def test_overwrite_replaces_the_run_and_bad_input_does_not(moons: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(moons, run)
    (run / "notes.txt").write_text("kept")
    before = contents(run)
    refused(f"{MOONS} --steps 1 --weighting epps --out {run} --overwrite", "did you mean 'eps'")
    assert contents(run) == before
    wild = "--lr 1e38 --clip 0 --warmup 0 --max-nonfinite 1 --steps 50"  # a run that diverges
    assert "finite" in call(f"{MOONS} {wild} --out {run} --overwrite", 1).stderr
    assert contents(run) == before
    call(f"{MOONS} --steps 1 --holdout 0 --out {run} --overwrite")
    assert answer(f"inspect {run}")["step"] == 1
    assert (run / "notes.txt").read_text() == "kept" and not (run / "best").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_bad_input(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused(f"{MOONS} --steps 1 --out {tmp_path / 'run'}", "ermission")


def test_resume_without_a_checkpoint_starts_and_with_one_goes_on(
    moons: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = f"{MOONS} --checkpoint-every 2 --seed 3 --ema 0.5 --schedule constant --warmup 0"
    refused(f"{line} --steps 2 --out {run} --resume", "--resume: expected a checkpoint")
    assert not run.exists()
    said = call(f"{line} --steps 2 --out {run} --auto-resume").stderr
    assert "no checkpoint" in said
    call(f"{line} --steps 4 --out {run} --resume")
    call(f"{line} --steps 4 --out {tmp_path / 'whole'}")
    assert weights(run) == weights(tmp_path / "whole")


# Training


def test_what_is_inferred_from_the_data_is_said(digits: Path, tmp_path: Path) -> None:
    about = json.loads((digits / "config.json").read_text())["about"]
    assert (about["shape"], about["classes"], about["network"]) == ([1, 8, 8], 10, "UNet")
    assert about["predicts"] == "v" and about["samples"] + about["held_out"] == 899
    found = answer(f"inspect {digits}")
    assert found["quantisation"] == {"levels": 17, "low": -1.0, "high": 1.0}
    assert (found["shape"], found["classes"], found["step"]) == ([1, 8, 8], 10, 2)
    shutil.copytree(digits / "checkpoint", tmp_path / "alone")  # a U-Net takes any size
    assert answer(f"inspect {tmp_path / 'alone'}")["shape"] == [1, 8, 8]
    out = tmp_path / "edm"
    said = call(f"{MOONS} --steps 1 --sde edm --out {out}").stderr
    assert "predicts edm, told log_sigma/4" in said and "EDMSDE" in said
    assert "weighting eps, times by LogNormalTime(mean=-0.5, std=1.2, uniform=0.1" in said
    std = scoresde.data.moons(400).x.double().var(0, correction=0).mean().sqrt()
    model = load(out / "checkpoint")
    assert model.sigma_data == model.data.std == pytest.approx(float(std), rel=0.02)


def test_a_run_that_diverges_has_failed(tmp_path: Path) -> None:
    line = f"{MOONS} --steps 200 --lr 1e35 --clip 0 --max-nonfinite 2 --out {tmp_path / 'run'}"
    said = call(line, 1).stderr
    assert "expected finite" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--sde vpp", ("sde:", "did you mean 'vp'")),
        ("--sde-option betamax=3", ("sde-option of VPSDE", "did you mean 'beta_max'")),
        ("--sde flow --sde-option a=3", ("sde-option",)),
        ("--net unet", ("net: expected mlp for (D,)",)),
        ("--net-option wdth=3", ("did you mean 'width'",)),
        ("--net-option dim=3", ("net-option of MLP",)),
        ("--time uniformly", ("time:", "did you mean 'uniform'")),
        ("--predicts noise", ("predicts",)),
        ("--data-option m=3", ("data-option",)),
        ("--data-option size=3", ("size: expected nothing",)),
        ("--widths 1", ("widths",)),
        ("--holdout 0.99", ("holdout",)),
        ("--steps 0", ("--steps",)),
    ],
)
def test_bad_options_of_training(tmp_path: Path, options: str, words: tuple[str, ...]) -> None:
    refused(f"train moons --out {tmp_path / 'run'} {options}", *words)
    assert not (tmp_path / "run").exists()


def test_pictures_of_a_run(tmp_path: Path) -> None:
    line = MOONS.replace("--sample-every 0", "--sample-every 2")
    call(f"{line} --steps 4 --out {tmp_path / 'run'}")
    drawn = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert drawn == ["000000002.png", "000000004.png"] and (tmp_path / "run/loss.png").exists()


# Looking into checkpoints


def test_inspect_says_what_is_in_a_checkpoint(moons: Path) -> None:
    found, model = answer(f"inspect {moons}"), load(moons / "checkpoint")
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["network_options"] == model.net.config
    assert (found["sde"], found["sde_options"]) == ("VPSDE", {"beta_min": 0.1, "beta_max": 20.0})
    assert found["log_snr"]["T"] == model.sde.log_snr(1.0)
    assert found["average"] == "exponential, 4 updates" and found["resumable"]
    file = moons / "checkpoint/model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["files"]["model.safetensors"]["sha256"] == digest
    assert answer(f"inspect {moons / 'best'}")["resumable"] is False
    text = call(f"inspect {moons}").stdout
    assert f"{found['parameters']:,} parameters of float32" in text and digest[:16] in text


def test_a_damaged_checkpoint_is_refused(moons: Path, tmp_path: Path) -> None:
    def damaged(name: str, change: Any) -> Path:
        run = tmp_path / name
        shutil.copytree(moons, run)
        change(run / "checkpoint")
        return run

    def flip(folder: Path) -> None:
        raw = bytearray((folder / "model.safetensors").read_bytes())
        raw[-3] ^= 1
        (folder / "model.safetensors").write_bytes(raw)

    def cut(folder: Path) -> None:
        file = folder / "training.safetensors"
        file.write_bytes(file.read_bytes()[:-1])

    for name, change, word in (
        ("flip", flip, "hash"),
        ("cut", cut, "bytes instead of"),
        ("gone", lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        ("config", lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ):
        refused(f"inspect {damaged(name, change)} --json", word)
    refused(f"likelihood {tmp_path / 'flip'} moons", "hash")


# Likelihoods


def test_likelihood_is_that_of_the_library(moons: Path, tmp_path: Path) -> None:
    line = f"likelihood {moons} moons --data-option n=50 --limit 7 --batch-size 3 --probes 2"
    found = answer(f"{line} --seed 5 --out {tmp_path / 'l.npz'}")
    saved = np.load(tmp_path / "l.npz")
    rows, model = torch.from_numpy(saved["row"]), load(moons / "checkpoint")
    assert len(set(rows.tolist())) == 7
    x = scoresde.data.moons(50).x[rows]
    truth = log_prob(model, x, divergence=Divergence(probes=2), seed=5, batch_size=3)
    assert np.allclose(saved["nats"], truth.nats, rtol=0, atol=1e-9)
    assert found["nats"] == pytest.approx(float(truth.nats.mean()), abs=1e-9)
    error = float(truth.nats.std()) / 7**0.5
    assert found["nats_standard_error"] == pytest.approx(error, rel=1e-9)
    monte_carlo = truth.estimate()[1]
    assert found["nats_monte_carlo_error"] == pytest.approx(monte_carlo, rel=1e-9)
    assert found["nfe"] == float(truth.nfe.double().mean())
    told = call(f"{line} --seed 5").stdout
    error = float(truth.solver_error.mean())
    assert f"solver error    up to about {error:.3g} nats a sample, not in the +-\n" in told
    assert re.search(r"^truncation +\S+ nats a sample, not in the \+-$", told, re.MULTILINE)


def test_bits_per_dim_of_discrete_data(digits: Path, tmp_path: Path) -> None:
    line = f"likelihood {digits} digits --data-option split=test --limit 2 --tolerance 1e-3"
    found = answer(f"{line} --out {tmp_path / 'l.csv'}")
    table = (tmp_path / "l.csv").read_text().splitlines()
    row = [int(text.split(",")[0]) for text in table[1:]]
    part = scoresde.data.digits("test")[torch.tensor(row)]
    model = load(digits / "checkpoint")
    truth = discrete_log_prob(
        model,
        part.x,
        part.quantisation,
        cond=part.cond,
        tolerances=Tolerances(1e-3, 1e-3),
        divergence="hutchinson",
    )
    assert found["bits_per_dim"] == pytest.approx(truth.estimate()[0], rel=1e-6)
    assert table[0].startswith("row,nats,bits_per_dim,solver_error")
    nats = float(truth.solver_error.mean())
    error = f"{nats:.3g} nats a sample, {nats / (64 * math.log(2)):.2g} bits/dim, not in the +-"
    assert f"solver error    up to about {error}\n" in call(line).stdout
    other = answer(f"{line} --unconditional")  # the labels were told to the model
    assert other["bits_per_dim"] != found["bits_per_dim"]


def test_the_bound_is_that_of_the_library(digits: Path) -> None:
    line = f"likelihood {digits} digits --data-option split=test --limit 3 --bound --times 8"
    found = answer(f"{line} --draws 4 --seed 1")
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(898, generator=generator)[:3].sort().values
    part = scoresde.data.digits("test")[rows]
    model = load(digits / "checkpoint")
    truth = elbo(model, part.x, quantisation=part.quantisation, cond=part.cond, steps=8, seed=1)
    mean, error = truth.estimate(part.quantisation)
    assert found["bits_per_dim"] == pytest.approx(mean, rel=1e-6)
    assert found["nats"] == pytest.approx(-float(truth.nats.mean()), rel=1e-6)
    assert found["bits_per_dim_monte_carlo_error"] == pytest.approx(error, rel=1e-5)


def table_of(rows: np.ndarray, file: Path) -> None:
    lines = ["height,weight", *(f"{a!r},{b!r}" for a, b in rows.tolist())]
    file.write_text("\n".join(lines) + "\n")


def test_a_table_is_read_in_the_units_of_the_training_table(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal((170.0, 70.0), (10.0, 3.0), (200, 2))
    table_of(rows, tmp_path / "all.csv")
    table_of(rows[:5], tmp_path / "some.csv")
    run = tmp_path / "run"
    line = MOONS.replace("moons --data-option n=400", str(tmp_path / "all.csv"))
    call(f"{line} --steps 2 --out {run}")
    found = answer(f"likelihood {run} {tmp_path / 'some.csv'} --divergence exact")
    scaled = torch.tensor((rows[:5] - rows.mean(0)) / rows.std(0)).float()
    truth = log_prob(load(run / "checkpoint"), scaled, divergence="exact").nats.mean()
    assert found["nats"] == pytest.approx(float(truth), abs=1e-4)
    raw = float(truth) - float(np.log(rows.std(0)).sum())
    assert found["nats_in_units_of_the_table"] == pytest.approx(raw, abs=1e-4)
    call(f"encode {run} {tmp_path / 'some.csv'} --out {tmp_path / 'z.npz'}")
    call(f"decode {run} {tmp_path / 'z.npz'} --out {tmp_path / 'x.npz'}")
    assert np.allclose(np.load(tmp_path / "x.npz")["raw"], rows[:5], rtol=0, atol=0.05)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n3,5\n")
    refused(f"likelihood {run} {tmp_path / 'other.csv'}", "columns", "height")


def test_data_that_do_not_fit_the_model(moons: Path, digits: Path, tmp_path: Path) -> None:
    refused(f"likelihood {moons} digits", "samples of shape 2")
    refused(f"likelihood {moons} nothing_here", "nothing at 'nothing_here'")
    refused(f"likelihood {moons} moons --limit 0", "limit")
    refused(f"likelihood {moons} moons --out {tmp_path / 'l.txt'}", ".csv or .npz")
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    options = "--data-option layout=NHW"
    refused(f"likelihood {digits} {tmp_path / 'x.npy'} {options}", "levels=17", "levels=256")
    np.save(tmp_path / "labels.npy", np.array([0, 3, 11, 2]))
    line = f"likelihood {digits} {tmp_path / 'y.npy'} --data-option labels={tmp_path}/labels.npy"
    np.save(tmp_path / "y.npy", (images // 16).astype(np.uint8))
    refused(f"{line} --data-option levels=17 {options}", "classes of the model (0, 1,", "got '11'")


# Latent codes


def test_encode_and_decode_are_inverse_and_those_of_the_library(
    moons: Path, tmp_path: Path
) -> None:
    line = f"encode {moons} moons --data-option n=40 --limit 6 --tolerance 1e-4 --check"
    found = answer(f"{line} --out {tmp_path / 'z.npz'} --batch-size 4")
    saved, model = np.load(tmp_path / "z.npz"), load(moons / "checkpoint")
    x = scoresde.data.moons(40).x[torch.from_numpy(saved["row"])]
    solver = AdaptiveODE(rtol=1e-4, atol=1e-4)
    latent = encode(model.sde, model, x, solver=solver, check=True)
    assert np.allclose(saved["z"], latent.z, rtol=0, atol=1e-5)
    assert found["round_trip"] == pytest.approx(float(latent.round_trip.mean()), rel=1e-2)
    call(f"decode {moons} {tmp_path / 'z.npz'} --tolerance 1e-4 --out {tmp_path / 'x.npz'}")
    error = np.square(np.load(tmp_path / "x.npz")["x"] - x.numpy()).mean(1) ** 0.5
    assert error.max() <= 2 * found["round_trip_max"] + 1e-7
    refused(f"{line} --out {tmp_path / 'z.npz'}", "expected a new file")
    refused(f"decode {moons} {tmp_path / 'x.npz'} --out y.npz", "an array z")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    refused(f"decode {moons} {tmp_path / 'bad.npz'} --out y.npz", "a whole .npz file")


def test_decode_as_a_class(digits: Path, tmp_path: Path) -> None:
    codes = tmp_path / "z.npz"
    line = f"encode {digits} digits --data-option split=test --limit 3 --tolerance 1e-4"
    call(f"{line} --out {codes}")
    assert np.load(codes)["label"].shape == (3,)
    for name, option in (("own", ""), ("none", "--label none"), ("three", "--label 3")):
        call(f"decode {digits} {codes} --tolerance 1e-4 {option} --out {tmp_path / name}.npz")
    own, none, three = (np.load(tmp_path / f"{n}.npz")["x"] for n in ("own", "none", "three"))
    assert np.abs(own - none).max() > 0 and np.abs(own - three).max() > 0
    refused(f"decode {digits} {codes} --label 10 --out {tmp_path / 'y.npz'}", "from 0 to 9", "10")
    refused(f"decode {digits} {codes} --label x --out {tmp_path / 'y.npz'}", "from 0 to 9", "x")


def test_interpolate_joins_its_two_ends(moons: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    line = f"interpolate {moons} moons --data-option n=40"
    found = answer(f"{line} --between 3,17 --between 5,1 --frames 5 --out {out}")
    saved, x = np.load(out / "interpolation.npz"), scoresde.data.moons(40).x
    assert saved["x"].shape == (2, 5, 2) and Path(found["picture"]).exists()
    assert np.allclose(saved["x"][:, 0], x[[3, 5]], rtol=0, atol=1e-3)
    assert np.allclose(saved["x"][:, -1], x[[17, 1]], rtol=0, atol=1e-3)
    turn = np.stack([np.arctan2(z[:, 1], z[:, 0]) for z in saved["z"]])
    steps = np.diff(np.unwrap(turn, axis=1), axis=1)
    assert np.abs(np.sign(steps).sum(1)).tolist() == [4, 4]  # always the same way round
    refused(f"{line} --between 3,40 --out {out}2", "numbers below 40")
    refused(f"{line} --between 3 --out {out}2", "two numbers")
    refused(f"interpolate {moons} --out {out}2", "two seeds")
    refused(f"interpolate {moons} --seeds 1,2 --frames 1 --out {out}2", "frames")


def test_interpolate_between_seeds_starts_from_their_noise(moons: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    call(f"interpolate {moons} --seeds 7,8 --frames 3 --out {out}")
    z, model = np.load(out / "interpolation.npz")["z"], load(moons / "checkpoint")
    sampler = ReverseSampler(model.sde, model, steps=1)
    for place, seed in ((0, 7), (-1, 8)):
        path = sampler.solve((1, 2), seed=seed, keep_path=True).path
        assert path is not None and np.allclose(z[0, place], path[0, 0], rtol=0, atol=1e-6)


# What bad input and failures leave behind


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compare {run} --solvers nosuch --out {out}/report", ("solver", "nosuch")),
        ("compare {run} --steps 0 --out {out}/report", ("steps",)),
        ("compare {run} --grids nosuch --out {out}/report", ("grid", "nosuch")),
        ("likelihood nosuch moons --out {out}/new/nats.csv", ("nosuch",)),
        ("encode {run} nosuch --out {out}/new/codes.npz", ("nosuch",)),
        ("decode {run} nosuch.npz --out {out}/new/back.npz", ("nosuch",)),
        ("export {run} --output nosuch --out {out}/new/model.onnx", ("nosuch",)),
        ("interpolate {run} moons --between 0,99999 --out {out}/new", ("99999",)),
        ("sample {run} --shape 3 --out {out}/samples", ("shape: expected 2", "got 3")),
        ("train digits --data-option size=axb --out {out}/run", ("size", "'axb'", "32x48")),
        ("compare {run} --solvers ddim,no --out {out}/report", ("--solvers: expected one of",)),
        ("train moons --sde-option beta_max=-3 --out {out}/run", ("--sde-option beta_max: ",)),
        ("train moons --net-option width=abc --out {out}/run", ("--net-option width: ",)),
        ("train moons --init-from nosuch --out {out}/run", ("--init-from: expected a checkp",)),
        (
            "sample {run} --solver calibration:7 --out {out}/samples",
            ("--solver: expected a calibration", "it has none", "scoresde calibrate"),
        ),
        (
            "likelihood {run} moons --out {run}/config.json/nats.csv",
            ("--out: expected a place in folders", "is a file"),
        ),
    ],
)
def test_bad_input_leaves_nothing(
    moons: Path, tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    refused(line.format(run=moons, out=tmp_path), *words)
    assert os.listdir(tmp_path) == []


def test_sizes_that_a_network_cannot_take_are_refused(digits: Path, tmp_path: Path) -> None:
    refused(f"sample {digits} --shape 3x8x8 --out {tmp_path}/a", "1xanyxany", "got 3x8x8")
    refused(f"sample {digits} --shape 8x8 --out {tmp_path}/a", "1xanyxany", "got 8x8")
    assert os.listdir(tmp_path) == []


def test_an_old_report_survives_a_comparison_that_fails(moons: Path, tmp_path: Path) -> None:
    for name in ("index.html", "comparison.json", "config.json"):
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)
    refused(f"compare {moons} --solvers nosuch --out {tmp_path} --overwrite", "nosuch")
    refused(f"compare {moons} --solvers ddim --out {tmp_path}", "--overwrite")
    assert contents(tmp_path) == before


def test_a_folder_that_is_read_only_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tests run as root, who may write everywhere."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    for line in (
        f"compare nosuch --out {tmp_path}/a/b",
        f"interpolate nosuch --seeds 0,1 --out {tmp_path}/a",
        f"reconstruct nosuch --data y.npz --operator identity --out {tmp_path}/a",
        f"encode nosuch moons --out {tmp_path}/z.npz",
    ):
        refused(line, f"--out: expected to write into '{tmp_path}', got no permission")


def test_errors_of_the_system_name_their_flag_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), guarded({"out": "--out {}"}):
        raise OSError(28, "out: expected to write x; free some space")
    assert capsys.readouterr().err.startswith("scoresde: --out: expected to write x")


def test_commands_in_messages_can_be_copied(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    text = call(f"{MOONS} --steps 1 --out '{run}'").stdout
    assert shlex.split(text.partition("next: ")[2]) == [
        *("scoresde", "sample", str(run), "--out", "samples")
    ]
    refused(f"train '{run}' --out {tmp_path}/b", f"--init-from '{run}';")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 2)), "numbers in the array"),
        (np.array([[1j, 0]]), "of real numbers"),
        (np.array([["a", "b"]]), "of real numbers"),
        (np.array([[None, 1]]), "Python objects"),
        (b"junk", "a whole .npz file"),
    ],
)
def test_files_of_other_arrays_are_named(
    moons: Path, tmp_path: Path, array: Any, words: str
) -> None:
    file = tmp_path / "a.npz"
    if isinstance(array, bytes):
        file.write_bytes(array)
    else:
        np.savez(file, y=array, z=array)
    refused(f"decode {moons} {file} --out {tmp_path}/b.npz", "LATENTS: expected", words)
    line = f"reconstruct {moons} --data {file} --operator identity --out {tmp_path}/c"
    refused(line, "--data: expected", words)
    np.savez(file, z=np.array([[0.0, 1.0], [math.nan, 0.0]]))
    refused(f"decode {moons} {file} --out {tmp_path}/b.npz", "LATENTS: expected", "in row 1")


def test_a_rank_that_is_no_number_is_named(
    moons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "first")
    refused(f"interpolate {moons} --seeds 0,1 --out {tmp_path}/a", "RANK", "'first'", "torchrun")


def test_the_standard_error_of_one_sample_is_unknown(moons: Path, recwarn: Any) -> None:
    line = f"likelihood {moons} moons --limit 1 --tolerance 1e-2"
    assert answer(line)["nats_standard_error"] is None
    assert "nan" not in call(line).stdout
    assert not [w for w in recwarn if "degrees of freedom" in str(w.message)]
