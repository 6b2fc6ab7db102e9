"""Training: the `Trainer`, the average of the weights, and checkpoints."""

from scoresde._check import Diverged
from scoresde.training.callbacks import Callback, MLflow, WeightsAndBiases
from scoresde.training.checkpoint import load, load_calibration, read_config, save
from scoresde.training.classifier import (
    TrainedClassifier,
    load_classifier,
    save_classifier,
    train_classifier,
)
from scoresde.training.ema import EMA
from scoresde.training.log import TensorBoard
from scoresde.training.posthoc_ema import PowerEMA, posthoc_ema
from scoresde.training.recipe import RECIPES, Recipe, recipe_for
from scoresde.training.run_folder import RunFolder
from scoresde.training.trainer import Trainer
from scoresde.training.update import Update

__all__ = [
    "EMA",
    "RECIPES",
    "Callback",
    "Diverged",
    "MLflow",
    "PowerEMA",
    "Recipe",
    "RunFolder",
    "TensorBoard",
    "TrainedClassifier",
    "Trainer",
    "Update",
    "WeightsAndBiases",
    "load",
    "load_calibration",
    "load_classifier",
    "posthoc_ema",
    "read_config",
    "recipe_for",
    "save",
    "save_classifier",
    "train_classifier",
]
