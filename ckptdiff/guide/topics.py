"""The guide for users: its pages, and the part about each class of faults."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from importlib import resources

from ckptdiff.errors import BadArgument

FAULTS = "faults"  # the page with a part for each class of faults
FOR_DEVELOPERS = "adding-"  # prefix of the pages on how to change ckptdiff
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)  # marks around tables that a test checks
_PART = re.compile(r"^## ([A-Z0-9-]+)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


@cache
def topics() -> dict[str, str]:
    """Return what each page is about, by its topic: pages for users first, then for developers."""
    files = [file for file in resources.files(__package__).iterdir() if file.name.endswith(".md")]
    names = sorted(file.name.removesuffix(".md") for file in files)
    names.sort(key=lambda name: name.startswith(FOR_DEVELOPERS))
    titles = {name: _read(name).partition("\n")[0].removeprefix("# ") for name in names}
    # "Keys: what each key does" is about "what each key does".
    return {name: title.partition(": ")[2] or title for name, title in titles.items()}


@cache
def fault_parts() -> dict[str, str]:
    """Return the part of the guide about each class of faults, as a page in Markdown."""
    return {
        name: f"# {name}\n\n{text.strip()}\n\nAll classes: [faults]({FAULTS}.md)\n"
        for name, text in _PART.findall(_read(FAULTS))
    }


def page(topic: str) -> str:
    """Return a page as Markdown, or the part on one class of faults. Raises BadArgument."""
    name = topic.lower().removesuffix(".md")
    if name in topics():
        return _read(name)
    if topic.upper() in fault_parts():
        return fault_parts()[topic.upper()]
    names = list(topics())
    known = {word.lower(): word for word in (*names, *fault_parts())}
    near = get_close_matches(name, known, n=1)
    meant = f". Is `ckptdiff help {known[near[0]]}` meant?" if near else ""
    raise BadArgument(
        f"help: there is no topic '{topic}'; there are {', '.join(names)}, and every class of "
        f"faults, such as QKV-SWAP{meant}"
    )


def _read(name: str) -> str:
    text = resources.files(__package__).joinpath(f"{name}.md").read_text(encoding="utf-8")
    return _COMMENT.sub("", text)
