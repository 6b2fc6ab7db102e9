"""Findings, their order and text, and the z-scores beyond which a number is one."""

import json
import math
from statistics import NormalDist

import pytest
import torch

from scoresde import VPSDE, Gaussian
from scoresde.doctor import Finding, Report, diagnose
from scoresde.doctor.finding import CHECKS, limit


def test_the_limits_of_all_checks_together_give_a_false_finding_in_one_of_a_hundred() -> None:
    for tests in (1, 12, 768):
        tail = 2 * (1 - NormalDist().cdf(limit(tests)))
        assert CHECKS * tests * tail == pytest.approx(0.01, rel=1e-6)
    assert limit(0) == limit(1)


def test_a_finding_refuses_an_unknown_severity() -> None:
    with pytest.raises(ValueError, match="severity: expected one of 'error', 'note', 'warning'"):
        Finding(name="x", severity="bad", number=0.0, reference=0.0, sentence="", remedy="")


def finding(name: str, severity: str = "error", damage: float = 0.0) -> Finding:
    return Finding(
        name=name,
        severity=severity,
        number=1.0,
        reference=0.0,
        sentence=f"This is {name}.",
        remedy="Repair it.",
        damage=damage,
        share=damage,
    )


def report(*findings: Finding) -> Report:
    nan = math.nan
    return Report(
        findings=findings,
        checks=("a", "b"),
        skipped={"c": "it was not asked for"},
        levels=(),
        loss=1.0,
        gaussian=nan,
        reference=nan,
    )


def test_a_report_says_the_first_finding_and_all_others() -> None:
    found = report(finding("a", damage=0.75), finding("b", "warning", 0.25), finding("c", "note"))
    assert not found.healthy and found.first is found.findings[0]
    assert "b" in found and "d" not in found and found["b"].damage == 0.25
    text = str(found)
    assert text.startswith("2 findings: a, and 1 more")
    assert "error: a (75 % of the damage): This is a." in text
    assert "not made: c: it was not asked for" in text
    with pytest.raises(KeyError):
        found["d"]


def test_notes_alone_are_a_healthy_report() -> None:
    found = report(finding("a", "note"))
    assert found.healthy and found.first is None
    assert str(found).startswith("Nothing is wrong")


def test_a_report_is_plain_json_without_nan() -> None:
    made = json.loads(report(finding("a", damage=math.inf)).to_json())
    assert made["gaussian"] is None and made["findings"][0]["damage"] is None
    assert made["findings"][0]["name"] == "a" and made["healthy"] is False


def test_the_report_of_a_real_examination_is_plain_json_too() -> None:
    truth = Gaussian(torch.zeros(2), torch.tensor([1.0, 0.3]))
    made = json.loads(diagnose(truth.under(VPSDE()), truth.sample(400)).to_json())
    assert made["healthy"] and len(made["levels"]) == 12
    assert made["about"]["shape"] == [2] and made["skipped"]["labels"]
