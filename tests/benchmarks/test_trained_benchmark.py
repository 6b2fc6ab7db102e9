"""What the benchmark of trained networks says of its figures, on figures made by hand."""

from __future__ import annotations

from benchmarks import trained


def runs(*rows: tuple[str, int, float | None, float]) -> list[trained.Run]:
    return [trained.Run(m, n, n, error, quality, 1.0, 0.0) for m, n, error, quality in rows]


def test_a_sampler_has_settled_where_it_stays() -> None:
    made = runs(
        ("a", 5, 0.3, 1.1), ("a", 10, 0.2, 2.0), ("a", 20, 0.1, 1.0), ("a", 50, 0.01, 0.9),
        ("b", 5, None, 1.0), ("b", 10, None, 3.0),
    )  # fmt: skip
    assert trained.resolve(made, trained.Value(1.0, 0.1)) == {"a": 20, "b": None}


def test_the_limit_is_before_the_first_run_that_is_off() -> None:
    made = runs(
        ("a", 5, 0.3, 1.0), ("a", 10, 0.2, 1.3), ("a", 20, 0.1, 1.1), ("a", 50, 0.01, 0.9),
        ("noisy", 50, None, 9.0),
    )  # fmt: skip
    there, first, beyond = trained.limit(made, trained.Value(1.0, 0.1))
    assert [r.error for r in there] == [0.01, 0.1]
    assert (first.error, [r.error for r in beyond]) == (0.2, [0.3])


def test_a_calibration_fails_its_check_by_cost_or_by_its_held_back_trajectories() -> None:
    fields = dict(budget=10, solver="", start="", gradients=0, seconds=0.0, note="")
    good = dict(before=0.2, after=0.1, rows=50_000, counted=50_000)
    assert trained.Found(**fields, **good).kept
    for change in ({"rows": 50_001, "counted": 50_001}, {"after": 0.21}, {"counted": 50_002}):
        assert not trained.Found(**fields, **(good | change)).kept
