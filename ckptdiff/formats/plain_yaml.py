"""Read a YAML file as plain values: dictionaries, lists, text, numbers. No tag makes an object."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.files import read_small

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES = 8_000_000  # the largest real config seen has some 100 kB
MAX_NODES = 500_000  # values, keys and containers
MAX_DEPTH = 100  # of nested containers
TARGET = "_target_"  # the key under which configs name a class or function, and we a tag

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
    "-.inf": -math.inf,
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_PLAIN_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,40}")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")


def read_yaml(file: Path, *, may_tag: bool = True) -> Any:
    """Return what the first document of a file holds.

    A tag is never followed: what it names stands in the dictionary as `_target_`, as Hydra's
    configs spell it, and for an empty scalar in its place. An alias is the same object once more.
    Raises CorruptFile for a file that is no YAML, or is made to fill memory, or has a tag though
    it may not (`may_tag`), and UnreadableFile.
    """
    # Only folders of two programs have such a file.
    import yaml  # type: ignore[import-untyped]

    try:
        text = read_small(file, MAX_BYTES).decode("utf-8")
        # libyaml's parser is ten times as fast; where PyYAML was built without it, its own is used.
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return _Builder(yaml, may_tag=may_tag).document(yaml.parse(text, Loader=loader))
    except CorruptFile as error:
        raise CorruptFile(f"{file}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = " ".join(str(error).split())[:200]
        raise CorruptFile(f"{file}: is not YAML ({where})") from error


def yaml_bytes(value: Any) -> bytes:
    """Return plain values as a file of YAML, which any of its readers loads."""
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=False, sort_keys=True)
    return text.encode()


class _Builder:
    """Makes plain values of a parser's events. What the parser says is not trusted to be short."""

    def __init__(self, yaml: Any, *, may_tag: bool) -> None:
        self.yaml = yaml
        self.may_tag = may_tag
        self.nodes = 0
        self.anchors: dict[str, Any] = {}

    def document(self, events: Iterator[Any]) -> Any:
        """Return the value of the first document; None if there is none."""
        for event in events:
            if not isinstance(event, (self.yaml.StreamStartEvent, self.yaml.DocumentStartEvent)):
                if isinstance(event, self.yaml.StreamEndEvent):
                    return None
                return self._value(event, events, 0)
        return None

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise CorruptFile("has more values, or more of them nested, than a config can have")
        if isinstance(event, self.yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise CorruptFile(f"refers to {event.anchor[:60]!r}, which is not there")
            return self.anchors[event.anchor]
        if not self.may_tag and event.tag not in _PLAIN_TAGS:
            raise CorruptFile(f"has {event.tag[:60]}, which could run code: give plain values")
        made: Any
        if isinstance(event, self.yaml.ScalarEvent):
            made = _scalar(event)
            self._name(event, made)
            return made
        made = [] if isinstance(event, self.yaml.SequenceStartEvent) else {}
        self._name(event, made)
        named = _tag(event)
        if isinstance(made, list):
            while not isinstance(item := next(events), self.yaml.SequenceEndEvent):
                made.append(self._value(item, events, depth + 1))
            return made
        if named:
            made[TARGET] = named
        while not isinstance(item := next(events), self.yaml.MappingEndEvent):
            key = self._value(item, events, depth + 1)
            value = self._value(next(events), events, depth + 1)
            # Another key is left out: no config has one. Many large integers can have one hash.
            if isinstance(key, (str, float)) or key is None or _is_small(key):
                made[key] = value
        return made

    def _name(self, event: Any, made: Any) -> None:
        if event.anchor is not None:
            self.anchors[event.anchor] = made


def _is_small(key: object) -> bool:
    return isinstance(key, int) and abs(key) < 1 << 60


def _tag(event: Any) -> str:
    """Return what a tag of Python's names, such as `torch.float32`; "" for any other tag.

    `!!python/name:torch.float32` and `!!python/object/apply:torch.dtype` both name it behind the
    colon.
    """
    tag = event.tag or ""
    return tag.rpartition(":")[2] if "python/" in tag and "tag:yaml.org" in tag else ""


def _scalar(event: Any) -> Any:
    """Return a scalar's value; one in quotes, or with a tag of its own, is text."""
    text: str = event.value
    if named := _tag(event):
        kind = event.tag.rpartition("python/")[2]
        return named if kind.startswith(("name:", "module:", "object")) and not text else text
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if len(text) < 60 and _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text
