"""The table of what each arg of Megatron does to a forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdiff.config.effects.computed import COMPUTED
from ckptdiff.config.effects.not_done import NOT_DONE
from ckptdiff.config.effects.of_runs import OF_RUNS
from ckptdiff.config.effects.without_effect import NOTHING, ROUNDING, TRAINING

if TYPE_CHECKING:
    from ckptdiff.config.effects.effect import Effect

EFFECTS: dict[str, Effect] = COMPUTED | NOT_DONE | NOTHING | ROUNDING | TRAINING | OF_RUNS
