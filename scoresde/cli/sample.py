"""`scoresde sample`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from scoresde.cli.common import counted, emit, is_first, make_sampler, say, watched
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.guiding import Guiding, guided
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.pictures import draw, drawable

if TYPE_CHECKING:
    from scoresde.model import ScoreModel

__all__ = ["Sample", "SolverChoice"]


@final
@dataclass(frozen=True, kw_only=True)
class SolverChoice:
    """Solver options."""

    solver: str = "auto"
    """The solver by name. The name auto takes what was measured to be best with this many steps,
    and calibration:NAME takes one that was saved with the model."""
    steps: int | None = None
    """The number of steps of the solver, 50 by default."""
    grid: str | None = None
    """The grid: log_snr, uniform, quadratic, karras, sigmoid, or times such as
    1.0,0.5,0.1,0.001. By default it is that of the solver."""
    eta: float | None = None
    """The stochasticity: 0 is the probability flow, 1 the reverse SDE. By default it is that of
    the solver."""
    guiding: Guiding = Guiding()


@final
@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples by the ten thousand, into shards, in memory that does not grow with --n.

    After a kill or an error the same call goes on with the shards that are missing; whole ones are
    kept, and other settings on the same folder are refused. Under torchrun the processes share the
    shards, and the samples are the same whatever their number: the noise of sample i depends on
    --seed and i alone. The folder gets shard-000000.npz (or .csv, or folders of pictures) and so
    on, sampling.json, which says what they are, config.json, with which --config repeats the call,
    and for images and points in the plane grid.png, which shows the first samples.
    `scoresde.data.samples` reads them back, and the folder can be passed as a data set.
    """

    EXAMPLES: ClassVar[str] = """
scoresde sample runs/digits --n 1000 --out samples
scoresde sample runs/digits --n 50000 --label 3 --solver dpmpp_2m --steps 20 --out threes
scoresde sample runs/digits --n 100 --label 3 --guidance 2.0 --out sharper
scoresde sample runs/table --n 500 --label dog,cat --format csv --out rows
scoresde sample runs/weather --given temperature=20 --given sky=clear --format csv --out rows
scoresde sample runs/images --n 50000 --format png --shard 250 --out pictures
torchrun --standalone --nproc-per-node 8 -m scoresde sample runs/images -n 50000 --out many
"""

    model: Path = argument("MODEL")
    out: Path = flag(metavar="FOLDER")
    """The folder of the samples."""
    n: int = flag(64, alias="-n")
    """The number of samples. Write -n under torchrun, which has a --n of its own."""
    label: str | None = flag(None, metavar="CLASS")
    """The class by name or number, such as dog or 3; several that take turns, such as dog,cat or
    0,1,7; all (or balanced), as many of each that occurs in the training data; or none. A name
    goes before a number. By default it is all, if the model has classes."""
    given: list[str] = flag(metavar="NAME=VALUE", many=True)
    """A condition of all samples: a column that train took as a condition, such as temperature=20
    or kind=b, a vector such as y=0.1,0.2, or an image or a set in a file such as scan=scan.npy.
    The flag may be repeated. Conditions that are left out are not given; of the columns of one
    table all or none are given, where NAME= is a missing cell."""
    seed: int = 0
    first: int = 0
    """The number of the first sample. N continues a run of N samples."""
    shape: str | None = flag(None, metavar="CxHxW")
    format: str = flag("npz", metavar="npz|csv|png")
    """The format of the files. npz: arrays x, index and label, and of a table raw, in its units,
    and columns. csv: a table in the units of the training data. png: pictures, named by their
    number."""
    shard: int | None = None
    """The number of samples in a file, or in a folder of pictures. The default is 500, and
    100,000 for csv."""
    floats: bool = False
    """Store floats in model units, in place of levels or raw units."""
    batch_size: int = 100
    threads: int | None = None
    """The number of CPU threads of each process. By default a run that is resumed takes its own
    number again."""
    device: str | None = None
    calling: Calling = Calling()
    solving: SolverChoice = SolverChoice()

    def run(self, call: Call) -> None:
        """Draw."""
        from scoresde._check import fail
        from scoresde.sampler import ShardFiles, sample_to

        began = time.monotonic()
        opened, how = open_checkpoint(self.model, self.device), self.solving
        size = self.shard or (TABLE if self.format == "csv" else SHARD)
        label = "all" if self.label is None and opened.classes else self.label
        turns = opened.turns(label)
        sampler = make_sampler(
            _conditioned(opened, self.given, how.guiding, turns is not None),
            solver=how.solver,
            steps=how.steps,
            grid=how.grid,
            eta=how.eta,
            folder=opened.folder,
        )
        sizes = opened.shape(self.shape)
        quantisation = None if self.floats else opened.quantisation
        if self.format == "png" and quantisation is None:
            remedy = "pictures hold levels"
            raise fail("format", "npz, as the samples are floats", self.format, remedy)
        if self.format == "csv" and len(sizes) != 1:
            expected, remedy = f"npz, for samples of shape {sizes}", "tables hold vectors"
            raise fail("format", expected, self.format, remedy)
        done = sample_to(
            sampler,
            self.out,
            self.n,
            sizes,
            seed=self.seed,
            first=self.first,
            labels=turns,
            data=opened.data,
            files=ShardFiles(
                format=self.format, quantisation=quantisation, floats=self.floats, shard=size
            ),
            batch_size=min(self.batch_size, size),
            device=opened.device,
            threads=self.threads,
            overwrite=self.calling.overwrite,
            progress=watched(self.calling.json),
        )
        picture = None
        if is_first():
            call.write(done.folder)
            if not done.missing:
                picture = _sheet(opened, done.folder, turns)
        seconds = time.monotonic() - began
        result = {
            "out": str(done.folder),
            "n": self.n,
            "shards": done.total,
            "drawn": done.drawn,
            "kept": done.kept,
            "missing": done.missing,
            "given": list(self.given),
            "guidance": how.guiding.guidance,
            "classes": None if turns is None else [opened.class_name(k) for k in turns],
            "picture": picture,
            "solver": repr(sampler.solver),
            "steps": sampler.grid.steps,
            "nfe": done.nfe,
            "seconds": seconds,
        }
        text = f"{done.folder}: {self.n} samples in {counted(done.total, 'shard')}; "
        text += f"{counted(done.drawn, 'shard')} drawn in {seconds:.1f} s"
        text += f", {done.nfe} network calls a sample" if done.nfe else ""
        text += f", {done.kept} kept" if done.kept else ""
        text += f"; {done.missing} of other processes are not there yet" if done.missing else ""
        if turns is not None:
            names = ", ".join(opened.class_name(k) for k in turns)
            text += f"\nclasses in turns: {names if len(names) < 80 else f'{len(turns)} of them'}"
        if picture:
            text += f"\n{picture}: the first of them"
        emit(result, text, self.calling.json)


SHARD, TABLE = 500, 100_000
"""The number of samples in a shard by default, and in a shard of a table."""


def _conditioned(opened: Opened, pairs: list[str], guiding: Guiding, labelled: bool) -> ScoreModel:
    """The model, guided, with the conditions of the command line fixed."""
    from scoresde.conditioned import Conditioned

    given = opened.given(pairs)
    known = {} if opened.data is None else opened.data.conditions
    others = [name for name in opened.conditions if name not in known]  # classes
    left = [name for name in (*known, *others) if name not in given]
    if left:
        named = {name: known[name].columns for name in known}
        columns = [column for name in left for column in named.get(name) or (name,)]
        say(f"samples are not given {', '.join(columns)} (--given {columns[0]}=... gives it)")
    model = guided(opened, guiding, [*(["label"] if labelled else []), *given])
    return Conditioned(model, given) if given else model


def _sheet(opened: Opened, folder: Path, turns: list[int] | None) -> str | None:
    """Draw the first samples; None if such samples have no picture."""
    from scoresde.data import samples

    drawn, file = samples(folder), folder / "grid.png"
    if not drawable(drawn.x.shape[1:]):
        file.unlink(missing_ok=True)  # of other samples, which were overwritten
        return None
    columns = len(turns) if turns is not None and 2 <= len(turns) <= 16 else None
    most = 2000 if len(drawn.x.shape) == 2 else 8 * columns if columns else 64
    labels = [opened.class_name(k) for k in turns or ()] if columns else []
    draw(
        drawn[:most].x,
        file,
        quantisation=opened.quantisation,
        columns=columns,
        labels=labels,
    )
    return str(file)
