"""The training examples of other libraries, beside ours, as `training.py` runs them.

Every example keeps what its documentation states: target, times, weighting, optimiser, learning
rate and its schedule, batch size, average of the weights. Loops are plain, without the wrappers of
accelerate and without reading of files, which favours the peers. Random flips are left out: a
mirrored digit is none. Two of the networks that the examples build are for larger images, so a
smaller one stands for them, as said below; each example also trains our network.

- scoresde: `Trainer(model, data, steps=n)` with the model that `scoresde train` builds, nothing
  else said.
- diffusers, "Train a diffusion model"
  (https://huggingface.co/docs/diffusers/tutorials/basic_training): DDPMScheduler of 1000 steps,
  the error of eps at a uniform whole number t, AdamW at 1e-4, 500 steps of warm-up and a cosine,
  batches of 16, the gradient clipped at norm 1, no average of the weights. The UNet2DModel of the
  tutorial is for 128 x 128 pixels; here it is that of 28 x 28 pixels in Hugging Face's diffusion
  course (https://huggingface.co/learn/diffusion-course/unit1/3).
- denoising-diffusion-pytorch, the `Trainer` call of its README
  (https://github.com/lucidrains/denoising-diffusion-pytorch): GaussianDiffusion of 1000 steps with
  its defaults (v, the sigmoid schedule, a uniform whole number t), Adam with betas (0.9, 0.99) at
  8e-5, two batches of 32 a step, the gradient clipped at norm 1, an average of decay 0.995 every
  10 steps. Its Unet has dim=64 and four levels there; here it has dim=32 and three levels, since
  28 is not divisible by 8.
- azula, the MNIST tutorial (https://azula.readthedocs.io, tutorials/mnist): KarrasDenoiser under
  VPSchedule and its loss at uniform t, Adam at 3e-4, batches of 64, its UNet with 16, 32 and 64
  channels; without labels here.
- k-diffusion, configs/config_mnist.json (https://github.com/crowsonkb/k-diffusion): the loss of
  its Denoiser with the Karras weighting (the default of the release that is installed), sigma from
  the cosine density, sigma_data the standard deviation of the data, AdamW with betas (0.95,
  0.999), eps 1e-6 and weight decay 1e-3 at 2e-4, an average of inverse decay of power 2/3, batches
  of 64 (the default of train.py). Its network for MNIST (10 residual blocks of 128 to 256
  channels at full width) is beyond a processor, so it trains ours alone.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.built import built
from benchmarks.peers import part_of
from scoresde import SDE, VPSDE, ScoreModel, Trainer
from scoresde.cond import Cond
from scoresde.nets import network_for
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["EXAMPLES", "Example", "Training", "available"]


class Training(Protocol):
    """A training that has begun."""

    def train(self, steps: int) -> None:
        """Take so many steps."""

    def model(self) -> ScoreModel:
        """The model as its library would sample from it."""


@dataclass(frozen=True)
class Example:
    """One training example.

    Args:
        name: what the tables call it.
        library: the package that it needs.
        batch: images in a step.
        planned: whether the number of steps changes the course, as it does with a schedule of the
            learning rate that ends with them.
        begin: makes a `Training` from the images, a seed and the number of steps.
    """

    name: str
    library: str
    batch: int
    planned: bool
    begin: Callable[[Tensor, int, int], Training]


def available() -> list[Example]:
    """The examples whose library is installed."""
    return [e for e in EXAMPLES if importlib.util.find_spec(e.library) is not None]


def our_network(x: Tensor) -> nn.Module:
    """The network that we would build for these images."""
    return network_for(x.shape[1:])


class Ours:
    """`Trainer(model, data, steps=n)`, untouched."""

    batch = 0  # of the last training

    def __init__(self, x: Tensor, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self.trained: ScoreModel = built(x.shape[1:])
        self.x, self.seed = x, seed

    def train(self, steps: int) -> None:
        trainer = Trainer(self.trained, self.x, steps=steps, seed=self.seed)
        Ours.batch = trainer.optim.batch_size * trainer.optim.accumulate
        self.trained = trainer.fit()

    def model(self) -> ScoreModel:
        return self.trained


class Foreign(ScoreModel):
    """A network of another library, read at the level of noise of our nodes.

    Args:
        call: call(x, lambda) -> the value of the coordinate `kind`, at a state of unit size,
            alpha^2 + sigma^2 = 1, and lambda = log(alpha / sigma) of shape (B,).
    """

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor], kind: str) -> None:
        super().__init__()
        self.sde: SDE = VPSDE()
        self.call, self.kind = call, kind

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        level = torch.as_tensor(node.log_snr, dtype=torch.float64).flatten().expand(len(x))
        return Prediction(x, node, self.call(x.float(), level).to(x), self.kind)


class Loop:
    """A plain training loop: batches from shuffled epochs, a step, an average of the weights."""

    def __init__(self, x: Tensor, seed: int, batch: int) -> None:
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.x, self.batch, self.order = x, batch, torch.empty(0, dtype=torch.long)

    def rows(self) -> Tensor:
        """The next images; a last incomplete batch of an epoch is dropped."""
        if len(self.order) < self.batch:
            self.order = torch.randperm(len(self.x), generator=self.generator)
        now, self.order = self.order[: self.batch], self.order[self.batch :]
        return self.x[now]

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        raise NotImplementedError


def level_index(alphas_cumprod: Tensor) -> Callable[[Tensor], Tensor]:
    """lambda -> the position in a chain of time steps, between whole numbers on a line."""
    levels = 0.5 * torch.logit(alphas_cumprod.double()).flip(0)

    def index(level: Tensor) -> Tensor:
        level = level.clamp(float(levels[0]), float(levels[-1]))
        above = torch.searchsorted(levels, level).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        place = above - 1 + (level - low) / (high - low)
        return (len(levels) - 1 - place).float()

    return index


class Diffusers(Loop):
    """See the module."""

    def __init__(self, x: Tensor, seed: int, steps: int, *, own: bool) -> None:
        super().__init__(x, seed, 16)
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.optimization import get_cosine_schedule_with_warmup

        self.noiser: Any = DDPMScheduler(num_train_timesteps=1000)
        self.net: nn.Module = our_network(x)
        self.own = own
        if own:
            self.net = UNet2DModel(
                sample_size=x.shape[-1],
                in_channels=x.shape[1],
                out_channels=x.shape[1],
                layers_per_block=2,
                block_out_channels=(32, 64, 64),
                down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            )
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)
        self.schedule: Any = get_cosine_schedule_with_warmup(self.optimizer, 500, steps)

    def call(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.net(x, t, return_dict=False)[0] if self.own else self.net(x, t / 1000)
        return out

    def step(self) -> None:
        clean = self.rows()
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (len(clean),))
        guess = self.call(self.noiser.add_noise(clean, noise, t), t)
        nn.functional.mse_loss(guess, noise).backward()
        clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def model(self) -> ScoreModel:
        index = level_index(self.noiser.alphas_cumprod)
        return Foreign(lambda x, level: self.call(x, index(level)), "eps")


class Guest(nn.Module):
    """Our network, with the attributes and the call that GaussianDiffusion asks for."""

    self_condition = False

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.inner = our_network(x)
        self.channels = self.out_dim = x.shape[1]

    def forward(self, x: Tensor, t: Tensor, condition: None = None) -> Tensor:
        out: Tensor = self.inner(x, t / 1000)
        return out


class DenoisingDiffusion(Loop):
    """See the module."""

    def __init__(self, x: Tensor, seed: int, steps: int, *, own: bool) -> None:
        super().__init__(x, seed, 32)
        library = part_of(
            "denoising_diffusion_pytorch",
            "denoising_diffusion_pytorch",
            {"torchvision": ("transforms", "utils")},
        )
        from ema_pytorch import EMA

        net = library.Unet(dim=32, dim_mults=(1, 2, 4), channels=x.shape[1]) if own else Guest(x)
        self.diffusion: Any = library.GaussianDiffusion(net, image_size=x.shape[-1])
        parameters = self.diffusion.parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=8e-5, betas=(0.9, 0.99))
        self.average: Any = EMA(self.diffusion, beta=0.995, update_every=10)

    def step(self) -> None:
        for _ in range(2):
            (self.diffusion((self.rows() + 1) / 2) / 2).backward()
        clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()

    def model(self) -> ScoreModel:
        averaged = copy.deepcopy(self.average.ema_model)
        index = level_index(averaged.alphas_cumprod)
        return Foreign(lambda x, level: averaged.model(x, index(level)), "v")


class Backbone(nn.Module):
    """The network of azula's tutorial without labels, or ours at EDM's c_noise."""

    def __init__(self, x: Tensor, own: bool) -> None:
        super().__init__()
        self.own, channels = own, x.shape[1]
        self.net: nn.Module = our_network(x)
        if own:
            from azula.nn.unet import UNet

            self.net = UNet(
                channels,
                channels,
                hid_channels=[16, 32, 64],
                hid_blocks=[2, 2, 2],
                mod_features=64,
            )
            self.embed = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor, c_time: Tensor) -> Tensor:
        time = self.embed(c_time[:, None]) if self.own else c_time / 4
        out: Tensor = self.net(x, time)
        return out


class Azula(Loop):
    """See the module."""

    def __init__(self, x: Tensor, seed: int, steps: int, *, own: bool) -> None:
        super().__init__(x, seed, 64)
        from azula.denoise import KarrasDenoiser
        from azula.noise import VPSchedule

        self.denoiser: Any = KarrasDenoiser(Backbone(x, own), VPSchedule())
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=3e-4)

    def step(self) -> None:
        clean = self.rows()
        self.denoiser.loss(clean, torch.rand(len(clean))).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def model(self) -> ScoreModel:
        # x_0 = alpha x + sigma F at alpha^2 + sigma^2 = 1, so v = -F.
        return Foreign(lambda x, level: -self.denoiser.backbone(x, -level.float()), "v")


class KDiffusion(Loop):
    """See the module."""

    def __init__(self, x: Tensor, seed: int, steps: int) -> None:
        super().__init__(x, seed, 64)
        stand_ins = {"torchvision.transforms": ("functional",), "dctorch": ("functional",)}
        self.utils = part_of("k_diffusion", "utils", stand_ins)
        layers = part_of("k_diffusion", "layers", stand_ins)
        self.sigma_data = float(x.std())
        net = our_network(x)
        self.denoiser: Any = layers.Denoiser(AtNoise(net), sigma_data=self.sigma_data)
        self.averaged = copy.deepcopy(self.denoiser)
        self.decay = self.utils.EMAWarmup(power=0.6667, max_value=0.9999)
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), lr=2e-4, betas=(0.95, 0.999), eps=1e-6, weight_decay=1e-3
        )

    def step(self) -> None:
        clean = self.rows()
        sigma = self.utils.rand_v_diffusion(
            (len(clean),), sigma_data=self.sigma_data, min_value=1e-3, max_value=1e3
        )
        self.denoiser.loss(clean, torch.randn_like(clean), sigma).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.utils.ema_update(self.denoiser, self.averaged, self.decay.get_value())
        self.decay.step()

    def model(self) -> ScoreModel:
        averaged = copy.deepcopy(self.averaged)

        def x0(x: Tensor, level: Tensor) -> Tensor:
            sigma = (-level).exp().float()
            alpha = (1 + sigma**2) ** -0.5
            out: Tensor = averaged(x / alpha.view(-1, *[1] * (x.ndim - 1)), sigma)
            return out

        return Foreign(x0, "x0")


class AtNoise(nn.Module):
    """Our network, asked with sigma, at EDM's c_noise."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = self.inner(x, sigma.log() / 4)
        return out


def both(
    name: str, library: str, batch: int, planned: bool, begin: Callable[..., Training]
) -> Iterator[Example]:
    """An example with the network of its library, and with ours."""
    for own in (True, False):
        title = f"{name}, {'its' if own else 'our'} network"

        def start(x: Tensor, seed: int, steps: int, own: bool = own) -> Training:
            return begin(x, seed, steps, own=own)

        yield Example(title, library, batch, planned, start)


EXAMPLES: tuple[Example, ...] = (
    Example("scoresde", "scoresde", 0, True, Ours),
    *both("diffusers", "diffusers", 16, True, Diffusers),
    *both(
        "denoising-diffusion-pytorch",
        "denoising_diffusion_pytorch",
        64,
        False,
        DenoisingDiffusion,
    ),
    *both("azula", "azula", 64, False, Azula),
    Example("k-diffusion, our network", "k_diffusion", 64, False, KDiffusion),
)
