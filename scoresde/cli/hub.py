"""`scoresde push` and `scoresde pull`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from scoresde.cli.common import check_folder, claimed, emit, is_first
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.messages import in_flags

__all__ = ["Pull", "Push"]

NAMES = {"run": "MODEL", "path": "MODEL", "repo_id": "REPO", "out": "REPO"}


@final
@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload a model with its card to the Hugging Face hub, or write both into a folder.

    Three files are sent: config.json, the weights in safetensors, and README.md, the model card,
    which is written from the run: data, objective, losses, calibrations, and how the model is
    used. The state of the training stays here, and only the last part of the path of the data
    is sent. All files are verified first.

    A REPO that begins with ./, ../, ~ or / is a folder here, and nothing is sent. To send, log in
    with `hf auth login`, or set HF_TOKEN; no option takes the token, since others can read a
    command line. Sending needs the extra scoresde[hub].
    """

    EXAMPLES: ClassVar[str] = """
scoresde push runs/moons ./ready
scoresde push runs/moons user/moons --license mit
scoresde push runs/moons/best user/moons --public --message "the lowest loss"
"""

    model: Path = argument("MODEL")
    repo: str = argument("REPO")
    """A repository of the hub, such as user/moons, or a folder, such as ./ready."""
    public: bool = False
    """Make a new repository public. By default it is private; an existing one stays as it is."""
    license: str | None = None
    """The identifier of the licence on the hub, such as mit. By default none is named."""
    card: Path | None = None
    """A Markdown file in place of the card that is written from the run."""
    message: str = flag("A model of scoresde", metavar="TEXT")
    """The message of the commit."""
    overwrite: bool = False
    """Replace the files in the folder. Without this flag nothing here is overwritten."""
    json: bool = False

    def run(self, call: Call) -> None:
        """Push."""
        from scoresde.hub.transfer import prepare_for_hub, push_to_hub

        place = folder_of(self.repo)
        if place is not None:
            with in_flags(NAMES):
                check_folder(place, self.overwrite)
        if not is_first():
            return
        text = None if self.card is None else _read(self.card)
        with in_flags(NAMES, plain=True):
            if place is not None:
                prepare_for_hub(self.model, place, card=text, license=self.license)
                where = str(place)
            else:
                where = push_to_hub(
                    self.model,
                    self.repo,
                    private=not self.public,
                    card=text,
                    license=self.license,
                    message=self.message,
                )
        emit({"out": where, "sent": place is None}, where, self.json)


@final
@dataclass(frozen=True, kw_only=True)
class Pull:
    """Download a model that was pushed into a run's folder, which every command takes.

    config.json, the weights and the card are downloaded, compared with their hashes, and written
    to --out. Nothing is unpickled and no code is run. Private repositories need `hf auth login`,
    or HF_TOKEN.

    A REPO that begins with ./, ../, ~ or / is a folder that `scoresde push` wrote, and nothing is
    asked of the hub. Downloading needs the extra scoresde[hub].
    """

    EXAMPLES: ClassVar[str] = """
scoresde pull user/moons --out runs/moons
scoresde pull user/moons --revision 1a2b3c4 --out runs/moons
scoresde pull ./ready --out runs/again
"""

    repo: str = argument("REPO")
    """A repository of the hub, such as user/moons, or a folder, such as ./ready."""
    out: Path = flag(metavar="RUN")
    """The folder of the model."""
    revision: str | None = flag(None, metavar="REVISION")
    """A branch, a tag or a commit of the repository; a commit gives the same model always."""
    cached: bool = False
    """Take the files that were downloaded before, without a request."""
    calling: Calling = Calling()

    def run(self, call: Call) -> None:
        """Pull."""
        from scoresde.hub.transfer import CARD, check_model, download, prepare_for_hub
        from scoresde.training import RunFolder

        check_folder(self.out, self.calling.overwrite)
        place = folder_of(self.repo)
        if place is not None and (self.revision is not None or self.cached):
            name = "cached" if self.cached else "revision"
            raise ValueError(f"{name}: expected none for the folder {self.repo}; leave it out")
        if place is not None and self.out.resolve() in (place.resolve(), *place.resolve().parents):
            raise ValueError(
                f"out: expected another folder than that of {self.repo}, got {str(self.out)!r}; "
                "choose a new name"
            )
        if not is_first():
            return
        with in_flags(NAMES, plain=True):
            if place is None:
                place = download(self.repo, revision=self.revision, local_files_only=self.cached)
            check_model(place, self.repo)
        card = place / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else None
        stale = RunFolder(self.out).stale
        with (
            claimed(self.out, self.calling.overwrite, stale, "checkpoint") as out,
            in_flags({**NAMES, "run": "REPO", "path": "REPO", "out": "--out"}, plain=True),
        ):
            made = prepare_for_hub(place, out / "checkpoint", card=text, repo_id=self.repo)
        call.write(out)
        emit({"out": str(out), "checkpoint": str(made)}, str(out), self.calling.json)


def folder_of(repo: str) -> Path | None:
    """The folder that a target names, or None for a repository of the hub.

    Raises:
        ValueError: it has the form of a repository and is also a place here.
    """
    place = Path(repo).expanduser()
    if repo.startswith(("./", "../", "~", "/")) or place.is_absolute() or repo in (".", ".."):
        return place
    if place.exists() or (len(place.parts) > 1 and place.parent.is_dir()):
        here = place if place.exists() else place.parent
        raise ValueError(
            f"REPO: expected a repository of the hub or a folder that begins with ./, got "
            f"{repo!r}, and {here} is here; write .{os.sep}{repo} for the folder, or call the "
            "command elsewhere for the repository"
        )
    return None


def _read(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(f"card: expected a text file, got {str(card)!r}: {reason}") from error
