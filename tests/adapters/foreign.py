"""Stand-ins for other libraries with the same calling conventions, and folders as they write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Features(nn.Module):
    """A network of two layers over channels, which depends on every time that it is told."""

    def __init__(self, channels: int = 1, out: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(out or channels, channels, seed=seed))
        self.frequency = nn.Parameter(randn(out or channels, seed=seed + 1) / 7)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        phase = torch.cos(time[:, None] * self.frequency)
        shape = (*phase.shape, *[1] * (x.ndim - 2))
        return torch.tanh(torch.einsum("oc,bc...->bo...", self.weight, x) + phase.view(shape))


class UNet2DModel(nn.Module):
    """As that of diffusers: net(sample, timestep, class_labels) -> an output with .sample."""

    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 1,
        out_channels: int = 1,
        time_embedding_type: str = "positional",
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "sample_size": sample_size,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "time_embedding_type": time_embedding_type,
            "num_class_embeds": num_class_embeds,
            "_class_name": "UNet2DModel",
        }
        self.inner = Features(in_channels, out_channels)
        self.table = nn.Parameter(randn(num_class_embeds or 1, out_channels, seed=2))
        self.seen: list[Tensor] = []
        self.float()

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None
    ) -> SimpleNamespace:
        self.seen.append(timestep)
        out = self.inner(sample, timestep.to(sample))
        if class_labels is not None:
            out = out + self.table[class_labels][:, :, None, None]
        return SimpleNamespace(sample=out)


class DDPMScheduler:
    """As that of diffusers: float32 alphas and a config."""

    def __init__(self, **config: Any) -> None:
        self.config = {"prediction_type": "epsilon", "num_train_timesteps": 1000, **config}
        betas = torch.linspace(1e-4, 0.02, self.config["num_train_timesteps"])
        self.alphas_cumprod = torch.cumprod(1.0 - betas, 0)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DDPMScheduler:
        return cls(**{k: v for k, v in config.items() if not k.startswith("_")})


class FlowMatchEulerDiscreteScheduler:
    """As that of diffusers: it has no alphas."""

    config: ClassVar = {"num_train_timesteps": 1000}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FlowMatchEulerDiscreteScheduler:
        return cls()


@pytest.fixture
def diffusers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of these classes in the place of diffusers."""
    module: Any = ModuleType("diffusers")
    module.__version__ = "0.42.1"
    module.UNet2DModel, module.DDPMScheduler = UNet2DModel, DDPMScheduler
    module.FlowMatchEulerDiscreteScheduler = FlowMatchEulerDiscreteScheduler
    monkeypatch.setitem(sys.modules, "diffusers", module)
    return module


def write_pipeline(
    folder: Path, net: nn.Module, index: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A pipeline folder as save_pretrained writes it."""
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    parts = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    told = {**parts, **(index or {})}
    (folder / "model_index.json").write_text(json.dumps(told))
    (folder / "unet/config.json").write_text(json.dumps(net.config))
    weights = {k: v.detach().clone() for k, v in net.state_dict().items()}
    save_file(weights, folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    return folder
