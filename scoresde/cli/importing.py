"""`scoresde import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from scoresde.cli.common import check_folder, claimed, emit, is_first
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument, flag

__all__ = ["Import"]

LIBRARIES = ("diffusers",)
PICKLES = {
    "azula": "from_azula(denoiser)",
    "deepinv": "from_deepinv(denoiser)",
    "edm": "from_edm(net)",
    "guided-diffusion": "from_guided_diffusion(net, betas)",
    "k-diffusion": "from_denoiser(denoiser)",
    "sbi": "from_sbi(estimator)",
    "score_sde": "from_score_sde(load_score_sde(net, file), sde)",
}
"""Libraries whose files are pickles, or hold no network -> the adapter of the live object."""


@final
@dataclass(frozen=True, kw_only=True)
class Import:
    """Convert the model of another library into a run's folder, which every command takes.

    From a pipeline folder of diffusers the network (`unet/`, a UNet2DModel in safetensors) and the
    schedule (`scheduler/`) are read, without unpickling or download. The network then gets the
    same timesteps, and x_0, eps and v are those of diffusers; the samplers are those of scoresde.
    Needs diffusers, here and wherever the model is loaded.
    """

    EXAMPLES: ClassVar[str] = """
scoresde import ddpm-cifar10 --from diffusers --levels 256 --out runs/cifar10
scoresde import pipelines/latent --from diffusers --predicts v --out runs/latent
"""

    folder: Path = argument("FOLDER")
    """The folder of the other library, such as the one that pipeline.save_pretrained wrote."""
    source: str = flag(metavar="LIBRARY", name="from")
    """The library: diffusers."""
    out: Path = flag(metavar="RUN")
    """The folder of the model."""
    predicts: str | None = None
    """The prediction of the network, eps, v or x0, if the scheduler's config does not say it."""
    levels: int | None = None
    """The number of grey levels of the data, 256 for pictures of 8 bits in [-1, 1]. It is needed
    for pictures and for bits/dim."""
    calling: Calling = Calling()

    def run(self, call: Call) -> None:
        """Import."""
        from scoresde._check import choice, fail

        if self.source in PICKLES:
            remedy = "their files are pickles, which can run any code when they are read, or hold "
            remedy += "no network: load it with their code, where you trust it, and in Python "
            remedy += f"save(scoresde.adapters.{PICKLES[self.source]}, RUN)"
            raise fail("source", f"one of {', '.join(LIBRARIES)}", self.source, remedy)
        choice("source", self.source, LIBRARIES)
        check_folder(self.out, self.calling.overwrite)
        if not is_first():
            return
        from scoresde.adapters import load_diffusers
        from scoresde.cli.messages import in_flags
        from scoresde.quantisation import Quantisation
        from scoresde.training import RunFolder, save

        quantisation = None if self.levels is None else Quantisation(self.levels)
        with in_flags({"path": "FOLDER", "predicts": "--predicts {}"}):
            model = load_diffusers(self.folder, predicts=self.predicts)
        stale = RunFolder(self.out).stale
        with claimed(self.out, self.calling.overwrite, stale, "checkpoint") as out:
            made = save(model, out / "checkpoint", quantisation=quantisation)
        weights = sum(p.numel() for p in model.parameters())
        net = model.net.config
        result = {
            "out": str(out),
            "checkpoint": str(made),
            "network": net,
            "parameters": weights,
            "sde": repr(model.sde),
            "predicts": model.predicts,
        }
        call.write(out, {"parameters": weights, "sde": repr(model.sde)})
        text = f"{out}: {weights:,} parameters, predicts {model.predicts}, {model.sde!r}"
        emit(result, text, self.calling.json)
