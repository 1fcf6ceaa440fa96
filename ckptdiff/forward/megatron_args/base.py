"""What the readers of Megatron's args share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.forward.model import size_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    Args = Mapping[str, Any]

size = partial(size_of, "args")


def epsilon_of(args: Args) -> float:
    return float(args.get("norm_epsilon", args.get("layernorm_epsilon", 1e-5)))


def base_of(args: Args) -> float:
    return float(args.get("rotary_base", 10000))
