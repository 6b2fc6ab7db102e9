"""Diagnostics of trained models."""

from scoresde.doctor.diagnose import diagnose
from scoresde.doctor.finding import Finding, Report
from scoresde.doctor.split import ErrorSplit, split_error
from scoresde.doctor.transport import TransportGap, transport_gap

__all__ = [
    "ErrorSplit",
    "Finding",
    "Report",
    "TransportGap",
    "diagnose",
    "split_error",
    "transport_gap",
]
