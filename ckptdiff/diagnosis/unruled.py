"""Rules for the tensors of a pair that no rule knows: each is whole, and named alike by both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.base import Architecture, replicated
from ckptdiff.arch.templates import split_name
from ckptdiff.config.model import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Collection

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.assembly.recipe import Assembled

# No rule of a whole tensor reads a size, but every grid of shards has them.
_NO_SIZES = ModelConfig(
    num_layers=0,
    hidden_size=0,
    ffn_hidden_size=0,
    num_attention_heads=1,
    num_query_groups=1,
    kv_channels=1,
    tied_embeddings=False,
)


def with_own_rules(a: Assembled, b: Assembled, differing: Collection[str]) -> Assembled:
    """Return A with a rule for every template that no rule knows, if a tensor of one differs.

    So their content is looked for under other layers, experts and names too.
    """
    config = b.config or a.config
    # A family's own rules cannot be read without the sizes of the model.
    known = (a.architecture or b.architecture) if config is not None else None
    templates = {split_name(name)[0] for name in a.tensors if name in b.tensors}
    unknown = {key for key in templates if known is None or known.order_of(key) is None}
    if not unknown.intersection(split_name(name)[0] for name in differing):
        return a
    rules = tuple(_whole(key) for key in sorted(unknown))
    if known is None:
        known = Architecture("", (), (), (), by_words=True)
    return replace(
        a,
        architecture=replace(known, mappings=(*known.mappings, *rules)),
        config=config or _NO_SIZES,
    )


def is_own_rule(rule: ParamMapping) -> bool:
    """Return whether a rule is one of `with_own_rules`, which nothing can be written by."""
    return rule.hf == (rule.megatron,)


def _whole(key: str) -> ParamMapping:
    """Return the rule of a template: its first number is a layer's, the next one an expert's."""
    pattern = key.replace("#", "{layer}", 1)
    if "experts.#" in pattern:
        pattern = pattern.replace("#", "{expert}", 1)
    while "#" in pattern:
        pattern = pattern.replace("#", f"{{part{pattern.count('#')}}}", 1)
    return replicated(pattern, pattern)
