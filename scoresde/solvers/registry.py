"""The table of named solvers, which the sampler, the command line and the documentation read."""

from __future__ import annotations

from collections.abc import Callable

from scoresde.process import Eta, ExtendedReverse
from scoresde.sde import AffineSDE
from scoresde.solvers.adaptive import AdaptiveODE, AdaptiveSDE
from scoresde.solvers.base import Solver
from scoresde.solvers.euler import EulerMaruyama, ReverseDiffusion
from scoresde.solvers.exponential import Adams
from scoresde.solvers.external import SciPySolver, TorchSDESolver
from scoresde.solvers.heun import Heun
from scoresde.solvers.langevin import Langevin, PredictorCorrector
from scoresde.solvers.singlestep import Singlestep
from scoresde.solvers.sra import SRA1, OneCallSRA, ShARK

__all__ = ["AUTOMATIC", "SOLVERS"]

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
"""Name -> (solver, eta): eta = 1 is the reverse SDE and 0 the probability flow.

If eta depends on the schedule, the entry is a function SDE -> eta.
"""

AUTOMATIC = ("auto", "auto_sde")
"""Names for the solver that did best in measurements; see `scoresde.solvers.choice`."""
