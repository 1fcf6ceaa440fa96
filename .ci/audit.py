"""Say which pinned packages have known holes: `.ci/audit.py [--database FOLDER]`.

pip-audit asks PyPI. Without a network, FOLDER is a clone of github.com/pypa/advisory-database. The
exit status is 1 if there is a hole, and 0 if nobody could be asked, which is then said. Needs the
package pip-audit, in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PINS = Path(__file__).parent.parent / "constraints.txt"
IGNORED: dict[str, str] = {}  # the id of a hole, and why it is none here


def pins(text: str) -> dict[str, Version]:
    """Return the versions that hold for this Python, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    found = [Requirement(line) for line in lines if line]
    return {
        canonicalize_name(one.name): Version(next(iter(one.specifier)).version)
        for one in found
        if one.marker is None or one.marker.evaluate()
    }


def holes_in_database(pinned: dict[str, Version], folder: Path) -> list[str]:
    """Return a line for each advisory of the database that is about a pinned version."""
    import yaml  # type: ignore[import-untyped]

    found = []
    for name, version in pinned.items():
        for file in sorted((folder / "vulns" / name).glob("*.yaml")):
            advisory = yaml.safe_load(file.read_text())
            if "withdrawn" not in advisory and any(
                is_affected(version, one)
                for one in advisory.get("affected", ())
                if canonicalize_name(one["package"]["name"]) == name
            ):
                found.append(f"{name} {version}: {advisory['id']}")
    return found


def is_affected(version: Version, affected: dict[str, Any]) -> bool:
    """Return whether a version is named, or lies in a range, as the schema of OSV has them."""
    if str(version) in affected.get("versions", ()):
        return True
    for one in affected.get("ranges", ()):
        if one["type"] != "ECOSYSTEM":
            continue
        inside = False
        for event in one["events"]:
            ((kind, at),) = event.items()
            if kind == "introduced":
                inside = inside or version >= Version(at)
            elif kind == "fixed":
                inside = inside and version < Version(at)
            elif kind == "last_affected":
                inside = inside and version <= Version(at)
        if inside:
            return True
    return False


def holes_by_answers(answers: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return a line for each hole of pip-audit's answers, and the packages it knows nothing of."""
    found, unknown = [], []
    for one in answers["dependencies"]:
        if "skip_reason" in one:
            unknown.append(one["name"])
        found += [f"{one['name']} {one['version']}: {h['id']}" for h in one.get("vulns", ())]
    return found, unknown


def ask(pinned: dict[str, Version]) -> dict[str, Any] | None:
    """Return pip-audit's answers; None if PyPI does not answer."""
    lines = "".join(f"{name}=={version}\n" for name, version in pinned.items())
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "--timeout", "30", "-r", "/dev/stdin"],
        input=lines, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        answers: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None
    return answers


def main() -> int:
    """Audit; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", type=Path, metavar="FOLDER")
    folder = parser.parse_args().database
    pinned = pins(PINS.read_text())
    if folder is not None:
        found = holes_in_database(pinned, folder)
        sys.stdout.write(f"{len(pinned)} pinned versions, held against {folder}\n")
    else:
        answers = ask(pinned)
        found, unknown = ([], list(pinned)) if answers is None else holes_by_answers(answers)
        if len(unknown) == len(pinned):
            sys.stdout.write("PyPI cannot be asked for known holes: nothing is audited.\n")
            return 0
        some = f", but not {', '.join(unknown)}, of which PyPI knows nothing" if unknown else ""
        sys.stdout.write(f"{len(pinned)} pinned versions were audited{some}\n")
    found = [line for line in found if line.rpartition(" ")[2] not in IGNORED]
    sys.stdout.write("".join(f"{line}\n" for line in found) or "No known hole.\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
