"""The index of lm-eval's own tasks is kept, and is no way into its package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ckptdiff.scores.harness import _libraries
from ckptdiff.scores.task_index import index_of


@pytest.fixture
def built() -> dict[str, Any]:
    """Return the entries of some of lm-eval's own files: a group, tags, a class."""
    library = _libraries()
    root = Path(library.__file__).resolve().parent / "tasks"
    paths = [root / name for name in ("mmlu/default", "squadv2", "super_glue/boolq")]
    found: dict[str, Any] = library.tasks._index.TaskIndex.build(paths)
    assert {"mmlu", "squadv2", "boolq"} < set(found)
    return found


def test_what_was_kept_is_what_was_built(built: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "new/folder"
    assert index_of(_libraries(), folder, lambda: built) is built
    kept = index_of(_libraries(), folder, lambda: pytest.fail("built again"))
    assert set(kept) == set(built)
    for name, entry in built.items():
        other = kept[name]
        assert (other.name, other.kind, other.tags) == (entry.name, entry.kind, entry.tags)
        assert other.yaml_path == entry.yaml_path
        for key in ("dataset_path", "dataset_name", "output_type", "task"):
            if key != "task" or entry.kind.name == "GROUP":
                assert (other.cfg or {}).get(key) == (entry.cfg or {}).get(key)


@pytest.mark.parametrize("path", ["../../evil.yaml", "/tmp/evil.yaml", 7])
def test_a_file_that_leads_elsewhere_is_not_used(
    built: dict[str, Any], tmp_path: Path, path: object
) -> None:
    index_of(_libraries(), tmp_path, lambda: built)
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    kept["tasks"][0][2] = path
    file.write_text(json.dumps(kept))
    assert index_of(_libraries(), tmp_path, lambda: built) is built


def test_another_release_is_read_again(built: dict[str, Any], tmp_path: Path) -> None:
    index_of(_libraries(), tmp_path, lambda: built)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace(_libraries().__version__, "0.0.1", 1))
    assert index_of(_libraries(), tmp_path, lambda: built) is built
    assert _libraries().__version__ in file.read_text()


def test_without_a_folder_nothing_is_kept(built: dict[str, Any]) -> None:
    assert index_of(_libraries(), None, lambda: built) is built
