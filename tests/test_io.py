"""Files that appear whole or not at all, whatever happens while they are written."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scoresde import _io

PACKAGE = Path(_io.__file__).parent


class Killed(BaseException):
    pass


def dying(patch: pytest.MonkeyPatch, call: int, *names: str) -> list[str]:
    """Make the process die at its call number `call` of these functions; the list of calls."""
    calls: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) > call:
                raise Killed
            return real(*arguments, **options)

        return act

    for name in names:
        owner = shutil if name == "rmtree" else os
        patch.setattr(owner, name, watched(name, getattr(owner, name)))
    return calls


def tree(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else sorted(place.glob("*"))
    return {file.name: file.read_text() for file in files}


def put(place: Path, text: str, folder: bool) -> None:
    with _io.replacing(place) as half:
        if folder:
            half.mkdir()
            (half / "a").write_text(text)
            (half / "b").write_text(text)
        else:
            half.write_text(text)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("call", range(9))
def test_death_at_any_call_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, folder: bool
) -> None:
    """As SIGKILL would: the calls that clean up fail as well."""
    place = tmp_path / "thing.npz"
    put(place, "old", folder)
    with monkeypatch.context() as patch:
        calls = dying(patch, call, "fsync", "replace", "unlink", "rmtree")
        with suppress(Killed):
            put(place, "new", folder)
    stands = place if place.exists() else _io.previous(place)
    assert set(tree(stands).values()) in ({"old"}, {"new"})
    if len(calls) <= call:
        assert set(tree(place).values()) == {"new"}
    put(place, "newer", folder)
    _io.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["thing.npz"] and set(tree(place).values()) == {"newer"}


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (False, ["fsync", "replace", "fsync"]),
        (True, ["fsync", "fsync", "fsync", "replace", "replace", "fsync"]),
    ],
)
def test_all_is_on_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool, expected: list[str]
) -> None:
    put(tmp_path / "thing", "old", folder)
    calls = dying(monkeypatch, 100, "fsync", "replace")
    put(tmp_path / "thing", "new", folder)
    assert calls == expected


def full(place: Path) -> None:
    """Write half of a file on a disk that is full then."""
    with _io.replacing(place) as half:
        half.write_text("ha")
        raise OSError("full")


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "new/codes.npz"
    with _io.replacing(place) as half:
        assert half.suffix == ".npz"  # by which numpy and others go
        half.write_text("old")
    with pytest.raises(OSError, match="full"):
        full(place)
    assert os.listdir(place.parent) == ["codes.npz"] and place.read_text() == "old"


@pytest.mark.parametrize("links", [True, False])
def test_of_two_processes_that_create_a_file_the_first_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda a, b: (_ for _ in ()).throw(OSError("no links")))
    _io.create(tmp_path / "a", b"first")
    if links:
        _io.create(tmp_path / "a", b"second")
    assert tree(tmp_path) == {"a": "first"}


def test_a_sweep_takes_only_what_was_half_written(tmp_path: Path) -> None:
    names = [".a.npz.0a1b2c3d.tmp.npz", ".b.0a1b2c3d.tmp", ".c.tmp", ".d", "a.npz", ".e.previous"]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / ".run.previous").mkdir()  # the only one there is: its writer died in between
    assert [p.name for p in _io.sweep(tmp_path, ["b"])] == [".b.0a1b2c3d.tmp"]
    assert [p.name for p in _io.sweep(tmp_path)] == [".a.npz.0a1b2c3d.tmp.npz"]
    assert sorted(os.listdir(tmp_path)) == sorted([*names[2:], ".run.previous"])
    (tmp_path / "run").mkdir()
    assert _io.sweep(tmp_path) == [] and not (tmp_path / ".run.previous").exists()
    assert _io.sweep(tmp_path / "nowhere") == []


def test_a_folder_with_two_names_shares_its_files(tmp_path: Path) -> None:
    put(tmp_path / "a", "x", folder=True)
    _io.link_folder(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path / "b") == tree(tmp_path / "a")
    if hasattr(os, "link"):
        assert (tmp_path / "a" / "b").stat().st_ino == (tmp_path / "b" / "b").stat().st_ino
    _io.remove(tmp_path / "a")
    _io.remove(tmp_path / "nowhere")
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_what_is_no_json_object_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="no json"):
        _io.read_json(tmp_path / "a.json")


def test_hashes(tmp_path: Path) -> None:
    assert _io.digest({"a": 1, "b": [2]}) == _io.digest({"b": [2], "a": 1}) != _io.digest({"a": 1})
    _io.write(tmp_path / "a", b'{"x": 1.5}')
    assert _io.read_json(tmp_path / "a") == {"x": 1.5}
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert _io.sha256(tmp_path / "abc") == known


def test_no_other_module_renames_or_flushes_files() -> None:
    calls = re.compile(r"os\.(replace|rename|fsync|link)\(|\.rename\(|\bflock|lockf\(")
    guilty = [
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if calls.search(file.read_text(encoding="utf-8"))
    ]
    assert guilty == ["_io.py"]


def test_files_that_are_set_aside_come_back_unless_there_is_a_new_result(tmp_path: Path) -> None:
    def old() -> None:
        for name in ("config.json", "result", "log-1", "mine"):
            (tmp_path / name).write_text("old")

    def replaced(*written: str, error: type[BaseException] | None = None) -> dict[str, str]:
        with suppress(Killed), _io.set_aside(tmp_path, ("result", "log-*"), "result"):
            assert not (tmp_path / "result").exists() and (tmp_path / "config.json").exists()
            for name in written:
                (tmp_path / name).write_text("new")
            if error is not None:
                raise error
        return tree(tmp_path)

    old()
    before = tree(tmp_path)
    assert replaced("config.json", "log-1", error=Killed) == before
    new = {"config.json": "new", "result": "new", "mine": "old"}
    assert replaced("config.json", "result", error=Killed) == new
    old()
    assert replaced("config.json", "result") == new


def test_a_killed_process_leaves_what_was_set_aside_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for result in ("old", "new"):
        (tmp_path / "result").write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr(_io, "_end_aside", lambda *_: None)
            with _io.set_aside(tmp_path, ("result",), "result"):
                if result == "new":
                    (tmp_path / "result").write_text("new")
        with _io.set_aside(tmp_path, (), "result"):
            assert (tmp_path / "result").read_text() == result
        assert not (tmp_path / ".replaced").exists()
