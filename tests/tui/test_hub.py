"""Models that are given by their ids, on the screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ckptdiff.checkpoint import HubModel
from ckptdiff.formats.hub.lookup import absolute
from ckptdiff.tui.text.sides import title
from tests.support.tui.fakes import assembled, checkpoint, names
from tests.tui.test_session import opened


def test_an_id_stays_what_it_is_and_a_path_becomes_absolute(tmp_path: Path) -> None:
    assert absolute(Path("org/no-such-model@v1")) == Path("org/no-such-model@v1")
    assert absolute(Path("a/b/c")) == Path.cwd() / "a/b/c"
    assert absolute(tmp_path) == tmp_path


def test_the_title_has_the_model_and_not_the_folder_of_its_commit() -> None:
    session = opened()
    plain = checkpoint(Path("/cache/models--org--m/snapshots/0123456789ab"), names())
    session.a = assembled(replace(plain, hub=HubModel("org/m", "0123456789ab")))
    for width in (80, 120):
        assert " org/m@01234567 " in title(session, width)
