"""What every test shares: the device asked for, one thread per worker, and hypothesis' profile."""

import os
import signal
from collections.abc import Iterator

# Before numpy, scipy and torch read them: each xdist worker has one core, and no screen.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "scoresde",
    deadline=None,
    max_examples=25,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
hypothesis.settings.load_profile("scoresde")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the `device` fixture: cpu, cuda")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--device")
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError) as error:  # a CPU build of torch raises the latter
        raise pytest.UsageError(f"--device {name}: torch cannot use it here ({error})") from None


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Where the test puts its tensors: ``pytest --device cuda`` runs it on a real GPU."""
    return torch.device(pytestconfig.getoption("--device"))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Shells start background jobs with SIGINT ignored, which a run respects: not in here."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
