"""Signals, volumes and conditions beside them on the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call, refused

import scoresde
from scoresde.data import samples, write_wav
from scoresde.likelihood import log_prob

FEW = "--preset tiny --steps 2 --batch-size 4"


@pytest.mark.parametrize(
    ("shape", "made"), [((40, 16), (1, 16)), ((24, 4, 6, 4), (1, 4, 6, 4))], ids=["1-D", "3-D"]
)
def test_arrays_without_a_channel_train_and_come_back_in_their_units(
    tmp_path: Path, shape: tuple[int, ...], made: tuple[int, ...]
) -> None:
    raw = 500 + 40 * np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "x.npy", raw)
    data = f"{tmp_path}/x.npy --data-option channels=none"
    net = "--net-option width=8 --net-option multipliers=[1,2]"
    call(f"train {data} --out {tmp_path}/run {FEW} {net}")
    call(f"sample {tmp_path}/run -n 3 --steps 2 --out {tmp_path}/drawn")
    with np.load(tmp_path / "drawn/shard-000000.npz") as held:
        assert held["x"].shape == (3, *made)
        assert 200 < held["raw"].mean() < 800
    read = samples(tmp_path / "drawn")
    assert read.scaling is not None
    found = answer(f"likelihood {tmp_path}/run {tmp_path}/x.npy --limit 2 --tolerance 1e-2")
    values = int(np.prod(made))
    shift = values * np.log(raw.std())
    assert found["nats_in_units_of_the_table"] == pytest.approx(found["nats"] - shift, rel=1e-4)
    message = refused(f"sample {tmp_path}/run -n 3 --shape 2x4 --out {tmp_path}/none")
    assert f"expected 1{'xany' * (len(made) - 1)}, as the network takes it" in message


def test_arrays_beside_the_samples_are_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 2)), theta=rng.normal(size=(40, 3)))
    call(f"train {tmp_path}/x.npz --out {tmp_path}/run {FEW} --net-option width=16")
    drawn = []
    for given in ("--given theta=1,2,3", "--given theta=1,2,-3", ""):
        place = f"{tmp_path}/drawn{len(drawn)}"
        call(f"sample {tmp_path}/run -n 3 --steps 2 {given} --out {place}")
        drawn.append(samples(place).load().x)
    assert not torch.equal(drawn[0], drawn[1])
    message = refused(f"sample {tmp_path}/run -n 3 --given theta=1,2 --out {tmp_path}/none")
    assert "--given: expected 3 numbers with commas between them for theta, got 2" in message
    plain = f"train {tmp_path}/x.npz --data-option condition= --out {tmp_path}/plain"
    assert "theta" not in call(f"{plain} {FEW} --net-option width=16").stderr


def test_whole_numbers_beside_the_samples_are_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kelvin = rng.integers(250, 320, 40)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(40, 2)), kelvin=kelvin)
    line = f"train {tmp_path}/x.npz --out {tmp_path}/run {FEW} --net-option width=16"
    with pytest.warns(UserWarning, match="'kelvin'.*whole numbers from .* taken as a vector"):
        call(line)
    model = scoresde.load(tmp_path / "run/checkpoint")
    assert model.net.condition.scale("kelvin").mean > 250  # type: ignore[union-attr, operator]
    place = f"{tmp_path}/drawn"
    call(f"sample {tmp_path}/run -n 3 --steps 2 --given kelvin=300.5 --out {place}")
    assert samples(place).load().x.isfinite().all()
    call(f"likelihood {tmp_path}/run {tmp_path}/x.npz --limit 3")


def test_classes_and_sets_beside_the_samples_are_passed_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(40, 2)),
        "kind": np.arange(40) % 4,
        "points": rng.normal(size=(40, 5, 3)),
        "points_mask": rng.random((40, 5)) < 0.7,
    }
    np.savez(tmp_path / "x.npz", **arrays)
    call(f"train {tmp_path}/x.npz --out {tmp_path}/run {FEW} --net-option width=16")
    line = f"likelihood {tmp_path}/run {tmp_path}/x.npz --limit 3"
    model = scoresde.load(tmp_path / "run/checkpoint")
    cond = {k: torch.from_numpy(v) for k, v in arrays.items() if k != "x"}
    cond["points"] = cond["points"].float()
    out = f"{tmp_path}/values.npz"
    call(f"{line} --out {out}")
    with np.load(out) as held:
        rows, nats = torch.from_numpy(held["row"]), held["nats"]
    x = torch.from_numpy(arrays["x"][rows]).float()
    part = {name: value[rows] for name, value in cond.items()}
    expected = log_prob(model, x, cond=part, seed=0).nats
    np.testing.assert_allclose(nats, expected.numpy(), atol=1e-3)
    drawn = []
    for given in ("--given kind=1", "--given kind=3"):
        place = f"{tmp_path}/drawn{len(drawn)}"
        call(f"sample {tmp_path}/run -n 3 --steps 2 {given} --out {place}")
        drawn.append(samples(place).load().x)
    assert not torch.equal(*drawn)
    for count in (2, 6):  # a set of any size, from a file
        np.save(tmp_path / f"{count}.npy", rng.normal(size=(count, 3)))
        place = f"{tmp_path}/drawn{len(drawn)}"
        told = call(
            f"sample {tmp_path}/run -n 3 --steps 2 --given points={tmp_path}/{count}.npy "
            f"--out {place}"
        )
        assert "samples are not given kind" in told.stderr
        drawn.append(samples(place).load().x)
    assert not torch.equal(*drawn[-2:])
    message = refused(f"sample {tmp_path}/run -n 3 --given points=no.npy --out {tmp_path}/none")
    assert "--given: expected a .npy file with the numbers of one points, got 'no.npy'" in message
    message = refused(f"sample {tmp_path}/run -n 3 --given kind=9 --out {tmp_path}/none")
    assert "--given: expected a class from 0 to 3 for kind, got '9'" in message


def test_recordings_train(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", torch.sin(torch.arange(2000.0) / 5)[None] / 2, rate=8000)
    line = f"train {tmp_path}/a.wav --out {tmp_path}/run {FEW}"
    assert "--data-option window" in refused(line)
    net = "--net-option width=8 --net-option multipliers=[1,2]"
    assert "62 x (1, 32)" in call(f"{line} --data-option window=32 {net}").stderr
