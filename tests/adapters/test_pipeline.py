"""Pipeline folders of diffusers: read exactly, saved and loaded again, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from foreign import DDPMScheduler, UNet2DModel, diffusers, randn, write_pipeline

from scoresde import VPSDE, ReverseSampler, load, log_prob, save
from scoresde.adapters import from_diffusers, load_diffusers
from scoresde.doctor import diagnose

__all__ = ["diffusers"]

X = randn(3, 1, 4, 4).float()


def test_a_folder_is_the_model_of_its_parts(diffusers: ModuleType, tmp_path: Path) -> None:
    net = UNet2DModel(sample_size=4)
    folder = write_pipeline(tmp_path / "pipe", net, prediction_type="v_prediction")
    whole = load_diffusers(folder)
    parts = from_diffusers(net, DDPMScheduler(prediction_type="v_prediction"))
    assert whole.predicts == "v" and whole.sde == parts.sde
    assert torch.equal(whole(0.3, X).x0, parts(0.3, X).x0)
    assert not whole.training


def test_the_model_is_saved_and_loaded_like_any(diffusers: ModuleType, tmp_path: Path) -> None:
    net = UNet2DModel(sample_size=4, num_class_embeds=3)
    model = load_diffusers(write_pipeline(tmp_path / "pipe", net), null={"label": 2})
    again = load(save(model, tmp_path / "model"))
    cond = {"label": torch.tensor([0, 1, 2])}
    assert torch.equal(again(0.3, X, cond).x0, model(0.3, X, cond).x0)
    assert dict(again.nulls) == {"label": 2}
    samples = [
        ReverseSampler(m.sde, m, "unipc_3", steps=5).sample((3, 1, 4, 4), seed=0, cond=cond)
        for m in (model, again)
    ]
    assert torch.equal(*samples)


def test_another_schedule_is_refused_with_the_difference(
    diffusers: ModuleType, tmp_path: Path
) -> None:
    model = load_diffusers(write_pipeline(tmp_path / "pipe", UNet2DModel()))
    place = save(model, tmp_path / "model")
    other = from_diffusers(model.net, 0.5 * DDPMScheduler().alphas_cumprod, predicts="eps").sde
    with pytest.raises(ValueError, match=r"sde: expected log_snr = \S+ at t = \S+, as in the"):
        load(place, sde=other)
    where = r"the model's own, .*, with t = 1e-05 where the model has 0\.001"
    with pytest.raises(ValueError, match=where):
        ReverseSampler(VPSDE(), model, "ddim", steps=3)
    where = r"with log_snr = \S+ at t = 0\.001 where the model has \S+; take the SDE"
    with pytest.raises(ValueError, match=where):  # the message shows more than equal names
        ReverseSampler(other, model, "ddim", steps=3)


def no_scheduler(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    del index["scheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def changed(part: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / part
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no scheduler": (no_scheduler, "expected a scheduler, got unet"),
    "no folder of the scheduler": (
        lambda folder: (folder / "scheduler").rename(folder / "other"),
        "expected scheduler/ in",
    ),
    "an unknown scheduler": (
        changed("model_index.json", scheduler=["diffusers", "KarrasVeScheduler"]),
        "expected a scheduler of diffusers, got 'KarrasVeScheduler'",
    ),
    "a scheduler without alphas": (
        changed("model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "under FlowSDE(1.0), with the prediction 'flow' and the time 1000 t",
    ),
    "another prediction": (
        changed("scheduler/scheduler_config.json", prediction_type="flow_prediction"),
        "expected prediction_type epsilon",
    ),
    "another network": (
        changed("model_index.json", unet=["diffusers", "UNet2DConditionModel"]),
        "expected a UNet2DModel, got UNet2DConditionModel",
    ),
    "channels": (changed("unet/config.json", in_channels=3), "of another shape: inner.weight"),
    "options of another version": (
        changed("unet/config.json", attention_sinks=4),
        "the options of a UNet2DModel of diffusers 0.42.1, got attention_sinks",
    ),
    "a pickle": (pickled, "a pickle, which can run any code when it is read"),
    "no weights": (
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").unlink(),
        "expected diffusion_pytorch_model.safetensors",
    ),
    "damaged weights": (
        lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 9),
        "a damaged file",
    ),
    "no config": (lambda folder: (folder / "unet/config.json").unlink(), "copy the whole folder"),
    "no JSON": (
        lambda folder: (folder / "scheduler/scheduler_config.json").write_text("{"),
        "expected a file of JSON",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_with_a_fault(fault: str, diffusers: ModuleType, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipe", UNet2DModel())
    spoil, words = FAULTS[fault]
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_diffusers(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("unet", "a network without a scheduler"),
        ("scheduler", "a scheduler without a network"),
        ("none", "which does not exist"),
        ("model_index.json", "which is a file"),
        ("model", "a checkpoint of scoresde"),
    ],
)
def test_another_folder_is_named(
    part: str, words: str, diffusers: ModuleType, tmp_path: Path
) -> None:
    folder = write_pipeline(tmp_path, UNet2DModel())
    save(load_diffusers(folder), tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=words):
        load_diffusers(folder / part)


def test_a_pipeline_is_no_checkpoint(diffusers: ModuleType, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipe", UNet2DModel())
    with pytest.raises(FileNotFoundError, match="scoresde import"):
        load(folder)


def test_a_folder_in_the_place_of_a_model_is_told_how_it_becomes_one(
    diffusers: ModuleType, tmp_path: Path
) -> None:
    pipe = write_pipeline(tmp_path / "pipe", UNet2DModel())
    place = save(load_diffusers(pipe), tmp_path / "model")
    for folder, words in ((pipe, "load_diffusers"), (place, "a checkpoint becomes a model by")):
        for call in (
            lambda path: diagnose(path, X),
            lambda path: ReverseSampler(VPSDE(), path, steps=3),
            lambda path: log_prob(path, X),
            lambda path: save(path, tmp_path / "again"),
        ):
            for path in (folder, str(folder)):
                with pytest.raises(TypeError, match=rf"model: expected .*{words}.*\('\S+'\)"):
                    call(path)


def test_samples_of_other_channels_are_named(diffusers: ModuleType, tmp_path: Path) -> None:
    model = load_diffusers(write_pipeline(tmp_path / "pipe", UNet2DModel()))
    for shape in ((2, 3, 4, 4), (2, 4)):
        with pytest.raises(ValueError, match=r"x: expected \(B, 1, H, W\), the channels of the"):
            ReverseSampler(model.sde, model, "ddim", steps=3).sample(shape)


def test_a_later_version_and_latents_are_told(diffusers: ModuleType, tmp_path: Path) -> None:
    later = {"_diffusers_version": "0.99.0"}
    folder = write_pipeline(tmp_path / "later", UNet2DModel(), later)
    with pytest.warns(UserWarning, match=r"written by diffusers 0\.99\.0, and 0\.42\.1"):
        load_diffusers(folder)
    vqvae = {"vqvae": ["diffusers", "VQModel"]}
    folder = write_pipeline(tmp_path / "latent", UNet2DModel(), vqvae)
    with pytest.warns(UserWarning, match="latents of its vqvae"):
        load_diffusers(folder)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    folder = write_pipeline(tmp_path / "pipe", UNet2DModel())
    with pytest.raises(ImportError, match="pip install diffusers"):
        load_diffusers(folder)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_the_command_line(
    diffusers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tyro")
    from command_line import answer, call, refused

    pipe = write_pipeline(tmp_path / "pipe", UNet2DModel(sample_size=4))
    run = tmp_path / "run"
    made = answer(f"import {pipe} --from diffusers --levels 256 --out {run}")
    assert made["predicts"] == "eps" and made["parameters"] == 3
    call(f"sample {run} --n 4 --steps 3 --format png --out {tmp_path / 'samples'}")
    assert (tmp_path / "samples/grid.png").exists()
    assert "betas=[1000 values from 0.0001 to 0.02]" in call(f"inspect {run}").stdout
    call(f"push {run} {tmp_path / 'ready'}")
    card = (tmp_path / "ready/README.md").read_text(encoding="utf-8")
    assert "The network is built by diffusers: `pip install diffusers`." in card
    assert "Samples are in model units.\n" in card and "model.data" not in card
    refused(f"import {pipe} --from diffusers --out {run}", "--overwrite")
    (run / "best").mkdir()  # of a run that was trained there before
    before = sorted(path for path in run.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr("scoresde.training.save", full_disk)
        call(f"import {pipe} --from diffusers --overwrite --out {run}", 1)
    assert sorted(path for path in run.rglob("*")) == before
    call(f"import {pipe} --from diffusers --overwrite --out {run}")
    assert not (run / "best").exists()
    refused(f"import {pipe} --from difusers --out {run}x", "--from", "diffusers")
    refused(f"import {pipe} --from sbi --out {run}x", "--from", "pickles", "from_sbi(estimator)")
    refused(f"import {run} --from diffusers --out {run}x", "FOLDER", "a checkpoint of scoresde")
    refused(f"sample {pipe} --out {run}x", "MODEL", "scoresde import")
