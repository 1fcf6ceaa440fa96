"""What is remembered, and what happens when the file is not what it should be."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            '"theme": 5',
            'theme is 5, and has to be the name of a theme in quotes, such as "ckptdiff-light", '
            "or null",
        ),
        ('"differences_only": "yes"', 'differences_only is "yes", and has to be true or false'),
        ('"recent": {"a": 1}', 'recent is {"a": 1}, and has to be a list of pairs'),
        ('"recent": [3, {"a": "", "at": ""}]', "2 of recent is no pair that was compared"),
        ('"keys": 3', 'keys is 3, and has to be an object such as {"list.down": "j"}'),
        (
            '"keys": {"list.up": 3}',
            '"list.up" in keys is 3, and has to be a key such as "j" or "ctrl+n", in quotes',
        ),
        (
            '"colour": 1',
            'there is no setting "colour"; there are recent, theme, differences_only, keys, '
            "version",
        ),
    ],
)
def test_one_wrong_setting_is_named_and_the_others_are_used(
    tmp_path: Path, wrong: str, words: str
) -> None:
    file = tmp_path / "settings.json"
    good = {"theme": "nord", "differences_only": True, "keys": {"list.down": "n"}}
    for name in good:
        if f'"{name}":' in wrong:
            continue
        rest = json.dumps({name: good[name]})[1:-1]
        file.write_text(f"{{{wrong}, {rest}}}")
        settings, trouble = load_settings(file)
        assert settings == Settings(**{name: good[name]})  # type: ignore[arg-type]
        assert trouble == f"{file}: {words}. All other settings are used."


def test_of_pairs_and_keys_those_that_are_right_are_used(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    recent = [asdict(pair(1)), {**asdict(pair(2)), "at": "today"}]
    keys = {"list.down": "n", "list.up": ["p"]}
    file.write_text(json.dumps({"recent": recent, "keys": keys, "theme": 5}))
    settings, trouble = load_settings(file)
    assert settings == Settings(recent=(pair(1),), keys={"list.down": "n"})
    assert trouble is not None
    assert "\n" not in trouble
    assert [word in trouble for word in ("theme is 5", '"list.up" in keys', "1 of recent")] == [
        True
    ] * 3


def test_a_value_of_any_length_and_characters_is_one_short_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"differences_only": "a\x1b[2J\n" * 1000, "theme": [[]] * 1000}))
    trouble = load_settings(file)[1]
    assert trouble is not None
    assert trouble.removeprefix(str(file)).isprintable()
    assert len(trouble) < len(str(file)) + 400


def test_a_slip_of_the_hand_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{\n "theme": "ckptdiff-light",\n}')
    assert load_settings(file)[1] == (
        f"{file} is not readable as settings: line 3 is no JSON. Defaults are used."
    )


def test_a_file_that_may_not_be_read_means_defaults_and_the_reason(tmp_path: Path) -> None:
    settings, trouble = load_settings(tmp_path)
    assert settings == Settings()
    assert trouble is not None
    assert trouble.startswith(f"{tmp_path}: is not a regular file")
    assert trouble.endswith(". Defaults are used.")


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"recent": [{**asdict(pair(1)), "a": "\ud800"}]},
        {"recent": [{**asdict(pair(1)), "b": "a\0b"}]},
        {"recent": [{**asdict(pair(1)), "at": 1e300}]},
        {"recent": [{**asdict(pair(1)), "at": float("nan")}]},
        {"recent": [{**asdict(pair(1)), "differences": 10**30}]},
        {"recent": [{**asdict(pair(1)), "differences": -1}]},
        {"theme": "\ud800"},
        {"keys": {"list.down": "\ud800"}},
        {"keys": {"\ud800": "j"}},
        {f"name{n}": n for n in range(1000)},
        {"x" * 100_000: "y" * 100_000},
    ],
    ids=lambda wrong: ascii(wrong)[:40],
)
def test_what_no_screen_can_show_is_left_out_in_one_short_sentence(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**wrong, "differences_only": True}))
    settings, trouble = load_settings(file)
    assert settings == Settings(differences_only=True)
    assert trouble is not None
    assert trouble.encode()
    assert len(trouble) < 1000 + len(str(file))


@pytest.mark.parametrize(
    "content",
    [b"[" * 900 + b"]" * 900, b'{"theme": ' + b"9" * 4200 + b"}", b" " * 2_000_000],
    ids=["nested", "digits", "long"],
)
def test_settings_that_no_one_wrote_mean_defaults(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    settings, trouble = load_settings(file)
    assert settings == Settings()
    assert trouble is not None
    assert trouble.endswith("Defaults are used.")


def test_a_pipe_in_the_place_of_the_settings_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.json")
    _, trouble = load_settings(tmp_path / "settings.json")
    assert trouble is not None
    assert "is not a regular file" in trouble
