"""What is remembered, and what happens when the file is not what it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptdiff.settings import RecentPair, Settings, load_settings, save_settings

if TYPE_CHECKING:
    from pathlib import Path


def pair(number: int) -> RecentPair:
    return RecentPair(f"/a/{number}", "/b", "differ", 64, 1000.0 + number)


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    file = tmp_path / "new" / "settings.json"
    settings = Settings(recent=(pair(1), pair(2)), theme="nord", differences_only=True)
    save_settings(settings, file)
    assert load_settings(file) == (settings, None)
    assert [entry.name for entry in file.parent.iterdir()] == ["settings.json"]


def test_no_file_means_defaults_without_a_word(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "settings.json") == (Settings(), None)


def test_a_file_written_by_hand_need_not_hold_everything(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    # Files of earlier versions also hold the order of the list, which is no longer kept.
    file.write_text('{"keys": {"tensors.next": "j"}, "sort": "cos"}')
    assert load_settings(file) == (Settings(keys={"tensors.next": "j"}), None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"version": 2}',
        b'{"keys": 3}',
        b'{"keys": {"tensors.next": 3}}',
        b'{"version": 1, "recent": 3, "theme": null, "differences_only": false}',
        b'{"version": 1, "recent": [{"a": 1, "b": "", "verdict": "", "differences": 0, "at": 0}],'
        b' "theme": null, "differences_only": false}',
        b'{"version": 1, "recent": [{"a": "", "b": "", "verdict": "", "differences": 0, "at": ""}],'
        b' "theme": null, "differences_only": false}',
    ],
)
def test_an_unreadable_file_means_defaults_and_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    settings, trouble = load_settings(file)
    assert settings == Settings()
    assert trouble is not None
    assert trouble.startswith(f"{file} is not readable as settings")
    assert trouble.endswith(". Defaults are used.")


def test_a_slip_of_the_hand_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{\n "theme": "ckptdiff-light",\n}')
    assert load_settings(file)[1] == (
        f"{file} is not readable as settings: line 3 is no JSON. Defaults are used."
    )


def test_a_file_that_may_not_be_read_means_defaults_and_the_reason(tmp_path: Path) -> None:
    settings, trouble = load_settings(tmp_path)
    assert settings == Settings()
    assert trouble == f"{tmp_path}: Is a directory. Defaults are used."


def test_the_last_ten_pairs_are_kept_the_latest_first_each_once() -> None:
    settings = Settings()
    for number in (*range(12), 5):
        settings = settings.with_pair(pair(number))
    assert [entry.a for entry in settings.recent] == [
        f"/a/{n}" for n in (5, 11, 10, 9, 8, 7, 6, 4, 3, 2)
    ]


def test_a_failed_save_leaves_the_old_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    save_settings(Settings(differences_only=True), file)
    file.with_name("x").mkdir()
    with pytest.raises(TypeError):
        save_settings(Settings(theme=object()), file)  # type: ignore[arg-type]
    assert load_settings(file)[0].differences_only
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["settings.json", "x"]
