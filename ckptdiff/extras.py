"""The extras of the installation: which libraries each brings, and whether they are there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from ckptdiff.errors import NotInstalled

Extra = Literal["logits", "scores", "serve", "hub"]

# Modules by the names under which they are imported.
LIBRARIES: dict[Extra, tuple[str, ...]] = {
    "logits": ("torch", "tokenizers", "sentencepiece"),
    "scores": ("torch", "tokenizers", "sentencepiece", "lm_eval", "datasets"),
    "serve": ("textual_serve",),
    "hub": ("huggingface_hub",),
}
_WHAT: dict[Extra, str] = {
    "logits": "comparing logits",
    "scores": "comparing scores",
    "serve": "the screen in a browser",
    "hub": "looking up a model by its id",
}
MOST_SHOWN = 200  # characters of the error of an import


def why_not(extra: Extra) -> str:
    """Return one sentence about what is not installed, and how to; nothing if all is there.

    Imports nothing: whether an import works, `load` tells.
    """
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


def load(extra: Extra, library: str) -> None:
    """Import a library of an extra. Raises NotInstalled if it is there and does not work."""
    try:
        import_module(library)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        why = f"{type(error).__name__}: {first}"[:MOST_SHOWN].removesuffix(": ")
        raise not_working(extra, library, f"cannot be imported ({why})") from error


def not_working(extra: Extra, library: str, what: str) -> NotInstalled:
    """Return the error of a library that is there; `what` it does follows on "and"."""
    name = library.replace("_", "-")
    return NotInstalled(
        f"{_WHAT[extra]} needs {name}, which is installed and {what}. Install it anew, in a build "
        f"for this machine: pip uninstall {name}, then pip install {name}"
    )
