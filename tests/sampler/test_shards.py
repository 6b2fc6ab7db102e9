"""Samples in shards: the same from any number of processes, after kills, and nothing lost."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import stored
from PIL import Image
from shared import contents
from torch import Tensor, nn

from benchmarks import kill_sampling, memory
from scoresde import (
    VPSDE,
    Gaussian,
    Preconditioned,
    Quantisation,
    ReverseSampler,
    load,
    sample_to,
    save,
)
from scoresde.data import load_data, npz, samples
from scoresde.nets import MLP, UNet
from scoresde.noise import SCHEME, Independent
from scoresde.options import Pictures
from scoresde.sampler import Shards
from scoresde.sampler.manifest import hash_of, settings_of

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="forks and locks")
BYTES = Quantisation(256)


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return net


def images(seed: int = 0, steps: int = 3, solver: str = "dpmpp_2m_sde") -> ReverseSampler:
    """A random U-Net of three classes for 8 x 8 images."""
    net = UNet(1, width=4, multipliers=(1,), attention=(), heads=1, classes=3)
    model = Preconditioned(randomised(net, seed), VPSDE()).eval()
    return ReverseSampler(model.sde, model, solver, steps=steps)


def plain(scale: float = 1.0, steps: int = 3) -> ReverseSampler:
    """Entry by entry, so that rounding does not depend on the batch."""
    return ReverseSampler(
        VPSDE(), lambda t, x, label=None: -scale * x, "dpmpp_2m_sde", steps=steps
    )


def write(out: Path, n: int = 23, sampler: ReverseSampler | None = None, **changes: Any) -> Shards:
    options: dict[str, Any] = {"seed": 4, "labels": range(3), "quantisation": BYTES, "shard": 5}
    options |= {"batch_size": 2, "threads": 1} | changes
    return sample_to(
        sampler or images(), out, n, options.pop("shape", (1, 8, 8)), **stored(**options)
    )


def fork(act: Callable[[], Any]) -> Any:
    child = get_context("fork").Process(target=act)
    child.start()
    return child


# Any number of processes


@pytest.mark.parametrize("format", ["npz", "png"])
@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_writes_the_same_files(
    tmp_path: Path, count: int, format: str
) -> None:
    """To the bit, whoever comes first; noise that depended on the rank would show."""
    write(tmp_path / "one", format=format)
    for number in reversed(range(count)):
        done = write(tmp_path / "many", format=format, process=(number, count))
        assert done.drawn == len(range(number, 5, count)) and done.kept == 0
    assert done.missing == 0 and contents(tmp_path / "one") == contents(tmp_path / "many")


@POSIX
def test_processes_that_start_together_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one")
    monkeypatch.setenv("WORLD_SIZE", "3")
    children = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        children.append(fork(lambda: write(tmp_path / "many")))
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


TORCHRUN = """
import sys
sys.path[:0] = {tests!r}
from pathlib import Path
from test_shards import write
print(write(Path({out!r})))
"""


@pytest.mark.slow
@POSIX
def test_torchrun_writes_what_one_process_writes(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    text = TORCHRUN.format(
        tests=[str(ROOT / "tests"), str(ROOT / "tests/sampler")], out=str(tmp_path / "many")
    )
    script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "drawn=3" in done.stdout and "drawn=2" in done.stdout
    write(tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize(("shard", "batch_size"), [(23, 23), (5, 5), (7, 3), (1, 1)])
def test_noise_is_that_of_one_call_whatever_shard_and_batch(
    tmp_path: Path, shard: int, batch_size: int
) -> None:
    sampler = plain()
    whole = sampler.sample((23, 3), seed=4, first=11)
    options = {"quantisation": None, "labels": None, "shape": (3,), "first": 11}
    write(tmp_path, sampler=sampler, shard=shard, batch_size=batch_size, **options)
    assert torch.equal(samples(tmp_path).load().x, whole)


def test_a_later_first_goes_on_where_a_run_ended(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampler": plain(), "quantisation": None, "shape": (3,)}
    write(tmp_path / "all", 20, **options)
    write(tmp_path / "a", 10, **options)
    write(tmp_path / "b", 10, first=10, **options)
    parts = [samples(tmp_path / name).load() for name in ("a", "b")]
    whole = samples(tmp_path / "all").load()
    assert torch.equal(torch.cat([p.x for p in parts]), whole.x)
    assert torch.equal(torch.cat([p.cond["label"] for p in parts]), whole.cond["label"])


def test_levels_and_labels_are_those_of_the_sampler(tmp_path: Path) -> None:
    sampler = images()
    write(tmp_path, 11, sampler=sampler, shard=11, batch_size=11, labels=[2, 0])
    label = torch.tensor([2, 0] * 6)[:11]
    x = sampler.sample((11, 1, 8, 8), seed=4, cond={"label": label})
    with np.load(tmp_path / "shard-000000.npz") as arrays:
        assert arrays["x"].dtype == np.uint8 and arrays["index"].tolist() == list(range(11))
        assert np.array_equal(arrays["x"], BYTES.decode(x).numpy())
        assert np.array_equal(arrays["label"], label.numpy())
    other = sampler.sample((11, 1, 8, 8), seed=4, cond={"label": 1 + 0 * label})
    assert not torch.equal(x, other)  # the network hears the label


# Death and resumption


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("format", "call"), [("npz", k) for k in range(13)] + [("png", k) for k in range(18)]
)
def test_death_at_any_call_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, format: str
) -> None:
    """As SIGKILL would: nothing is cleaned up after the call at which the process dies.

    Manifest: fsync, link, unlink, fsync; a shard: fsync of each file and folder, replace, fsync.
    """
    options: dict[str, Any] = {"format": format, "sampler": plain(), "shard": 2, "n": 5}
    write(tmp_path / "whole", **options)
    expected, count = contents(tmp_path / "whole"), iter(range(10_000))

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **more: Any) -> Any:
            if next(count) >= call:
                raise Killed
            return real(*arguments, **more)

        return act

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "link", "unlink"):
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        with pytest.raises(Killed):
            write(tmp_path / "parts", **options)
    for name, content in contents(tmp_path / "parts").items():
        assert name.startswith(".") or content == expected[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*half-written")  # there is one after some of the calls
        done = write(tmp_path / "parts", **options)
    assert done.missing == 0 and contents(tmp_path / "parts") == expected


@POSIX
@pytest.mark.parametrize("format", ["npz", "png"])
def test_one_sigkill(tmp_path: Path, format: str) -> None:
    kill_sampling.survive(tmp_path, 1, {"n": 3 * 20, "shard": 3, "format": format}, seed=1)


@pytest.mark.slow
@pytest.mark.nightly
@POSIX
@pytest.mark.parametrize("format", ["npz", "png"])
def test_five_sigkills(tmp_path: Path, format: str) -> None:
    found = kill_sampling.survive(tmp_path, 5, {"n": 3 * 60, "shard": 3, "format": format})
    assert found["kills"] == 5 and found["equal_to_the_bit"]


def test_whole_shards_are_kept_and_the_rest_is_drawn(tmp_path: Path) -> None:
    write(tmp_path, format="npz")
    expected = contents(tmp_path)
    files = [tmp_path / f"shard-00000{k}.npz" for k in range(5)]
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-40])
    files[3].write_bytes(files[0].read_bytes())  # whole, but of other samples
    (tmp_path / ".shard-000004.npz.4e5f6a7b.tmp.npz").write_bytes(b"half")
    (tmp_path / ".sampling.json.0a1b2c3d.tmp.json").write_bytes(b"half")
    with pytest.warns(UserWarning, match="half-written|is damaged") as caught:
        done = write(tmp_path)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 3, texts
    assert "half-written" in texts[0]
    assert "000002.npz is damaged" in texts[1] and "000003.npz is damaged" in texts[2]
    assert (done.drawn, done.kept, done.missing) == (3, 2, 0)
    assert contents(tmp_path) == expected
    assert [files[k].stat().st_mtime_ns == before[k] for k in (0, 4)] == [True, True]


def test_a_picture_that_is_gone_is_drawn_again(tmp_path: Path) -> None:
    write(tmp_path, format="png")
    expected = contents(tmp_path)
    (tmp_path / "shard-000001/000000007.png").unlink()
    with pytest.warns(UserWarning, match="shard-000001 is damaged"):
        assert write(tmp_path, format="png").drawn == 1
    assert contents(tmp_path) == expected


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 5},
    "n": {"n": 24},
    "first": {"first": 5},
    "labels": {"labels": 1},
    "quantisation": {"quantisation": Quantisation(17)},
    "dtype": {"quantisation": None},
    "shard": {"shard": 4},
    "batch_size": {"batch_size": 5},
    "format": {"format": "png"},
    "shape": {"shape": (1, 8, 9)},
    "state": {"dtype": torch.float64},
    "model": {"sampler": images(seed=1)},
    "grid": {"sampler": images(steps=4)},
    "solver": {"sampler": images(solver="ancestral")},
    "eta": {"sampler": images(solver="ddim")},
    "threads": {"threads": 2},
}


@pytest.mark.parametrize("key", OTHERS)
def test_other_settings_on_the_same_folder_are_refused(tmp_path: Path, key: str) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)out: expected the settings of .*\b{key}: .*there"):
        write(tmp_path, **OTHERS[key])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("scheme", [None, 1, SCHEME + 1])
def test_samples_of_another_noise_scheme_are_not_continued(
    tmp_path: Path, scheme: int | None
) -> None:
    """A seed stands for other numbers there; the first scheme was not written down."""
    write(tmp_path)
    file = tmp_path / "sampling.json"
    manifest = json.loads(file.read_text())
    assert manifest.pop("noise_scheme") == SCHEME
    file.write_text(
        json.dumps(manifest if scheme is None else manifest | {"noise_scheme": scheme})
    )
    (tmp_path / "shard-000000.npz").unlink()
    before = contents(tmp_path)
    words = (
        rf"out: expected .*{re.escape(str(tmp_path))} to hold samples of noise scheme {SCHEME}, "
        rf"got scheme {scheme or 1}; nothing was changed: .*overwrite, or finish it with the"
    )
    with pytest.raises(ValueError, match=words):
        write(tmp_path)
    assert contents(tmp_path) == before
    assert write(tmp_path, overwrite=True).drawn == 5
    assert json.loads(file.read_text())["noise_scheme"] == SCHEME
    assert write(tmp_path).kept == 5


def test_overwrite_takes_the_place_of_other_settings_alone(tmp_path: Path) -> None:
    write(tmp_path / "a", format="png")
    (tmp_path / "a/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"overwrite: expected False with several processes"):
        write(tmp_path / "a", seed=5, overwrite=True, process=(0, 2))
    assert write(tmp_path / "a", seed=5, overwrite=True).drawn == 5
    assert (tmp_path / "a/notes.txt").read_text() == "mine"
    assert write(tmp_path / "a", seed=5, overwrite=True).kept == 5  # nothing to overwrite
    write(tmp_path / "b", seed=5)
    before = contents(tmp_path / "a")
    broken = ReverseSampler(VPSDE(), lambda t, x, label: x * math.nan, "ddim", steps=2)
    with pytest.raises(ValueError, match="expected finite scores"):
        write(tmp_path / "a", sampler=broken, overwrite=True)
    assert contents(tmp_path / "a") == before  # nothing is removed before there is a new shard
    (tmp_path / "a/notes.txt").unlink()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_threads_of_the_first_process_are_taken_over(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    write(tmp_path, threads=1, process=(0, 2))
    try:
        torch.set_num_threads(2)
        write(tmp_path, threads=None, process=(1, 2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "sampling.json").read_text())["threads"] == 1


# Bad input: a clear error, and nothing lost


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, "n: expected a positive integer"),
        ({"shape": 8}, r"shape: expected \(\*D\)"),
        ({"shape": ()}, r"shape: expected \(\*D\)"),
        ({"shape": (1, -8, 8)}, "shape: expected a positive integer"),
        ({"seed": -1}, "seed: expected an integer"),
        ({"first": 1.5}, "first: expected an integer"),
        ({"shard": 0}, "shard: expected a positive integer"),
        ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ({"threads": 0}, "threads: expected a positive integer"),
        ({"format": "pngs"}, "format: expected one of .*did you mean 'png'"),
        ({"labels": 3}, "labels: expected classes from 0 to 2, got 3"),
        ({"labels": [0, -1]}, "labels: expected classes from 0 to 2, got -1"),
        ({"labels": "7"}, "labels: expected whole numbers"),
        ({"labels": []}, "labels: expected whole numbers"),
        ({"quantisation": 256}, "quantisation: expected a Quantisation"),
        (
            {"format": "png", "quantisation": None},
            "quantisation: expected one of at most 256 levels",
        ),
        ({"format": "png", "quantisation": Quantisation(300)}, "at most 256 levels"),
        ({"format": "png", "shape": (2, 8, 8)}, "shape: expected .* 1, 3 or 4 channels"),
        ({"process": (2, 2)}, "process: expected a number below the count, got '2 of 2'"),
        ({"sampler": "images"}, "sampler: expected a ReverseSampler"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_an_environment_that_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ValueError, match="RANK, WORLD_SIZE: expected whole numbers"):
        write(tmp_path)


def test_a_model_that_answers_differently_each_time_is_refused(tmp_path: Path) -> None:
    model = Preconditioned(UNet(1, width=4, attention=(), heads=1, dropout=0.1), VPSDE())
    sampler = ReverseSampler(model.sde, model, steps=2)
    with pytest.raises(ValueError, match=r"dropout or batch norm.*call model\.eval\(\)"):
        write(tmp_path, sampler=sampler, labels=None)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(ValueError, match=r"out: expected a new folder.*with thesis\.tex"):
        write(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"out: expected a folder, got .*a file"):
        write(tmp_path / "thesis.tex")
    (tmp_path / "other").mkdir()
    for text, words in (("no json", "json"), ('{"format": "x"}', "format 'scoresde samples'")):
        (tmp_path / "other/sampling.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            write(tmp_path / "other")
    newer = {"format": "scoresde samples", "version": 2}
    (tmp_path / "other/sampling.json").write_text(json.dumps(newer))
    with pytest.raises(ValueError, match=r"expected version 1, got 2; install"):
        write(tmp_path / "other")
    assert contents(tmp_path).keys() == {"thesis.tex", "other/sampling.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("format", ["npz", "png"])
def test_no_space_is_a_clear_error_that_keeps_what_there_is(tmp_path: Path, format: str) -> None:
    """A quota that the third shard meets, because something else took the room."""
    options: dict[str, Any] = {"format": format, "sampler": plain(), "shape": (3, 16, 16)}
    write(tmp_path / "whole", 10, **options)
    write(tmp_path / "parts", 10, process=(0, 2), **options)
    before, soft = contents(tmp_path / "parts"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, soft[1]))
    try:
        with pytest.raises(OSError, match=r"expected to write .*shard-000001.*is intact: free"):
            write(tmp_path / "parts", 10, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    assert contents(tmp_path / "parts") == before  # no half is left, which would hold the space
    write(tmp_path / "parts", 10, **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_no_permission_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", 5)
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"out: expected to write .*correct the permissions"):
        write(tmp_path / "a", 5)
    if Path("/proc/version").exists():
        with pytest.raises(OSError, match=r"out: expected to write /proc/samples"):
            write(Path("/proc/samples"), 5)


@POSIX
def test_two_runs_do_not_draw_the_same_shard(tmp_path: Path) -> None:
    """The other process holds shard 3 as a run does; a process that needs others only goes on."""
    import fcntl

    write(tmp_path, process=(0, 2))

    def hold() -> None:
        with (tmp_path / "sampling.json").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 3)
            ready.set()
            leave.wait(60)

    ready, leave = get_context("fork").Event(), get_context("fork").Event()
    child = fork(hold)
    ready.wait(60)
    try:
        with pytest.raises(ValueError, match="another process draws shard 3"):
            write(tmp_path, process=(1, 2))
        assert write(tmp_path, process=(1, 4)).drawn == 1
    finally:
        leave.set()
        child.join()
    assert write(tmp_path).drawn == 1


def test_a_sample_that_is_not_finite_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    start = Independent(4).from_sample(7).prior(torch.empty(1, 3))
    bad = VPSDE().sample_prior(start)[0, 0]

    def score(t: Tensor, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] == bad, torch.nan, -x)

    sampler = ReverseSampler(VPSDE(), score, "ddim", steps=1, denoise=False)
    options: dict[str, Any] = {"quantisation": None, "labels": None, "shape": (3,)}
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 2 samples, first in 7"):
        write(tmp_path, sampler=sampler, **options)
    assert sorted(os.listdir(tmp_path)) == ["sampling.json", "shard-000000.npz"]


# What tells one model from another


def test_the_hash_of_a_model_is_of_its_content(tmp_path: Path) -> None:
    def model(seed: int = 0, **options: Any) -> Preconditioned:
        return Preconditioned(randomised(MLP(2, width=8, classes=4), seed), VPSDE(), **options)

    first = model()
    assert hash_of(first) == hash_of(model()) == hash_of(load(save(first, tmp_path / "m")))
    others = [model(1), model(predicts="eps"), model(time="log_snr"), model(null={"label": 3})]
    sde, one = VPSDE(), torch.tensor(1.0)
    others += [Gaussian(torch.full((2,), float(k)), one).under(sde) for k in (0, 1)]
    assert len({hash_of(m) for m in [first, *others]}) == 7
    with torch.no_grad():
        next(first.parameters())[0, 0] += 1e-6
    assert hash_of(first) != hash_of(model())
    eta = ReverseSampler(sde, first, "ancestral", grid=[1.0, 0.5, 0.1], eta=lambda t: 0.5 * t)
    assert settings_of(eta)["eta"] == [0.5, 0.25, 0.05]


# Reading


@pytest.mark.parametrize("format", ["npz", "png"])
def test_a_folder_reads_back_as_a_data_set(tmp_path: Path, format: str) -> None:
    write(tmp_path, format=format)
    data = load_data(tmp_path)
    whole = data.load()
    assert len(data) == 23 and data.quantisation == BYTES and whole.x.shape == (23, 1, 8, 8)
    assert whole.cond["label"].tolist() == [i % 3 for i in range(23)]
    rows = torch.tensor([22, 0, 7, 7, 13])
    assert torch.equal(data[rows].x, whole.x[rows])
    assert torch.equal(data[4:9].x, whole.x[4:9])
    levels = BYTES.decode(whole.x).numpy()
    if format == "npz":
        shards = [np.load(tmp_path / f"shard-00000{k}.npz")["x"] for k in range(5)]
        assert np.array_equal(levels, np.concatenate(shards))
        (tmp_path / "shard-000002.npz").write_bytes(b"PK")
        with pytest.raises(ValueError, match=r"shard-000002\.npz: expected a whole shard"):
            data[10:12]
        (tmp_path / "shard-000002.npz").unlink()
        with pytest.raises(ValueError, match=r"1 of 5 missing, first shard-000002"):
            samples(tmp_path)
    else:
        write(tmp_path / "arrays")
        assert torch.equal(samples(tmp_path / "arrays").load().x, whole.x)
    with pytest.raises(ValueError, match=r"size: expected nothing, for a folder of samples"):
        load_data(tmp_path, pictures=Pictures(size=4))


def test_a_shard_reads_back_by_itself(tmp_path: Path) -> None:
    write(tmp_path)
    alone = load_data(tmp_path / "shard-000001.npz", key="x", label="label", levels=256).load()
    assert torch.equal(alone.x, samples(tmp_path)[5:10].x)
    assert torch.equal(alone.cond["label"], samples(tmp_path)[5:10].cond["label"])
    assert len(npz(tmp_path / "shard-000004.npz", "x")) == 3


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_pictures_of_few_levels_use_all_of_the_grey(tmp_path: Path, low: float) -> None:
    quantisation = Quantisation(5, low, 1.0)
    write(
        tmp_path / "png", format="png", quantisation=quantisation, shape=(3, 8, 8), sampler=plain()
    )
    write(tmp_path / "npz", quantisation=quantisation, shape=(3, 8, 8), sampler=plain())
    pictures, arrays = samples(tmp_path / "png"), samples(tmp_path / "npz")
    levels = quantisation.decode(arrays.load().x)
    assert levels.unique().tolist() == [0, 1, 2, 3, 4]
    with Image.open(tmp_path / "png" / "shard-000000" / "000000000.png") as image:
        grey = torch.as_tensor(np.array(image)).permute(2, 0, 1)
    assert torch.equal(grey, torch.tensor([0, 64, 128, 191, 255], dtype=torch.uint8)[levels[0]])
    assert pictures.quantisation == arrays.quantisation == quantisation
    assert torch.equal(pictures.load().x, arrays.load().x)


# Memory


@pytest.mark.slow
@POSIX
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    """20,000 images, 63 MB as floats; the script benchmarks/memory.py takes 50,000."""
    one, many = (memory.measured(n, "npz")[0] for n in (500, 20_000))
    assert many - one < 30
