"""What `scoresde train` says before and after a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoresde.cli.pictures import drawable, why_not

if TYPE_CHECKING:
    from scoresde.data import Data, LazyData
    from scoresde.training import Trainer

__all__ = ["beginning", "ending", "result_of"]


def beginning(trainer: Trainer, whole: Data | LazyData, about: dict[str, Any], out: Path) -> str:
    """What was inferred and what will be done, line by line."""
    model, net = trainer.model, trainer.model.net
    sizes = ", ".join(f"{k}={v}" for k, v in getattr(net, "config", {}).items())
    labels = f", {about['classes']} classes" if about["classes"] else ""
    per_step = trainer.optim.batch_size * trainer.optim.accumulate
    lines = {
        "data": f"{whole!r}{labels}",
        "split": f"{about['samples']} to train on, {about['held_out']} held out",
        "levels": whole.quantisation or "none: not discrete",
        "sde": repr(model.sde),
        "network": f"{about['network']}({sizes}), {about['parameters']:,} parameters",
        "predicts": f"{about['predicts']}, told {about['time']} as its time",
        "loss": f"weighting {about['loss']}, times by {about['drawn']}",
        "training": f"{trainer.steps} steps of {per_step} samples in each process",
        "run": str(out),
    }
    if not drawable(about["shape"]):
        lines["pictures"] = f"none: {why_not(about['shape'])}"
    return "\n".join(f"{name:9}{text}" for name, text in lines.items())


def result_of(
    trainer: Trainer, out: Path, seconds: float, about: dict[str, Any]
) -> dict[str, Any]:
    """What a run came to, for --json."""
    step, validation = trainer.validations[-1] if trainer.validations else (None, ())
    best = min((sum(v) / len(v), s) for s, v in trainer.validations) if step else (None, None)
    return {
        "out": str(out),
        "checkpoint": str(out / "checkpoint"),
        "best": str(out / "best") if step else None,
        "steps": trainer.steps,
        "seconds": seconds,
        "loss": trainer.history[-1][1] if trainer.history else None,
        "validation": sum(validation) / len(validation) if step else None,
        "validation_by_time": validation,
        "best_validation": best[0],
        "best_step": best[1],
        "skipped": sum(int(row["skipped"]) for row in trainer.metrics),
        "parameters": about["parameters"],
        "shape": about["shape"],
        "classes": about["classes"],
    }


def ending(result: dict[str, Any]) -> str:
    """What a run came to and where its things are, for people."""
    lines = [
        f"{result['steps']} steps in {result['seconds']:.1f} s, loss {_short(result['loss'])}"
    ]
    if result["validation"] is not None:
        lines[0] += f", validation {_short(result['validation'])}"
        lines.append(
            f"{result['best']}: the model of the lowest validation loss, "
            f"{_short(result['best_validation'])} at step {result['best_step']}"
        )
    if result["skipped"]:
        lines.append(f"{result['skipped']} steps were skipped: their loss was not finite")
    lines.append(f"{result['checkpoint']}: the averaged model and the state of the run")
    lines.append(f"next: scoresde sample {result['out']} --out samples")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
