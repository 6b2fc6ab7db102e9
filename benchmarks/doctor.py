"""Whether the doctor finds planted faults and names them first, and its false alarms.

    python benchmarks/doctor.py [--seeds 5] [--healthy 8] [--first 0] [--quick]

Twelve faults of three sizes are planted in an exact model of six classes in 8-D, and in tiny
networks that are trained here on the same data. A fault is found if its name is among the findings
that are no notes, and named first if it is the first of them. Smaller sizes are planted in exact
models, to see where a fault ceases to be found. Healthy are exact models under six SDEs, and tiny
networks on five data sets at five stages of their training (a fifth, two fifths ... of the steps);
every error or warning about one of them is a false alarm.

Examinations and networks are kept in a folder, `--keep runs/doctor`, as they are made, and an
interrupted run goes on there. Those of other code are made anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from scoresde import EDMSDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE
from scoresde._io import write
from scoresde.doctor import Report, diagnose

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.doctor_models import STEPS, classes, code, data_of, kept, mixture
from benchmarks.faults import NAMES, SMALLER, in_networks, in_oracles

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs/doctor.md"
HEADING = "## How often it is right"
FIGURES = "../benchmarks/results/doctor.md"
DATA = ("moons", "checkerboard", "swiss_roll", "classes", "digits")
STAGES = 5
KINDS = {"oracle": "exact models", "network": "networks"}
DIGITS = 200
"""The steps of the U-Net for digits, whose step costs more."""


EXAMINED = ("scoresde/doctor", *(f"benchmarks/{n}.py" for n in ("doctor_models", "faults")))
"""The code on which an examination depends."""


@dataclass(frozen=True)
class Case:
    """A model to examine; `examine` loads or trains it if need be."""

    part: str
    on: str
    fault: str
    size: str
    seed: int
    examine: Callable[[], Report]

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.part, self.on, self.fault, self.size, self.seed


@dataclass(frozen=True)
class Row:
    """One examination.

    Attributes:
        part: "planted", "smaller" or "healthy".
        on: "oracle" or "network".
        fault, size: the fault; "" and what is examined of a healthy model.
        seed: that of data, network and examination.
        findings: the names of errors and warnings, the first of them first.
        damage: their sum in nats a dimension.
        seconds: of the processor.
    """

    part: str
    on: str
    fault: str
    size: str
    seed: int
    findings: tuple[str, ...]
    damage: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.part, self.on, self.fault, self.size, self.seed

    @property
    def found(self) -> bool:
        """Whether the fault is among the findings."""
        return NAMES.get(self.fault, "") in self.findings

    @property
    def first(self) -> str:
        """The first finding, or ""."""
        return self.findings[0] if self.findings else ""

    @property
    def right(self) -> bool:
        """Whether the fault is named first; of a healthy model, whether nothing is found."""
        return self.first == NAMES.get(self.fault, "")


def examined(case: Case) -> Row:
    """Examine a model."""
    start = time.process_time()
    report = case.examine()
    seconds = time.process_time() - start
    serious = [finding for finding in report.findings if finding.severity != "note"]
    names = tuple(finding.name for finding in serious)
    return Row(*case.key, names, sum(finding.damage for finding in serious), seconds)


def planted(seeds: range, keep: Path) -> Iterator[Case]:
    """The faults in exact models and in networks, and smaller ones in exact models."""
    for seed in seeds:
        for part, on, faults in (
            ("planted", "oracle", in_oracles(seed)),
            ("smaller", "oracle", in_oracles(seed, SMALLER)),
            ("planted", "network", in_networks(seed, keep)),
        ):
            for fault, size, one in faults:
                examine = partial(diagnose, one.model, one.data, seed=seed, **one.options)
                yield Case(part, on, fault, size, seed, examine)


def healthy(seeds: range, keep: Path) -> Iterator[Case]:
    """Models without a fault."""
    for sde in (VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE()):
        for seed in seeds:
            x = classes(3000, 100 + seed).x.double()
            examine = partial(diagnose, mixture().under(sde), x, seed=seed)
            yield Case("healthy", "oracle", "", type(sde).__name__, seed, examine)
    for name in DATA:
        for seed in seeds:
            steps = DIGITS if name == "digits" else STEPS
            stages = tuple(steps * k // STAGES for k in range(1, STAGES + 1))
            data = data_of(name, 100 + seed)
            given = (data.x, dict(data.cond) or None)
            models = kept(keep, name, data_of(name, seed), seed, steps=steps, keep=stages)
            for step, (model, raw) in models.items():
                examine = partial(diagnose, model, given, raw=raw, seed=seed)
                yield Case("healthy", "network", "", f"{name}, {step / steps:.0%}", seed, examine)


def measured(cases: Iterator[Case], keep: Path) -> Iterator[Row]:
    """The rows of cases; those of a former run with this code are read from its file."""
    file = keep / f"rows-{code(*EXAMINED)}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [row_of(json.loads(line)) for line in lines if line.endswith("}")]
    known = {row.key: row for row in rows}
    for case in cases:
        row = known.get(case.key)
        if row is None:
            row = examined(case)
            with file.open("a") as out:
                out.write(json.dumps(asdict(row)) + "\n")
        yield row


def row_of(saved: dict[str, Any]) -> Row:
    """A row from JSON."""
    return Row(**{**saved, "findings": tuple(saved["findings"])})


def table(rows: list[Row]) -> str:
    """The rates, in Markdown."""
    lines = [
        "| fault | size | exact models: found, first | networks: found, first | named instead |"
    ]
    lines.append("| --- | --- | ---: | ---: | --- |")
    faults = [r for r in rows if r.part == "planted"]
    cases = list(dict.fromkeys((r.fault, r.size) for r in faults))
    cases.sort(key=lambda case: list(NAMES).index(case[0]))
    for fault, size in cases:
        cells = []
        own = [r for r in faults if (r.fault, r.size) == (fault, size)]
        for on in KINDS:
            here = [r for r in own if r.on == on]
            right = sum(r.right for r in here)
            cells.append(f"{sum(r.found for r in here)}, {right} of {len(here)}" if here else "")
        wrong = sorted({r.first or "nothing" for r in own if not r.right})
        lines.append(f"| {fault} | {size} | {cells[0]} | {cells[1]} | {', '.join(wrong)} |")
    return "\n".join(lines)


def smallest(rows: list[Row]) -> str:
    """The smallest size of each fault that is found with every seed, in Markdown.

    The sizes of a fault are in the order in which they were examined, from the largest.
    """
    lines = ["| fault | smallest size that is always found | next size: found |"]
    lines.append("| --- | --- | --- |")
    own = [r for r in rows if r.part in ("planted", "smaller") and r.on == "oracle"]
    own.sort(key=lambda row: row.part)  # planted before smaller, else as they came
    for fault in NAMES:
        sizes = list(dict.fromkeys(r.size for r in own if r.fault == fault))
        least, after = "", "no smaller one is planted"
        for size in sizes:
            here = [r.found for r in own if (r.fault, r.size) == (fault, size)]
            if not all(here):
                after = f"{size}: {sum(here)} of {len(here)}"
                break
            least = size
        if sizes:
            lines.append(f"| {fault} | {least or 'none'} | {after} |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """The rates over all faults, and the false alarms."""
    lines = []
    for on, what in KINDS.items():
        faults = [r for r in rows if r.part == "planted" and r.on == on]
        well = [r for r in rows if r.part == "healthy" and r.on == on]
        if faults:
            right = sum(r.right for r in faults)
            share = right / len(faults)
            lines.append(
                f"- {what}: {sum(r.found for r in faults)} of {len(faults)} faults are found, and "
                f"{right} ({share:.1%}) named first."
            )
        if well:
            alarms = [r for r in well if not r.right]
            told = "; ".join(f"{r.size}, seed {r.seed}: {', '.join(r.findings)}" for r in alarms)
            lines.append(
                f"- {what}: {len(alarms)} of {len(well)} healthy ones cause a false alarm"
                f"{f' ({told})' if told else ''}."
            )
    seconds = [r.seconds for r in rows]
    lines.append(
        f"- An examination takes {statistics.median(seconds):.1f} seconds of processor time in "
        f"the median, {max(seconds):.1f} at most."
    )
    return "\n".join(lines)


def page(command: str, rows: list[Row]) -> str:
    """The page of the results, in Markdown."""
    parts = ["# Planted faults", f"`{command}`", summary(rows), table(rows)]
    if any(row.part == "smaller" for row in rows):
        parts += ["Of exact models, with every seed:", smallest(rows)]
    return "\n\n".join(parts) + "\n"


def renewed(text: str, rows: list[Row]) -> str:
    """The page docs/doctor.md with the section of these rows."""
    about = [
        HEADING,
        "Twelve faults of three sizes are planted in an exact model of six classes in 8-D and in "
        "tiny networks trained on them. Exact models under six SDEs, and networks on five data "
        "sets at five stages of their training, are healthy. A fault is found if its name is an "
        f"error or a warning (`python benchmarks/doctor.py`; [all figures]({FIGURES})):",
        summary(rows),
    ]
    if any(row.part == "smaller" for row in rows):
        about += ["Of the exact models, smaller faults are examined too:", smallest(rows)]
    head, _, rest = text.partition(f"{HEADING}\n")
    _, _, tail = rest.partition("\nWhat it cannot see:")
    return head + "\n\n".join(about) + "\n\nWhat it cannot see:" + tail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--healthy", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--quick", action="store_true", help="one seed of each")
    parser.add_argument("--keep", type=Path, default=Path("runs/doctor"), help="a folder")
    options = parser.parse_args()
    seeds, well = (1, 1) if options.quick else (options.seeds, options.healthy)
    first, keep = options.first, options.keep
    cases = chain(
        planted(range(first, first + seeds), keep), healthy(range(first, first + well), keep)
    )
    rows = []
    for row in measured(cases, keep):
        rows.append(row)
        found = ", ".join(row.findings) or "nothing"
        print(
            f"{row.on} {row.fault or 'healthy'} {row.size} {row.seed}: {found}"
            f"{'' if row.right else ' <---'}",
            flush=True,
        )
    name = "doctor-quick" if options.quick else "doctor"
    command = shlex.join(["python", "benchmarks/doctor.py", *sys.argv[1:]])
    content: dict[str, Any] = {"command": command, "rows": [asdict(row) for row in rows]}
    write(RESULTS / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    text = page(command, rows)
    write(RESULTS / f"{name}.md", text.encode())
    if not options.quick:
        write(PAGE, renewed(PAGE.read_text(encoding="utf-8"), rows).encode())
    print(f"\n{text}")


if __name__ == "__main__":
    main()
