"""lm-eval's index of its own tasks, kept in a file: it reads 13,000 YAML files, for 20 seconds."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Of a task's config, what is looked at before it is loaded; of a group's, all.
_KEYS = (
    *("dataset_path", "dataset_name", "dataset_kwargs", "output_type", "class", "custom_dataset"),
    *("metric_list", "process_results"),
)


def index_of(library: Any, folder: Path | None, build: Callable[[], Any]) -> dict[str, Any]:
    """Return lm-eval's entries by name, from a folder where they are kept, or by `build`."""
    root = Path(library.__file__).resolve().parent
    made_of = [library.__version__, str(root)]
    file = folder / "lm-eval-tasks.json" if folder is not None else None
    if file is not None:
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            kept = json.loads(file.read_text())
            if kept["of"] == made_of:
                return {row[0]: _entry(library, root, *row) for row in kept["tasks"]}
    built: dict[str, Any] = build()
    if file is not None:
        rows = [_row(name, entry, root) for name, entry in built.items()]
        part = file.with_name(f"{file.name}.{uuid4().hex}")
        with suppress(OSError, ValueError):
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"of": made_of, "tasks": rows}))
            part.replace(file)
    return built


def _row(name: str, entry: Any, root: Path) -> list[Any]:
    """Return an entry as plain values. Raises ValueError for one outside lm-eval's package."""
    path = entry.yaml_path and str(Path(entry.yaml_path).resolve().relative_to(root))
    config: Mapping[str, Any] = entry.cfg or {}
    if entry.kind.name != "GROUP":
        config = {key: config[key] for key in _KEYS if key in config}
    plain = json.loads(json.dumps(config, default=str))
    return [name, entry.kind.name, path, sorted(entry.tags), plain]


def _entry(
    library: Any, root: Path, name: str, kind: str, path: str | None, tags: list[str], config: Any
) -> Any:
    """Return lm-eval's entry of a row. Raises ValueError for a file outside its package."""
    file = None
    if path is not None:
        file = root / path
        if ".." in file.parts or not file.is_relative_to(root):
            raise ValueError(path)
    index = library.tasks._index
    return index.Entry(str(name), index.Kind[kind], file, dict(config), set(tags))
