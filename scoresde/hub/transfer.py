"""Checkpoints to and from the hub; `push_to_hub` and `from_hub` alone make requests."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scoresde._check import fail, need, refuse, to_load
from scoresde._io import explained, replacing
from scoresde.hub.card import card_of, data_name
from scoresde.metrics import Comparison
from scoresde.model import ScoreModel
from scoresde.sde import SDE
from scoresde.training.checkpoint import WEIGHTS, load, load_weights
from scoresde.training.files import CONFIG, check_place, open_folder, rewrite

__all__ = ["from_hub", "prepare_for_hub", "push_to_hub"]

CARD = "README.md"

_TOKEN = re.compile(r"(?<=Bearer )[^\s'\"]+|\bhf_\w+")
"""An access token in a message, as libraries quote the header of a request."""


def prepare_for_hub(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    card: str | None = None,
    repo_id: str | None = None,
    metrics: Comparison | None = None,
    license: str | None = None,
) -> Path:
    """Write what `push_to_hub` uploads into a folder: config.json, weights and the model card.

    The state of the training (raw weights and optimiser) stays behind, and of the name of the
    data only the last part of a path is kept. `scoresde.load` reads the folder. Nothing is sent.

    Args:
        run: the folder of a run, whose `checkpoint` is read, or of a checkpoint.
        out: the folder: new, empty, or one that was written by this function.
        card: the text of README.md; by default that of `model_card`.
        repo_id, metrics, license: see `model_card`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, ValueError: see `model_card`; weights are NaN or infinite, or `out`
            contains other files or is the checkpoint itself.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE, Preconditioned, load, save
        >>> from scoresde.nets import MLP
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = save(Preconditioned(MLP(2, width=8), VPSDE()), f"{folder}/model")
        ...     ready = prepare_for_hub(place, f"{folder}/ready")
        ...     sorted(file.name for file in ready.iterdir()), load(ready).sde == VPSDE()
        (['README.md', 'config.json', 'model.safetensors'], True)
    """
    weights, config = load_weights(run)
    bad = next((name for name, w in weights.items() if not bool(w.isfinite().all())), None)
    if bad is not None:
        remedy = "the run diverged: take an earlier checkpoint"
        raise fail("run", "finite weights", f"NaN or infinity in {bad}", remedy)
    source, _ = open_folder(run)
    place = check_place(out, (WEIGHTS, CARD), "out")
    if place == source:
        raise fail("out", "another folder than the run", str(out), "choose a new name")
    if config.get("data"):
        config["data"]["name"] = data_name(config)  # a checkpoint of old may name a path
    text = card
    if text is None:
        text = card_of(config, source, weights, repo_id, metrics, license)
    config.pop("training", None)
    config["files"] = {WEIGHTS: config["files"][WEIGHTS]}
    with explained("out", place, "", "prepare it again"), replacing(place) as half:
        half.mkdir()
        shutil.copyfile(source / WEIGHTS, half / WEIGHTS)
        rewrite(half, config)
        (half / CARD).write_text(text, encoding="utf-8")
    return place


def push_to_hub(
    run: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    card: str | None = None,
    metrics: Comparison | None = None,
    license: str | None = None,
    message: str = "A model of scoresde",
    token: str | None = None,
) -> str:
    """Upload a model with its card to a repository of the Hugging Face hub, made if there is none.

    What is uploaded is what `prepare_for_hub` writes, after all files were verified. It replaces
    the files of the same names in the repository, README.md among them.

    Args:
        run: the folder of a run, whose `checkpoint` is read, or of a checkpoint.
        repo_id: the repository, "user/model".
        private: whether a new repository is private; an existing one stays as it is.
        card: the text of README.md; by default that of `model_card`.
        metrics, license: see `model_card`.
        message: the message of the commit.
        token: the access token; by default that of `hf auth login`.

    Returns:
        The address of the repository.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError, ValueError: see `prepare_for_hub`; the name is none of a repository.
            Nothing was sent.
        OSError: the hub refused the request.

    Example:
        >>> push_to_hub("runs/moons", "no such name")
        Traceback (most recent call last):
        ValueError: repo_id: expected a repository of the hub such as 'user/model', got 'no such...
    """
    _check_name(repo_id)
    hub = need("huggingface_hub", "hub")
    with tempfile.TemporaryDirectory() as place:
        folder = prepare_for_hub(
            run,
            Path(place) / "model",
            card=card,
            repo_id=repo_id,
            metrics=metrics,
            license=license,
        )
        with _asked(repo_id, token):
            made = hub.create_repo(repo_id, private=private, exist_ok=True, token=token)
            hub.upload_folder(
                repo_id=repo_id, folder_path=str(folder), commit_message=message, token=token
            )
    return str(made)


def from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    net: nn.Module | None = None,
    sde: SDE | None = None,
    device: str | torch.device = "cpu",
    local_files_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> ScoreModel:
    """Download a model that `push_to_hub` uploaded, and load it.

    Only config.json and model.safetensors are downloaded, into the cache of huggingface_hub. Their
    hashes are compared with those of config.json; nothing is unpickled and no code is run.

    Args:
        repo_id: the repository, "user/model".
        revision: a branch, a tag or a commit; name a commit to get the same model always.
        net, sde, device: see `scoresde.load`.
        local_files_only: take the files from the cache, without a request.
        cache_dir: the folder of the cache; by default that of huggingface_hub.
        token: the access token; by default that of `hf auth login`.

    Returns:
        The model, in eval mode.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: the name is none of a repository, or that of a folder here; the repository
            holds no model of scoresde; or see `scoresde.load`.
        OSError: the hub refused the request, or the files are not in the cache.

    Example:
        >>> from_hub("user/model/extra")
        Traceback (most recent call last):
        ValueError: repo_id: expected a repository of the hub such as 'user/model', got 'user/mo...
    """
    folder = download(
        repo_id,
        (CONFIG, WEIGHTS),
        revision=revision,
        local_files_only=local_files_only,
        cache_dir=cache_dir,
        token=token,
    )
    return load(folder, net=net, sde=sde, device=device)


def download(
    repo_id: str,
    files: Sequence[str] = (CONFIG, WEIGHTS, CARD),
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
) -> Path:
    """Download files of a repository with a model into the cache, and return their folder.

    The other arguments and the errors are those of `from_hub`; nothing is verified yet.
    """
    if isinstance(repo_id, str) and repo_id and Path(repo_id).is_dir():
        remedy = to_load(repo_id) or "pass the name of a repository"
        raise fail("repo_id", "a repository of the hub", f"{repo_id}, a folder here", remedy)
    _check_name(repo_id)
    hub: Any = need("huggingface_hub", "hub")  # Any: it is optional
    with _asked(repo_id, token):
        folder = hub.snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=None if cache_dir is None else str(cache_dir),
            allow_patterns=list(files),
            local_files_only=local_files_only,
            token=token,
        )
    check_model(Path(folder), repo_id)
    return Path(folder)


def check_model(folder: Path, origin: str) -> None:
    """Raise unless a folder holds the two files of a model; `origin` is its name for people."""
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).exists()]
    if missing:
        remedy = "name a place that push_to_hub or `scoresde push` wrote"
        got = f"{origin} without {' and '.join(missing)}"
        raise refuse("repo_id", "a repository with a model of scoresde", got, remedy)


def _check_name(repo_id: object) -> None:
    if not isinstance(repo_id, str) or not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", repo_id, re.A):
        expected = "a repository of the hub such as 'user/model'"
        raise fail("repo_id", expected, repo_id, "letters, digits, '-', '_' and '.' are allowed")


@contextmanager
def _asked(repo_id: str, token: str | None) -> Iterator[None]:
    """Re-raise an error of the hub with the name of the repository and the remedy.

    A token that is in its text is struck out, and then the error itself, which holds it, is not
    shown as the cause.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.startswith("http")):
            raise
        reason = " ".join(str(error).split())
        hidden = _TOKEN.sub("***", reason if not token else reason.replace(token, "***"))
        raise OSError(
            f"repo_id: expected an answer of the hub for {repo_id!r}, got {type(error).__name__}: "
            f"{hidden}; check the name, and log in with hf auth login or set HF_TOKEN"
        ) from (error if hidden == reason else None)
