"""Streams: one table of what is drawn for which purpose, and none draws another's numbers."""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import scoresde
from scoresde.node import Node
from scoresde.noise import SCHEME, STREAMS, BrownianPath, Independent, Noise, PathOnGrid
from scoresde.noise.base import key
from scoresde.sde import VPSDE

VP = VPSDE()
NODES = [Node(t, 0.0) for t in (0.0, 0.3, 0.6, 1.0)]
SEGMENTS = (0, 1, 2, 7)
COUNTERS = ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**40,))


def keys() -> Iterator[int]:
    """The keys of all kinds of draw of every stream, over segments, intervals and counters."""
    for name, segment in itertools.product(STREAMS, SEGMENTS):
        for now, nxt in itertools.permutations((n.t for n in NODES), 2):
            yield key(5, name, segment, now, nxt)
        for node, number in itertools.product(NODES, COUNTERS):
            yield key(5, name, segment, node.t, node.t, *number)


def assert_disjoint() -> None:
    drawn = [*keys()]
    assert len(set(drawn)) == len(drawn) == len(STREAMS) * len(SEGMENTS) * (12 + 28)


def test_streams_segments_intervals_and_counters_are_disjoint() -> None:
    assert_disjoint()


def test_two_streams_of_one_number_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would fail: checked with a table that has this fault."""
    assert len({stream.number for stream in STREAMS.values()}) == len(STREAMS)
    key.cache_clear()
    shared = STREAMS["probe"]._replace(number=STREAMS["levy"].number)
    monkeypatch.setitem(STREAMS, "probe", shared)
    with pytest.raises(AssertionError):
        assert_disjoint()
    monkeypatch.undo()
    key.cache_clear()
    assert_disjoint()


def test_streams_are_uncorrelated() -> None:
    """All pairs of streams, intervals, segments and counters, within 5.2 standard errors."""
    like = torch.empty(16_000, 1, dtype=torch.float64)
    drawn: list[Tensor] = []
    for name in STREAMS:
        source = Independent(3).stream(name)
        drawn += [source.normal(like, NODES[2], NODES[1]), source.draw(like, 0)]
        drawn += [source.draw(like, 1), source.draw(like, 0, 1), source.draw(like, at=NODES[2].t)]
        drawn += [source.on_segment(1).draw(like), source.on_segment(1).draw(like, 1)]
        drawn += [source.on_segment(2).normal(like, NODES[2], NODES[1])]
    z = torch.stack([x.flatten() for x in drawn])
    correlation = z @ z.T / z.shape[1]
    off = correlation - torch.diag(correlation.diag())
    assert float((correlation.diag() - 1).abs().max()) < 5 * math.sqrt(2 / z.shape[1])
    pairs = len(drawn) * (len(drawn) - 1) // 2
    assert pairs > 5000 and float(off.abs().max()) * math.sqrt(z.shape[1]) < 5.2


@pytest.mark.parametrize(
    "noise", [Independent(2), PathOnGrid(2, VP, (0.9, 0.5, 0.1)), BrownianPath(2, VP)], ids=repr
)
def test_a_stream_keeps_seed_segment_and_sample(noise: Noise) -> None:
    """On a path too, whose increments alone are those of the path."""
    like, placed = torch.empty(4, 3), noise.from_sample(5).on_segment(2)
    assert placed.stream("steps").first == 5 and placed.stream("steps").segment == 2
    for name in sorted({*STREAMS} - {"steps"}):
        stream = placed.stream(name)
        assert (stream.seed, stream.first, stream.segment) == (2, 5, 2)
        assert torch.equal(stream.draw(like, 3), Independent(2, 5, 2, name).draw(like, 3))
        later = placed.from_sample(7).stream(name).draw(like[2:], 3)
        assert torch.equal(stream.draw(like, 3)[2:], later)


def test_an_unknown_stream_is_an_error_that_names_the_nearest() -> None:
    for make in (Independent(0).stream, BrownianPath(0, VP).stream):
        with pytest.raises(ValueError, match=r"stream: expected one of .*'prior'.*got 'priors'"):
            make("priors")
    with pytest.raises(ValueError, match=r"did you mean 'langevin'\?"):
        Independent(0, name="langevins")
    with pytest.raises(ValueError, match=r"number: expected an integer in \[0, 2\*\*63\), got -1"):
        Independent(0).draw(torch.empty(2, 2), -1)
    with pytest.raises(ValueError, match=r"segment: expected an integer .*got -3"):
        Independent(0).on_segment(-3)


def test_every_stream_of_the_table_is_drawn_from_and_no_other() -> None:
    """The table lists what the package draws: each name stands in the code outside of it."""
    root = Path(scoresde.__file__).parent
    text = "\n".join(
        file.read_text(encoding="utf-8")
        for file in sorted(root.rglob("*.py"))
        if file.name != "streams.py"
    )
    used = {*re.findall(r'\.stream\("(\w+)"\)', text), "steps", "path"}
    assert used == {*STREAMS}
    assert all(stream.use for stream in STREAMS.values())


def test_the_numbers_of_a_seed_are_those_of_the_scheme() -> None:
    """Whatever changes them raises `SCHEME`, and these digits with it."""
    assert SCHEME == 2
    like, now, nxt = torch.empty(2, 2, dtype=torch.float64), VP.at(0.5), VP.at(0.25)
    independent, path = Independent(1, first=3, segment=2), BrownianPath(1, VP)
    digits = {
        "steps": independent.normal(like, now, nxt),
        "levy": independent.levy(like, now, nxt)[1],
        "prior": independent.prior(like),
        "probe": independent.stream("probe").draw(like, 4, at=0.5),
        "path": path.normal(like, now, nxt),
        "area": path.levy(like, now, nxt)[1],
    }
    found = {name: round(float(z[1, 0]), 6) for name, z in digits.items()}
    assert found == pytest.approx(DIGITS, abs=2e-6)


DIGITS = {
    "steps": 0.243167,
    "levy": -1.234972,
    "prior": 1.038461,
    "probe": 0.601151,
    "path": 0.758342,
    "area": 0.283008,
}
