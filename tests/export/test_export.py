"""Exported files, run by other programs than the one that wrote them."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    LinearSDE,
    Preconditioned,
    Quantisation,
    ReverseSampler,
    ScoreModel,
    SubVPSDE,
    save,
)
from scoresde.ddpm import ChainSDE, ChainTime
from scoresde.export import BOUND, export_onnx, export_program
from scoresde.nets import MLP, UNet, UViT
from scoresde.schedule.grid import log_snr

# alpha and sigma by formulas of their own, on float64 arrays of times.
SCHEDULES = {
    VPSDE(): lambda t: (vp(t) ** 0.5, (1 - vp(t)) ** 0.5),
    SubVPSDE(): lambda t: (vp(t) ** 0.5, 1 - vp(t)),
    VESDE(): lambda t: (1.0 + 0 * t, 0.01 * 5000.0**t),
    CosineSDE(): lambda t: (cosine(t), (1 - cosine(t) ** 2) ** 0.5),
    EDMSDE(): lambda t: (1.0 + 0 * t, t),
    FlowSDE(): lambda t: (1 - t, t),
}


def vp(t: np.ndarray[Any, Any]) -> Any:
    return np.exp(-(0.1 * t + 19.9 * t**2 / 2))


def cosine(t: np.ndarray[Any, Any]) -> Any:
    return np.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)


def filled(net: nn.Module, scale: float = 0.1) -> nn.Module:
    """Weights that leave nothing at 0, where an untrained network would answer 0."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=draw))
    return net


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


COMMON = (VPSDE, FlowSDE)  # what the default tests try; the slow ones try all


@pytest.mark.parametrize(
    "sde",
    [
        pytest.param(sde, marks=() if isinstance(sde, COMMON) else pytest.mark.slow)
        for sde in SCHEDULES
    ],
    ids=lambda sde: type(sde).__name__,
)
def test_the_file_says_what_the_formulas_say(sde: Any, tmp_path: Path) -> None:
    """x0 = (x - sigma eps) / alpha, eps by the bare network, alpha and sigma by numpy."""
    net = filled(MLP(2, width=8, depth=1, classes=3))
    made = export_onnx(Preconditioned(net, sde, "eps"), tmp_path / "model.onnx", (2,))
    t = np.linspace(sde.t_end if sde.t_end > 0 else 0.01, sde.T, 5)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(5, 2)).astype(np.float32) * np.float32(sde.sigma(sde.T))
    label = np.array([0, 1, 2, -1, 0])
    (x0,) = session(made.path).run(None, {"x": x, "t": t, "label": label})
    with torch.no_grad():
        inputs = torch.from_numpy(x), torch.from_numpy(t).float(), torch.from_numpy(label)
        eps = net(*inputs).double().numpy()
    alpha, sigma = (c[:, None] for c in SCHEDULES[sde](t))
    size = (np.abs(x) + sigma * np.abs(eps)).max(axis=1, keepdims=True) / alpha
    assert (np.abs(x0 - (x - sigma * eps) / alpha) / size).max() < 3e-6


def images(sde: SDE, kind: str) -> tuple[ScoreModel, tuple[int, ...]]:
    """A U-Net on images of odd sides, or a U-ViT with labels."""
    if kind == "unet":
        net = UNet(1, width=8, multipliers=(1, 2), heads=2)
        return Preconditioned(filled(net), sde, "v", time="log_snr"), (1, 7, 9)
    net = UViT(3, size=8, width=16, depth=3, heads=2, classes=4)
    return Preconditioned(filled(net), sde, "edm", sigma_data=0.5), (3, 8, 8)


@pytest.mark.parametrize("kind", [pytest.param("unet", marks=pytest.mark.slow), "uvit"])
def test_networks_for_images(kind: str, tmp_path: Path) -> None:
    model, shape = images(VPSDE() if kind == "unet" else VESDE(), kind)
    whole = export_onnx(model, tmp_path / "model.onnx", shape, output="eps")
    program = export_program(model, tmp_path / "model.pt2", shape, output="eps")
    assert whole.deviation < 1e-5
    assert program.deviation < 1e-6
    x, t = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    more = (torch.tensor([0, 3, -1]),) if kind == "uvit" else ()
    with torch.no_grad():
        wanted = model(t, x, {"label": more[0]} if more else None).eps
        again = torch.export.load(program.path).module()(x, t, *more)
    feed = dict(zip(("x", "t", "label"), (v.numpy() for v in (x, t, *more)), strict=False))
    (out,) = session(whole.path).run(None, feed)
    assert torch.allclose(torch.from_numpy(out), wanted, rtol=1e-4, atol=1e-4)
    assert torch.allclose(again, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sde",
    [VPSDE(), *(pytest.param(sde, marks=pytest.mark.slow) for sde in (FlowSDE(), EDMSDE()))],
    ids=lambda sde: type(sde).__name__,
)
def test_ddim_in_another_runtime(sde: Any, tmp_path: Path) -> None:
    """Sampling with numpy, onnxruntime and the metadata alone."""
    predicts = "edm" if isinstance(sde, EDMSDE) else "eps"
    model = Preconditioned(filled(MLP(2, width=16, classes=3)), sde, predicts)
    export_onnx(model, tmp_path / "model.onnx", (2,))

    network = session(tmp_path / "model.onnx")
    about = json.loads(network.get_modelmeta().custom_metadata_map["scoresde"])
    table, steps, n = about["schedule"], 20, 6
    rows = range(0, len(table["t"]), (len(table["t"]) - 1) // steps)
    z = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    x, label = about["prior"]["std"] * z, np.arange(n) % about["inputs"]["label"]["classes"]
    for now, nxt in zip(rows, [*rows[1:], None], strict=True):
        t = np.full(n, table["t"][now])
        (x0,) = network.run(None, {"x": np.float32(x), "t": t, "label": label})
        if nxt is None:
            break
        eps = (x - table["alpha"][now] * x0) / table["sigma"][now]
        x = table["alpha"][nxt] * x0 + table["sigma"][nxt] * eps

    start = torch.from_numpy(z) * sde.sigma(sde.T)
    cond = {"label": torch.from_numpy(label)}
    sampler = ReverseSampler(sde, model, "ddim", steps=steps, grid="log_snr")
    ours = sampler.sample((n, 2), seed=0, x_init=start, cond=cond)
    gap = (torch.from_numpy(x0) - ours).abs().max() / ours.abs().max()
    assert gap < 1e-4


def test_every_output_is_the_models_own(tmp_path: Path) -> None:
    model = Preconditioned(filled(MLP(2, width=8, depth=1)), CosineSDE(), "v")
    x, t = torch.randn(4, 2), torch.tensor([0.01, 0.3, 0.6, 0.99], dtype=torch.float64)
    said = model(t, x)
    for output in ("x0", "score", "flow"):
        made = export_program(model, tmp_path / f"{output}.pt2", (2,), output=output)
        out = torch.export.load(made.path).module()(x, t)
        assert torch.allclose(out, said.read(output), rtol=1e-5), output


def test_the_metadata(tmp_path: Path) -> None:
    sde, quantisation = VPSDE(beta_max=10.0), Quantisation(17)
    model = Preconditioned(MLP(2, width=8, classes=3), sde, "v")
    made = export_onnx(model, tmp_path / "a.onnx", (2,), quantisation=quantisation, opset=20)
    proto = onnx.load(made.path)
    onnx.checker.check_model(proto)
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    assert (sizes[0].dim_param, sizes[1].dim_value) == ("batch", 2)
    about = json.loads({p.key: p.value for p in proto.metadata_props}["scoresde"])
    assert about == json.loads(json.dumps(made.metadata))
    assert about["sde"] == {"class": "VPSDE", "fields": {"beta_min": 0.1, "beta_max": 10.0}}
    assert about["inputs"]["x"] == {"dtype": "float32", "shape": ["batch", 2]}
    assert about["inputs"]["label"]["classes"] == 3
    assert about["inputs"]["label"]["none"] == -1
    assert Quantisation.from_dict(about["quantisation"]) == quantisation
    assert about["opset"] == proto.opset_import[0].version == 20
    assert about["network"] == {
        "class": "MLP",
        "parameters": sum(p.numel() for p in model.parameters()),
        "predicts": "v",
    }
    assert {"scoresde", "torch", "onnx", "onnxscript", "onnxruntime"} == set(about["versions"])
    for name in ("alpha", "sigma", "log_snr"):
        wanted = [getattr(sde.at(t), name) for t in about["schedule"]["t"]]
        assert about["schedule"][name] == wanted
    assert np.allclose(about["schedule"]["t"][::8], log_snr(sde, 25).times, rtol=1e-12)

    found = {"scoresde.json": ""}
    program = export_program(model, tmp_path / "a.pt2", (2,), quantisation=quantisation)
    torch.export.load(program.path, extra_files=found)
    assert json.loads(found["scoresde.json"])["sde"] == about["sde"]


@pytest.mark.slow
def test_other_schedules_and_models(tmp_path: Path) -> None:
    """A chain with its own clock, tables of a quadrature, an exact score, an SDE without alpha."""
    betas = torch.linspace(1e-3, 0.2, 20, dtype=torch.float64).tolist()
    own = LinearSDE(lambda t: -0.5 * (0.1 + 5 * t), lambda t: (0.1 + 5 * t) ** 0.5)
    well = SDE(lambda t, x: x - x**3, lambda t: 0.5 + t, T=2.0)
    models: dict[str, ScoreModel] = {
        "chain": Preconditioned(
            filled(MLP(2, width=8)), ChainSDE(betas), time=ChainTime("i-1", 20)
        ),
        "linear": Preconditioned(filled(MLP(2, width=8)), own),
        "gaussian": Gaussian(torch.zeros(2), torch.tensor(0.3)).under(VPSDE()),
        "function": FunctionScore(VPSDE(), lambda t, x: -x),
        "well": Preconditioned(filled(MLP(2, width=8)), well, "score"),
    }
    for name, model in models.items():
        made = export_program(model, tmp_path / f"{name}.pt2", (2,))
        assert made.output == ("score" if name == "well" else "x0")
        assert (made.metadata["schedule"] is None) == (name == "well")


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    net = filled(UNet(1, width=8, multipliers=(1,), heads=1, dropout=0.5)).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = export_program(Preconditioned(net, VPSDE()), tmp_path / "m.pt2", (1, 4, 4))
    assert made.metadata["inputs"]["x"]["dtype"] == "float32"
    assert all(module.training for module in net.modules())
    for name, value in net.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


# What must not leave a file behind


class Treacherous(nn.Module):
    """Answers otherwise while it is traced."""

    def __init__(self, excess: float) -> None:
        super().__init__()
        self.excess = excess

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * (1.0 + self.excess) if torch.compiler.is_exporting() else x * 1.0


class Branching(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x if float(t[0]) > 0.5 else -x


EXPORTERS = {".onnx": export_onnx, ".pt2": export_program}


@pytest.mark.parametrize("suffix", EXPORTERS)
def test_a_file_that_deviates_is_not_left(suffix: str, tmp_path: Path) -> None:
    place, write = tmp_path / f"model{suffix}", EXPORTERS[suffix]
    place.write_text("the one before")
    honest = Preconditioned(Treacherous(0.5 * BOUND), VPSDE(), "x0")
    treacherous = Preconditioned(Treacherous(2.0 * BOUND), VPSDE(), "x0")
    with pytest.raises(ValueError, match="within 3e-05 of its model"):
        write(treacherous, place, (2,))
    assert [file.name for file in tmp_path.iterdir()] == [place.name]
    assert place.read_text() == "the one before"
    assert write(honest, place, (2,)).deviation == pytest.approx(0.5 * BOUND, rel=0.01)


@pytest.mark.parametrize("suffix", EXPORTERS)
def test_a_model_that_cannot_be_traced(suffix: str, tmp_path: Path) -> None:
    model = Preconditioned(Branching(), VPSDE(), "x0")
    with pytest.raises(ValueError, match=r"a model that torch.* can trace, got .*; the network"):
        EXPORTERS[suffix](model, tmp_path / f"model{suffix}", (2,))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "pieces"),
    [
        ({"path": "m.pt"}, ValueError, ("path", ".onnx", "m.onnx")),
        ({"shape": 2}, TypeError, ("shape", "(*D)")),
        ({"shape": ()}, TypeError, ("shape", "(*D)")),
        ({"shape": (2, 0)}, ValueError, ("shape", "positive", "0")),
        ({"shape": (3,)}, ValueError, ("shape (B, 2)", "(1, 3)")),
        ({"output": "x_0"}, ValueError, ("output", "'x0'")),
        ({"classes": -1}, ValueError, ("classes", "-1")),
        ({"classes": 3}, TypeError, ("label", "classes=0")),
        ({"quantisation": 17}, TypeError, ("quantisation", "Quantisation")),
        ({"model": MLP(2)}, TypeError, ("model", "Preconditioned")),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, dict) else "",
)
def test_bad_input(
    change: dict[str, Any], error: type[Exception], pieces: tuple[str, ...], tmp_path: Path
) -> None:
    call = {"model": Preconditioned(MLP(2, width=8), VPSDE()), "path": "m.onnx", "shape": (2,)}
    call |= change
    call["path"] = tmp_path / call["path"]
    with pytest.raises(error) as caught:
        export_onnx(**call)
    assert all(piece in str(caught.value) for piece in pieces), caught.value
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript .* pip install 'scoresde\[export\]'"):
        export_onnx(Preconditioned(MLP(2), VPSDE()), tmp_path / "m.onnx", (2,))


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("tyro")
    from command_line import answer, refused

    model = Preconditioned(filled(MLP(2, width=8)), VPSDE(), "v")
    place, out = str(save(model, tmp_path / "model")), str(tmp_path / "model.pt2")
    found = answer(f"export {place} --out {out} --output eps")
    assert found["kind"] == "program"
    assert found["output"] == "eps"
    assert found["deviation"] <= found["bound"]
    assert found["metadata"]["sde"]["class"] == "VPSDE"
    x, t = torch.randn(3, 2), torch.full((3,), 0.5, dtype=torch.float64)
    got = torch.export.load(out).module()(x, t)
    assert torch.allclose(got, model(t, x).eps, rtol=1e-5, atol=1e-6)

    for words, piece in (
        ((place, "--out", out), "--overwrite"),
        ((place, "--out", f"{out}x"), "ends in .onnx or .pt2"),
        ((place, "--to", "onnx", "--out", out), "ends in .onnx"),
        ((place, "--to", "onx", "--out", out), "did you mean 'onnx'"),
        ((place, "--out", f"{tmp_path}/b.pt2", "--opset", "18"), "opset"),
        ((f"{place}x", "--out", f"{tmp_path}/b.pt2"), "does not exist"),
    ):
        refused(shlex.join(["export", *words]), piece)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "model.pt2"]


def test_an_opset_that_cannot_be_had_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Preconditioned(filled(MLP(2, width=8)), VPSDE())
    with pytest.raises(ValueError, match=r"opset: expected one that this model can be written in"):
        export_onnx(model, tmp_path / "old.onnx", (2,), opset=3)
    assert not list(tmp_path.iterdir())
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
