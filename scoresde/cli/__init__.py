"""The command line `scoresde`: train, sample, evaluate and inspect score models."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the interpreter with its exit code.

    Exit codes: 0 for success; 1 if the run failed; 2 for bad input, with a message on stderr; 130
    and 143 after SIGINT and SIGTERM.

    Args:
        arguments: those of the command line; `sys.argv[1:]` by default.

    Raises:
        SystemExit: always.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    try:
        import tyro  # noqa: F401
    except ImportError:
        print(
            "scoresde: the command line needs tyro, which is not installed; run: "
            "pip install 'scoresde[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    from scoresde.cli.app import run
    from scoresde.cli.common import as_program

    with as_program():
        run(sys.argv[1:] if arguments is None else arguments)
    raise SystemExit(0)
