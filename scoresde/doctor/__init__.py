"""Checks of a trained model: whether its samples, scores and likelihoods agree."""

from scoresde.doctor.transport import TransportGap, transport_gap

__all__ = ["TransportGap", "transport_gap"]
