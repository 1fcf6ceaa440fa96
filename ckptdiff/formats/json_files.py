"""Read the JSON files beside weights: config.json, indices, params.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdiff.errors import CorruptFile
from ckptdiff.formats.files import read_small
from ckptdiff.formats.safetensors import read_json

if TYPE_CHECKING:
    from pathlib import Path

MAX_JSON = 500_000_000  # bytes


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
    if not isinstance(document, dict):
        raise CorruptFile(f"{file}: is not a JSON object")
    return document
