"""The samplers of other libraries, each behind one small adapter.

Every adapter walks from the same start to the same endpoint over the same nodes, and calls the
same exact denoiser. States pass in and out as y = x/alpha, levels of noise as sigma/alpha in
float64. Libraries that build their own nodes have them replaced: diffusers' `sigmas`, or, where a
scheduler indexes `alphas_cumprod`, a chain whose steps are our nodes. The network is asked at the
true level of noise, not at the rounded time step that diffusers hands it ("integer times" says
what that costs). Precision inside stays the library's own, and is read off by the denoiser.

Not installed: listed as skipped. k-diffusion's `__init__` imports clip, kornia and more, so
`k_diffusion.sampling` is loaded beside it; neither it nor azula may pull another torch (README).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.problems import Denoiser, Draws

__all__ = ["LIBRARIES", "Peer", "Task", "installed", "k_sampling", "part_of", "peers"]


@cache
def _shell(library: str) -> types.ModuleType:
    """A package without what its `__init__` imports."""
    home = importlib.util.find_spec(library)
    if home is None:
        raise ModuleNotFoundError(library, name=library)
    package = types.ModuleType(library)
    package.__path__ = list(home.submodule_search_locations or ())
    return package


def part_of(library: str, part: str, stand_ins: Mapping[str, Sequence[str]]) -> Any:
    """One module of a library beside its `__init__`, where packages that it names are missing.

    Args:
        library: the package.
        part: the module in it.
        stand_ins: module that is missing -> the names that are imported from it; none of them may
            be needed by what is used of the part.
    """
    extra = {library: _shell(library)}
    for name, attributes in stand_ins.items():
        for whole in accumulate(name.split("."), "{}.{}".format):
            extra.setdefault(whole, types.ModuleType(whole))
        for attribute in attributes:
            setattr(extra[name], attribute, types.ModuleType(f"{name}.{attribute}"))
    before = {name: sys.modules.get(name) for name in extra}
    sys.modules.update(extra)
    try:
        return importlib.import_module(f"{library}.{part}")
    finally:
        # All other modules stay: extensions cannot be loaded twice.
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@dataclass(frozen=True)
class Task:
    """A start y: (B, D), the levels sigma/alpha of N + 1 nodes, a denoiser and noise."""

    y: Tensor
    sigmas: tuple[float, ...]
    net: Denoiser
    draws: Draws

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def alphas(self) -> list[float]:
        """alpha at the nodes of the schedule with alpha^2 + sigma^2 = 1."""
        return [1.0 / math.hypot(1.0, s) for s in self.sigmas]


@dataclass(frozen=True)
class Peer:
    """One sampler of another library.

    Attributes:
        library, name: what it is called there.
        run: from a task to the state at the last node.
        same_as: the algorithm, by the name of its anchor in solver-anchors.
        sde: whether it adds noise.
        note: how it was run, where that is not the library's default.
    """

    library: str
    name: str
    run: Callable[[Task], Tensor]
    same_as: str = ""
    sde: bool = False
    note: str = ""

    @property
    def label(self) -> str:
        return f"{self.library} {self.name}"


class Counter:
    """Keys of noises that a library draws in order."""

    def __init__(self, draws: Draws) -> None:
        self.draws, self.count = draws, 0

    def __call__(self, like: Tensor) -> Tensor:
        self.count += 1
        return self.draws(like, self.count)


# diffusers


def _scheduler(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"diffusers.schedulers.{module}"), name)


@contextmanager
def _diffusers_noise(module: str, draws: Draws) -> Iterator[None]:
    home = importlib.import_module(f"diffusers.schedulers.{module}")
    if not hasattr(home, "randn_tensor"):
        yield
        return
    count = Counter(draws)

    def made(shape: Any, dtype: Any = None, **_: Any) -> Tensor:
        return count(torch.empty(tuple(shape), dtype=dtype))

    with patch.object(home, "randn_tensor", made):
        yield


def _integer_level(level: float) -> float:
    """sigma/alpha at the time step, a whole number, to which diffusers rounds."""
    chain = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    levels = ((1 - chain) / chain).sqrt()
    return float(levels[(levels.log() - math.log(level)).abs().argmin()])


def diffusers_sigmas(
    task: Task, module: str, name: str, integer_times: bool = False, **config: Any
) -> Tensor:
    """A scheduler that steps over `sigmas`, on states with alpha^2 + sigma^2 = 1."""
    scheduler = _scheduler(module, name)(num_train_timesteps=1000, **config)
    scheduler.set_timesteps(task.steps)
    scheduler.sigmas = torch.tensor(task.sigmas, dtype=torch.float64)
    scheduler.timesteps = torch.arange(task.steps, 0, -1, dtype=torch.float64)
    scheduler.set_begin_index(0)
    x = task.y * task.alphas[0]
    with _diffusers_noise(module, task.draws):
        for i, t in enumerate(scheduler.timesteps):
            level, alpha = task.sigmas[i], task.alphas[i]
            seen = _integer_level(level) if integer_times else level
            y = x / alpha
            eps = (y - task.net(y, seen)) / level
            x = scheduler.step(eps.to(x.dtype), t, x, return_dict=False)[0]
    return x / task.alphas[-1]


def diffusers_unscaled(
    task: Task, module: str, name: str, stages: int = 1, **config: Any
) -> Tensor:
    """A scheduler that steps over `sigmas`, on states y; `stages` calls a step."""
    scheduler = _scheduler(module, name)(num_train_timesteps=1000, **config)
    scheduler.set_timesteps(task.steps)
    levels = [task.sigmas[0], *(s for s in task.sigmas[1:] for _ in range(stages))]
    scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
    scheduler.timesteps = torch.arange(len(levels) - 1, 0, -1, dtype=torch.float64)
    scheduler.set_begin_index(0)
    scheduler.is_scale_input_called = True
    y = task.y
    with _diffusers_noise(module, task.draws):
        for i, t in enumerate(scheduler.timesteps):
            eps = (y - task.net(y, levels[i])) / levels[i]
            y = scheduler.step(eps.to(y.dtype), t, y, return_dict=False)[0]
    return y


def diffusers_chain(task: Task, module: str, name: str, eta: float | None = None) -> Tensor:
    """A scheduler over `alphas_cumprod`: a chain whose steps are the nodes, the last at 0."""
    length = task.steps + 1
    scheduler = _scheduler(module, name)(num_train_timesteps=length, clip_sample=False)
    scheduler.alphas_cumprod = torch.tensor(task.alphas[::-1], dtype=torch.float64) ** 2
    scheduler.set_timesteps(length)
    extra = {} if eta is None else {"eta": eta}
    x = task.y * task.alphas[0]
    with _diffusers_noise(module, task.draws):
        for i, t in enumerate(scheduler.timesteps[:-1]):
            y = x / task.alphas[i]
            eps = (y - task.net(y, task.sigmas[i])) / task.sigmas[i]
            x = scheduler.step(eps.to(x.dtype), t, x, return_dict=False, **extra)[0]
    return x / task.alphas[-1]


def _diffusers() -> list[Peer]:
    def over(module: str, name: str, **config: Any) -> Callable[[Task], Tensor]:
        return partial(diffusers_sigmas, module=module, name=name, **config)

    def unscaled(module: str, name: str, **config: Any) -> Callable[[Task], Tensor]:
        return partial(diffusers_unscaled, module=module, name=name, **config)

    def chain(module: str, name: str, **config: Any) -> Callable[[Task], Tensor]:
        return partial(diffusers_chain, module=f"scheduling_{module}", name=name, **config)

    importlib.import_module("diffusers.schedulers")
    dpm = ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler")
    uni = ("scheduling_unipc_multistep", "UniPCMultistepScheduler")
    deis = ("scheduling_deis_multistep", "DEISMultistepScheduler")
    sa = ("scheduling_sasolver", "SASolverScheduler")
    euler = ("scheduling_euler_discrete", "EulerDiscreteScheduler")
    heun = ("scheduling_heun_discrete", "HeunDiscreteScheduler")
    to_min = {"final_sigmas_type": "sigma_min"}
    sde = {"algorithm_type": "sde-dpmsolver++", "lower_order_final": False, **to_min}
    full = {"lower_order_final": False}
    single = "rounds the state to float32 each step"
    shipped = "one order less at the end, below 15 steps; " + single
    return [
        Peer("diffusers", "DDIM", chain("ddim", "DDIMScheduler"), "ddim"),
        Peer("diffusers", "Euler", unscaled(*euler), "ddim", note=single),
        Peer("diffusers", "Heun", unscaled(*heun, stages=2), "edm_heun"),
        Peer("diffusers", "DPM++ 2M", over(*dpm, **full, **to_min), "dpmpp_2m", note=single),
        Peer(
            "diffusers",
            "DPM++ 3M",
            over(*dpm, solver_order=3, **full, **to_min),
            "dpmpp_3m_reference",
            note=single,
        ),
        Peer("diffusers", "DPM++ 3M, default", over(*dpm, solver_order=3, **to_min), note=shipped),
        Peer("diffusers", "DEIS 3", over(*deis, solver_order=3, **full)),
        Peer("diffusers", "UniPC 2", over(*uni, solver_order=2, **full)),
        Peer("diffusers", "UniPC 3", over(*uni, solver_order=3, **full), "unipc_3"),
        Peer(
            "diffusers",
            "UniPC 3, default",
            over(*uni, solver_order=3),
            note="one order less at the end",
        ),
        Peer(
            "diffusers",
            "UniPC 3 eps",
            over(*uni, solver_order=3, predict_x0=False, **full),
            "unipc_3_eps",
        ),
        Peer(
            "diffusers",
            "UniPC 3, integer times",
            over(*uni, solver_order=3, integer_times=True, **full),
            note="the network at rounded time steps, as shipped",
        ),
        Peer("diffusers", "DDPM", chain("ddpm", "DDPMScheduler"), "ancestral", True),
        Peer(
            "diffusers", "DDIM eta=1", chain("ddim", "DDIMScheduler", eta=1.0), "ancestral", True
        ),
        Peer("diffusers", "SDE-DPM++ 2M", over(*dpm, **sde), "dpmpp_2m_sde", True, single),
        Peer("diffusers", "SDE-DPM++ 3M", over(*dpm, solver_order=3, **sde), "", True, single),
        Peer(
            "diffusers",
            "SA-Solver P3C4",
            over(*sa, predictor_order=3, corrector_order=4, tau_func=lambda t: 1.0, **full),
            "sa_p3c4",
            True,
            "tau = 1",
        ),
        Peer(
            "diffusers",
            "SA-Solver P2C2",
            over(*sa, predictor_order=2, corrector_order=2, tau_func=lambda t: 1.0, **full),
            "",
            True,
            "tau = 1; at order 2 it adds a term of its own",
        ),
    ]


# k-diffusion


@cache
def k_sampling() -> Any:
    """`k_diffusion.sampling` beside its `__init__`."""
    return part_of("k_diffusion", "sampling", {"torchvision.transforms": ("functional",)})


class _OnePath:
    """Noise over intervals that may share their start: one Brownian path in sigma.

    What the library's BrownianTree gives to its two-stage samplers.
    """

    def __init__(self, draws: Draws, like: Tensor) -> None:
        self.draws, self.like = draws, like
        self.last: tuple[float, float, Tensor] | None = None

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        a, b = float(sigma), float(sigma_next)
        if self.last is not None and math.isclose(self.last[0], a, rel_tol=1e-12):
            middle, z = self.last[1:]
            fresh = self.draws(self.like, (middle, b))
            out = (math.sqrt(a - middle) * z + math.sqrt(middle - b) * fresh) / math.sqrt(a - b)
            self.last = None
            return out
        z = self.draws(self.like, (a, b))
        self.last = a, b, z
        return z


def k_diffusion(task: Task, name: str, sde: bool = False, **options: Any) -> Tensor:
    """A sampler over sigmas on states y; no final step to sigma = 0."""
    sampler = getattr(k_sampling(), f"sample_{name}")
    if sde:
        options["noise_sampler"] = _OnePath(task.draws, task.y)

    def model(y: Tensor, sigma: Tensor) -> Tensor:
        return task.net(y, float(sigma[0]))

    sigmas = torch.tensor(task.sigmas, dtype=torch.float64)
    with patch("torch.randn_like", torch.zeros_like):  # drawn, and multiplied by churn = 0
        return sampler(model, task.y, sigmas, disable=True, **options)


def _k_diffusion() -> list[Peer]:
    k_sampling()

    def k(name: str, **options: Any) -> Callable[[Task], Tensor]:
        return partial(k_diffusion, name=name, **options)

    return [
        Peer("k-diffusion", "euler", k("euler"), "ddim"),
        Peer("k-diffusion", "heun", k("heun"), "edm_heun"),
        Peer("k-diffusion", "dpm_2", k("dpm_2")),
        Peer("k-diffusion", "lms", k("lms")),
        Peer("k-diffusion", "dpmpp_2m", k("dpmpp_2m"), "dpmpp_2m"),
        Peer("k-diffusion", "dpmpp_2s", k("dpmpp_2s_ancestral", eta=0.0), note="eta = 0"),
        Peer(
            "k-diffusion",
            "dpmpp_3m",
            k("dpmpp_3m_sde", eta=0.0),
            "dpmpp_3m_reference",
            note="3m_sde at eta = 0",
        ),
        Peer("k-diffusion", "euler_ancestral", k("euler_ancestral", sde=True), "ancestral", True),
        Peer("k-diffusion", "dpmpp_2m_sde", k("dpmpp_2m_sde", sde=True), "dpmpp_2m_sde", True),
        Peer(
            "k-diffusion",
            "dpmpp_2m_sde heun",
            k("dpmpp_2m_sde", sde=True, solver_type="heun"),
            "sa_p2",
            True,
        ),
        Peer("k-diffusion", "dpmpp_3m_sde", k("dpmpp_3m_sde", sde=True), "", True),
        Peer(
            "k-diffusion", "dpmpp_sde", k("dpmpp_sde", sde=True), "", True, "noise from one path"
        ),
    ]


# azula


def azula(task: Task, name: str, **options: Any) -> Tensor:
    """A sampler over times, which are here the numbers of our nodes, counted down."""
    denoise, sample = (importlib.import_module(f"azula.{m}") for m in ("denoise", "sample"))
    levels = torch.tensor(task.sigmas[::-1], dtype=torch.float64)

    class Schedule:
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            level = levels[t.round().long()]
            alpha = (1 + level**2).rsqrt()
            return alpha, alpha * level

    class Oracle(denoise.Denoiser):  # type: ignore[misc, name-defined]
        schedule = Schedule()

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior(mean=task.net(x / alpha, float(sigma / alpha)))

    steps = {"start": float(task.steps), "stop": 0.0, "steps": task.steps}
    sampler = getattr(sample, name)(Oracle(), **steps, silent=True, dtype=torch.float64, **options)
    with patch("torch.randn_like", Counter(task.draws)):
        return sampler(task.y * task.alphas[0]) / task.alphas[-1]


def _azula() -> list[Peer]:
    importlib.import_module("azula.sample")
    importlib.import_module("azula.denoise")

    def a(name: str, **options: Any) -> Callable[[Task], Tensor]:
        return partial(azula, name=f"{name}Sampler", **options)

    return [
        Peer("azula", "DDIM", a("DDIM"), "ddim"),
        Peer("azula", "Euler", a("Euler"), "ddim"),
        Peer("azula", "Heun", a("Heun"), "edm_heun"),
        Peer("azula", "zAB 3", a("zAB", order=3)),
        Peer("azula", "vAB 3", a("vAB", order=3)),
        Peer("azula", "zEAB 3", a("zEAB", order=3)),
        Peer("azula", "xEAB 2", a("xEAB", order=2), "ab_2"),
        Peer("azula", "xEAB 3", a("xEAB", order=3), "dpmpp_3m"),
        Peer("azula", "REAB 2", a("REAB", order=2)),
        Peer("azula", "DDPM", a("DDPM"), "ancestral", True),
        Peer("azula", "Ito", a("Ito"), "", True),
    ]


# torchsde, torchdiffeq: in lambda, on states with alpha^2 + sigma^2 = 1


def _field(task: Task) -> Callable[[float, Tensor], tuple[Tensor, float, float]]:
    def at(log_snr: float, x: Tensor) -> tuple[Tensor, float, float]:
        level = math.exp(-log_snr)
        alpha = 1.0 / math.hypot(1.0, level)
        return task.net(x / alpha, level), alpha, alpha * level

    return at


def torchdiffeq(task: Task, method: str) -> Tensor:
    """dx/dlambda = alpha x_0hat - alpha^2 x; fixed methods step from node to node."""
    at = _field(task)

    def slope(log_snr: Tensor, x: Tensor) -> Tensor:
        x0, alpha, _ = at(float(log_snr), x)
        return alpha * x0 - alpha**2 * x

    nodes = -torch.tensor(task.sigmas, dtype=torch.float64).log()
    odeint = importlib.import_module("torchdiffeq").odeint
    ends = odeint(slope, task.y * task.alphas[0], nodes, method=method)
    return ends[-1] / task.alphas[-1]


def torchsde(task: Task, method: str) -> Tensor:
    """The reverse SDE in lambda; a clock of one unit a step, so that it takes N of them."""
    library = importlib.import_module("torchsde")
    at = _field(task)
    nodes = [-math.log(s) for s in task.sigmas]

    class Reverse:
        noise_type, sde_type = "diagonal", "ito"
        last: tuple[float, Tensor, Tensor] | None = None

        def lam(self, u: Tensor) -> tuple[float, float]:
            i = min(int(float(u) + 1e-9), task.steps - 1)
            h = nodes[i + 1] - nodes[i]
            return nodes[i] + (float(u) - i) * h, h

        def f(self, u: Tensor, x: Tensor) -> Tensor:
            log_snr, h = self.lam(u)
            if self.last is not None and self.last[0] == log_snr and self.last[1] is x:
                return self.last[2]  # its check of shapes asks for the first drift twice
            x0, alpha, _ = at(log_snr, x)
            out = h * (2 * alpha * x0 - (1 + alpha**2) * x)
            self.last = log_snr, x, out
            return out

        def g(self, u: Tensor, x: Tensor) -> Tensor:
            log_snr, h = self.lam(u)
            level = math.exp(-log_snr)
            return torch.full_like(x, level / math.hypot(1.0, level) * math.sqrt(2 * h))

    class Motion(library.BaseBrownian):  # type: ignore[misc, name-defined]
        dtype, device, shape = task.y.dtype, task.y.device, task.y.shape
        levy_area_approximation = "none"

        def __call__(self, ta: Any, tb: Any = None, **_: Any) -> Tensor:
            key = round(float(ta), 6), round(float(tb), 6)
            return task.draws(task.y, key) * math.sqrt(key[1] - key[0])

        def __repr__(self) -> str:
            return "Motion()"

    ts = torch.tensor([0.0, float(task.steps)], dtype=torch.float64)
    x = task.y * task.alphas[0]
    with torch.no_grad():
        ends = library.sdeint(Reverse(), x, ts, bm=Motion(), method=method, dt=1.0)
    return ends[-1] / task.alphas[-1]


def _torchdiffeq() -> list[Peer]:
    importlib.import_module("torchdiffeq")
    return [
        Peer("torchdiffeq", m, partial(torchdiffeq, method=m), note="in lambda")
        for m in ("euler", "midpoint", "rk4")
    ]


def _torchsde() -> list[Peer]:
    importlib.import_module("torchsde")
    return [
        Peer(
            "torchsde", "euler", partial(torchsde, method="euler"), "em_lambda", True, "in lambda"
        )
    ]


LIBRARIES: dict[str, Callable[[], list[Peer]]] = {
    "diffusers": _diffusers,
    "k-diffusion": _k_diffusion,
    "azula": _azula,
    "torchdiffeq": _torchdiffeq,
    "torchsde": _torchsde,
}
"""Name on the registry -> its samplers."""


def installed() -> dict[str, str]:
    """Each library's version, or why it is skipped."""
    found = {}
    for name, make in LIBRARIES.items():
        try:
            make()
            found[name] = importlib.metadata.version(name)
        except ImportError as error:
            found[name] = f"skipped: {error}"
    return found


def peers() -> list[Peer]:
    """Every sampler of every library that is installed."""
    found = installed()
    ready = [n for n, version in found.items() if not version.startswith("skipped")]
    return [peer for name in ready for peer in LIBRARIES[name]()]
