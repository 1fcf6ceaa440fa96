"""Read the JSON files beside weights: config.json, indices, params.json."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.files import read_small

if TYPE_CHECKING:
    from pathlib import Path

MAX_JSON = 64_000_000  # bytes; the largest real index seen has 14 MB
# What a file may hold at most, so that it takes less than 1 GB. An index has two texts a tensor.
MAX_TEXTS = 2_000_000
MAX_VALUES = 4_000_000
MAX_CONTAINERS = 1_000_000
MAX_DEPTH = 100  # of nested containers
MAX_DIGITS = 40  # of an integer
_MANY_DIGITS = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CorruptFile if it holds none, UnreadableFile."""
    content = read_small(file, MAX_JSON)
    if content and not content.strip(b"\0"):
        raise CorruptFile(
            f"{file}: holds zeros alone: it was never written or copied, copy it again"
        )
    try:
        document = read_json(content)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{file}: is not JSON ({error})") from error
    except CorruptFile as error:
        raise CorruptFile(f"{file}: {error}") from error
    if not isinstance(document, dict):
        raise CorruptFile(f"{file}: is not a JSON object")
    return document


def read_json(content: bytes) -> Any:
    """Return a parsed JSON document.

    Raises ValueError, also for a key that is there twice, and CorruptFile for one that is made to
    fill memory or the stack.
    """
    if (
        content.count(b'"') > 2 * MAX_TEXTS
        or content.count(b",") > MAX_VALUES
        or content.count(b"[") + content.count(b"{") > MAX_CONTAINERS
    ):
        raise CorruptFile("holds more values than can be right")
    parse_int = integer if _MANY_DIGITS.search(content) else None
    document = json.loads(content, object_pairs_hook=unique, parse_int=parse_int)
    check_depth(document)
    return document


def check_depth(document: object) -> None:
    """Raise CorruptFile if containers are nested deeper than whoever walks them may go."""
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [part for node in level for part in _parts(node)]
        if not level:
            return
    raise CorruptFile(f"has more than {MAX_DEPTH} lists and objects one in another")


def _parts(node: object) -> list[object]:
    """Return the containers in a container of JSON."""
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [part for part in inside if isinstance(part, (dict, list))]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON as a dictionary. Raises ValueError for a key that is there twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def integer(digits: str) -> int:
    """Return an integer of JSON. Raises ValueError for one that no config can have."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)
