"""Print the pinned set with hashes, as requirements: `.ci/hashes.py [EXTRA ...]`.

They are those of the files that pip takes for this Python and platform. To install from them:
`pip install --require-hashes -r FILE && pip install --no-deps ckptdiff`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def requirements(report: dict[str, Any]) -> list[str]:
    """Return a line for each package of pip's report but ckptdiff itself. Raises ValueError."""
    lines = []
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        if name == "ckptdiff":
            continue
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if not digest:
            raise ValueError(f"{name}: the index names no sha256")
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return sorted(lines, key=str.lower)


def main() -> None:
    """Have pip choose the files, and print them."""
    wanted = f"{ROOT}[{','.join(sys.argv[1:])}]" if sys.argv[1:] else str(ROOT)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    done = subprocess.run(
        [*command, "--report", "-", "-c", str(ROOT / "constraints.txt"), wanted],
        stdout=subprocess.PIPE,
        check=True,
    )
    sys.stdout.write("".join(f"{line}\n" for line in requirements(json.loads(done.stdout))))


if __name__ == "__main__":
    main()
