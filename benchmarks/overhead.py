"""What a solver's step costs beyond the network: ratio to bare calls, and microseconds.

    python benchmarks/overhead.py [--threads 1 2] [--steps 50] [--rounds 15] [--nets mlp conv]

Two networks: an MLP on 256 x 2 numbers, so small that Python and small tensor operations show,
and a convolution on 16 x 3 x 32 x 32 numbers of about 8 ms a call, where memory traffic does.
Outputs are bounded, so states stay of unit size. Bare calls are made on the states at which the
sampler called the network, with the times ready. The noise of ours is what a run takes beyond one
that looks its noise up; that of the peers is torch.randn by itself. Peers run as their own users
run them, without our adapters. Rounds are interleaved; each part is that of its fastest round,
which other work on the machine disturbs least, all in one run on one machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import VPSDE, Preconditioned, ReverseSampler
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.solvers import SOLVERS, StepSolver

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.peers import installed, k_sampling

RESULTS = Path(__file__).parent / "results"

Walk = Callable[[nn.Module, Tensor, int], Tensor]
"""A peer: network, start and number of steps to samples."""


class Bounded(nn.Module):
    """0.9 x + 1e-3 net(x, t), an MLP on (B, 2)."""

    shape = (256, 2)

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        dim = self.shape[1]
        layers = [nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.9 * x + 1e-3 * self.net(torch.cat([x, t[:, None]], 1))


class Convolution(nn.Module):
    """0.9 x + 1e-3 net(x, t), three convolutions on (B, 3, 32, 32)."""

    shape = (16, 3, 32, 32)

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.time = nn.Linear(1, width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = nn.functional.silu(self.first(x) + self.time(t[:, None])[:, :, None, None])
        return 0.9 * x + 1e-3 * self.last(nn.functional.silu(self.middle(h)))


NETS: dict[str, type[nn.Module]] = {"mlp": Bounded, "conv": Convolution}

ON_CONV = (
    "euler_maruyama",
    "ancestral",
    "dpmpp_2m_sde",
    "sra1",
    "ddim",
    "heun",
    "dpmpp_2m",
    "dpmpp_3m",
    "res_3s",
    "unipc_3",
    "ipndm_4",
)
"""Ours on the slow network; the peers run on both."""


def _diffusers(module: str, name: str, scaled: bool = False, **config: Any) -> Walk:
    home = importlib.import_module(f"diffusers.schedulers.{module}")
    scheduler = getattr(home, name)(num_train_timesteps=1000, **config)

    def walk(net: nn.Module, x: Tensor, steps: int) -> Tensor:
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if scaled else x
            times = torch.full((x.shape[0],), float(t) / 1000)
            x = scheduler.step(net(seen, times), t, x, return_dict=False)[0]
        return x

    return walk


def _diffusers_all() -> dict[str, Walk]:
    dpm = ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler")
    uni = ("scheduling_unipc_multistep", "UniPCMultistepScheduler")
    deis = ("scheduling_deis_multistep", "DEISMultistepScheduler")
    plain = {"clip_sample": False}
    return {
        "DDIM": _diffusers("scheduling_ddim", "DDIMScheduler", **plain),
        "DDPM": _diffusers("scheduling_ddpm", "DDPMScheduler", **plain),
        "Euler": _diffusers("scheduling_euler_discrete", "EulerDiscreteScheduler", True),
        "DPM++ 2M": _diffusers(*dpm, solver_order=2),
        "DPM++ 3M": _diffusers(*dpm, solver_order=3),
        "SDE-DPM++ 2M": _diffusers(*dpm, solver_order=2, algorithm_type="sde-dpmsolver++"),
        "UniPC 2": _diffusers(*uni, solver_order=2),
        "UniPC 3": _diffusers(*uni, solver_order=3),
        "DEIS 3": _diffusers(*deis, solver_order=3),
    }


def _k_diffusion_all() -> dict[str, Walk]:
    sampling = k_sampling()

    def walk(net: nn.Module, x: Tensor, steps: int, name: str, drawn: bool = False) -> Tensor:
        options = {"noise_sampler": lambda a, b: torch.randn_like(x)} if drawn else {}
        sigmas = sampling.get_sigmas_karras(steps, 0.01, 1.0)
        return getattr(sampling, f"sample_{name}")(net, x, sigmas, disable=True, **options)

    named = ("euler", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde")
    drawn = {f"{n}, randn": partial(walk, name=n, drawn=True) for n in named[-2:]}
    return {**{n: partial(walk, name=n) for n in named}, **drawn}


def _azula_all() -> dict[str, Walk]:
    denoise, noise, sample = (
        importlib.import_module(f"azula.{m}") for m in ("denoise", "noise", "sample")
    )

    class Direct(denoise.Denoiser):  # type: ignore[misc, name-defined]
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.schedule = net, noise.VPSchedule()

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            return denoise.DiracPosterior(mean=self.net(x, t.expand(x.shape[0])))

    def walk(net: nn.Module, x: Tensor, steps: int, name: str, **options: Any) -> Tensor:
        made = getattr(sample, f"{name}Sampler")(Direct(net), steps=steps, silent=True, **options)
        return made(x)

    first = {n: partial(walk, name=n) for n in ("DDPM", "DDIM", "Euler", "Heun")}
    return {**first, **{f"{n} 3": partial(walk, name=n, order=3) for n in ("zAB", "xEAB")}}


def _torchdiffeq_all() -> dict[str, Walk]:
    odeint = importlib.import_module("torchdiffeq").odeint

    def walk(net: nn.Module, x: Tensor, steps: int, method: str) -> Tensor:
        def slope(t: Tensor, x: Tensor) -> Tensor:
            return 0.5 * (x - net(x, t.expand(x.shape[0])))

        return odeint(slope, x, torch.linspace(1.0, 1e-3, steps + 1), method=method)[-1]

    return {m: partial(walk, method=m) for m in ("euler", "midpoint")}


def _torchsde_all() -> dict[str, Walk]:
    library = importlib.import_module("torchsde")

    def walk(net: nn.Module, x: Tensor, steps: int) -> Tensor:
        class Reverse:
            noise_type, sde_type = "diagonal", "ito"

            def f(self, t: Tensor, y: Tensor) -> Tensor:
                seen = y.view(x.shape)
                return (net(seen, t.expand(x.shape[0])) - seen).flatten(1)

            def g(self, t: Tensor, y: Tensor) -> Tensor:
                return torch.full_like(y, 0.1)

        ts = torch.tensor([0.0, 1.0])
        return library.sdeint(Reverse(), x.flatten(1), ts, method="euler", dt=1.0 / steps)[-1]

    return {"euler": walk}


PEERS: dict[str, Callable[[], dict[str, Walk]]] = {
    "diffusers": _diffusers_all,
    "k-diffusion": _k_diffusion_all,
    "azula": _azula_all,
    "torchdiffeq": _torchdiffeq_all,
    "torchsde": _torchsde_all,
}
STOCHASTIC = ("DDPM", "SDE", "_sde", "ancestral", "torchsde")
"""Parts of the names of peers that draw noise at every step."""


EXPECTED = {
    "diffusers DDIM": 2.11,
    "diffusers DDPM": 2.80,
    "diffusers Euler": 1.81,
    "diffusers DPM++ 2M": 2.90,
    "diffusers DPM++ 3M": 3.68,
    "diffusers SDE-DPM++ 2M": 3.39,
    "diffusers UniPC 2": 5.91,
    "diffusers UniPC 3": 7.35,
    "diffusers DEIS 3": 10.01,
    "k-diffusion euler": 1.54,
    "k-diffusion heun": 1.44,
    "k-diffusion dpmpp_2m": 1.89,
    "k-diffusion euler_ancestral": 1.90,
    "k-diffusion dpmpp_2m_sde": 23.62,
    "k-diffusion dpmpp_3m_sde": 23.75,
    "k-diffusion dpmpp_2m_sde, randn": 2.11,
    "k-diffusion dpmpp_3m_sde, randn": 2.30,
    "azula DDPM": 2.35,
    "azula DDIM": 2.40,
    "azula Euler": 2.05,
    "azula Heun": 1.72,
    "azula zAB 3": 2.46,
    "azula xEAB 3": 2.61,
    "torchdiffeq euler": 2.00,
    "torchdiffeq midpoint": 1.88,
    "torchsde euler": 3.32,
}
"""Ratios on an MLP of about 98 us a call, 50 steps, one thread, measured apart from this code."""


class Replayed(Noise):
    """The default noise, drawn once for each interval or counter and from then on looked up."""

    def __init__(self, name: str = "steps", drawn: dict[Hashable, Tensor] | None = None) -> None:
        self.inner, self.seed, self.first, self.segment = Independent(0, name=name), 0, 0, 0
        self.drawn = {} if drawn is None else drawn

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        key = self.inner.name, now.t, nxt.t
        if key not in self.drawn:
            self.drawn[key] = self.inner.normal(like, now, nxt)
        return self.drawn[key]

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        key = self.inner.name, at, at, *number
        if key not in self.drawn:
            self.drawn[key] = self.inner.draw(like, *number, at=at)
        return self.drawn[key]

    def stream(self, name: str) -> Noise:
        return Replayed(name, self.drawn)

    def on_segment(self, segment: int) -> Noise:
        return self

    def from_sample(self, first: int) -> Noise:
        return self


CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
}
"""On a machine shared with others take the CPU's clock, and one thread."""


def seconds(fn: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    fn()
    return clock() - began


class Case:
    """A sampler, with the calls that it makes to the network and its noise by themselves."""

    def __init__(self, name: str, net: nn.Module, run: Callable[[], object], once: bool) -> None:
        self.name, self.net, self.run = name, net, run
        self.calls: list[tuple[Tensor, ...]] = []
        if once:
            self.record(run)

    def record(self, run: Callable[[], object]) -> None:
        hook = self.net.register_forward_pre_hook(lambda _, inputs: self.calls.append(inputs))
        with torch.no_grad():
            run()
        hook.remove()

    def bare(self) -> None:
        with torch.no_grad():
            for inputs in self.calls:
                self.net(*inputs)

    def quiet(self, clock: Callable[[], float], run: float) -> float:
        """Seconds of a run without its noise, `run` with it."""
        raise NotImplementedError


class Ours(Case):
    """A named solver behind `ReverseSampler`."""

    def __init__(self, name: str, net: nn.Module, steps: int) -> None:
        model = Preconditioned(net, VPSDE(), predicts="eps")
        sampler = ReverseSampler(model.sde, model, name, steps=steps, denoise=False)
        super().__init__(name, net, lambda: sampler.sample(net.shape, seed=0), once=False)
        replayed = Replayed()
        self.silent = lambda: sampler.sample(net.shape, noise=replayed)
        self.record(self.silent)

    def quiet(self, clock: Callable[[], float], run: float) -> float:
        # in place, where caches are those of a run: apart from it, drawing takes half as long
        return seconds(self.silent, clock)


class Theirs(Case):
    """A peer, from a start drawn in the run."""

    def __init__(self, name: str, net: nn.Module, walk: Walk, steps: int) -> None:
        def run() -> Tensor:
            with torch.no_grad():
                return walk(net, torch.randn(net.shape), steps)

        super().__init__(name, net, run, once=True)
        self.shape = net.shape
        self.draws = 1 + steps * any(part in name for part in STOCHASTIC)

    def quiet(self, clock: Callable[[], float], run: float) -> float:
        began = clock()
        for _ in range(self.draws):
            torch.randn(self.shape)
        return run - (clock() - began)


def cases(kind: str, steps: int) -> list[Case]:
    torch.manual_seed(0)
    net = NETS[kind]()
    whole = ("scipy", "torchsde") if kind == "mlp" else ()  # adaptive ones have no fixed steps
    names = [n for n, (s, _) in SOLVERS.items() if isinstance(s, StepSolver) or n in whole]
    if kind == "conv":
        names = [n for n in names if n in ON_CONV]
    made: list[Case] = [Ours(name, net, steps) for name in names]
    for library, version in installed().items():
        if version.startswith("skipped"):
            print(f"{library}: {version}")
            continue
        walks = PEERS[library]().items()
        made += [Theirs(f"{library} {name}", net, walk, steps) for name, walk in walks]
    return made


def measure(
    kind: str, steps: int, rounds: int, clock: Callable[[], float]
) -> list[dict[str, object]]:
    parts = ("run", "bare", "quiet")
    every = cases(kind, steps)
    times: dict[str, dict[str, list[float]]] = {c.name: {p: [] for p in parts} for c in every}
    for turn in range(rounds + 1):
        for case in every:
            run = seconds(case.run, clock)
            taken = run, seconds(case.bare, clock), case.quiet(clock, run)
            if turn:  # the first round warms up
                for part, value in zip(parts, taken, strict=True):
                    times[case.name][part].append(value)
    return [row(case, times[case.name], steps) for case in every]


def row(case: Case, times: dict[str, list[float]], steps: int) -> dict[str, object]:
    t = {part: min(values) for part, values in times.items()}
    own = t["quiet"] - t["bare"]
    return {
        "solver": case.name,
        "calls": len(case.calls),
        "ratio": t["run"] / t["bare"],
        "bare us/call": 1e6 * t["bare"] / len(case.calls),
        "noise us/step": 1e6 * (t["run"] - t["quiet"]) / steps,
        "own us/step": 1e6 * own / steps,
        "own us/call": 1e6 * own / len(case.calls),
        "own/bare %": 100 * own / t["bare"],
        "expected ratio": EXPECTED.get(case.name, math.nan),
    }


def table(rows: list[dict[str, object]]) -> str:
    """The expected ratio stands only where it was measured: on the MLP."""
    head = [k for k in rows[0] if k != "expected ratio" or rows[0]["bare us/call"] < 1000]
    digits = {"ratio": 2, "own/bare %": 1, "expected ratio": 2}
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        cells = [f"{row[k]:.{digits.get(k, 0)}f}".replace("nan", "") for k in head[1:]]
        lines.append(f"| {row['solver']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--nets", nargs="+", default=["mlp", "conv"], choices=list(NETS))
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--stem", default="overhead", help="name of the files in results")
    args = parser.parse_args()
    text = [
        "# Overhead of a step beyond the network and the noise",
        "",
        f"`python benchmarks/overhead.py --steps {args.steps} --rounds {args.rounds} "
        f"--clock {args.clock}`; "
        f"torch {torch.__version__}, {platform.machine()}. Peers: "
        + ", ".join(f"{n} {v}" for n, v in installed().items())
        + ".",
    ]
    results = {}
    for kind in args.nets:
        rounds = args.rounds if kind == "mlp" else math.ceil(args.rounds / 2)
        size = " x ".join(map(str, NETS[kind].shape))
        for threads in args.threads:
            torch.set_num_threads(threads)
            rows = results[f"{kind}, {threads} threads"] = measure(
                kind, args.steps, rounds, CLOCKS[args.clock]
            )
            many = "s" * (threads > 1)
            text += ["", f"## {kind}, {size}, {threads} thread{many}", "", table(rows)]
    RESULTS.mkdir(exist_ok=True)
    saved = json.dumps(results, indent=1).replace("NaN", "null") + "\n"
    (RESULTS / f"{args.stem}.json").write_text(saved, encoding="utf-8")
    (RESULTS / f"{args.stem}.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
