"""A hub that is a folder, in the place of the Hugging Face hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any


class Hub(ModuleType):
    """A hub that is a folder, with the functions of huggingface_hub that are used."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.asked = root, list[tuple[str, dict[str, Any]]]()

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool, token: Any) -> str:
        self.asked.append(("create", {"private": private, "token": token}))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub/{repo_id}"

    def upload_folder(
        self, *, repo_id: str, folder_path: str, commit_message: str, token: Any
    ) -> None:
        self.asked.append(("upload", {"message": commit_message}))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(
        self, repo_id: str, *, allow_patterns: list[str], cache_dir: str | None, **others: Any
    ) -> str:
        self.asked.append(("download", {"files": allow_patterns, **others}))
        if not (self.root / repo_id).is_dir():
            raise OSError("404 Client Error.\n\nRepository Not Found")
        place = Path(cache_dir or self.root / "cache") / repo_id
        place.mkdir(parents=True)
        for name in allow_patterns:
            if (self.root / repo_id / name).exists():
                (place / name).symlink_to(self.root / repo_id / name)  # as in their cache
        return str(place)
