"""Data sets in the cache of the library `datasets`, as a download from the hub leaves them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def cache_data(
    cache: Path, repository: str, name: str, splits: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Write the parts of a data set into a cache."""
    from datasets import Dataset  # type: ignore[import-untyped]
    from datasets.arrow_writer import ArrowWriter  # type: ignore[import-untyped]

    owner, _, short = repository.partition("/")
    folder = cache / f"{owner}___{short}" / name / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    sizes = {}
    for split, rows in splits.items():
        data = Dataset.from_list(rows)
        with ArrowWriter(path=str(folder / f"{short}-{split}.arrow"), features=data.features) as to:
            for row in rows:
                to.write(row)
            to.finalize()
        sizes[split] = {
            "name": split, "num_bytes": 1, "num_examples": len(rows), "dataset_name": short,
        }  # fmt: skip
    info = {
        "builder_name": "parquet", "dataset_name": short, "config_name": name,
        "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0},
        "features": data.features.to_dict(), "splits": sizes,
    }  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info))
