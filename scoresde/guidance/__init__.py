"""Guidance: score models made of score models, for any solver."""

from scoresde.guidance.auto import AutoGuidance
from scoresde.guidance.classifier import NoiseClassifier
from scoresde.guidance.classifier_free import ClassifierFree
from scoresde.guidance.classifier_guided import ClassifierGuided
from scoresde.guidance.scale import Scale
from scoresde.guidance.tempered import Tempered

__all__ = [
    "AutoGuidance",
    "ClassifierFree",
    "ClassifierGuided",
    "NoiseClassifier",
    "Scale",
    "Tempered",
]
