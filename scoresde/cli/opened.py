"""A checkpoint, opened for a command: the model and what is known about its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from scoresde.cli.common import pick_device

if TYPE_CHECKING:
    import torch

    from scoresde.contract import DataContract
    from scoresde.model import Preconditioned

__all__ = ["Opened", "checkpoint_folder", "known_shape", "open_checkpoint", "run_about"]


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint that a path means: itself, or `checkpoint/` in a run's folder."""
    inside = path / "checkpoint"
    own = (path / "model.safetensors").exists()
    if not own and (inside.is_dir() or inside.with_name(".checkpoint.previous").is_dir()):
        return inside
    return path


def run_about(folder: Path) -> dict[str, Any]:
    """What `scoresde train` noted of the run that a checkpoint stands in; {} if nothing."""
    try:
        table = json.loads((folder.parent / "config.json").read_bytes())
        about = table["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return about if isinstance(about, dict) else {}


def known_shape(
    net: Mapping[str, Any], extra: Mapping[str, Any], about: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The shape of a sample by a network's options, else by what was noted, or None."""
    if "dim" in net:
        return (int(net["dim"]),)
    if "size" in net:
        return (int(net["channels"]), *map(int, net["size"]))
    noted = extra.get("shape") or about.get("shape")
    return tuple(map(int, noted)) if noted else None


@final
@dataclass(frozen=True, eq=False)
class Opened:
    """A model from a checkpoint, in eval mode on its device.

    Attributes:
        model: the model.
        folder: of the checkpoint itself.
        config: its config.json.
        about: what the run's own config.json says of it; {} if there is none.
        device: of the model.
    """

    model: Preconditioned
    folder: Path
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    device: torch.device

    @property
    def contract(self) -> DataContract | None:
        """The levels that the data stand for, if they are discrete."""
        from scoresde.contract import DataContract

        fields = self.config.get("contract")
        return None if fields is None else DataContract.from_dict(fields)

    @property
    def classes(self) -> int:
        """The number of classes, 0 for an unconditional model."""
        return int(getattr(self.model.net, "config", {}).get("classes", 0))

    def shape(self, given: str | None = None) -> tuple[int, ...]:
        """The shape of one sample, (*D).

        Args:
            given: sizes with x between them, "1x28x28"; for a network that takes any size and a
                checkpoint that does not say.

        Raises:
            ValueError: it is not known, not of that form, or none that the network takes.
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
        net: Mapping[str, Any] = getattr(self.model.net, "config", {})
        known = known_shape(net, self.config.get("extra") or {}, self.about)
        if known is not None:
            return known
        raise ValueError(
            f"shape: expected the shape of a sample, got none in {self.folder}, and its "
            f"{type(self.model.net).__name__} takes any size; pass --shape, e.g. 1x28x28"
        )

    def _check_sizes(self, sizes: tuple[int, ...]) -> None:
        """Raise if the options of the network say that it takes no such sample."""
        net: Mapping[str, Any] = getattr(self.model.net, "config", {})
        wanted: tuple[int | None, ...] | None = known_shape(net, {}, {})
        if "channels" in net and "size" not in net:
            wanted = (int(net["channels"]), None, None)
        if wanted is None or (
            len(wanted) == len(sizes)
            and all(size in (None, own) for size, own in zip(wanted, sizes, strict=True))
        ):
            return
        expected = "x".join("any" if size is None else str(size) for size in wanted)
        got = "x".join(map(str, sizes))
        raise ValueError(f"shape: expected {expected}, as the network takes it, got {got}")

    def any_shape(self) -> tuple[int | None, ...]:
        """The shape of one sample with None for a size that may be any."""
        net: Mapping[str, Any] = getattr(self.model.net, "config", {})
        if "channels" in net and "size" not in net:
            return int(net["channels"]), None, None
        return self.shape()

    def labels(self, wanted: str | None, n: int, first: int = 0) -> dict[str, torch.Tensor]:
        """Class labels of samples number first ... first + n - 1, as a model's `cond`.

        Args:
            wanted: "3", or several that take turns, "0,1,7", or "all" of them; None or "none" for
                no label, which a network with classes takes as its unconditional case.

        Raises:
            ValueError: a class that there is not, or a model without classes.
        """
        import torch

        if wanted is None or wanted == "none":
            return {}
        if not self.classes:
            raise ValueError(
                f"label: expected none, for the model has no classes, got {wanted!r}; leave it out"
            )
        limits = f"classes from 0 to {self.classes - 1}"
        try:
            turns = range(self.classes) if wanted == "all" else [int(k) for k in wanted.split(",")]
        except ValueError:
            raise ValueError(f"label: expected {limits}, or all, got {wanted!r}") from None
        wrong = [k for k in turns if not 0 <= k < self.classes]
        if wrong:
            raise ValueError(f"label: expected {limits}, got {wrong[0]}")
        table = torch.tensor(list(turns), device=self.device)
        return {"label": table[torch.arange(first, first + n, device=self.device) % len(turns)]}


def open_checkpoint(path: Path, device: str | None = None) -> Opened:
    """The model of a run's folder or of a checkpoint.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged; see `scoresde.load`.
    """
    from scoresde.training import load, read_config

    where, folder = pick_device(device), checkpoint_folder(path)
    config = read_config(folder)
    model: Preconditioned = load(folder, device=where)  # type: ignore[assignment]
    return Opened(model, folder, config, run_about(folder), where)
