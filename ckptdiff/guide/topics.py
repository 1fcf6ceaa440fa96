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
# Words that are printed and are no page: the page that has a part on each, and its heading.
SECTIONS = {
    "adapter": ("formats", "Adapters"),
    "convert": ("formats", "What `convert` writes"),
    "tolerance": ("verdicts", "Tolerance"),
}
# The pages that explain verdicts, and under which heading.
VERDICTS = (("verdicts", "The whole"), ("logits", "The verdict"), ("scores", "The verdict"))
_STATUS = re.compile(r"^\| `.` \| `(\w+)` \| (.*?) \|$", re.MULTILINE)
_VERDICT = re.compile(r"^- `([a-z-]+)`: (.*?)(?=^- |^\n|\Z)", re.DOTALL | re.MULTILINE)
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


@cache
def word_parts() -> dict[str, str]:
    """Return what the guide says of each status and verdict, and of other words, as pages."""
    said: dict[str, list[str]] = {}
    for name, text in _STATUS.findall(_read("verdicts")):
        said.setdefault(name, []).append(f"Of one tensor: {text}.")
    for which, heading in VERDICTS:
        for name, text in _VERDICT.findall(_section(which, heading)):
            words = " ".join(text.split()).rstrip(";.")
            said.setdefault(name, []).append(f"Of the whole: {words}.")
            said[name].append(f"All of them: [{which}]({which}.md)")
    for name, (which, heading) in SECTIONS.items():
        text = _section(which, heading)
        said[name] = [text, f"The whole page: [{which}]({which}.md)"]
    more = "All of them: [verdicts](verdicts.md)"
    return {
        name: "\n\n".join([f"# {name}", *parts, *([] if "](" in parts[-1] else [more])]) + "\n"
        for name, parts in said.items()
    }


def _section(name: str, heading: str) -> str:
    """Return what stands on a page under a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", _read(name), re.M | re.S)
    return found.group(1).strip() if found is not None else ""


def page(topic: str) -> str:
    """Return a page as Markdown, or the part on one class of faults or on a word that is printed.

    Raises BadArgument for any other topic.
    """
    name = topic.lower().removesuffix(".md")
    if name in topics():
        return _read(name)
    if topic.upper() in fault_parts():
        return fault_parts()[topic.upper()]
    if name in word_parts():
        return word_parts()[name]
    names = list(topics())
    known = {word.lower(): word for word in (*names, *fault_parts(), *word_parts())}
    near = get_close_matches(name, known, n=1)
    meant = f". Is `ckptdiff help {known[near[0]]}` meant?" if near else ""
    raise BadArgument(
        f"help: there is no topic '{topic}'; there are {', '.join(names)}, and every class of "
        f"faults, status and verdict, such as QKV-SWAP and packed{meant}"
    )


def _read(name: str) -> str:
    text = resources.files(__package__).joinpath(f"{name}.md").read_text(encoding="utf-8")
    return _COMMENT.sub("", text)
