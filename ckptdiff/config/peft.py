"""What an adapter's config says of LoRA: ranks, factors, and what makes it another thing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import UnsupportedLayout
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_RANK = DEFAULT_ALPHA = 8  # of PEFT's LoraConfig
# Settings that make more of an adapter than a product that is added, or change the base; and those
# that only say how the matrices were filled at first. Source: peft.tuners.lora.config.
_OTHER_KINDS = {
    "use_dora": "DoRA", "use_qalora": "QALoRA", "use_bdlora": "BD-LoRA", "arrow_config": "Arrow",
    "alora_invocation_tokens": "aLoRA", "kasa_config": "KaSA", "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA", "layer_replication": "layer replication",
    "target_parameters": "LoRA of parameters (target_parameters)",
    "trainable_token_indices": "trainable tokens",
}  # fmt: skip
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# Patterns without nested repeats, which take no long time on any name.
_SAFE_PATTERN = re.compile(r"(?:[\w.^$|\-]|\\[.dw]|\[[\w\-]+\]|(?<=[.\]dw])[*+])*")
# A choice of parts that is not repeated: each is put in its place, which makes plain patterns.
_CHOICE = re.compile(r"\((?:\?:)?([^()]*)\)(?![*+?{])")
_MOST_CHOICES = 64
_MOST_REPEATS = 1
_LONGEST_PATTERN = 300  # characters, and of a module
_MOST_PATTERNS = 4000
LONGEST_KIND = 40  # characters that are shown as they are


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The numbers of a LoRA adapter; those of single modules are by a pattern of their names."""

    rank: int
    alpha: float
    rslora: bool  # alpha is divided by the root of the rank
    fan_in_fan_out: bool  # weights are stored (in, out), as GPT-2's are
    targets: tuple[str, ...]
    saved: tuple[str, ...] = ()  # modules that are held whole
    keeps_ties: bool = False  # a module that the model ties to another one stays tied
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()

    def rank_of(self, module: str) -> int:
        """Return the rank that is stated for a module, by its name in the model."""
        return next((rank for pattern, rank in self.ranks if _fits(pattern, module)), self.rank)

    def alpha_of(self, module: str) -> float:
        """Return the alpha that is stated for a module, by its name in the model."""
        return next((alpha for p, alpha in self.alphas if _fits(p, module)), self.alpha)

    def factor_of(self, module: str, rank: int) -> float:
        """Return what the product of a module's matrices, of this rank, is multiplied by."""
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)


def lora_settings(stated: Mapping[str, Any], where: object) -> LoraSettings:
    """Return the settings of a LoRA adapter; `where` is the file or folder that states them.

    Raises UnsupportedLayout, in one sentence, for an adapter that is not a product added to
    weights, or whose numbers make no sense.
    """
    kind = str(stated.get("peft_type", "LORA")).upper()
    other = next((name for key, name in _OTHER_KINDS.items() if stated.get(key)), None)
    if kind != "LORA" or other is not None:
        word = other or (kind if kind.isidentifier() and len(kind) < LONGEST_KIND else shown(kind))
        raise UnsupportedLayout(
            f"{where}: is an adapter of the kind {word}, which is not a low-rank product "
            "added to weights; merge it with PEFT"
        )
    start = stated.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise UnsupportedLayout(
            f"{where}: was started by init_lora_weights {shown(start)}, which may change the base "
            "weights too; merge it with PEFT"
        )
    return LoraSettings(
        rank=int(_number(stated, "r", DEFAULT_RANK, where)),
        alpha=_number(stated, "lora_alpha", DEFAULT_ALPHA, where),
        rslora=_flag(stated, "use_rslora", where),
        fan_in_fan_out=_flag(stated, "fan_in_fan_out", where),
        targets=_words(stated.get("target_modules")),
        saved=_words(stated.get("modules_to_save")),
        keeps_ties=_flag(stated, "ensure_weight_tying", where),
        ranks=tuple((p, int(n)) for p, n in _patterns(stated, "rank_pattern", where)),
        alphas=tuple(_patterns(stated, "alpha_pattern", where)),
    )


def _flag(stated: Mapping[str, Any], name: str, where: object) -> bool:
    value = stated.get(name)
    if not isinstance(value, bool | None):
        raise UnsupportedLayout(f"{where}: {name} is {shown(value)}, neither true nor false")
    return value is True


def _number(stated: Mapping[str, Any], name: str, default: float, where: object) -> float:
    value = stated.get(name, default)
    is_whole = isinstance(value, int) or name != "r"
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or (name == "r" and value < 1)
        or not is_whole
    ):
        raise UnsupportedLayout(
            f"{where}: {name} is {shown(value)}, which is no number that it can be"
        )
    return value


def _patterns(stated: Mapping[str, Any], name: str, where: object) -> list[tuple[str, float]]:
    found = stated.get(name) or {}
    if not isinstance(found, dict):
        raise UnsupportedLayout(f"{where}: {name} is no object of patterns and numbers")
    if len(found) > _MOST_PATTERNS:
        raise UnsupportedLayout(f"{where}: {name} has {len(found)} patterns, more than are read")
    kind = "r" if name == "rank_pattern" else "lora_alpha"
    patterns = []
    for pattern, value in found.items():
        number = _number({kind: value}, kind, 0, where)
        plain = _without_choices(pattern)
        if not plain or not all(map(_is_safe, plain)):
            raise UnsupportedLayout(
                f"{where}: {name}: the pattern {shown(pattern)} is not read; merge it with PEFT"
            )
        patterns += [(one, number) for one in plain]
    if len(patterns) > _MOST_PATTERNS:
        raise UnsupportedLayout(f"{where}: {name} has more choices in patterns than are read")
    return patterns


def _is_safe(pattern: str) -> bool:
    repeats = pattern.count("*") + pattern.count("+")
    return repeats <= _MOST_REPEATS and _SAFE_PATTERN.fullmatch(pattern) is not None


def _without_choices(pattern: str) -> list[str]:
    """Return patterns that together fit what one fits: `(a|b)c` is `ac` and `bc`; none if many."""
    if len(pattern) > _LONGEST_PATTERN:
        return []
    plain = [pattern]
    while any(choices := [_CHOICE.search(one) for one in plain]):
        plain = [
            one if choice is None else f"{one[: choice.start()]}{part}{one[choice.end() :]}"
            for one, choice in zip(plain, choices, strict=True)
            for part in ([""] if choice is None else choice[1].split("|"))
        ]
        if len(plain) > _MOST_CHOICES:
            return []
    return plain


def _fits(pattern: str, module: str) -> bool:
    """Return whether PEFT takes a pattern for a module's: as the end of its name, from a dot on."""
    if len(module) > _LONGEST_PATTERN:
        return pattern == module
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(sorted(map(str, value))) if isinstance(value, list) else ()
