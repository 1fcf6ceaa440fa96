"""What the tests of this folder share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.saved_by_ranks import SavedByRanks


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedByRanks:
    from tests.support.saved_by_ranks import SavedByRanks

    return SavedByRanks(tmp_path_factory.mktemp("ranks"))
