"""A command line run in this process: what it prints, and its exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
from typing import Any, NamedTuple
from unittest.mock import patch

from scoresde.cli.app import run


class Result(NamedTuple):
    """What a command line printed."""

    stdout: str
    stderr: str


def call(line: str, code: int = 0) -> Result:
    """What a command line prints; its exit code must be as expected."""
    out, err, found = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.dict(os.environ, {"COLUMNS": "200"}),
    ):
        try:
            run(shlex.split(line))
        except SystemExit as end:
            found = end.code
    assert found == code, (line, found, out.getvalue(), err.getvalue())
    return Result(out.getvalue(), err.getvalue())


def answer(line: str) -> dict[str, Any]:
    """The one JSON object that a command prints on stdout."""
    found: dict[str, Any] = json.loads(call(f"{line} --json").stdout)
    return found


def refused(line: str, *words: str) -> str:
    """The message of bad input: exit code 2, nothing on stdout, no traceback."""
    result = call(line, 2)
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert result.stdout == "" and "Traceback" not in text
    for word in words:
        assert word in text, text
    return text
