"""Every refusal of a checkpoint, and that damage never passes."""

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
from torch import Tensor
from training_models import Own, small

from scoresde.ddpm import DDPM, ChainTime
from scoresde.nets import MLP
from scoresde.quantisation import Quantisation
from scoresde.training import load, read_config, save
from scoresde.training.checkpoint import Training, load_training

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
