"""The table of the commands."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getdoc, signature
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from scoresde.cli import compare, encode, export, inspect, interpolate, likelihood, sample, train
from scoresde.cli.common import TRACEBACK, guarded
from scoresde.cli.loaders import WithLoaders

__all__ = ["COMMANDS", "app"]

COMMANDS: tuple[tuple[Callable[..., Any], str], ...] = (
    (train.train, train.EXAMPLES),
    (sample.sample, sample.EXAMPLES),
    (likelihood.likelihood, likelihood.EXAMPLES),
    (encode.encode, encode.EXAMPLES),
    (encode.decode, encode.DECODE_EXAMPLES),
    (interpolate.interpolate, interpolate.EXAMPLES),
    (compare.compare, compare.EXAMPLES),
    (inspect.inspect, inspect.EXAMPLES),
    (export.export, export.EXAMPLES),
)
"""A command, and the examples below its help."""

app = typer.Typer(
    name="scoresde",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"scoresde {version('scoresde')}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 by signals.")
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print it.", is_eager=True, callback=_version)
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", envvar=TRACEBACK, help="Show where an error comes from."),
    ] = False,
) -> None:
    """Score-based generative models: train them, sample from them, judge them, look into them."""


def _unwrapped(function: Callable[..., Any]) -> str:
    """The docstring with each paragraph in one line, for the terminal to wrap."""
    paragraphs = (getdoc(function) or "").split("\n\n")
    return _literal("\n\n".join(" ".join(part.split()) for part in paragraphs))


def _literal(text: str) -> str:
    """The text as typer shows it to the letter: rich takes scoresde[export] for a style."""
    try:
        from rich.markup import escape
    except ImportError:
        return text
    return escape(text)


for function, examples in COMMANDS:
    kind = WithLoaders if "data_option" in signature(function).parameters else TyperCommand
    command = app.command(cls=kind, help=_unwrapped(function), epilog=_literal(examples))
    command(guarded(function))
