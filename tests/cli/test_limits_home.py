"""No home, one that is not there, or one that cannot be written: all works, and nothing is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import platformdirs
import pytest

from ckptdiff.result_cache import history_folder
from ckptdiff.scores.journal import journal_folder
from ckptdiff.settings import Settings, settings_file
from ckptdiff.tui.runners.settings import SettingsRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDERS = (settings_file, history_folder, journal_folder)


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize("where", FOLDERS)
def test_what_is_kept_lies_in_a_home_that_is_there(
    where: Callable[[], Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = where()
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert not folder.exists()
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))  # it is not ours to make
    assert where() is None


@pytest.mark.parametrize("where", FOLDERS)
def test_a_folder_that_a_variable_names_needs_no_home(
    where: Callable[[], Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert str(where()).startswith(str(tmp_path))


@pytest.mark.parametrize("where", FOLDERS)
def test_nothing_is_kept_for_a_user_without_a_home(
    where: Callable[[], Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> str:
        raise RuntimeError("no home")

    for name in ("user_config_dir", "user_cache_dir"):
        monkeypatch.setattr(platformdirs, name, refused)
    assert where() is None
    for name in ("user_config_dir", "user_cache_dir"):  # as older releases answer
        monkeypatch.setattr(platformdirs, name, lambda *_, **__: "~/.config/ckptdiff")
    assert where() is None


class Said(SettingsRunner):
    """Tells what the user would be told."""

    def __init__(self, file: Path | None) -> None:
        super().__init__(file)
        self.said: list[str] = []

    def notify(self, message: str, **_: object) -> None:
        self.said.append(message)


def test_settings_without_a_file_are_those_of_the_run() -> None:
    runner = Said(None)
    assert runner.settings == Settings()
    assert runner.trouble is None
    runner.show_file()
    assert runner.said == ["There is no home folder to keep settings in."]


def test_what_is_not_kept_is_told_once(tmp_path: Path) -> None:
    runner = Said(tmp_path / "settings.json")
    for _ in range(3):
        runner.worker_failed("settings.json: Read-only file system. Settings are not kept.")
    runner.worker_failed("settings.json: No space left on device. Settings are not kept.")
    assert len(runner.said) == 2
