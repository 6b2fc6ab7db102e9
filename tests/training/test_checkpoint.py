"""Checkpoints: the round trip, and writing that is all or nothing."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from training_models import Own, filled, points, same, small, trained

from scoresde.adapters import DiffusersUNet
from scoresde.ddpm import DDPM
from scoresde.model import FunctionScore, Preconditioned
from scoresde.nets import MLP, UNet, UViT, Vector
from scoresde.noise import SCHEME
from scoresde.quantisation import Quantisation
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    LinearSDE,
    SubVPSDE,
)
from scoresde.training import load, read_config, save
from scoresde.training.checkpoint import Training, load_training
from scoresde.training.description import families, networks

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(3, width=8, depth=1, classes=4), (3,)),
    "unet": (lambda: UNet(1, width=8, multipliers=(1, 2), blocks=1, classes=3), (1, 8, 8)),
    "uvit": (lambda: UViT(2, size=(4, 6), width=16, depth=3, heads=2), (2, 4, 6)),
}


SCHEDULES: dict[str, SDE] = {
    "vp": VPSDE(0.2, 15.0),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.02, 30.0),
    "cosine": CosineSDE(s=0.01),
    "edm": EDMSDE(0.01, 60.0),
    "flow": FlowSDE(T=0.99),
    "chain": DDPM.linear(20).to_sde(),
}


BETA = (lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: (0.1 + 19.9 * t) ** 0.5)


# The round trip


@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("sde", SCHEDULES)
def test_round_trip_to_the_bit(tmp_path: Path, net: str, sde: str) -> None:
    build, shape = NETWORKS[net]
    model = filled(Preconditioned(build(), SCHEDULES[sde], predicts="v"))
    assert save(model, tmp_path / "a") == tmp_path / "a"
    before = torch.get_rng_state()
    found = load(tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    assert found.sde == model.sde and type(found.net) is type(model.net)
    assert not found.training and all(not module.training for module in found.modules())
    assert same(found, model) and found.net.config == model.net.config
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.score(0.4, x), model.eval().score(0.4, x))
    assert all(p.requires_grad and p.is_leaf for p in found.parameters())


def test_every_family_and_network_is_in_the_tables() -> None:
    assert {type(s) for s in SCHEDULES.values()} == set(families().values())
    built = {type(build()) for build, _ in NETWORKS.values()}
    assert built == set(networks().values()) - {DiffusersUNet}  # which needs diffusers


def test_settings_quantisation_and_extra(tmp_path: Path) -> None:
    null = {"label": -1, "y": torch.tensor([0.5, 1.0]), "flag": None}
    net = MLP(2, classes=2, conditions={"y": Vector(2), "flag": Vector(1)})
    model = Preconditioned(net, EDMSDE(), "edm", time="log_snr", sigma_data=0.5, null=null)
    extra = {"step": 7, "note": "σ", "nested": {"a": [1, 2.5, None, True]}}
    save(model, tmp_path / "a", quantisation=Quantisation(17), extra=extra)
    found = load(str(tmp_path / "a"))
    assert (found.predicts, found.time, found.sigma_data) == ("edm", "log_snr", 0.5)
    assert found.null == {"label": -1, "y": [0.5, 1.0], "flag": None}
    config = read_config(tmp_path / "a")
    assert Quantisation.from_dict(config["quantisation"]) == Quantisation(17)
    assert config["extra"] == extra
    assert config["version"] == 1
    assert config["noise_scheme"] == SCHEME
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_weights_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small().to(dtype)
    assert same(load(save(model, tmp_path / "a")), model)


def test_a_run_whose_options_are_numbers_of_numpy_is_saved(tmp_path: Path) -> None:
    """numpy's float32 is no float, and its int64 no int, to JSON."""
    one, half = np.int64(1), np.float32(0.5)
    options = {"warmup": one, "clip": half, "weight_decay": half, "cond_dropout": half}
    model = small(sde=VPSDE(beta_min=half), classes=one)
    data = (points(), {"label": torch.zeros(64, dtype=torch.int64)})
    found = trained(tmp_path, model, data=data, augment=0 * half, **options)
    assert same(load(tmp_path), found)
    choices = read_config(tmp_path / "checkpoint")["training"]["choices"]
    assert {name: choices[name] for name in options} == options


def test_no_pickle_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refuse)
    load(save(small(), tmp_path / "a"))


def test_a_network_and_an_sde_of_ones_own(tmp_path: Path) -> None:
    sde = LinearSDE(*BETA)
    model = filled(Preconditioned(Own(), sde))
    path = save(model, tmp_path / "a")
    net = Own()
    held = list(net.parameters())  # by an optimiser, say: the weights are overwritten in place
    found = load(path, net=net, sde=sde)
    assert found.net is net and found.sde is sde
    assert all(a is b for a, b in zip(held, net.parameters(), strict=True))
    assert same(found, model) and net.again is net.second
    # The same schedule in another guise is the same schedule.
    assert load(path, net=Own(), sde=VPSDE()).sde == VPSDE()
    with pytest.raises(ValueError, match=r"sde: expected one of VPSDE, .*LinearSDE; .*sde=\.\.\."):
        load(path, net=Own())
    with pytest.raises(
        ValueError, match=r"net: expected one of MLP, .*\.Own; .*net=\.\.\..*NETS \(see"
    ):
        load(path, sde=sde)


def test_an_sde_that_is_not_affine(tmp_path: Path) -> None:
    sde = SDE(lambda t, x: x - x**3, lambda t: 0.5 + t, T=2.0)
    model = filled(Preconditioned(MLP(2, width=8), sde, predicts="score"))
    path = save(model, tmp_path / "a")
    assert same(load(path, sde=sde), model)
    other = SDE(lambda t, x: x - x**3, lambda t: 0.5 + t**2, T=2.0)
    with pytest.raises(ValueError, match=r"sde: expected g = .* at t = .*trained with"):
        load(path, sde=other)
    with pytest.raises(ValueError, match=r"sde: expected a schedule of t, g, .*log_snr"):
        load(path, sde=VPSDE())


def test_a_class_that_only_has_the_name_of_ours_is_ones_own(tmp_path: Path) -> None:
    stranger = type("MLP", (Own,), {})
    path = save(Preconditioned(stranger(), VPSDE()), tmp_path / "a")
    with pytest.raises(ValueError, match=r"net: expected one of MLP, .*test_checkpoint\.MLP"):
        load(path)
    load(path, net=stranger())


@pytest.mark.parametrize(
    "other",
    [VPSDE(0.1, 19.9), VESDE(), FlowSDE(), CosineSDE(), LinearSDE(*BETA, T=0.9)],
    ids=lambda sde: type(sde).__name__,
)
def test_another_schedule_is_refused(tmp_path: Path, other: SDE) -> None:
    path = save(small(), tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"sde: expected \w+ = .* at t = .*, as in the checkpoint"
    ):
        load(path, sde=other)


def test_a_schedule_that_differs_in_the_last_digits_is_the_same(tmp_path: Path) -> None:
    path = save(small(), tmp_path / "a")
    assert load(path, sde=VPSDE(0.1, 20.0 * (1 + 1e-9))).sde.beta_max > 20.0
    with pytest.raises(ValueError, match="as in the checkpoint"):
        load(path, sde=VPSDE(0.1, 20.0 * (1 + 1e-5)))


def test_training_state_round_trip(tmp_path: Path) -> None:
    model = small()
    tensors = {"raw.a": torch.randn(3), "optimizer.0.step": torch.tensor(5.0)}
    info = {"step": 5, "history": [[5, 0.1, 0.01]]}
    path = save(model, tmp_path / "a", training=Training(tensors, info))
    weights, state = load_training(path, small(seed=9))
    assert state.info == info
    assert all(torch.equal(state.tensors[k], v) for k, v in tensors.items())
    assert all(torch.equal(weights[k], v) for k, v in model.net.state_dict().items())
    assert same(load(path), model)
    with pytest.raises(ValueError, match=r"model: expected that of .*width=?.*16"):
        load_training(path, small(width=16))
    with pytest.raises(ValueError, match=r"model\.sde: expected log_snr"):
        load_training(path, small(sde=VPSDE(0.1, 10.0)))
    plain = save(model, tmp_path / "b")
    with pytest.raises(ValueError, match=r"resume: .*training state.*Trainer"):
        load_training(plain, model)


# Writing is all or nothing


class Fault(Exception):
    pass


def failing(monkeypatch: pytest.MonkeyPatch, where: str, call: int) -> None:
    """Make os.replace, os.fsync or the writer of tensors fail at its call number `call`."""
    owner = safetensors.torch if where == "save_file" else os
    real, count = getattr(owner, where), iter(range(1000))

    def faulty(*arguments: Any) -> Any:
        if next(count) == call:
            raise Fault
        return real(*arguments)

    monkeypatch.setattr(owner, where, faulty)


@pytest.mark.parametrize(
    ("where", "call"),
    [("save_file", 0), ("fsync", 0), ("fsync", 1), ("fsync", 2), ("replace", 0), ("replace", 1)],
)
def test_a_failing_write_leaves_the_old_one_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, call: int
) -> None:
    old, new = small(seed=1), small(seed=2)
    path = save(old, tmp_path / "a", extra={"step": 1})
    with monkeypatch.context() as patch:
        failing(patch, where, call)
        with pytest.raises(Fault):
            save(new, path, extra={"step": 2})
    assert os.listdir(tmp_path) == ["a"]
    assert same(load(path), old) and read_config(path)["extra"] == {"step": 1}
    save(new, path, extra={"step": 2})
    assert os.listdir(tmp_path) == ["a"]
    assert same(load(path), new)


def test_a_failing_first_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "replace", 0)
        with pytest.raises(Fault):
            save(small(), tmp_path / "deep" / "a")
    assert os.listdir(tmp_path / "deep") == []


def test_death_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = small(seed=1), small(seed=2)
    path = save(old, tmp_path / "a")
    real, count = os.replace, iter(range(10))
    with monkeypatch.context() as patch:

        def dead(*arguments: Any) -> None:
            if next(count) > 0:  # neither the second rename nor its undoing
                raise Fault
            real(*arguments)

        patch.setattr(os, "replace", dead)
        with pytest.raises(Fault):
            save(new, path)
    assert not path.exists()
    assert same(load(path), old)
    save(new, path)
    assert os.listdir(tmp_path) == ["a"]
    assert same(load(path), new)


def test_order_of_flush_and_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files and their folder are on the disk before the rename, the rename after it."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    save(small(), tmp_path / "a")
    assert calls == ["fsync", "fsync", "fsync", "replace", "fsync"]


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_text("picture")
    with pytest.raises(ValueError, match=r"path: .*samples\.png.*replaced as a whole.*checkpoint"):
        save(small(), tmp_path)
    assert os.listdir(tmp_path) == ["samples.png"]
    with pytest.raises(ValueError, match=r"path: expected a folder.*choose another name"):
        save(small(), tmp_path / "samples.png")
    (tmp_path / "empty").mkdir()
    save(small(), tmp_path / "empty")
    with_state = Training({"raw.a": torch.zeros(1)}, {})
    save(small(), tmp_path / "empty", training=with_state)
    save(small(), tmp_path / "empty")  # and the state of the run goes with the old one
    assert "training.safetensors" not in os.listdir(tmp_path / "empty")


# What cannot be saved


@pytest.mark.parametrize(
    ("model", "changes", "kind", "message"),
    [
        (
            Preconditioned(MLP(2), VPSDE(), time=lambda n: n.t),
            {},
            TypeError,
            r"model\.time: .*name a convention",
        ),
        (FunctionScore(VPSDE(), lambda t, x: -x), {}, TypeError, r"model: .*Preconditioned"),
        (MLP(2), {}, TypeError, r"model: expected a Preconditioned model.*MLP"),
        (
            Preconditioned(MLP(2, conditions={"y": Vector(1)}), VPSDE(), null={"y": object()}),
            {},
            TypeError,
            r"model\.null: .*json.*keep to numbers",
        ),
        (small(), {"extra": {"a": {1, 2}}}, TypeError, r"extra: .*json.*set.*keep to numbers"),
        (small(), {"quantisation": 256}, TypeError, r"quantisation: .*Quantisation\(256\)"),
    ],
    ids=["time", "function", "net", "null", "extra", "quantisation"],
)
def test_what_cannot_be_saved(
    tmp_path: Path, model: Any, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        save(model, tmp_path / "a", **changes)
    assert os.listdir(tmp_path) == []
