"""The precision of the network in training: whether a device computes in bfloat16."""

from __future__ import annotations

import warnings

import torch

__all__ = ["computes_bf16", "uses_bf16"]

UNITS = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")
"""The units of a CPU that multiply matrices of bfloat16."""


def computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices of bfloat16 itself and does not emulate it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        read = getattr(torch.cpu, "get_capabilities", dict)  # new in torch 2.10
        found = read() or {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
        return any(found.get(unit, False) for unit in UNITS)
    return False  # unknown


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a run of this precision, no, bf16 or auto, computes in bfloat16 on the device.

    A device without such units gives the same numbers for bf16, only slowly. So it is a warning
    and no error: a run can be resumed there, or a fault be looked for.
    """
    native = precision != "no" and computes_bf16(device)
    if precision == "bf16" and not native:
        warnings.warn(
            f"precision: expected a device that computes in bfloat16 for 'bf16', got {device}, "
            "which emulates it and is slower than in float32; pass precision='auto' or 'no'",
            stacklevel=2,
        )
    return native or precision == "bf16"
