"""Diagnostics of trained models."""

from scoresde.doctor.transport import TransportGap, transport_gap

__all__ = ["TransportGap", "transport_gap"]
