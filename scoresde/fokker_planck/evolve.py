"""The Fokker-Planck equation on a box, forward and along the reverse process of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, positive, positive_int, wrong_type
from scoresde._html import Shown
from scoresde._progress import Progress
from scoresde._progress import progress as progress_of
from scoresde.cond import Cond
from scoresde.fokker_planck.box import Box, Density, Numbers, make_box
from scoresde.fokker_planck.flux import Mesh, Operator
from scoresde.process import ForwardSDE, Process, ReverseSDE
from scoresde.sde import SDE

__all__ = ["FokkerPlanck"]

P0: TypeAlias = Any  # an array, a function or a distribution: checked in `_initial`
FLUXES = ("auto", "centred", "fitted")
CHUNK = 1 << 15  # points in one call of a model
LEAST = 1e-4  # the share of tol that any step may use, since the error at a jump is of order dt
COARSE = 0.01  # with a larger share of the mass clipped, the cells are too coarse

# TR-BDF2 as a Runge-Kutta scheme of three stages, of which the first is explicit, and its
# companion of order 3 (Bank et al. 1985; Hosea and Shampine 1996).
C = 2 - math.sqrt(2)
DIAGONAL = C / 2
W = math.sqrt(2) / 4
ERROR = (W - (1 - W) / 3, W - (3 * W + 1) / 3, DIAGONAL - DIAGONAL / 3)


@final
class FokkerPlanck(Shown):
    """The density of a diffusion by finite volumes, in one or two dimensions.

    For dx = b dt + s dw it solves dp/dt = -div(b p) + s^2/2 laplacian p with no flux through the
    walls of the box. For an SDE that is the forward process; for `ReverseSDE(sde, model, eta)` it
    is the density that the model generates by the reverse SDE (eta = 1) or the probability flow
    (eta = 0: pure transport), without sampling noise.

    - Mass is conserved to rounding: the flux out of a cell enters its neighbour, and the mass is
      rescaled after every step.
    - p >= 0, exactly. A step can produce negative values, whose mass is at most its local error
      in time, and in space with the centred flux (the fitted flux preserves the sign). They are
      set to zero and the other values are rescaled to conserve the mass. Their sum is
      `stats["clipped"]`; above 1 % of the mass the cells are too coarse, which is an error.
    - Second order in space. The fitted flux preserves exp(int b / (s^2/2)) to rounding under
      every drift that is the gradient of a polynomial of degree <= 4. The centred flux adds no
      diffusion where the drift dominates the noise, as in reverse processes, whose densities are
      smooth on the scale of the score; choose it also for drifts that spread the mass faster than
      the noise does. If the noise starts from zero (sub-VP), the fitted flux loses a fifth of an
      order.
    - Second order and L-stable in time. The steps are controlled so that their errors, measured
      in total mass, sum to at most about `tol`; the equation does not amplify differences in
      mass, so this also bounds the error at the end.

    Args:
        sde: an `SDE`, affine or not, a `ForwardSDE`, or a `ReverseSDE`; a condition of the latter
            has one entry, which applies to every cell.
        axes: a list of one or two axes, each `(low, high, cells)` or an array of the edges of
            the cells, whose widths may vary smoothly. 2-D costs a sparse factorisation for each
            of the two stages of a step: 100 x 100 cells are comfortable.
        flux: "fitted", "centred" or "auto": fitted for a forward process with noise, centred
            for a reverse process and for one without noise.
        edge: the share of the mass allowed in the outermost fiftieth of the box at each end;
            1 if the walls are meant to reflect.

    Raises:
        TypeError: sde is none of these.
        ValueError: axes do not increase, there are three of them, or the flux is unknown.

    References: Chang and Cooper 1970 (J. Comput. Phys. 6); Song et al. 2021 (arXiv 2011.13456),
    eq. 13 and appendix D.1; Maoutsa et al. 2020 (arXiv 2006.00702).

    Example:
        >>> from scoresde import VPSDE, GaussianMixture
        >>> data = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.1]))
        >>> equation = FokkerPlanck(VPSDE(), [(-6.0, 6.0, 300)])
        >>> density = equation.evolve(data, 0.0, 0.3)
        >>> exact = data.marginal(VPSDE(), 0.3).log_prob(torch.zeros(1, 1))
        >>> bool(abs(density.log_prob(torch.zeros(1, 1)) - exact) < 1e-3)
        True
    """

    def __init__(
        self,
        sde: SDE | Process,
        axes: Sequence[Any],
        *,
        flux: str = "auto",
        edge: float = 1e-4,
    ) -> None:
        remedy = "pass an SDE such as VPSDE(), or ReverseSDE(sde, model, eta)"
        instance("sde", sde, (SDE, ForwardSDE, ReverseSDE), remedy)
        self.process: Process = ForwardSDE(sde) if isinstance(sde, SDE) else sde
        self.box = make_box(axes)
        self.flux = choice("flux", flux, FLUXES)
        self.edge = positive("edge", edge, "the share of the mass allowed at a wall")
        self._mesh = Mesh(self.box)

    def evolve(
        self,
        p0: P0,
        t0: float,
        t1: float,
        *,
        at: Sequence[float] = (),
        tol: float = 1e-4,
        max_steps: int = 100_000,
        progress: bool = False,
    ) -> Density:
        """The density at time t1 if it is p0 at time t0.

        Args:
            p0: values per unit of volume at the centres of the cells, of shape (n,) or (n, m);
                or a density p0(x: (N, D)) -> (N,); or an object with `log_prob`: a `Gaussian`, a
                `GaussianMixture`, a torch distribution, a `Density`. A function must have mass 1;
                an array may have any mass, and so may a `Density`, which is interpolated if its
                cells are different.
            t0, t1: times in [0, T]; t0 < t1 forward, t0 > t1 in reverse, any order for eta = 0.
            at: times between, in the order of integration, whose densities become `path`.
            tol: bound on the time error at t1, as a share of the mass.
            max_steps: the most steps, rejected ones included.
            progress: show a bar with the time left, or lines if stderr is not a terminal.

        Raises:
            ValueError: p0 is negative, not finite or of another shape, times are in the wrong
                order, the box does not contain the mass at some time, cells are too coarse, or a
                drift or score is not finite (the message gives the time and place).
        """
        run = _Integration(
            self, t0, t1, positive("tol", tol), positive_int("max_steps", max_steps)
        )
        stops = run.stops(at)
        p = _initial(p0, self.box, self.edge)
        self._check_rims(p, run.t0)
        mass, path = float(p @ self._mesh.volume), []
        with closing(progress_of(100, "evolve", "percent", shown=progress)) as bar:
            for stop in stops:
                p = run.to(stop, p, mass, bar)
                path.append(Density(self._shaped(p), stop, self.box))
        kept = tuple(path) if len(at) == len(stops) else tuple(path[:-1])
        return Density(path[-1].p, run.t1, self.box, kept, run.stats())

    def _shaped(self, p: Numbers) -> Tensor:
        return torch.as_tensor(p.reshape(self.box.shape).copy())

    def _check_rims(self, p: Numbers, t: float) -> None:
        where, share = max(self.box.rims(p.reshape(self.box.shape)), key=lambda pair: pair[1])
        if share > self.edge:
            raise fail(
                "axes",
                f"a box that holds the mass, with at most {self.edge:g} of it in the outermost "
                "fiftieth",
                f"{share:.3g} of it at {where} at t = {t:g}",
                "widen that axis, or pass edge=1 if the walls are meant to reflect",
            )


@final
class _Integration:
    """One integration with step-size control from t0 to t1; u >= 0 is the elapsed time."""

    def __init__(
        self, equation: FokkerPlanck, t0: float, t1: float, tol: float, max_steps: int
    ) -> None:
        process, sde = equation.process, equation.process.sde
        self.t0, self.t1 = sde.check_time("t0", t0), sde.check_time("t1", t1)
        self.sign, self.span = math.copysign(1.0, self.t1 - self.t0), abs(self.t1 - self.t0)
        if self.span == 0:
            raise fail("t1", f"a time other than t0 = {self.t0:g}", t1, "evolve to another time")
        reverse = isinstance(process, ReverseSDE)
        if self.sign < 0 and not reverse:
            remedy = "time runs up here; go back with ReverseSDE(sde, model, eta)"
            raise fail("t1", f"a time after t0 = {self.t0:g}", t1, remedy)
        if self.sign > 0 and reverse and process.stochastic:
            remedy = "the reverse SDE runs down in time; set eta=0 to go up the probability flow"
            raise fail("t1", f"a time before t0 = {self.t0:g}", t1, remedy)
        self.u, self.dt = 0.0, 1e-3 * self.span
        self.equation, self.tol, self.max_steps = equation, tol, max_steps
        self.mesh = equation._mesh
        self.drift = _Drift(process, self.mesh.points)
        auto = "centred" if reverse or not self.noisy() else "fitted"
        self.fitted = (auto if equation.flux == "auto" else equation.flux) == "fitted"
        self.last: Operator | None = None
        self.count = dict.fromkeys(("steps", "rejected"), 0)
        self.error = self.clipped = 0.0

    def stats(self) -> dict[str, float]:
        sums = {"error": self.error, "clipped": self.clipped}
        return {**self.count, "evaluations": self.drift.calls, **sums}

    def stops(self, at: Sequence[float]) -> list[float]:
        """The times at which to stop, t1 the last."""
        times = [self.equation.process.sde.check_time(f"at[{i}]", t) for i, t in enumerate(at)]
        elapsed = [self.sign * (t - self.t0) for t in times]
        if any(b <= a for a, b in zip([0.0, *elapsed], [*elapsed, math.inf], strict=True)) or any(
            u > self.span for u in elapsed
        ):
            expected = f"times after {self.t0:g}, up to {self.t1:g}, in the order of integration"
            raise fail("at", expected, list(at), "sort them in that order, without t0")
        return times if times and times[-1] == self.t1 else [*times, self.t1]

    def noisy(self) -> bool:
        """Whether there is noise anywhere; one flux is used throughout, as a switch would jump."""
        process, times = self.equation.process, [self.time(k / 8 * self.span) for k in range(9)]
        return any(process.diffusion(process.sde.at(t)) != 0 for t in times)

    def percent(self, u: float) -> int:
        return int(100 * (u / self.span))

    def time(self, u: float) -> float:
        return self.t1 if u >= self.span else self.t0 + self.sign * u

    def operator(self, u: float) -> Operator:
        t = self.time(u)
        drift, D = self.drift(t)
        return Operator(self.mesh, self.mesh.velocities(self.sign * drift), D, self.fitted)

    def to(self, stop: float, p: Numbers, mass: float, bar: Progress) -> Numbers:
        """Integrate to the time `stop`, and show the share of the interval in percent."""
        end = self.span if stop == self.t1 else self.sign * (stop - self.t0)
        while self.u < end:
            if self.count["steps"] + self.count["rejected"] >= self.max_steps:
                got = f"t = {self.time(self.u):g} with steps of {self.dt:.3g}"
                raise fail(
                    "max_steps",
                    f"t = {self.t1:g} within {self.max_steps}",
                    got,
                    "raise it, or tol",
                )
            left = end - self.u
            last = self.dt >= left * (1 - 1e-9)
            dt = left if last else min(self.dt, left / 2)
            new, error, operator = self.step(p, dt)
            allowed = self.tol * mass * max(dt / self.span, LEAST)
            scale = 0.9 * math.sqrt(allowed / max(error, 1e-300))
            proposed = dt * min(4.0, max(0.2, scale))
            if not error <= allowed:
                self.count["rejected"] += 1
                self.dt = min(proposed, 0.9 * dt)
                self.check_step()
                continue
            # a step that was shortened to end at a stop does not shorten the next one
            self.dt = max(proposed, self.dt) if dt < self.dt else proposed
            before, self.u = self.u, end if last else self.u + dt
            bar.update(self.percent(self.u) - self.percent(before))
            self.last, self.error = operator, self.error + error / mass
            self.count["steps"] += 1
            p = self.corrected(new, mass)
            self.equation._check_rims(p, self.time(self.u))
        return p

    def step(self, p: Numbers, dt: float) -> tuple[Numbers, float, Operator]:
        """One step of TR-BDF2, the mass of its local error, and the operator at its end."""
        V = self.mesh.volume
        if self.last is None:
            self.last = self.operator(self.u)
        K1, K2, K3 = self.last, self.operator(self.u + C * dt), self.operator(self.u + dt)
        k1 = K1.apply(p)
        middle = K2.solve(DIAGONAL * dt, V * p + DIAGONAL * dt * k1)
        k2 = K2.apply(middle)
        new = K3.solve(DIAGONAL * dt, V * p + W * dt * (k1 + k2))
        k3 = K3.apply(new)
        # a further solve damps the components of the estimate that the scheme damps as well
        raw = dt * (ERROR[0] * k1 + ERROR[1] * k2 + ERROR[2] * k3)
        return new, float(np.abs(V * K3.solve(DIAGONAL * dt, raw)).sum()), K3

    def corrected(self, p: Numbers, mass: float) -> Numbers:
        """p with its negative values set to zero, rescaled to the given mass."""
        V = self.mesh.volume
        self.clipped += float(-(p.clip(max=0.0) @ V)) / mass
        if self.clipped > COARSE:
            raise fail(
                "axes",
                f"cells fine enough that at most {COARSE:g} of the mass is clipped",
                f"{self.clipped:.3g} of it negative by t = {self.time(self.u):g}",
                "take smaller cells, or end before the density is so narrow",
            )
        p = p.clip(0.0)
        return p * (mass / float(p @ V))

    def check_step(self) -> None:
        if self.dt < 1e-13 * self.span:
            got = f"{self.dt:.3g} at t = {self.time(self.u):g}"
            remedy = (
                "the drift or the diffusion may jump or be singular there; start or end beside it"
            )
            raise fail("tol", "time steps above 1e-13 of the interval", got, remedy)


@final
class _Drift:
    """The drift of a process at fixed points, as float64 numpy, and half its squared diffusion."""

    def __init__(self, process: Process, points: Tensor) -> None:
        self.process, self.points, self.calls = process, points, 0
        model = process.model if isinstance(process, ReverseSDE) else None
        tensors = [] if model is None else [*model.parameters(), *model.buffers()]
        device = tensors[0].device if tensors else torch.device("cpu")
        kinds = [] if model is None else [q.dtype for q in model.parameters()]
        dtype = next((k for k in kinds if k.is_floating_point), torch.float64)
        self.x = [chunk.to(device, dtype) for chunk in torch.split(points, CHUNK)]
        self.parts = [self._of(len(chunk)) for chunk in self.x]

    def _of(self, n: int) -> Process:
        """The process with its one condition repeated for n points."""
        process = self.process
        if not isinstance(process, ReverseSDE) or not process.cond:
            return process
        cond: dict[str, Tensor] = {}
        for name, value in process.cond.items():
            if value.ndim == 0 or value.shape[0] != 1:
                remedy = "one density belongs to one condition; evolve the others one by one"
                raise fail(f"cond[{name!r}]", "a tensor with leading 1", value, remedy)
            cond[name] = value.expand(n, *value.shape[1:])
        whole: Cond = cond
        return ReverseSDE(process.sde, process.model, process.eta, whole)

    def __call__(self, t: float) -> tuple[Numbers, float]:
        self.calls += 1
        with torch.no_grad():
            node = self.process.sde.at(t)
            pairs = zip(self.parts, self.x, strict=True)
            drift = torch.cat([part.drift(node, x).double().cpu() for part, x in pairs])
        diffusion = self.process.diffusion(node)
        bad = ~torch.isfinite(drift).all(1)
        if bool(bad.any()) or not math.isfinite(diffusion):
            where = self.points[bad][0].tolist() if bool(bad.any()) else "any x"
            what = "score or drift" if isinstance(self.process, ReverseSDE) else "f(t, x) or g(t)"
            got = f"NaN or infinity at t = {t:g}, x = {where}, at {int(bad.sum())} of {len(bad)}"
            remedy = "avoid singular times, or narrow the axes to where it is defined"
            raise fail(what, "finite values on all cells", got, remedy)
        return drift.numpy(), diffusion**2 / 2


def _initial(p0: P0, box: Box, edge: float) -> Numbers:
    """Check p0 and return it at the centres of the cells, flat."""
    if isinstance(p0, Density):
        p0 = p0.p if p0.box.same_as(box) else _interpolated(p0, box)
    of_points: Callable[[Tensor], object] | None = None
    if hasattr(p0, "log_prob"):
        of_points = _exp_of(p0.log_prob, box)
    elif callable(p0):
        of_points = p0
    with torch.no_grad():
        values = p0 if of_points is None else of_points(box.points())
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu().double().numpy()
        p = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        remedy = "pass values on cells, a density p(x), or an object with log_prob"
        raise wrong_type("p0", "numbers", values, remedy) from None
    shape = box.shape if of_points is None else (box.volume.size,)
    if p.shape != shape:
        raise fail("p0", f"shape {shape}, one value per cell", values, "see FokkerPlanck.box")
    if not np.isfinite(p).all() or (p < 0).any():
        got = "NaN or infinity" if not np.isfinite(p).all() else f"{p.min():.3g}"
        raise fail("p0", "a density, finite and >= 0", got, "check the function, or clip it")
    p = p.ravel()
    mass = float(p @ box.volume.ravel())
    if mass <= 0:
        raise fail("p0", "a positive mass on the cells", mass, "move the axes to where it is")
    if of_points is not None and abs(mass - 1) > max(10 * edge, 1e-12):
        remedy = "widen the axes, take smaller cells, or normalise it (an array may have any mass)"
        raise fail("p0", "mass 1 on the cells", f"mass {mass:.6g}", remedy)
    return p


def _interpolated(density: Density, box: Box) -> Numbers:
    """A density on other cells, rescaled since interpolation changes its mass slightly."""
    p = density.log_prob(box.points()).exp().numpy().reshape(box.shape)
    share = float((p * box.volume).sum()) / density.mass
    if abs(share - 1) > COARSE:
        remedy = "widen the axes, or take smaller cells"
        raise fail("p0", "mass 1 on the cells", f"a share of {share:.6g} of its mass", remedy)
    scaled: Numbers = p / share
    return scaled


def _exp_of(log_prob: Callable[[Tensor], Tensor], box: Box) -> Callable[[Tensor], Tensor]:
    def density(x: Tensor) -> Tensor:
        value = log_prob(x).exp()
        # a torch distribution of one number keeps the last axis
        return value[:, 0] if box.dim == 1 and value.shape == x.shape else value

    return density
