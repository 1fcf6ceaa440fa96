"""The scripts that audit the pinned versions, and give them hashes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
from packaging.version import Version

from tests.support.corpus import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def script(name: str) -> ModuleType:
    """Return a script of `.ci` as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f".ci/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit, hashes = script("audit"), script("hashes")
ADVISORY = """
id: PYSEC-2026-1
affected:
- package: {name: %s, ecosystem: PyPI}
  ranges:
  - type: ECOSYSTEM
    events: [%s]
  versions: [%s]
"""


def test_pins_are_those_of_this_python() -> None:
    text = '# said\na_B==1.2\nc==1; python_version < "3"\nc==2; python_version >= "3"  # why\n'
    assert audit.pins(text) == {"a-b": Version("1.2"), "c": Version("2")}
    assert len(audit.pins(audit.PINS.read_text())) > 50


@pytest.mark.parametrize(
    ("name", "events", "versions", "is_hole"),
    [
        ("x", "introduced: '0'", "", True),
        ("x", "introduced: '0'}, {fixed: '1.10'", "", True),
        ("x", "introduced: '0'}, {fixed: '1.9'", "", False),
        ("x", "introduced: '1.9.1'", "", False),
        ("x", "introduced: '0'}, {last_affected: '1.9'", "", True),
        ("x", "introduced: '0'}, {fixed: '1.2'}, {introduced: '1.5'", "", True),
        ("x", "introduced: '2'", "'1.9', '3'", True),
        ("y", "introduced: '0'", "", False),
    ],
)
def test_an_advisory_is_held_against_a_version(
    name: str, events: str, versions: str, is_hole: bool, tmp_path: Path
) -> None:
    (tmp_path / "vulns/x").mkdir(parents=True)
    said = ADVISORY % (name, f"{{{events}}}", versions)
    (tmp_path / "vulns/x/PYSEC-2026-1.yaml").write_text(said)
    found = audit.holes_in_database({"x": Version("1.9")}, tmp_path)
    assert found == (["x 1.9: PYSEC-2026-1"] if is_hole else [])


def test_answers_of_pip_audit_are_read() -> None:
    answers: dict[str, Any] = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-2026-1"}]},
            {"name": "b", "version": "2", "vulns": []},
            {"name": "c", "skip_reason": "not found on PyPI"},
        ]
    }
    assert audit.holes_by_answers(answers) == (["a 1: PYSEC-2026-1"], ["c"])


@pytest.mark.parametrize(
    ("answers", "status", "said"),
    [
        (None, 0, "nothing is audited"),
        ({"dependencies": [{"name": "a", "skip_reason": "x"}]}, 0, "nothing is audited"),
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, "No known hole"),
        (
            {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "P-1"}]}]},
            1,
            "a 1: P-1",
        ),
    ],
)
def test_what_nobody_could_be_asked_is_said(
    answers: Any,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["audit"])
    monkeypatch.setattr(audit, "pins", lambda text: {"a": Version("1")})
    monkeypatch.setattr(audit, "ask", lambda pinned: answers)
    assert audit.main() == status
    assert said in capsys.readouterr().out


def test_hashes_are_those_of_pips_report() -> None:
    def package(name: str, **archive: Any) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "version": "1"},
            "download_info": {"archive_info": archive},
        }

    sums = {"hashes": {"sha256": "abc"}}
    report = {"install": [package("b", **sums), package("ckptdiff"), package("A", **sums)]}
    assert hashes.requirements(report) == ["A==1 --hash=sha256:abc", "b==1 --hash=sha256:abc"]
    with pytest.raises(ValueError, match="c: the index names no sha256"):
        hashes.requirements({"install": [package("c")]})
