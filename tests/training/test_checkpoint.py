"""Checkpoints: the round trip, atomic writing, and every refusal with its message."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from scoresde.ddpm import DDPM, ChainTime
from scoresde.model import FunctionScore, Preconditioned, ScoreModel
from scoresde.nets import MLP, UNet, UViT
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
from scoresde.training.checkpoint import Training, families, load_training, networks

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


def filled(model: ScoreModel, seed: int = 0) -> ScoreModel:
    """Weights that are not those of the start, so that a network says something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def small(sde: SDE | None = None, seed: int = 0, width: int = 8) -> ScoreModel:
    return filled(Preconditioned(MLP(2, width=width, depth=1), sde or VPSDE()), seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


class Own(nn.Module):
    """A network of the user's, with tied weights, a buffer and a count."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.second = nn.Linear(width, 2)
        self.again = self.second
        self.register_buffer("scale", torch.tensor([2.0]))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.again(self.first(x)) * self.scale * t[:, None]


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
    assert {type(build()) for build, _ in NETWORKS.values()} == set(networks().values())


def test_settings_quantisation_and_extra(tmp_path: Path) -> None:
    null = {"label": -1, "y": torch.tensor([0.5, 1.0]), "flag": None}
    model = Preconditioned(MLP(2), EDMSDE(), "edm", time="log_snr", sigma_data=0.5, null=null)
    extra = {"step": 7, "note": "σ", "nested": {"a": [1, 2.5, None, True]}}
    save(model, tmp_path / "a", quantisation=Quantisation(17), extra=extra)
    found = load(str(tmp_path / "a"))
    assert (found.predicts, found.time, found.sigma_data) == ("edm", "log_snr", 0.5)
    assert found.null == {"label": -1, "y": [0.5, 1.0], "flag": None}
    config = read_config(tmp_path / "a")
    assert Quantisation.from_dict(config["quantisation"]) == Quantisation(17)
    assert config["extra"] == extra
    assert config["version"] == 1
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_weights_is_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small().to(dtype)
    assert same(load(save(model, tmp_path / "a")), model)


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
    with pytest.raises(ValueError, match=r"net: expected one of MLP, .*\.Own; .*net=\.\.\."):
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
        load_training(path, small(VPSDE(0.1, 10.0)))
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
            Preconditioned(MLP(2), VPSDE(), null={"y": object()}),
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


# What is refused when read


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change config.json as one that knows its checksum, here by leaving that out."""
    config = json.loads((path / "config.json").read_text())
    del config["checksum"]
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def truthful(path: Path) -> None:
    """Make config.json true of the weights' file, whatever it is now."""
    from scoresde._io import sha256

    file = path / "model.safetensors"
    entry = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    edit(path, lambda c: c["files"].update({"model.safetensors": entry}))


def retensor(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, path / "model.safetensors")
    truthful(path)


def cut(path: Path, keep: float) -> None:
    file = path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])


def flip(path: Path) -> None:
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def truncated(path: Path) -> None:
    cut(path, 0.7)
    truthful(path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no folder": (shutil.rmtree, FileNotFoundError, r"path: .*does not exist; pass the folder"),
    "no config": (
        lambda p: (p / "config.json").unlink(),
        FileNotFoundError,
        r"path: expected config\.json in .*/a, got none; pass",
    ),
    "no weights": (
        lambda p: (p / "model.safetensors").unlink(),
        FileNotFoundError,
        r"path: expected model\.safetensors in .*/a, got none; copy the whole folder",
    ),
    "cut": (lambda p: cut(p, 0.9), ValueError, r"model\.safetensors: .*bytes instead of.*again"),
    "empty": (lambda p: cut(p, 0.0), ValueError, r"model\.safetensors: .*got 0 bytes instead"),
    "cut, config true": (truncated, ValueError, r"model\.safetensors: .*no safetensors"),
    "flipped bit": (flip, ValueError, r"model\.safetensors: .*hash.*take another copy"),
    "config no json": (
        lambda p: (p / "config.json").write_text("{'a': 1"),
        ValueError,
        r"config\.json: .*no json",
    ),
    "config binary": (
        lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"),
        ValueError,
        r"config\.json: .*no json",
    ),
    "config a list": (
        lambda p: (p / "config.json").write_text("[]"),
        ValueError,
        r"config\.json: .*no json object",
    ),
    "format": (
        lambda p: edit(p, lambda c: c.update(format="diffusers")),
        ValueError,
        r"config\.json: expected format 'scoresde checkpoint', got 'diffusers'",
    ),
    "version": (
        lambda p: edit(p, lambda c: c.update(version=2, library="9.9")),
        ValueError,
        r"config\.json: expected version 1, got 2; it is of scoresde 9\.9: install",
    ),
    "older version": (
        lambda p: edit(p, lambda c: c.update(version=0, library="0.0")),
        ValueError,
        r"config\.json: expected version 1, got 0; it is of scoresde 0\.0: install",
    ),
    "edited": (
        lambda p: (p / "config.json").write_text(
            (p / "config.json").read_text().replace('"v"', '"eps"')
        ),
        ValueError,
        r"config\.json: expected an intact file.*checksum.*edited",
    ),
    "nested without end": (
        lambda p: (p / "config.json").write_text("[" * 200_000),
        ValueError,
        r"config\.json: .*no json",
    ),
    "no version": (
        lambda p: edit(p, lambda c: c.pop("version")),
        ValueError,
        r"config\.json: expected version 1, got None",
    ),
    "no entry": (lambda p: edit(p, lambda c: c.pop("net")), ValueError, r"no entry 'net'"),
    "unknown sde": (
        lambda p: edit(p, lambda c: c["sde"].update({"class": "Mine"})),
        ValueError,
        r"sde: expected one of VPSDE, .* in .*config\.json, got Mine; .*sde=",
    ),
    "unknown net": (
        lambda p: edit(p, lambda c: c["net"].update({"class": "os.system"})),
        ValueError,
        r"net: expected one of MLP, .* in .*config\.json, got os\.system; .*net=",
    ),
    "sde fields": (
        lambda p: edit(p, lambda c: c["sde"]["fields"].update(beta=3)),
        ValueError,
        r"config\.json: .*VPSDE does not take.*beta",
    ),
    "sde of another schedule": (
        lambda p: edit(p, lambda c: c["sde"]["fields"].update(beta_max=10.0)),
        ValueError,
        r"/a: expected log_snr = .* at t = .*, as in the checkpoint",
    ),
    "net config": (
        lambda p: edit(p, lambda c: c["net"]["config"].update(depth=-1)),
        ValueError,
        r"config\.json: .*MLP does not take.*depth",
    ),
    "net of another width": (
        lambda p: edit(p, lambda c: c["net"]["config"].update(width=16)),
        ValueError,
        r"model\.safetensors: expected the tensors of MLP, got of another shape: .*\(8, ",
    ),
    "net of another depth": (
        lambda p: edit(p, lambda c: c["net"]["config"].update(depth=2)),
        ValueError,
        r"model\.safetensors: .*missing: blocks\.1\.[^;]* and \d+ more; build MLP as it was",
    ),
    "model settings": (
        lambda p: edit(p, lambda c: c["model"].update(predicts="epsilon")),
        ValueError,
        r"config\.json: .*settings.*did you mean 'eps'",
    ),
    "model keyword": (
        lambda p: edit(p, lambda c: c["model"].update(clip=1)),
        ValueError,
        r"config\.json: .*settings.*clip",
    ),
    "no entry for the file": (
        lambda p: edit(p, lambda c: c["files"].clear()),
        ValueError,
        r"config\.json: .*no entry for model\.safetensors",
    ),
    "missing key": (
        lambda p: retensor(p, lambda t: t.pop("exit.bias")),
        ValueError,
        r"model\.safetensors: .*got missing: exit\.bias; build MLP",
    ),
    "unexpected key": (
        lambda p: retensor(p, lambda t: t.update({"more": torch.zeros(1)})),
        ValueError,
        r"model\.safetensors: .*got unexpected: more; build MLP",
    ),
    "shape": (
        lambda p: retensor(p, lambda t: t.update({"exit.bias": torch.zeros(3)})),
        ValueError,
        r"model\.safetensors: .*of another shape: exit\.bias \(3,\) for \(2,\)",
    ),
    "integers": (
        lambda p: retensor(p, lambda t: t.update({"exit.bias": torch.zeros(2).long()})),
        ValueError,
        r"model\.safetensors: .*exit\.bias",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_refusals(tmp_path: Path, name: str) -> None:
    damage, kind, message = DAMAGES[name]
    path = save(small(), tmp_path / "a")
    load(path)
    damage(path)
    with pytest.raises(kind, match=message):
        load(path)


# Whatever is damaged is refused, or says the very same


def trained(path: Path) -> Path:
    """A checkpoint with all of its files."""
    tensors = {"raw.a": torch.arange(6.0), "optimizer.0.step": torch.tensor(5.0)}
    info = {"step": 5, "history": [[5, 0.1, 0.01]], "run": {"seed": 0}}
    extra = {"note": "σ", "epoch": 3}
    state = Training(tensors, info)
    return save(small(), path, quantisation=Quantisation(17), extra=extra, training=state)


def content(path: Path) -> tuple[Any, ...]:
    """All that can be read from a checkpoint, in a form that can be compared."""
    model, config = load(path), read_config(path)
    weights, state = load_training(path, small(seed=9))
    tensors = [*weights.items(), *state.tensors.items(), *model.state_dict().items()]
    # Not by leaving out "checksum", whose own name may be what is damaged.
    names = "format version library sde schedule net model quantisation data extra training files"
    bare = {key: config[key] for key in names.split()}
    settings = (model.sde, model.predicts, model.sigma_data, model.null)
    return bare, settings, state.info, [(k, v.dtype, v.tolist()) for k, v in tensors]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training.safetensors"])
def test_no_flipped_bit_changes_what_is_read(tmp_path: Path, name: str) -> None:
    """Of headers, data and config; a config of which nothing is hashed fails at once."""
    path = trained(tmp_path / "a")
    before, whole = content(path), (path / name).read_bytes()
    draw, refused = random.Random(name), 0
    places = {*range(12), *(draw.randrange(len(whole)) for _ in range(250))}
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        (path / name).write_bytes(changed)
        try:
            found = content(path)
        except (ValueError, FileNotFoundError) as error:
            named = name in str(error) or "config.json" in str(error)
            refused += 1
        else:
            named = found == before
        assert named, place
    # Only spaces between the parts of the config and the name of its checksum may be hit unseen.
    assert refused > (0.6 if name == "config.json" else 0.999) * len(places)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "training.safetensors"])
def test_what_is_cut_short_or_too_long_is_refused(tmp_path: Path, name: str) -> None:
    path = trained(tmp_path / "a")
    whole = (path / name).read_bytes()
    lengths = {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 8, len(whole) - 1}
    for kept in sorted(lengths):
        (path / name).write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"{name}: expected an intact file"):
            content(path)
    for more in (b"\0", b"x" * 100, whole):
        (path / name).write_bytes(whole + more)
        with pytest.raises(ValueError, match=rf"{name}: expected an intact file"):
            content(path)
    (path / name).write_bytes(whole)
    content(path)


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "longer than the file": lambda b: (2**40).to_bytes(8, "little") + b[8:],
    "of all bits": lambda b: b"\xff" * 8 + b[8:],
    "none": lambda b: bytes(8),
    "no json": lambda b: b[:8] + b"x" * (len(b) - 8),
    "offsets beyond the end": lambda b: header(b, lambda h: h.update(data_offsets=[0, 2**50])),
    "offsets that overlap": lambda b: header(b, lambda h: h.update(data_offsets=[0, 8])),
    "a shape beyond its bytes": lambda b: header(b, lambda h: h.update(shape=[2**62, 2**62])),
    "an unknown type": lambda b: header(b, lambda h: h.update(dtype="O")),
}


def header(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A file of safetensors with another header for one of its tensors."""
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    change(entries["exit.weight"])
    made = json.dumps(entries).encode()
    return len(made).to_bytes(8, "little") + made + content[8 + size :]


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused_though_the_hashes_fit(tmp_path: Path, name: str) -> None:
    path = save(small(), tmp_path / "a")
    file = path / "model.safetensors"
    file.write_bytes(HEADERS[name](file.read_bytes()))
    truthful(path)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected an intact .*safetensors"):
        load(path)


def test_wrong_arguments(tmp_path: Path) -> None:
    path = save(small(), tmp_path / "a")
    with pytest.raises(TypeError, match=r"sde: .*SDE"):
        load(path, sde="VPSDE")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"net: .*Module"):
        load(path, net=MLP)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"net: expected the raw network.*model\.net"):
        load(path, net=small())
    with pytest.raises(ValueError, match=r"the tensors of Own, got missing: .*unexpected: "):
        load(path, net=Own())
    with pytest.raises(FileNotFoundError, match=r"which is a file"):
        load(path / "config.json")


def test_the_folder_of_a_run_is_recognised(tmp_path: Path) -> None:
    save(small(), tmp_path / "run" / "checkpoint")
    found, own = load(tmp_path / "run"), load(tmp_path / "run" / "checkpoint")
    assert found.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(v, own.state_dict()[k]) for k, v in found.state_dict().items())


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", ["config.json", "training.safetensors", "model.pt"])
def test_a_malicious_pickle_in_any_place_does_nothing(
    tmp_path: Path, name: str, protocol: int
) -> None:
    path, target = trained(tmp_path / "a"), tmp_path / "owned"
    payload = pickle.dumps(Malicious(target), protocol=protocol)
    (path / name).write_bytes(payload)
    if name == "model.pt":  # beside the others it is not looked at, and by itself no checkpoint
        content(path)
        with pytest.raises(FileNotFoundError, match="which is a file"):
            load(path / name)
    else:
        with pytest.raises(ValueError, match=rf"{name}: expected an intact file"):
            content(path)
    assert not target.exists()


@pytest.mark.parametrize("honest_config", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_is_refused_and_does_nothing(
    tmp_path: Path, protocol: int, honest_config: bool
) -> None:
    path, target = save(small(), tmp_path / "a"), tmp_path / "owned"
    payload = pickle.dumps(Malicious(target), protocol=protocol)
    (path / "model.safetensors").write_bytes(payload)
    if honest_config:
        truthful(path)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected an intact file"):
        load(path)
    assert not target.exists()
    pickle.loads(payload)
    assert target.exists()  # it would have worked


def test_a_network_of_a_discrete_chain(tmp_path: Path) -> None:
    """Its schedule and the steps that it is told come back, and so its predictions to the bit."""
    chain = DDPM.linear(50)
    model = chain.score_model(MLP(2, width=8), "i-1")
    found = load(save(model, tmp_path / "chain"))
    assert found.sde == model.sde and found.time == model.time == ChainTime("i-1", 50)
    x = torch.ones(3, 2)
    assert torch.equal(found.score(0.5, x), model.eval().score(0.5, x))
