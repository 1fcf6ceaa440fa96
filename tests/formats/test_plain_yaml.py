"""YAML is read as plain values: no tag makes an object, and no file fills memory or time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest

from ckptdiff.errors import CorruptFile, UnreadableFile
from ckptdiff.formats import plain_yaml
from ckptdiff.formats.plain_yaml import read_yaml
from tests.support.pace import pace

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def read(folder: Path, text: str) -> Any:
    (folder / "file.yaml").write_text(text)
    return read_yaml(folder / "file.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-12", -12),
        ("1_000", 1000),
        ("1.0e-05", 1e-5),
        ("1e-6", 1e-6),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("No", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("RMSNorm", "RMSNorm"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("9" * 5000, "9" * 5000),
        ("[1, [2], {b: 3}]", [1, [2], {"b": 3}]),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object, tmp_path: Path) -> None:
    assert read(tmp_path, f"a: {text}\n") == {"a": value}


def test_tags_are_named_and_never_followed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    found = read(
        tmp_path,
        f"""
        function: !!python/name:torch.nn.functional.silu ''
        called: !!python/object/apply:os.system ["touch {made}"]
        object: !!python/object:some.Class {{size: 3}}
        new: !!python/object/new:some.Class {{state: {{size: 4}}}}
        pair: !!python/tuple [1, 2]
        other: !mine 5
        """,
    )
    assert found == {
        "function": "torch.nn.functional.silu",
        "called": [f"touch {made}"],
        "object": {"_target_": "some.Class", "size": 3},
        "new": {"_target_": "some.Class", "state": {"size": 4}},
        "pair": [1, 2],
        "other": "5",
    }
    assert not made.exists()


def test_an_alias_is_the_same_object_once_more(tmp_path: Path) -> None:
    found = read(tmp_path, "a: &x [1, 2]\nb: *x\n")
    assert found["b"] is found["a"]
    assert found["b"] == [1, 2]


def test_a_billion_laughs_cost_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    started = time.process_time()
    found = read(tmp_path, "\n".join(lines))
    assert len(found) == 40
    assert time.process_time() - started < 1300 * pace()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "{" * 50_000,
        "- " * 50_000,
        "a: *nobody",
        "a: [1",
        "a: 'x",
        "\0",
        "a: \x01",
        "- 1\n" * (plain_yaml.MAX_NODES + 1),
    ],
)
def test_what_is_no_config_is_one_clear_error(text: str, tmp_path: Path) -> None:
    started = time.process_time()
    with pytest.raises(CorruptFile, match=r"file\.yaml"):
        read(tmp_path, text)
    assert time.process_time() - started < 13_000 * pace()


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(CorruptFile, match=r"file\.yaml: is not YAML"):
        read_yaml(tmp_path / "file.yaml")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "file.yaml").open("wb") as file:
        file.truncate(plain_yaml.MAX_BYTES + 1)
    with pytest.raises(UnreadableFile, match="more than"):
        read_yaml(tmp_path / "file.yaml")


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n"])
def test_an_empty_file_holds_nothing(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text) is None
