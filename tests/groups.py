"""Options of a `Trainer` by name alone, for tests that change one of them at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scoresde.options import Loss, Optim, Records

GROUPS: dict[str, Any] = {"optim": Optim, "loss": Loss, "records": Records}


def grouped(**options: Any) -> dict[str, Any]:
    """The keywords of a `Trainer` with each option in its group; `loss` is the function itself."""
    if "loss" in options:
        options["function"] = options.pop("loss")
    for name, group in GROUPS.items():
        own = {f.name: options.pop(f.name) for f in fields(group) if f.name in options}
        if own:
            options[name] = group(**own)
    return options
