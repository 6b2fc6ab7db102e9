"""A checkpoint, opened for a command: the model and what is known about its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from scoresde._io import read_json
from scoresde.cli.common import pick_device, say
from scoresde.cli.messages import in_flags

if TYPE_CHECKING:
    import torch

    from scoresde.model import Preconditioned
    from scoresde.quantisation import Quantisation
    from scoresde.summary import ConditionSummary, DataSummary

__all__ = [
    "Opened",
    "is_run",
    "open_checkpoint",
    "read_run",
    "run_about",
    "run_of",
    "source_of",
]


def is_run(path: Path) -> bool:
    """Whether this is the folder of a run or of a checkpoint."""
    if any((place / "model.safetensors").is_file() for place in (path, path / "checkpoint")):
        return True
    return bool(read_run(path).get("about", {}).get("command") == "train")


def read_run(folder: Path) -> dict[str, Any]:
    """The config.json that a command of `scoresde` left in a folder; {} if there is none."""
    try:
        table = read_json(folder / "config.json")
        return table if isinstance(table["about"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def run_about(folder: Path) -> dict[str, Any]:
    """The description that `scoresde train` wrote of the run of a checkpoint, or {}."""
    about: dict[str, Any] = run_of(folder).get("about", {})
    return about


def run_of(folder: Path) -> dict[str, Any]:
    """The config.json of the run of a checkpoint, also for runs/x/checkpoints/000001000."""
    tables = (read_run(place) for place in folder.absolute().parents[:2])
    return next((t for t in tables if t.get("about", {}).get("command") == "train"), {})


def source_of(opened: Opened, given: str | None) -> str | None:
    """The data that were given, or those of the run of the model, which are named in a message;
    None if the run is not known."""
    if given is not None:
        return given
    source: str | None = run_of(opened.folder).get("data")
    if source is not None:
        say(f"the data are those of the run: {source}")
    return source


@final
@dataclass(frozen=True, eq=False)
class Opened:
    """A model from a checkpoint, in eval mode on its device.

    Attributes:
        model: the model.
        folder: the folder of the checkpoint.
        config: its config.json.
        about: the description in the config.json of the run; {} if there is none.
        device: the device of the model.
    """

    model: Preconditioned
    folder: Path
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    device: torch.device

    @property
    def quantisation(self) -> Quantisation | None:
        """The levels of the data, if they are discrete."""
        from scoresde.quantisation import Quantisation

        fields = self.config.get("quantisation")
        return None if fields is None else Quantisation.from_dict(fields)

    @property
    def data(self) -> DataSummary | None:
        """The summary of the training data, if the model has one."""
        return self.model.data

    @property
    def classes(self) -> int:
        """The number of classes, 0 for an unconditional model."""
        return int(getattr(self.model.net, "config", {}).get("classes", 0))

    def shape(self, given: str | None = None) -> tuple[int, ...]:
        """The shape of one sample, (*D).

        Args:
            given: sizes with x between them, "1x28x28"; required if the network takes any size
                and the checkpoint does not hold the shape.

        Raises:
            ValueError: the shape is unknown, not of this form, or not valid for the network.
        """
        if given is not None:
            try:
                sizes = tuple(int(part) for part in given.lower().split("x"))
            except ValueError:
                sizes = ()
            if not sizes or min(sizes) < 1:
                raise ValueError(f"shape: expected sizes as in 1x28x28, got {given!r}")
            self._check_sizes(sizes)
            return sizes
        from scoresde.training.files import known_shape

        net: Mapping[str, Any] = getattr(self.model.net, "config", {})
        known = known_shape(net, self.config.get("extra") or {}, self.about)
        if known is not None:
            return known
        raise ValueError(
            f"shape: expected the shape of a sample, got none in {self.folder}, and its "
            f"{type(self.model.net).__name__} takes any size; pass --shape, e.g. 1x28x28"
        )

    def _check_sizes(self, sizes: tuple[int, ...]) -> None:
        """Raise a ValueError if the network does not take samples of these sizes."""
        from scoresde.training.files import known_shape

        net: Mapping[str, Any] = getattr(self.model.net, "config", {})
        wanted: tuple[int | None, ...] | None = _free_shape(net) or known_shape(net, {}, {})
        if wanted is None or (
            len(wanted) == len(sizes)
            and all(size in (None, own) for size, own in zip(wanted, sizes, strict=True))
        ):
            return
        expected = "x".join("any" if size is None else str(size) for size in wanted)
        got = "x".join(map(str, sizes))
        raise ValueError(f"shape: expected {expected}, as the network takes it, got {got}")

    def any_shape(self) -> tuple[int | None, ...]:
        """The shape of one sample, with None for a size that is free."""
        net: Mapping[str, Any] = getattr(self.model.net, "config", {})
        return _free_shape(net) or self.shape()

    def turns(self, wanted: str | None) -> list[int] | None:
        """The classes that are repeated in turn, or None for no label.

        Args:
            wanted: a class by its name or its number, several with commas between them, or "all"
                of those that occur in the training data; None or "none" for no label, which a
                network with classes takes as its unconditional case. A name has priority over a
                number and over "all" and "none", and may contain commas. If all names are
                numbers, such as 3 and 7, numbers are read only as names.

        Raises:
            ValueError: a class does not exist, or the model has no classes.
        """
        names = self.class_names
        if wanted is None or (wanted == "none" and "none" not in names):
            return None
        if not self.classes:
            raise ValueError(
                f"label: expected none, for the model has no classes, got {wanted!r}; leave it out"
            )
        if wanted in ("all", "balanced") and wanted not in names:
            return self.present
        turns = _class_numbers(wanted, names, self.classes)
        missing = [self.class_name(k) for k in turns if k not in self.present]
        if missing:
            say(f"warning: the training data hold no sample of class {', '.join(missing)}")
        return turns

    @property
    def conditions(self) -> Mapping[str, Mapping[str, Any]]:  # values of JSON
        """The conditions of the data that the network takes, without the label: name -> kind and
        sizes. That of the augmentation is for the training alone."""
        from scoresde.training.augment import CONDITION

        config = getattr(self.model.net, "config", {})
        found: Mapping[str, Mapping[str, Any]] = config.get("conditions", {})
        return {name: one for name, one in found.items() if name != CONDITION}

    def given(self, pairs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Conditions of one sample by name, from pairs such as "temperature=20" or "kind=b".

        Args:
            pairs: NAME=VALUE, where NAME is a column of the training data, a condition that is a
                vector, whose values have commas between them, one that is a class number, or an
                image or a set, whose value is a .npy file. A column without a value, "kind=", is a
                missing cell.

        Raises:
            ValueError: the model has no such condition, the value is not one of its, or other
                columns of the same condition have no pair.
        """
        import torch

        from scoresde._check import fail

        known = {} if self.data is None else self.data.conditions
        columns = {column: name for name, one in known.items() for column in one.columns}
        vectors = [name for name, one in known.items() if len(one.shape) <= 1]
        labels = {
            n: one["classes"] for n, one in self.conditions.items() if one["kind"] == "label"
        }
        arrays = [n for n, one in self.conditions.items() if one["kind"] in ("image", "set")]
        values: dict[str, dict[str, object]] = {}
        found: dict[str, torch.Tensor] = {}
        for pair in pairs:
            # A name may hold "=", so the known ones are tried first.
            every = (*columns, *vectors, *labels, *arrays)
            names = [name for name in every if pair.startswith(f"{name}=")]
            name = max(names, key=len, default=pair.partition("=")[0])
            text = pair[len(name) + 1 :].strip()
            if not names:
                plain = [name for name in vectors if not known[name].columns]
                listed = ", ".join([*columns, *plain, *labels, *arrays])
                expected = f"NAME=VALUE with a condition of the model ({listed or 'it has none'})"
                raise fail("given", expected, pair, "leave it out, or check the spelling")
            if name in values.get(columns.get(name, ""), {}) or name in found:
                raise fail("given", "each condition once", name, "give it once")
            if name in labels:
                if not text.isdecimal() or int(text) >= labels[name]:
                    expected = f"a class from 0 to {labels[name] - 1} for {name}"
                    raise fail("given", expected, text, "number the classes from 0")
                found[name] = torch.tensor(int(text))
            elif name in arrays:
                found[name] = _array(name, text)
            elif name in columns:
                group = columns[name]
                number = not known[group].columns[name]
                cell: object = _number(name, text) if number and text else text or None
                values.setdefault(group, {})[name] = cell
            else:
                numbers = [_number(name, part) for part in text.split(",")]
                found[name] = torch.tensor(numbers).reshape(_sized(name, numbers, known[name]))
        made = found | {group: known[group].encode(given) for group, given in values.items()}
        for group, given in values.items():
            _check_columns(known[group], given)
        return {name: value.to(self.device) for name, value in made.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, or ()."""
        names = () if self.data is None else self.data.class_names
        return names if len(names) == self.classes else ()

    @property
    def present(self) -> list[int]:
        """The classes that have samples in the training data; all classes if that is unknown."""
        counts = () if self.data is None else self.data.class_counts
        found = [k for k, count in enumerate(counts[: self.classes]) if count]
        return found or list(range(self.classes))

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[number] if self.class_names else str(number)

    def labels(self, wanted: str | None, n: int, first: int = 0) -> dict[str, torch.Tensor]:
        """Class labels of samples number first ... first + n - 1, as a model's `cond`.

        Args:
            wanted: see `turns`.
            n, first: the number of samples, and the number of the first one.

        Raises:
            ValueError: see `turns`.
        """
        import torch

        turns = self.turns(wanted)
        if turns is None:
            return {}
        table = torch.tensor(turns, device=self.device)
        return {"label": table[torch.arange(first, first + n, device=self.device) % len(turns)]}


def _class_numbers(wanted: str, names: Sequence[str], classes: int) -> list[int]:
    """Read class numbers from names and numbers with commas between them, longest names first."""
    import difflib

    parts, found = wanted.split(","), []
    plain = [str(k) for k in range(classes)]
    # Of the names 1, 2, 3 the first would be class 1 by its name and class 0 by its number.
    counted = list(names) in ([], plain) or not all(name.isdecimal() for name in names)
    while parts:
        sizes = range(len(parts), 0, -1)
        texts = [(size, ",".join(parts[:size]).strip()) for size in sizes]
        size, text = next(((k, t) for k, t in texts if t in names), (1, parts[0].strip()))
        if text in names:
            found.append(names.index(text))
        elif counted and text.isdecimal() and int(text) < classes:
            found.append(int(text))
        else:
            ways = [f"by number from 0 to {classes - 1}"] if counted else []
            if names:
                ways.append(f"by name ({', '.join(names[:8])}{' ...' if len(names) > 8 else ''})")
            near = difflib.get_close_matches(text, names, n=1)
            raise ValueError(
                f"label: expected a class {' or '.join(ways)}, several with commas, all or none, "
                f"got {text!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        parts = parts[size:]
    return found


def _free_shape(net: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """The shape of a sample of a network that takes any size, None for each; else None."""
    if "channels" not in net or "size" in net:
        return None
    return (int(net["channels"]), *(None for _ in range(int(net.get("dims", 2)))))


def _number(name: str, text: str) -> float:
    """A number of --given."""
    try:
        return float(text)
    except ValueError:
        remedy = f"; repeat the flag for another one: --given {name}=0.5 --given OTHER=1"
        raise ValueError(
            f"given: expected a number for {name}, got {text!r}{remedy if '=' in text else ''}"
        ) from None


def _check_columns(known: ConditionSummary, given: Mapping[str, object]) -> None:
    """Raise if columns of a condition are left out, which a training leaves out as a whole."""
    from scoresde._check import listed, refuse

    left = [column for column in known.columns if column not in given]
    if left:
        expected = f"all columns of one condition, also {listed(left)}"
        remedy = (
            f"add --given {left[0]}=VALUE, leave out all of them, or pass --given {left[0]}= if "
            "rows of the training data lack this cell, from which alone the model knows such rows"
        )
        raise refuse("given", expected, f"only {listed(list(given))}", remedy)


def _array(name: str, text: str) -> torch.Tensor:
    """An image or a set of --given, from a .npy file of one sample."""
    import numpy as np
    import torch

    try:
        return torch.from_numpy(np.load(text, allow_pickle=False).astype(np.float32))
    except (AttributeError, OSError, ValueError):  # no file, no array, or one of texts
        raise ValueError(
            f"given: expected a .npy file with the numbers of one {name}, got {text!r}; write it "
            "with numpy.save"
        ) from None


def _sized(name: str, numbers: Sequence[float], known: ConditionSummary) -> tuple[int, ...]:
    """The shape of a condition; raise unless there are as many numbers."""
    count = known.shape[0] if known.shape else 1
    if len(numbers) != count:
        raise ValueError(
            f"given: expected {count} numbers with commas between them for {name}, got "
            f"{len(numbers)}"
        )
    return known.shape


def open_checkpoint(path: Path, device: str | None = None) -> Opened:
    """Open the model of the folder of a run or of a checkpoint.

    Raises:
        FileNotFoundError, ValueError: there is no checkpoint, or it is damaged; see
            `scoresde.load`.
    """
    from scoresde.training import load, read_config
    from scoresde.training.files import checkpoint_folder

    where, folder = pick_device(device), checkpoint_folder(path)
    with in_flags({"path": "MODEL"}):
        config = read_config(folder)
        model: Preconditioned = load(folder, device=where)  # type: ignore[assignment]
    return Opened(model, folder, config, run_about(folder), where)
