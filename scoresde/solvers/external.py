"""Solvers of scipy and torchsde behind the same protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, keep, need, positive
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.solvers.base import Orders, Solver
from scoresde.solvers.run import OnStep, Run

__all__ = ["SciPySolver", "TorchSDESolver"]

_SCIPY = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
_TORCHSDE = ("euler", "srk")
_BROWNIAN = ("scoresde", "interval")


def _no_hook(on_step: OnStep | None, name: str) -> None:
    if on_step is not None:
        remedy = "use a native solver (Heun, EulerMaruyama) for hooks on the state"
        raise fail(
            "on_step", f"None for {name}, which solves a whole segment at once", "a hook", remedy
        )


@final
@dataclass(frozen=True)
class SciPySolver(Solver):
    """Solve the probability flow by `scipy.integrate.solve_ivp`, in float64 except for the model.

    The whole batch is one system, so a sample depends on the others of its batch through the error
    norm, at the level of the tolerances. A float32 network cannot use tolerances below 1e-5.
    Song et al. 2021 sample with RK45 at 1e-5.

    Args:
        method: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".
        rtol, atol: relative and absolute tolerances of a step.

    Raises:
        RuntimeError: scipy failed; the error has its message.
        ValueError: the drift is not finite; the message names the time.
    """

    method: str = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5

    serves: ClassVar[str] = "ode"
    differentiable: ClassVar[bool] = False  # scipy holds the state as an array

    def __post_init__(self) -> None:
        choice("method", self.method, _SCIPY)
        keep(self, "rtol", positive, "a relative tolerance such as 1e-5")
        keep(self, "atol", positive, "an absolute tolerance such as 1e-5")

    @property
    def orders(self) -> Orders:
        return Orders()

    def solve_segment(
        self, run: Run, x: Tensor, nodes: tuple[Node, ...], rows: tuple[Any, ...]
    ) -> Tensor:
        _no_hook(run.on_step, "SciPySolver")
        passed = len(nodes)
        x, nodes = run.leave_noise(x, nodes, exactly=True)
        passed -= len(nodes)
        if len(nodes) < 2:
            return x
        segment = tuple(float(node.t) for node in nodes)
        states = self._segment(run.process, x, segment, run.done + passed, run.path is not None)
        if run.path is not None:
            run.path += states.unbind()
        return states[-1]

    def _segment(
        self, process: Process, x: Tensor, segment: tuple[float, ...], done: int, keep_path: bool
    ) -> Tensor:
        outputs = segment[1:] if keep_path else segment[-1:]
        sign = 1.0 if segment[-1] > segment[0] else -1.0

        def drift(t: float, y: Any) -> Any:
            state = torch.from_numpy(y).reshape(x.shape).to(x)
            node = process.sde.at(min(max(t, min(segment)), max(segment)))
            out = process.drift(node, state).flatten().cpu().double().numpy()
            if not math.isfinite(float(abs(out).max())):
                step = sum(sign * (t - node) > 0 for node in segment[1:-1])
                where = f"in step {done + step + 1}, at t = {t:.6g}"
                remedy = "check the model there, or end sooner (t_end)"
                raise fail("model", f"finite scores {where}", "NaN or infinity", remedy)
            return out

        solution = need("scipy.integrate", "").solve_ivp(
            drift,
            (segment[0], segment[-1]),
            x.flatten().cpu().double().numpy(),
            method=self.method,
            t_eval=outputs,
            rtol=self.rtol,
            atol=self.atol,
        )
        if not solution.success:
            at = solution.t[-1] if len(solution.t) else segment[0]
            raise RuntimeError(
                f"solver: {self.method} stopped after t = {at:.6g}: {solution.message} "
                "Loosen rtol and atol, or use a native solver"
            )
        return torch.from_numpy(solution.y.T.copy()).reshape(len(outputs), *x.shape).to(x)


class _Clocked:
    """A process in the form of torchsde: 2-D states, and a variable u that grows by 1 per step.

    On step i the time is t_i + (u - i)(t_{i+1} - t_i), so any grid has dt = 1, which floats
    add up without rounding: torchsde then makes N steps, never N + 1.
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, process: Process, like: Tensor, nodes: tuple[Node, ...]) -> None:
        self.process, self.like, self.nodes = process, like, nodes
        self.segment = tuple(float(node.t) for node in nodes)
        self.step = 0
        self._last: tuple[float, Tensor, Tensor] | None = None

    def _time(self, u: Tensor) -> tuple[float, float]:
        dt = self.segment[self.step + 1] - self.segment[self.step]
        part = float(u) - self.step
        return self.segment[self.step + 1] if part == 1.0 else self.segment[
            self.step
        ] + part * dt, dt

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        t, dt = self._time(u)
        if self._last is not None and self._last[0] == t and self._last[1] is y:
            return self._last[2]  # torchsde's check of shapes asks for the first drift twice
        terms = self.process.terms(self.process.sde.at(t), y.view(self.like.shape))
        out = lincomb(*((dt * c, m) for c, m in terms)).reshape(y.shape)
        self._last = t, y, out
        return out

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        t, dt = self._time(u)
        value = self.process.diffusion(self.process.sde.at(t)) * math.sqrt(abs(dt))
        return torch.full_like(y, value)


def _motion(clocked: _Clocked, noise: Noise, y: Tensor, brownian: str) -> Any:
    """A `torchsde.BaseBrownian` that passes the number of the current step to `clocked`."""
    torchsde = need("torchsde", "")
    levy_area = "space-time"
    segment = clocked.nodes
    if brownian == "interval":  # without `entropy` not seeded, without `dt` 100 times slower
        inner = torchsde.BrownianInterval(
            t0=0.0,
            t1=float(len(segment) - 1),
            size=y.shape,
            dtype=y.dtype,
            device=y.device,
            entropy=noise.seed,
            dt=1.0,
            levy_area_approximation=levy_area,
        )

    def ours(i: int, return_U: bool) -> Any:
        if not return_U:
            return noise.normal(clocked.like, segment[i], segment[i + 1]).reshape(y.shape)
        w, h = noise.levy(clocked.like, segment[i], segment[i + 1])
        w, h = w.reshape(y.shape), h.reshape(y.shape) / math.sqrt(12.0)
        return w, w / 2 + h  # over an interval of length 1: U = W/2 + H

    class Motion(torchsde.BaseBrownian):  # type: ignore[misc, name-defined]
        dtype, device, shape = y.dtype, y.device, y.shape
        levy_area_approximation = levy_area

        def __repr__(self) -> str:
            return f"Motion({noise!r}, {brownian!r})"

        def __call__(
            self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
        ) -> Any:
            clocked.step = round(float(ta))
            if brownian == "interval":
                return inner(ta, tb, return_U=return_U, return_A=return_A)
            return ours(clocked.step, return_U)

    return Motion()


@final
@dataclass(frozen=True)
class TorchSDESolver(Solver):
    """Solve the reverse SDE, or with eta = 0 the probability flow, by `torchsde.sdeint`.

    Time is mapped to a variable that increases, states are flattened, and the noise comes from the
    noise source of the run behind `torchsde.BaseBrownian`, so that seeds and sample numbers have
    the same meaning as with other solvers.

    Args:
        method: "euler", or "srk", Roessler's scheme of strong order 1.5 (2010, SRID2), with 10
            calls a step. The milstein of torchsde equals its euler here, since the noise is
            additive.
        brownian: "scoresde", or "interval" for the `BrownianInterval` of torchsde, seeded by
            `entropy`; its noise depends on the batch size and on the steps.

    Raises:
        ImportError: torchsde is not installed.
    """

    method: str = "euler"
    brownian: str = "scoresde"

    forward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice("method", self.method, _TORCHSDE)
        choice("brownian", self.brownian, _BROWNIAN)

    @property
    def orders(self) -> Orders:
        return Orders(ode=1, weak=1, strong=1) if self.method == "euler" else Orders(ode=3)

    def solve_segment(
        self, run: Run, x: Tensor, nodes: tuple[Node, ...], rows: tuple[Any, ...]
    ) -> Tensor:
        _no_hook(run.on_step, "TorchSDESolver")
        x, nodes = run.leave_noise(x, nodes, exactly=False)
        if len(nodes) < 2:
            return x
        states = self._segment(run.process, x, nodes, run.noise, run.path is not None)
        if run.path is not None:
            run.path += states.unbind()
        return states[-1]

    def _segment(
        self,
        process: Process,
        x: Tensor,
        nodes: tuple[Node, ...],
        noise: Noise,
        keep_path: bool,
    ) -> Tensor:
        torchsde = need("torchsde", "")
        y, steps = x.flatten(1), len(nodes) - 1
        clocked = _Clocked(process, x, nodes)
        outputs = range(steps + 1) if keep_path else (0, steps)
        ts = torch.tensor(list(outputs), dtype=torch.float64)
        motion = _motion(clocked, noise, y, self.brownian)
        states = torchsde.sdeint(clocked, y, ts, bm=motion, method=self.method, dt=1.0)
        return states[1:].reshape(-1, *x.shape)  # type: ignore[no-any-return]
