"""The extras of the installation: which libraries each brings, and whether they are there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from ckptdiff.errors import NotInstalled

Extra = Literal["logits", "scores", "serve"]

# Modules by the names under which they are imported; nothing here imports them.
LIBRARIES: dict[Extra, tuple[str, ...]] = {
    "logits": ("torch", "tokenizers", "sentencepiece"),
    "scores": ("torch", "tokenizers", "sentencepiece", "lm_eval", "datasets"),
    "serve": ("textual_serve",),
}
_WHAT: dict[Extra, str] = {
    "logits": "comparing logits",
    "scores": "comparing scores",
    "serve": "the screen in a browser",
}


def why_not(extra: Extra) -> str:
    """Return one sentence about what is not installed, and how to; nothing if all is there."""
    missing = [name.replace("_", "-") for name in LIBRARIES[extra] if find_spec(name) is None]
    if not missing:
        return ""
    listed = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
    return (
        f"{_WHAT[extra]} needs {listed}, which {'are' if missing[1:] else 'is'} not installed: "
        f"pip install 'ckptdiff[{extra}]'"
    )


def require(extra: Extra) -> None:
    """Raise NotInstalled unless all libraries of an extra are there."""
    if why := why_not(extra):
        raise NotInstalled(why)
