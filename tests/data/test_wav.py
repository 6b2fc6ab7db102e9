"""WAV files as signals, and signals as WAV files."""

import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refuses

from scoresde.data import load_data, split, wav, write_wav
from scoresde.data.wav import WavRows


def sound(n: int, channels: int = 1, seed: int = 0) -> np.ndarray[Any, Any]:
    """Amplitudes (n, channels) from -1 to 1."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (n, channels))


def written(
    folder: Path, x: np.ndarray[Any, Any], width: int = 2, rate: int = 8000, name: str = "a.wav"
) -> Path:
    """A file of PCM, packed here by the definition of the format."""
    top = 2 ** (8 * width - 1)
    levels = np.round(x * (top - 1)).astype(np.int64)
    if width == 1:
        content = (levels + 128).astype(np.uint8).tobytes()
    else:
        numbers = levels.ravel().tolist()
        content = b"".join(k.to_bytes(width, "little", signed=True) for k in numbers)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / name), "wb") as file:
        file.setnchannels(x.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)
    return folder / name


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_windows_are_amplitudes_in_order(tmp_path: Path, width: int, channels: int) -> None:
    x = sound(107, channels)
    data = wav(written(tmp_path, x, width), window=10, standardise=False)
    assert data.x.shape == (10, channels, 10)
    got = data.x[:].numpy().transpose(0, 2, 1).reshape(100, channels)
    np.testing.assert_allclose(got, x[:100], atol=2.0 ** (2 - 8 * width) + 1e-7)
    np.testing.assert_array_equal(data.x[torch.tensor([7, 2])].numpy()[1], data.x[2].numpy())
    assert data.scaling is None


def test_a_folder_is_cut_file_by_file_with_classes_and_units(tmp_path: Path) -> None:
    sizes = {"dog/a.wav": 35, "dog/b.wav": 20, "cat/c.wav": 9, "cat/d.wav": 18}
    sounds = {name: 0.1 + 0.01 * sound(n, seed=n) for name, n in sizes.items()}
    for name, x in sounds.items():
        written(tmp_path, x, name=name)
    with pytest.warns(UserWarning, match=r"1 of 4 files are shorter than 10 .* c.wav with 9"):
        data = load_data(tmp_path, window=10)
    assert data.cond["label"].tolist() == [0, 1, 1, 1, 1, 1]
    assert data.class_names == ("cat", "dog")
    x = data.x[:]
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(correction=0)) - 1) < 1e-5
    assert data.scaling is not None
    raw = data.scaling.decode(x.double()).numpy()[:, 0]
    order = [
        ("cat/d.wav", 0),
        *(("dog/a.wav", k) for k in range(3)),
        ("dog/b.wav", 0),
        ("dog/b.wav", 1),
    ]
    for row, (name, k) in zip(raw, order, strict=True):
        np.testing.assert_allclose(row, sounds[name][10 * k : 10 * k + 10, 0], atol=1e-4)
    plain = wav(tmp_path, 9, labels=False)
    assert plain.cond == {}
    assert len(plain) == 1 + 2 + 3 + 2
    first, second = split(plain, 0.5)
    assert len(first) + len(second) == len(plain)
    rows = plain.x.base  # type: ignore[attr-defined]
    assert isinstance(rows, WavRows)
    assert rows.identity(torch.tensor([0, 3])) == [b"cat/c.wav#0", b"dog/a.wav#0"]


def test_files_of_one_length_need_no_window(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "c.WAV"):
        written(tmp_path, sound(16), name=name)
    assert wav(tmp_path).x.shape == (3, 1, 16)


def test_bad_recordings_are_refused(tmp_path: Path) -> None:
    a = written(tmp_path, sound(40))
    refuses(lambda: wav(a), ["window", "None, for 1 files of 40", "window="])
    refuses(lambda: wav(a, 41), ["window", "at most 40", "41"])
    refuses(lambda: wav(a, 0), ["window", "positive"])
    refuses(lambda: wav(tmp_path / "none.wav", 4), ["no file or folder"], FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refuses(lambda: wav(tmp_path / "empty", 4), [".wav files"])
    written(tmp_path, sound(40), rate=16000, name="b.wav")
    refuses(lambda: wav(tmp_path, 4), ["one rate", "8000 Hz in", "16000 Hz in", "b.wav"])
    written(tmp_path, sound(40, 2), name="b.wav")
    refuses(lambda: wav(tmp_path, 4), ["one number of channels", "b.wav"])
    (tmp_path / "b.wav").write_bytes(b"no sound")
    refuses(lambda: wav(tmp_path, 4), ["b.wav", "a WAV file of PCM", "ffmpeg"])
    content = a.read_bytes()
    data = wav(a, 10, standardise=False)
    a.write_bytes(content[:-30])
    refuses(lambda: data.x[:], ["a.wav", "as its header says"])
    refuses(lambda: load_data(a, layout="NCL"), ["layout", "a .wav file takes window"])


def test_a_signal_is_written_and_read_back(tmp_path: Path) -> None:
    x = torch.from_numpy(sound(30, 2).T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_wav(tmp_path / "s.wav", x, rate=22050)
    data = wav(tmp_path / "s.wav", 30, standardise=False)
    torch.testing.assert_close(data.x[0].double(), x, atol=2.0**-15, rtol=0)
    with wave.open(str(tmp_path / "s.wav")) as file:
        assert file.getframerate() == 22050
    with pytest.warns(UserWarning, match="50 % of the values are beyond"):
        write_wav(tmp_path / "s.wav", torch.tensor([[0.5, 1.5]]), rate=8000)
    refuses(lambda: write_wav(tmp_path / "s.wav", torch.zeros(3), 8000), ["x", "(C, L)"])
    refuses(lambda: write_wav(tmp_path / "s.wav", torch.zeros(1, 3), 0), ["rate"])
