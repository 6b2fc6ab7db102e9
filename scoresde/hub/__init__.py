"""Models on the Hugging Face hub: checkpoints with a model card, uploaded and downloaded."""

from scoresde.hub.card import model_card
from scoresde.hub.transfer import from_hub, prepare_for_hub, push_to_hub

__all__ = ["from_hub", "model_card", "prepare_for_hub", "push_to_hub"]
