"""Training: the `Trainer`, the average of the weights, and checkpoints."""

from scoresde.training.checkpoint import load, load_calibration, read_config, save
from scoresde.training.ema import EMA
from scoresde.training.posthoc_ema import PowerEMA, posthoc_ema
from scoresde.training.trainer import Trainer, Update

__all__ = [
    "EMA",
    "PowerEMA",
    "Trainer",
    "Update",
    "load",
    "load_calibration",
    "posthoc_ema",
    "read_config",
    "save",
]
