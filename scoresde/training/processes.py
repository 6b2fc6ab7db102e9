"""The processes of a run, connected by `accelerate`, and the precision on their devices."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import fail, need, refuse
from scoresde.training.interrupt import SIGNALS

__all__ = ["Processes", "computes_bf16", "uses_bf16"]

UNITS = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")
"""The units of a CPU that multiply matrices of bfloat16."""


@final
class Processes:
    """The processes of a run, seen from one of them.

    Args:
        accumulate: number of forward passes in a step.

    Attributes:
        count, index: the number of processes, and the index of this one.
        first: whether this process writes and prints.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: accelerate would scale gradients, or the processes are not connected.
    """

    def __init__(self, accumulate: int) -> None:
        self._accelerator = _accelerator(accumulate)
        self._accumulate = accumulate
        self.count: int = self._accelerator.num_processes
        self.index: int = self._accelerator.process_index
        self.first: bool = self._accelerator.is_main_process

    def device(self, wanted: torch.device | None) -> torch.device:
        """The device of this process.

        Raises:
            ValueError: a device is requested although several processes share the devices.
        """
        if wanted is not None and self.count > 1:
            remedy = "several processes get their devices from accelerate: leave it out"
            raise fail("device", "None", str(wanted), remedy)
        found: torch.device = self._accelerator.device
        return found if wanted is None else wanted

    def number(self, step: int, piece: int) -> int:
        """The number, in the stream, of this process's batch in a part of a step."""
        return (step * self._accumulate + piece) * self.count + self.index

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes."""
        found: nn.Module = self._accelerator.prepare_model(module, device_placement=False)
        return found

    def averaging(self, module: nn.Module, piece: int) -> AbstractContextManager[object]:
        """Average the gradients over the processes only in the last part of a step."""
        if piece == self._accumulate - 1:
            return nullcontext()
        found: AbstractContextManager[object] = self._accelerator.no_sync(module)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one part of a step, divided by the number of parts."""
        self._accelerator.backward(loss)

    def agree(
        self, loss: Tensor, norm: Tensor, caught: int | None
    ) -> tuple[float, float, int | None]:
        """Loss, gradient norm and signal, equal in all processes, with one synchronisation."""
        values = torch.stack((loss, norm.to(loss.dtype)))
        if self.count == 1:
            value, size = values.tolist()
            return value, size, caught
        flag = values.new_tensor([float(caught == number) for number in SIGNALS])
        total = self._accelerator.reduce(torch.cat((values, flag)), "sum").tolist()
        signals = [number for number, n in zip(SIGNALS, total[2:], strict=True) if n > 0]
        return total[0] / self.count, total[1] / self.count, signals[0] if signals else None

    def either(self, *flags: bool) -> tuple[bool, ...]:
        """Flags of the first process or of any other, equal in all processes."""
        if self.count == 1:
            return flags
        values = torch.tensor([float(flag) for flag in flags], device=self._accelerator.device)
        return tuple(n > 0 for n in self._accelerator.reduce(values, "sum").tolist())

    def wait(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()


def _accelerator(accumulate: int) -> Any:  # of accelerate, which has no types
    """An `accelerate.Accelerator` that leaves precision and devices to the `Trainer`."""
    library = need("accelerate", "train")
    # accelerate has one precision per process; the Trainer has its own, see Objective.
    known = need("accelerate.state", "train").is_initialized()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    # Unless told to use the CPU, accelerate does not connect processes that torchrun starts there.
    spread_over_cpus = not known and started > 1 and not torch.accelerator.is_available()
    try:
        made = library.Accelerator(
            mixed_precision=None if known else "no",
            gradient_accumulation_steps=accumulate,
            device_placement=False,
            cpu=spread_over_cpus,
        )
    except torch.distributed.DistNetworkError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        remedy = "pass the address of the first process and a free port, or torchrun --standalone"
        expected = "a port where the processes meet"
        raise refuse("MASTER_PORT", expected, f"{place} ({error})", remedy) from error
    if made.scaler is not None:
        remedy = "start it with --mixed_precision no and pass precision='bf16' to the Trainer"
        raise fail("accelerate", "no gradient scaling", made.mixed_precision, remedy)
    if started > 1 and made.num_processes == 1:
        remedy = "make no Accelerator before, or set ACCELERATE_USE_CPU=1 to train on CPUs"
        expected = f"{started} processes that train together, as WORLD_SIZE says"
        raise fail("accelerate", expected, "one that trains by itself", remedy)
    return made


def computes_bf16(device: torch.device) -> bool | None:
    """Whether the device multiplies matrices of bfloat16 itself; None if that is unknown.

    A device that does not emulates it, far more slowly than it computes in float32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        read = getattr(torch.cpu, "get_capabilities", dict)  # new in torch 2.10
        found = read() or {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
        return any(found.get(unit, False) for unit in UNITS)
    return None


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a run of this precision, no, bf16 or auto, computes in bfloat16 on the device.

    Raises:
        ValueError: it is bf16 on a device that is known to emulate it.
    """
    if precision == "no":
        return False
    native = computes_bf16(device)
    if precision == "auto":
        return bool(native)
    if native is False:
        expected = f"'auto' or 'no' on {device}, which does not compute in bfloat16"
        remedy = "pass precision='auto', which is bf16 only on a device that computes in it"
        raise fail("precision", expected, precision, remedy)
    return True
