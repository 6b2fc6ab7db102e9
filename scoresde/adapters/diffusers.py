"""Networks and schedulers of diffusers as score models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from scoresde._check import choice, fail, need, refuse, wrong_type
from scoresde.adapters.chains import chain_of
from scoresde.adapters.network import Called, mean_of, tensor_of
from scoresde.ddpm import DDPM, ChainTime
from scoresde.model import Preconditioned

__all__ = ["PREDICTIONS", "DiffusersUNet", "from_diffusers", "schedule_of"]

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""prediction_type of a scheduler -> coordinate of the prediction."""

KIND = "UNet2DModel"
"""The class of diffusers that a checkpoint rebuilds."""


@final
class DiffusersUNet(nn.Module):
    """A `UNet2DModel` of diffusers as net(x, timestep, label), rebuilt from its config.

    Checkpoints store `config` and rebuild the network from it, which needs diffusers.

    Args:
        options: the config of the `UNet2DModel`, of JSON values.
        channels: the number of channels of a sample.
        size: height and width of a sample, or None if they are free.
        classes: the number of classes, 0 for a network without labels.
        net: the network; a new one, with random weights, if None.

    Raises:
        ImportError: diffusers is needed and not installed.
        ValueError: diffusers does not know an option, or the channels do not fit.
    """

    def __init__(
        self,
        options: Mapping[str, Any],  # values of JSON
        channels: int,
        size: Sequence[int] | None = None,
        classes: int = 0,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "options": dict(options),
            "channels": channels,
            "classes": classes,
        }
        if size is not None:
            self.config["size"] = list(size)
        self.net = built(options) if net is None else net

    @classmethod
    def of(cls, net: nn.Module) -> DiffusersUNet:
        """The network of diffusers itself, with its weights."""
        config: Any = net.config  # a mapping of diffusers
        options = options_of(config)
        channels, out = options["in_channels"], options["out_channels"]
        if out not in (channels, 2 * channels):
            expected = f"out_channels of {channels}, or {2 * channels} with learned variances"
            remedy = "a network of a score has as many outputs as inputs"
            raise fail("net", expected, out, remedy)
        size = options.get("sample_size")
        sizes = [size, size] if isinstance(size, int) else size
        return cls(options, channels, sizes, options.get("num_class_embeds") or 0, net)

    @property
    def whole(self) -> bool:
        """Whether it takes whole timesteps alone, since it has a table of them."""
        return bool(self.config["options"].get("time_embedding_type") == "learned")

    @property
    def forward(self) -> Callable[..., Tensor]:  # type: ignore[override]  # labels or none
        """net(x, timestep), or net(x, timestep, label) of a network with classes."""
        return self._labelled if self.config["classes"] else self._plain

    def _plain(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self._of(x, timestep)

    def _labelled(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        return self._of(x, timestep, class_labels=label)

    def _of(self, x: Tensor, timestep: Tensor, **given: Tensor) -> Tensor:
        channels = self.config["channels"]
        if x.ndim != 4 or x.shape[1] != channels:
            expected = f"(B, {channels}, H, W), the channels of the network"
            raise fail("x", expected, x, "sample or load images of this shape")
        times = timestep.long() if self.whole else timestep
        return mean_of(tensor_of(self.net(x, times, **given), "sample", "net"), x, "net")


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:  # values of JSON
    """The options in a config of diffusers, without its own notes, as JSON returns them."""
    own = {k: v for k, v in config.items() if not k.startswith("_")}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}


def built(options: Mapping[str, Any]) -> nn.Module:  # values of JSON
    """A new `UNet2DModel` of these options."""
    kind = getattr(need("diffusers", ""), KIND)
    known = inspect.signature(kind.__init__).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        version = need("diffusers", "").__version__
        remedy = "install the version of diffusers that wrote it"
        expected = f"the options of a {KIND} of diffusers {version}"
        raise refuse("options", expected, ", ".join(unknown), remedy)
    net: nn.Module = kind(**options)
    return net


def from_diffusers(
    net: Callable[..., Any],  # returns a tensor or an output with .sample
    scheduler: Any,  # of diffusers, which is optional
    *,
    predicts: str | None = None,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """A network of diffusers with the alphas of its scheduler, as a model of a `ChainSDE`.

    At t = i/N, i = 1 ... N, the network receives the timestep i - 1 and alpha^2 is
    alphas_cumprod[i - 1]; between the steps the timestep is a fraction. Thresholding and
    `clip_sample` belong to the scheduler's own sampling and are not part of the model.

    Args:
        net: a `UNet2DModel`, or any callable net(x, timestep) whose output has `.sample`. A
            `UNet2DModel` of classes takes cond["label"]. With learned variances the first half
            of the channels is the prediction.
        scheduler: any scheduler with `alphas_cumprod` (DDPM, DDIM, PNDM, DPM-Solver, UniPC, Euler
            ...), or the alphas_cumprod themselves, a tensor or a list.
        predicts: "eps", "v" or "x0"; by default what the scheduler's `prediction_type` says.
        null: the values that mean "no condition", e.g. {"label": 10}.

    Raises:
        TypeError: the network is not callable.
        ValueError: the scheduler has no alphas_cumprod, predicts something else, or `predicts`
            contradicts it; or the channels do not fit.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> def unet(sample, timestep):
        ...     return SimpleNamespace(sample=0.1 * sample)
        >>> betas = torch.linspace(1e-4, 0.02, 1000)
        >>> model = from_diffusers(unet, torch.cumprod(1 - betas, 0), predicts="eps")
        >>> model(0.25, torch.ones(1, 3, 8, 8)).eps.mean().round(decimals=6)
        tensor(0.1000)
    """
    if not callable(net):
        raise wrong_type("net", "a network of diffusers", net, "pass pipeline.unet")
    if hasattr(net, "unet") and hasattr(net, "scheduler"):  # a pipeline is callable as well
        remedy = "pass pipeline.unet and pipeline.scheduler"
        raise wrong_type("net", "a network", type(net).__name__, remedy)
    chain, told = schedule_of(scheduler)
    if predicts is None and told is None:
        remedy = "say what the network was trained to predict"
        raise fail("predicts", "'eps', 'v' or 'x0' beside bare alphas", None, remedy)
    if predicts is not None:
        choice("predicts", predicts, PREDICTIONS.values())
        if told not in (None, predicts):
            remedy = "leave predicts out, or pass the scheduler of the training"
            raise fail("predicts", f"{told!r}, as the scheduler says", predicts, remedy)
    if type(net).__name__ == KIND and isinstance(net, nn.Module):
        unet = DiffusersUNet.of(net)
        network: nn.Module = unet
        whole = unet.whole
    else:
        network, whole = Called(net, _sample), False
    time = ChainTime("i-1", chain.N, whole)
    return Preconditioned(network, chain.to_sde(), predicts or told, time, null=null or {})


def _sample(net: Callable[..., Any], x: Tensor, timestep: Tensor) -> Tensor:
    return mean_of(tensor_of(net(x, timestep), "sample", "net"), x, "net")


def schedule_of(scheduler: Any) -> tuple[DDPM, str | None]:  # of diffusers, or bare alphas
    """The chain of a scheduler, and the coordinate that its network predicts."""
    if isinstance(scheduler, Tensor | list | tuple):
        return chain_of(scheduler), None
    name = type(scheduler).__name__
    remedy = "pass one of DDPM, DDIM, PNDM, DPM-Solver, UniPC or Euler, or its alphas_cumprod"
    alphas = getattr(scheduler, "alphas_cumprod", None)
    config = getattr(scheduler, "config", {})
    if alphas is None:
        if "Flow" in name:
            remedy = "a network of a straight path is a model by from_function, under "
            remedy += "FlowSDE(1.0), with the prediction 'flow' and the time 1000 t"
        elif "EDM" in name:
            remedy = "a network of sigma is a model by from_denoiser or from_edm"
        raise fail("scheduler", "one with alphas_cumprod", name, remedy)
    kind = dict(config).get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        expected = f"prediction_type {', '.join(PREDICTIONS)}"
        raise fail(f"scheduler ({name})", expected, kind, "other coordinates are not of a chain")
    return chain_of(alphas), PREDICTIONS[kind]
