"""Diagnostics of trained models."""

from scoresde.doctor.diagnose import diagnose
from scoresde.doctor.finding import Finding, Report
from scoresde.doctor.transport import TransportGap, transport_gap

__all__ = ["Finding", "Report", "TransportGap", "diagnose", "transport_gap"]
