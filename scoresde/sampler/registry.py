"""Names and arguments of a sampler, resolved and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from scoresde._check import choice, fail, instance, positive_int, wrong_type
from scoresde.model import FunctionScore, ScoreModel
from scoresde.noise import BrownianPath, Independent, Noise
from scoresde.process import Eta, ExtendedReverse
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import (
    SRA1,
    Adams,
    AdaptiveODE,
    AdaptiveSDE,
    EulerMaruyama,
    Heun,
    Langevin,
    OneCallSRA,
    PredictorCorrector,
    ReverseDiffusion,
    SciPySolver,
    ShARK,
    Singlestep,
    Solver,
    TorchSDESolver,
)

__all__ = [
    "AUTOMATIC",
    "NOISES",
    "FIRST_ORDER_STEPS",
    "SOLVERS",
    "STEPS",
    "as_model",
    "as_noise",
    "as_solver",
    "check_shape",
]

SOLVERS: dict[str, tuple[Solver, float | Callable[[AffineSDE], Eta]]] = {
    # the reverse SDE
    "euler_maruyama": (EulerMaruyama(), 1.0),
    "reverse_diffusion": (ReverseDiffusion(), 1.0),
    "ancestral": (Adams(1), 1.0),
    "predictor_corrector": (PredictorCorrector(Adams(1), Langevin()), 1.0),
    "dpmpp_2m_sde": (Adams(2, variant="midpoint"), 1.0),
    "dpmpp_3m_sde": (Adams(3), 1.0),
    "sa_solver_p2c2": (Adams(2, 2), 1.0),
    "sa_solver_p3c4": (Adams(3, 4), 1.0),
    "sa_solver_p2_v": (Adams(2, parametrisation="v"), 1.0),
    "sa_solver_p2c2_v": (Adams(2, 2, "v"), 1.0),
    "sa_solver_p3c4_flow": (Adams(3, 4, "flow", "flow"), 1.0),
    "dpmpp_sde": (Singlestep("2s"), 1.0),
    "seeds_2": (Singlestep("res_2s"), 1.0),
    "seeds_3": (Singlestep("3s"), 1.0),
    "sra1": (SRA1(), 1.0),
    "shark": (ShARK(), 1.0),
    "one_call_sra": (OneCallSRA(), 1.0),
    "euler_maruyama_log_snr": (EulerMaruyama("log_snr"), 1.0),
    "er_sde_2": (Adams(2, variable="rho"), ExtendedReverse),
    "er_sde_3": (Adams(3, variable="rho"), ExtendedReverse),
    "adaptive_sde": (AdaptiveSDE(), 1.0),
    "torchsde": (TorchSDESolver(), 1.0),
    # the probability flow
    "ddim": (Adams(1), 0.0),
    "euler": (EulerMaruyama(), 0.0),
    "euler_log_snr": (EulerMaruyama("log_snr"), 0.0),
    "heun": (Heun(), 0.0),
    "edm_heun": (Heun("rho"), 0.0),
    "dpm_solver_2": (Singlestep("2s", "eps"), 0.0),
    "dpm_solver_3": (Singlestep("3s", "eps"), 0.0),
    "dpmpp_2s": (Singlestep("2s"), 0.0),
    "dpmpp_3s": (Singlestep("3s"), 0.0),
    "res_2s": (Singlestep("res_2s"), 0.0),
    "res_3s": (Singlestep("res_3s"), 0.0),
    "dpmpp_2m": (Adams(2, variant="midpoint"), 0.0),
    "dpmpp_3m": (Adams(3), 0.0),
    "dpmpp_3m_reference": (Adams(3, variant="reference"), 0.0),
    "ab_4": (Adams(4), 0.0),
    "ab_3_flow": (Adams(3, parametrisation="flow", variable="flow"), 0.0),
    "unipc_2": (Adams(2, 3), 0.0),
    "unipc_2_bh2": (Adams(2, 3, variant="bh2"), 0.0),
    "unipc_3": (Adams(3, 4), 0.0),
    "unipc_3_bh1": (Adams(3, 4, variant="bh1"), 0.0),
    "unipc_3_bh2": (Adams(3, 4, variant="bh2"), 0.0),
    "unipc_3_eps": (Adams(3, 4, "eps"), 0.0),
    "unipc_3_v": (Adams(3, 4, "v"), 0.0),
    "unipc_2_flow": (Adams(2, 3, "flow", "flow"), 0.0),
    "unipc_3_flow": (Adams(3, 4, "flow", "flow"), 0.0),
    "unipc_4_flow": (Adams(4, 5, "flow", "flow"), 0.0),
    "unipc_3_lower": (Adams(3, 4, variant="bh2", lower_final=True), 0.0),
    "unipc_4": (Adams(4, 5), 0.0),
    "deis_tab3": (Adams(4, parametrisation="eps", variable="t"), 0.0),
    "deis_rhoab3": (Adams(3, parametrisation="eps", variable="rho"), 0.0),
    "deis_rhoab4": (Adams(4, parametrisation="eps", variable="rho"), 0.0),
    "deis_log_rho_3": (Adams(3, parametrisation="eps"), 0.0),
    "ipndm_3": (Adams(3, parametrisation="eps", variant="ipndm"), 0.0),
    "ipndm_4": (Adams(4, parametrisation="eps", variant="ipndm"), 0.0),
    "dopri5": (AdaptiveODE(), 0.0),
    "bosh3": (AdaptiveODE("bosh3", 1e-3, 1e-3), 0.0),
    "scipy": (SciPySolver(), 0.0),
}
"""Name -> (solver, eta): eta = 1 walks the reverse SDE, 0 the probability flow.

An eta that depends on the schedule stands there as what makes it from the SDE.
"""

NOISES: dict[str, Callable[[int, SDE, Eta], Noise]] = {
    "independent": lambda seed, sde, eta: Independent(seed),
    "path": lambda seed, sde, eta: BrownianPath(seed, sde, eta=eta),
}
"""Name -> noise source of a seed, for a process."""

AUTOMATIC = ("auto", "auto_sde")
STEPS = 50
FIRST_ORDER_STEPS = 500
"""The default where nothing better than Euler-Maruyama is at hand."""


def as_model(sde: SDE, model: object) -> ScoreModel:
    if isinstance(model, ScoreModel):
        return model
    if isinstance(model, nn.Module):
        remedy = (
            "wrap a network net(x, t) in Preconditioned(net, sde), "
            "or a module that returns the score of (t, x) in FunctionScore(sde, module)"
        )
        raise wrong_type("model", "a ScoreModel or a function score(t, x)", model, remedy)
    if not callable(model) or isinstance(model, type):
        remedy = "pass Preconditioned(net, sde) or a function of (t, x)"
        raise wrong_type("model", "a ScoreModel or a function score(t, x)", model, remedy)
    return FunctionScore(sde, model)


def as_solver(solver: object, sde: SDE) -> tuple[Solver, Eta]:
    """The solver that a name or an object means under an SDE, and its own eta."""
    if isinstance(solver, str):
        made, eta = SOLVERS[choice("solver", solver, [*AUTOMATIC, *SOLVERS])]
        return made, eta if isinstance(eta, float) else eta(sde)  # type: ignore[arg-type]
    instance("solver", solver, Solver, f"pass a solver or one of {', '.join(SOLVERS)}")
    assert_solver: Solver = solver  # type: ignore[assignment]
    return assert_solver, 0.0 if assert_solver.serves == "ode" else 1.0


def as_noise(noise: object, seed: object, sde: SDE, eta: Eta) -> Noise:
    if isinstance(noise, Noise):
        if seed is not None and seed != noise.seed:
            raise fail("seed", f"the noise's own seed {noise.seed}", seed, "leave seed out")
        return noise
    make = NOISES[choice("noise", noise, NOISES)]
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    return make(seed, sde, eta)  # type: ignore[arg-type]


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(shape, int) or not isinstance(shape, Sequence):
        raise wrong_type("shape", "(N, *D)", shape, "pass for example shape=(16, 2)")
    sizes = tuple(positive_int("shape", n, "pass sizes above 0, e.g. (16, 2)") for n in shape)
    if len(sizes) < 2:
        raise fail("shape", "(N, *D) with at least one dimension D", shape, "pass e.g. (16, 2)")
    return sizes
