"""`scoresde compare`."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde._io import write
from scoresde.cli.common import check_folder, claimed, emit, watched
from scoresde.cli.config import OF_THE_CALL, Call
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.guiding import Guiding, guided
from scoresde.cli.opened import open_checkpoint
from scoresde.cli.samples import Samples, open_samples

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Compare"]

PAGE, NUMBERS = "index.html", "comparison.json"


@final
@dataclass(frozen=True, kw_only=True)
class Judging:
    """Reference options."""

    data: str | None = flag(None, metavar="DATA")
    """Data that sets of samples are compared with, by name or path. At least 2 N are needed."""
    data_option: list[str] = field(default_factory=list)
    holdout: float = 0.0
    tolerance: float | None = None
    """The relative and absolute tolerance of the reference, 2e-6 by default."""
    fine_steps: int = 200
    """The number of steps of the reference for stochastic solvers, without --data."""


@final
@dataclass(frozen=True, kw_only=True)
class Compare:
    """Find the solver that suits a model: error, network calls and seconds, in one report.

    Deterministic solvers are judged by the distance of every sample from that of an adaptive
    solver at a tight tolerance, which starts from the same noise; stochastic ones, and with
    --data all of them, by a distance between sets of samples. Nothing is ranked below the floor
    of its measure. The folder gets index.html (figures, tables, samples; one file that needs no
    other), comparison.json (all numbers) and config.json, with which --config repeats it.
    """

    EXAMPLES: ClassVar[str] = """
scoresde compare runs/moons --out report
scoresde compare runs/digits --solvers ddim,unipc_3,auto --steps 5,10,20 --n 256 --data digits
    --data-option split=test --label all --out report
scoresde compare runs/moons --solvers dpmpp_2m,unipc_3 --grids log_snr,karras --out grids --json
"""

    model: Path = argument("MODEL")
    out: Path = flag(metavar="FOLDER")
    """The folder of the report."""
    solvers: tuple[str, ...] = ("ddim", "dpmpp_2m", "unipc_3", "auto")
    """The names of the solvers, with commas between them."""
    steps: tuple[int, ...] = (5, 10, 20, 50)
    """The numbers of steps, with commas between them."""
    grids: tuple[str, ...] | None = None
    """The names of the grids, each of which is tried. By default it is the solver's own."""
    n: int = 256
    """The number of samples that each solver draws with one seed."""
    seeds: tuple[int, ...] = (0,)
    """The seeds, with commas between them."""
    label: str | None = flag(None, metavar="CLASS")
    """The class of the samples by name or number; several that take turns, such as dog,cat; all
    of them; or none, the default. If --data has labels, its samples are of the
    same classes."""
    shape: str | None = flag(None, metavar="CxHxW")
    judging: Judging = Judging()
    guiding: Guiding = Guiding()
    rounds: int = 3
    """How often each solver is timed, in turns."""
    t_end: float | None = None
    batch_size: int = 256
    device: str | None = None
    calling: Calling = Calling()

    def run(self, call: Call) -> None:
        """Compare."""
        from scoresde.comparison import Reference, compare
        from scoresde.solvers import AdaptiveODE

        check_folder(self.out, self.calling.overwrite)
        opened = open_checkpoint(self.model, self.device)
        low, high = -1.0, 1.0
        if opened.quantisation is not None:
            low, high = opened.quantisation.low, opened.quantisation.high
        real = None
        if self.judging.data is not None:
            turns = opened.turns(self.label)
            samples = open_samples(
                opened,
                self.judging.data,
                self.judging.data_option,
                holdout=self.judging.holdout,
                unconditional=turns is None,
                without="leave --label out",
            )
            real = samples.take(_rows_of(samples, turns))[0]
        solver = None
        if self.judging.tolerance is not None:
            solver = AdaptiveODE("dopri5", self.judging.tolerance, self.judging.tolerance)
        about = _about(opened, self.label, self.judging.data) | {"command": _command(call)}
        cond = opened.labels(self.label, self.n)
        found = compare(
            opened.model.sde,
            guided(opened, self.guiding, cond),
            (self.n, *opened.shape(self.shape)),
            solvers=self.solvers,
            steps=self.steps,
            grids=self.grids,
            seeds=self.seeds,
            reference=Reference(solver=solver, data=real, fine_steps=self.judging.fine_steps),
            cond=cond or None,
            rounds=self.rounds,
            t_end=self.t_end,
            batch_size=self.batch_size,
            about=about,
            progress=watched(self.calling.json),
        )
        with claimed(self.out, self.calling.overwrite, (PAGE, NUMBERS), NUMBERS) as place:
            found.html(place / PAGE, title=f"Solvers on {self.model.name}", low=low, high=high)
            call.write(place)
            write(place / NUMBERS, f"{found.to_json()}\n".encode())
        result = found.to_dict() | {"out": str(place), "page": str(place / PAGE)}
        emit(result, f"{found.table()}\n\n{place / PAGE}", self.calling.json)


def _rows_of(samples: Samples, turns: list[int] | None) -> Tensor:
    """The rows of the chosen classes; all rows of data without labels."""
    import torch

    if turns is None or not samples.labelled:
        return samples.rows
    label = samples.data.cond["label"].cpu()[samples.rows]
    found = samples.rows[torch.isin(label, torch.tensor(turns))]
    if not len(found):
        raise ValueError("data: expected samples of the classes of --label, got none of them")
    return found


def _about(opened: Any, label: str | None, data: str | None) -> dict[str, Any]:
    """The description of the checkpoint in the report."""
    training = opened.config.get("training") or {}
    facts = {"checkpoint": str(opened.folder), "training step": training.get("step")}
    facts |= {"label": label, "data": data, "device": str(opened.device)}
    return {name: value for name, value in facts.items() if value is not None}


def _command(call: Call) -> str:
    """The command line that repeats the comparison, options at their defaults left out."""
    words = ["scoresde", call.name]
    for name, option in call.options.items():
        value = call.values[name]
        if option.metadata.get("positional"):
            words.append(str(value))
        elif option.default is MISSING or value not in (None, option.default):
            several = value if isinstance(value, list) else [value]
            commas = [",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in several]
            if name not in OF_THE_CALL:
                words += [word for text in commas for word in (option.written[:-3], text)]
    return shlex.join(words)
