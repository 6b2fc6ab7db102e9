"""Flags from dataclasses: tyro reads the fields of a command and of the groups of options in it.

A command is a frozen dataclass. Each field of a plain type is a flag, and its docstring is the
help; a field that is a dataclass is a group of flags, such as `scoresde.options.Optim`. A field
of another type (a function, a tensor) can be set in Python alone. Defaults are those of the
dataclass, below those of a `--config` file, below the command line.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, final

import tyro

__all__ = [
    "Calling",
    "Flag",
    "argument",
    "build",
    "docs_of",
    "flag",
    "flags_of",
    "parse",
    "registered",
]

T = TypeVar("T")

PLAIN: dict[str, tuple[type, str]] = {
    "bool": (bool, ""),
    "int": (int, "N"),
    "float": (float, "X"),
    "str": (str, "NAME"),
    "Path": (Path, "FILE"),
}
"""Types that can be flags, by name, and the placeholder of a value in the help."""

KEYS = re.compile(r"a key of `scoresde\.(\w+)\.(\w+)`")
"""The mention of a registry in a docstring, which the help replaces by the names in it."""

HEADING = re.compile(r"Options of the ([\w ]+)\.|([\w ]+) options\.")
"""The first line of the docstring of a group, such as "Guidance options."."""

LIST = re.compile(r"tuple\[(int|float|str), (?:\.\.\.|\1)\]")


def argument(metavar: str, default: Any = MISSING) -> Any:
    """A field that is a positional argument."""
    return field(default=default, metadata={"metavar": metavar, "positional": True})


def flag(
    default: Any = MISSING,
    *,
    metavar: str | None = None,
    alias: str = "",
    many: bool = False,
    name: str | None = None,
) -> Any:
    """A field whose value is called `metavar` in the help, which has a short name, which is given
    once for each of several values, or whose flag has another name, such as a word of Python."""
    about = {"metavar": metavar, "alias": alias, "name": name}
    if many:
        return field(default_factory=list, metadata=about)
    return field(default=default, metadata=about)


@final
@dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
        name: the name of the field.
        kind: the type of a value, or of each value.
        several: "" for one value, "," for values with commas between them, "+" for a flag that
            is repeated for each value.
        optional: whether the default may be None.
        default: the default, or MISSING.
        help: the docstring of the field.
        metadata: the metadata of the field.
    """

    name: str
    kind: type
    several: str
    optional: bool
    default: Any  # of the field's own type
    help: str
    metadata: Mapping[str, Any]

    @property
    def written(self) -> str:
        """The flag as typed by a user, with {} for the value."""
        if self.metadata.get("positional"):
            return str(self.metadata["metavar"])
        return f"--{self._dashed} {{}}"

    @property
    def _dashed(self) -> str:
        """The name of the flag on the command line, without dashes before it."""
        return str(self.metadata.get("name") or self.name.replace("_", "-"))

    @property
    def metavar(self) -> str | None:
        """The placeholder of its value in the help."""
        if self.metadata.get("metavar"):
            name = str(self.metadata["metavar"])
            return f"[{name}]" if self.metadata.get("positional") and self.optional else name
        own = next(m for k, m in PLAIN.values() if k is self.kind)
        return {",": f"{own},{own}", "+": "KEY=VALUE"}.get(self.several, own) or None

    def is_in(self, arguments: Sequence[str]) -> bool:
        """Whether the command line contains it."""
        names = [self.written.removesuffix(" {}"), f"--no-{self._dashed}"]
        given = [word.partition("=")[0].replace("_", "-") for word in arguments]
        return any(name in given for name in (*names, self.metadata.get("alias") or names[0]))

    def hint(self) -> Any:  # a type for tyro
        """The type of the field, as tyro reads it."""
        about = tyro.conf.arg(
            help=self.help,
            name=self.metadata.get("name"),
            metavar=self.metavar,
            aliases=[self.metadata["alias"]] if self.metadata.get("alias") else None,
            help_behavior_hint=_default,
        )
        if self.metadata.get("positional"):
            kind = self.kind | None if self.optional else self.kind
            return Annotated[kind, tyro.conf.Positional, about]
        if self.several == "+":
            return Annotated[tuple[str, ...], tyro.conf.UseAppendAction, about]
        if self.several == ",":
            return Annotated[tuple, self._list(), about]
        if self.kind is bool and not self.optional:
            return Annotated[bool, tyro.conf.FlagCreatePairsOff, about]
        optional = self.optional and self.kind is not bool
        return Annotated[self.kind | None if optional else self.kind, about]

    def _list(self) -> Any:  # of tyro
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=self.metavar or "",
            instance_from_str=lambda words: tuple(map(self.kind, words[0].split(","))),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [",".join(map(str, value))],
        )

    def of_file(self, value: Any, path: str) -> Any:
        """Convert a value of a config file to the type of the flag.

        Raises:
            TypeError, ValueError: the value has another type.
        """
        from scoresde._check import wrong_type

        if self.several == "+":
            return _pairs(value)
        if self.several == ",":
            value = value.split(",") if isinstance(value, str) else value
            items = value if isinstance(value, list) else [value]
            return tuple(self.kind(item) for item in items)
        if isinstance(value, dict | list):
            raise ValueError(f"config: {self.name}: expected one value, got {value!r}")
        takes = {int: (int,), float: (int, float), bool: (bool,)}.get(self.kind, (object,))
        if not isinstance(value, takes) or (isinstance(value, bool) and self.kind is not bool):
            names = {int: "a whole number", float: "a number", bool: "true or false"}
            remedy = f"correct it in {path}"
            raise wrong_type(self.name, names.get(self.kind, "a name"), value, remedy)
        return self.kind(value)


def _pairs(value: Any) -> tuple[str, ...]:
    """Convert a table {"width": 64} or a list to the values of the flag: ("width=64",)."""
    import json

    if isinstance(value, dict):
        return tuple(f"{key}={json.dumps(item)}" for key, item in value.items())
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _default(text: str) -> str:
    """The default in the help, unless the text of the flag mentions it."""
    return "" if text in ("None", "False", "()", "''", "") else f"The default is {text}."


# The fields of a dataclass


def _group(owner: type, own: Field[Any]) -> type | None:
    """The dataclass of a field that is a group of options."""
    found = getattr(sys.modules[owner.__module__], str(own.type), None)
    return found if isinstance(found, type) and is_dataclass(found) else None


def _flag(owner: type, own: Field[Any]) -> Flag | None:
    """The flag of a field, or None if its type cannot be a flag."""
    parts = [part.strip() for part in str(own.type).split(" | ")]
    several, names = "", [part for part in parts if part in PLAIN]
    if match := LIST.fullmatch(parts[0]):
        several, names = ",", [match[1]]
    elif parts[0] == "list[str]":
        several, names = "+", ["str"]
    if not names:
        return None
    default = own.default
    if own.default_factory is not MISSING:
        default = own.default_factory()
    help = {**docs_of(Calling), **docs_of(Shared), **docs_of(owner)}[own.name]
    help = KEYS.sub(lambda match: registered(match[1], match[2]), help).replace("`", "")
    kind = PLAIN[names[0]][0]
    return Flag(own.name, kind, several, "None" in parts, default, help, own.metadata)


@cache
def docs_of(kind: type) -> dict[str, str]:
    """The docstrings of the fields of a dataclass, read from the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    found = {}
    for one, other in pairwise(tree.body[0].body):  # type: ignore[attr-defined]  # of a class
        if isinstance(one, ast.AnnAssign) and isinstance(other, ast.Expr):
            name, text = ast.unparse(one.target), ast.literal_eval(other.value)
            found[name] = " ".join(text.split())
    return found


@cache
def registered(room: str, table: str) -> str:
    """The names in a registry, for a help text, e.g. "mlp, unet or uvit".

    They are read from the source, because importing a room imports torch, which takes seconds.
    """
    spec = find_spec(f"scoresde.{room}")
    file = Path("" if spec is None or spec.origin is None else spec.origin)
    places = sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else (file,)
    source = "".join(place.read_text("utf-8") for place in places if place.is_file())
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == table:
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            *names, last = [ast.literal_eval(key) for key in keys if key is not None]
            return f"{', '.join(names)} or {last}"
    raise LookupError(f"there is no dictionary {table} in scoresde.{room}")


def flags_of(kind: type) -> dict[str, Flag]:
    """The flags of a command by name, including those of its groups."""
    found: dict[str, Flag] = {}
    for own in fields(kind):
        group = _group(kind, own)
        if group is not None:
            found |= flags_of(group)
        elif made := _flag(kind, own):
            found[made.name] = made
    return found


def _mirror(kind: type, defaults: Mapping[str, Any]) -> type:
    """A dataclass of the same flags for tyro, which checks only the types."""
    made = _typed(kind, defaults)
    for name, group in _groups(kind):
        own = _typed(group, defaults)
        inner = make_dataclass(group.__name__, own, kw_only=True)
        headed = Annotated[inner, tyro.conf.arg(name=_heading(group))]  # type: ignore[valid-type]
        required = any(default.default is MISSING for _, _, default in own)
        made.append((name, headed, field() if required else field(default_factory=inner)))
    return make_dataclass(kind.__name__, made, kw_only=True)


def _groups(kind: type) -> list[tuple[str, type]]:
    """The groups of options of a command by field, with those that are within another group."""
    own = [(one.name, group) for one in fields(kind) if (group := _group(kind, one)) is not None]
    return own + [found for _, group in own for found in _groups(group)]


def _heading(group: type) -> str:
    """The heading of a group in the help, before the word "options", from its docstring."""
    first = (group.__doc__ or "").partition("\n")[0]
    match = HEADING.fullmatch(first)
    return (group.__name__ if match is None else match[1] or match[2]).lower()


def _typed(kind: type, defaults: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The names, types for tyro and defaults of the flags of a dataclass, without its groups."""
    made: list[tuple[str, Any, Any]] = []
    for own in fields(kind):
        if found := _flag(kind, own):
            value = defaults.get(own.name, found.default)
            if found.kind is bool and value is None:
                value = False
            elif found.several and value is not MISSING:
                value = tuple(value or ())
            made.append(
                (own.name, found.hint(), field() if value is MISSING else field(default=value))
            )
    return made


def parse(
    kind: type, arguments: Sequence[str], defaults: Mapping[str, Any], *, prog: str, about: str
) -> dict[str, Any]:
    """Parse the values of all flags of a command, by name.

    Args:
        kind: the dataclass of the command.
        arguments: the command line after the name of the command.
        defaults: values of a config file, which override those of the dataclass.
        prog: the name of the command.
        about: the text of its help, above the flags.

    Raises:
        SystemExit: with code 0 after the help, and with 2 after an error, which is on stderr.
    """
    known = flags_of(kind)
    below = dict(defaults)
    for own in known.values():
        if own.several == "+" and own.is_in(arguments):
            below[own.name] = ()  # a flag replaces the values of a file
    found: Any = tyro.cli(
        _mirror(kind, below),
        prog=prog,
        description=about,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = _values(found)
    for own in known.values():
        if own.kind is bool and own.optional and not own.is_in(arguments):
            values[own.name] = defaults.get(own.name)
        if own.several == "+":
            values[own.name] = list(values[own.name])
        elif own.several == "," and own.optional:
            values[own.name] = values[own.name] or None
    return values


def _values(filled: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for own in fields(filled):
        value = getattr(filled, own.name)
        found |= _values(value) if is_dataclass(value) else {own.name: value}
    return found


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a command, or a group of options, from the values of its flags.

    Raises:
        TypeError, ValueError: the dataclass refuses a value.
    """
    found: dict[str, Any] = {}
    for own in fields(kind):  # type: ignore[arg-type]  # a dataclass
        group = _group(kind, own)
        if group is not None:
            found[own.name] = build(group, values)
        elif own.name in values:
            found[own.name] = values[own.name]
    return kind(**found)


@final
@dataclass(frozen=True, kw_only=True)
class Shared:
    """What fields of these names mean in every command that has them."""

    model: Path = argument("MODEL")
    """A run's folder, or a checkpoint: runs/x, runs/x/checkpoint, runs/x/best."""
    data: str = argument("DATA")
    """A data set: digits, fashion_mnist, a toy (moons, swiss_roll, checkerboard,
    eight_gaussians), a folder of images, of IDX, CIFAR, .npy or .wav files, or a .npy, .npz, .csv,
    .tsv, .parquet or .wav file."""
    data_option: list[str] = field(default_factory=list)
    """An option of the loader, such as split=test, n=5000, size=32, mode=L, flip=true,
    label=COLUMN, labels=FILE, key=NAME, columns=a,b or levels=256. The flag may be repeated."""
    holdout: float = 0.0
    """Take only the share of the data that `train --holdout` held out. 0 takes all of them."""
    unconditional: bool = False
    """Ask the model without the labels of the data."""
    limit: int | None = None
    """Take this many samples, drawn at random by --seed. By default all of them are taken."""
    shape: str | None = None
    """The shape of one sample, for example 1x28x28, if the checkpoint does not say it."""
    tolerance: float = 1e-5
    """The relative and absolute tolerance of the adaptive solver."""
    t_end: float | None = None
    """The time at which sampling stops. By default it is that of the SDE."""
    batch_size: int = 256
    """The number of samples at a time, which bounds the memory."""
    seed: int = 0
    """The seed of all random numbers."""
    device: str | None = None
    """The device: cpu, cuda, mps ... By default it is the accelerator if there is one."""


@final
@dataclass(frozen=True, kw_only=True)
class Calling:
    """General options."""

    config: Path | None = None
    """A TOML or JSON file of options, by the names of the flags (batch_size = 64). Flags win over
    it. The config.json of a run repeats the run."""
    overwrite: bool = False
    """Replace the files at --out when there are new ones. Without this flag nothing is ever
    overwritten."""
    json: bool = False
    """Print one JSON object on stdout, and no progress bars."""
