"""`scoresde doctor`."""

from __future__ import annotations

import shlex
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde.cli.common import check_file, emit, is_first, watched
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument
from scoresde.cli.opened import Opened, open_checkpoint, run_of, source_of
from scoresde.cli.samples import open_samples

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde.model import ScoreModel

__all__ = ["Doctor"]

MOST = 4096
"""The number of samples that are read."""

FEWEST = 64
"""The number of held-out samples that the check of memorisation needs."""


@final
@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Find out what is wrong with a model, its schedule or its data, the likely cause first.

    The model predicts the noise of noised data at several noise levels, where identities that hold
    for the score of any data are tested: scale, sign, coordinate, time, Stein's identities, and
    the loss beside that of denoisers without training. The ends of the schedule, the average of
    the weights, the labels and the data themselves are examined too. Each finding has a number, a
    sentence and a remedy. The exit code is 0 whatever is found.
    """

    EXAMPLES: ClassVar[str] = """
scoresde doctor runs/digits
scoresde doctor runs/digits digits --data-option split=test --html doctor.html
scoresde doctor runs/moons moons --t-end 0.01 --json
"""

    model: Path = argument("MODEL")
    data: str | None = argument("DATA", None)
    """The data, by name or path as for scoresde train; by default those that the model was
    trained on."""
    data_option: list[str] = field(default_factory=list)
    holdout: float = 0.0
    unconditional: bool = False
    html: Path | None = None
    """Write the report as a page into this .html file."""
    t_end: float | None = None
    n: int | None = None
    """The number of samples at each noise level. By default 512, but half of the data at most."""
    levels: int = 12
    """The number of noise levels."""
    batch_size: int = 256
    seed: int = 0
    device: str | None = None
    calling: Calling = Calling()

    def run(self, call: Call) -> None:
        """Examine."""
        from scoresde.doctor import diagnose

        if self.html is not None:
            if self.html.suffix != ".html":
                raise ValueError(
                    f"html: expected a name that ends in .html, got {str(self.html)!r}; "
                    "add the ending"
                )
            check_file(self.html, self.calling.overwrite)
        opened = open_checkpoint(self.model, self.device)
        source = source_of(opened, self.data)
        if source is None:
            raise ValueError(
                f"DATA: expected data, got none, and {opened.folder} does not say what the model "
                f"was trained on; name them: scoresde doctor {shlex.quote(str(self.model))} DATA"
            )
        samples = open_samples(
            opened,
            source,
            self.data_option,
            limit=MOST,
            seed=self.seed,
            holdout=self.holdout,
            unconditional=self.unconditional,
        )
        x, cond = samples.take(samples.rows)
        held_out = self._held_out(opened, source)
        enough = held_out is not None and len(held_out[0]) >= FEWEST
        report = diagnose(
            opened.model,
            (x, cond or None),
            raw=_raw(opened),
            held_out=held_out if enough else None,
            t_end=self.t_end,
            n=self.n,
            levels=self.levels,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=watched(self.calling.json),
        )
        if held_out is not None and not enough:
            reason = f"{len(held_out[0])} samples were held out, and {FEWEST} are needed"
            report = replace(report, skipped={**report.skipped, "memory": reason})
        result: dict[str, Any] = report.to_dict()
        text = str(report)
        if self.html is not None and is_first():
            report.html(self.html, title=f"Examination of {self.model.name}")
            result["page"] = str(self.html)
            text += f"\n\n{self.html}"
        emit(result, text, self.calling.json)

    def _held_out(
        self, opened: Opened, source: str
    ) -> tuple[Tensor, dict[str, Tensor] | None] | None:
        """What the run held out of its own data; None if these are not examined."""
        share = run_of(opened.folder).get("holdout")
        if self.data is not None or self.holdout or not share:
            return None
        samples = open_samples(
            opened,
            source,
            self.data_option,
            limit=MOST,
            seed=self.seed,
            holdout=float(share),
            unconditional=self.unconditional,
        )
        x, cond = samples.take(samples.rows)
        return x, cond or None


def _raw(opened: Opened) -> ScoreModel | None:
    """The model with its raw weights; None if the checkpoint has no average or no raw weights."""
    from scoresde.training.checkpoint import load_training

    if not ((opened.config.get("training") or {}).get("run") or {}).get("ema"):
        return None
    model = deepcopy(opened.model)
    state = load_training(opened.folder, model)[1]
    raw = {k[4:]: v for k, v in state.tensors.items() if k.startswith("raw.")}
    model.load_state_dict(raw)
    return model
