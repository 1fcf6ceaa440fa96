"""Rules for tensors that no family's rules know, by the words that families have for such tensors.

`mlp.linear_fc1` is gate above up in every family that has one, and `w1` is the gate wherever there
is a `w3`. A word with two meanings gives no rule.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptdiff.arch import ARCHITECTURES
from ckptdiff.arch.base import column, gated, replicated
from ckptdiff.arch.naming import DECODER_LAYER, is_of_local_expert
from ckptdiff.arch.templates import template
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptdiff.arch.base import ParamMapping
    from ckptdiff.config.model import ModelConfig

    Shape = tuple[int, ...]

# One word for what families and Megatron call differently.
_SYNONYMS = {
    "self_attn": "attention",
    "self_attention": "attention",
    "attn": "attention",
    "block_sparse_moe": "mlp",
    "moe": "mlp",
    "feed_forward": "mlp",
    "blocks": "layers",
    "h": "layers",
}
_PARAMETERS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Shards:
    """The tensors of one Megatron name, given as a template in local spelling."""

    shape: Shape  # of one rank's
    ranks: int  # that each hold one, or a copy: TP, of routed experts ETP


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A rule that may hold, and how many words its names differ in from those it was made for."""

    mapping: ParamMapping
    distance: int
    layout: tuple[object, ...]  # by which two rules of the same tensors differ


def rules_by_words(
    hf: Mapping[str, Shape], megatron: Mapping[str, Shards], config: ModelConfig | None
) -> tuple[ParamMapping, ...]:
    """Return a rule for each Megatron template whose words, and shapes, leave no choice.

    `hf` and `megatron` are templates that no rule knows, with the one shape of all their tensors.
    A template that no rule is found for is left out. `config` has the number of heads.
    """
    found = _settled(_from_families(hf, megatron, config))
    used = {template(name) for rule in found for name in (rule.megatron, *rule.hf)}
    hf_left = {key: shape for key, shape in hf.items() if key not in used}
    left = {key: shards for key, shards in megatron.items() if key not in used}
    return (*found, *_of_equal_words(hf_left, left))


def _from_families(
    hf: Mapping[str, Shape], megatron: Mapping[str, Shards], config: ModelConfig | None
) -> Iterator[_Candidate]:
    """Yield the rules of all families whose Megatron name is there, on the names that are there."""
    by_word: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in hf:
        by_word[_last_word(key)].append(key)
    seen = set()
    for rule in (rule for family in ARCHITECTURES for rule in family.mappings):
        shards = megatron.get(template(rule.megatron))
        if shards is None or rule.of_predictions or rule.transposed or rule.beside or rule in seen:
            continue
        seen.add(rule)
        names, distance = [], 0
        for pattern in rule.hf:
            closest = _closest(template(pattern), by_word.get(_last_word(template(pattern)), ()))
            if closest is None:
                break
            names.append(closest[0])
            distance = max(distance, closest[1])
        if len(names) == len(rule.hf) == len(set(names)):
            named = replace(rule, hf=tuple(_with_fields(n, rule.megatron) for n in names))
            fitted = _fitted(named, [hf[n] for n in names], shards, config)
            if fitted is not None:
                rows: tuple[object, ...] = ()
                if len(fitted.hf) > 1 and fitted.partition is not None and config is not None:
                    rows = tuple(fitted.partition(config, shards.ranks, 0))
                yield _Candidate(fitted, distance, (fitted.megatron, fitted.hf, rows))


def _closest(key: str, candidates: Iterable[str]) -> tuple[str, int] | None:
    """Return the one of the templates that shares most words with `key`, and how many differ.

    None if there is none, or two share as many.
    """
    wanted = _words(key)
    ranked = []
    for candidate in candidates:
        words = _words(candidate)
        if words.count("#") != wanted.count("#"):
            continue
        common = 0
        while common < min(len(words), len(wanted)) and words[-1 - common] == wanted[-1 - common]:
            common += 1
        ranked.append((max(len(words), len(wanted)) - common, candidate))
    ranked.sort()
    if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return ranked[0][1], ranked[0][0]


def _fitted(
    rule: ParamMapping, hf: list[Shape], shards: Shards, config: ModelConfig | None
) -> ParamMapping | None:
    """Return a rule with the sizes that the shapes show; None if they do not fit it."""
    if rule.of_vocabulary:
        return rule if hf[0][1:] == shards.shape[1:] else None
    if len(rule.hf) == 1 and rule.block_rows is None and rule.role != "qkv":
        return _one_to_one(rule, hf[0], shards)
    if rule.role == "fc1" and len(rule.hf) == 2 and hf[0] == hf[1]:
        rows = hf[0][0]
        rule = gated(rule.megatron, *rule.hf, lambda _: rows)
        return rule if (2 * rows, *hf[0][1:]) == _joined(shards, 0) else None
    if config is None or rule.partition is None or rule.dim is None:
        return None
    held = [0] * len(hf)
    try:
        for rank in range(shards.ranks):
            parts = list(rule.partition(config, shards.ranks, rank))
            if sum(p.stop - p.start for p in parts) != shards.shape[rule.dim]:
                return None
            for part in parts:
                held[part.source] += part.stop - part.start
    except (UnsupportedLayout, ZeroDivisionError, IndexError):
        return None
    return rule if held == [shape[rule.dim] for shape in hf] else None


def _one_to_one(rule: ParamMapping, hf: Shape, shards: Shards) -> ParamMapping | None:
    """Return the rule of one tensor in the way that the shapes show it to be split."""
    if hf == shards.shape:
        if shards.ranks == 1 and rule.dim is not None and rule.dim < len(hf):
            return column(
                rule.megatron, rule.hf[0], lambda _: hf[rule.dim or 0], role=rule.role, dim=rule.dim
            )
        return replicated(rule.megatron, rule.hf[0], role=rule.role)
    dims = [dim for dim in range(len(shards.shape)) if hf == _joined(shards, dim)]
    if len(dims) != 1:
        return None
    (dim,) = dims
    return column(rule.megatron, rule.hf[0], lambda _: hf[dim], role=rule.role, dim=dim)


def _joined(shards: Shards, dim: int) -> Shape:
    """Return the shape of all ranks' shards, one behind the other along `dim`."""
    return tuple(n * shards.ranks if d == dim else n for d, n in enumerate(shards.shape))


def _settled(candidates: Iterable[_Candidate]) -> list[ParamMapping]:
    """Return the rules that no other one contends with for a tensor, the closest words first."""
    by_distance: dict[int, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_distance[candidate.distance].append(candidate)
    found: list[ParamMapping] = []
    taken: set[str] = set()
    for distance in sorted(by_distance):
        left = by_distance[distance]
        while True:
            left = [c for c in left if not taken.intersection(_names(c.mapping))]
            claims: dict[str, set[tuple[object, ...]]] = defaultdict(set)
            for candidate in left:
                for name in _names(candidate.mapping):
                    claims[name].add(candidate.layout)
            clear = [c for c in left if all(len(claims[n]) == 1 for n in _names(c.mapping))]
            if not clear:
                break
            for candidate in clear:
                if not taken.intersection(_names(candidate.mapping)):
                    found.append(candidate.mapping)
                    taken.update(_names(candidate.mapping))
        # What is still contended for has words with two meanings; no farther word decides.
        taken.update(name for candidate in left for name in _names(candidate.mapping))
    return found


def _of_equal_words(
    hf: Mapping[str, Shape], megatron: Mapping[str, Shards]
) -> Iterator[ParamMapping]:
    """Yield a rule for each pair of templates that have the same words, where Megatron's `linear_`
    and Hugging Face's `_proj` say nothing."""
    # Two tensors of one fused word, as `qkv`, may order their rows in two ways.
    fused = {
        _last_word(template(rule.megatron))
        for family in ARCHITECTURES
        for rule in family.mappings
        if len(rule.hf) > 1 or rule.role in ("qkv", "fc1") or rule.block_rows is not None
    }
    megatron = {key: s for key, s in megatron.items() if _last_word(key) not in fused}
    by_words: dict[tuple[str, ...], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, keys in enumerate((hf, megatron)):
        for key in keys:
            by_words[_bare_words(key)][side].append(key)
    for ours, theirs in by_words.values():
        if len(ours) == len(theirs) == 1:
            pattern = _with_fields(theirs[0])
            rule = replicated(pattern, _with_fields(ours[0], pattern))
            fitted = _one_to_one(rule, hf[ours[0]], megatron[theirs[0]])
            if fitted is not None:
                yield fitted


def _names(rule: ParamMapping) -> tuple[str, ...]:
    return (rule.megatron, *rule.hf)


def _words(key: str) -> list[str]:
    return [_SYNONYMS.get(word, word) for word in key.split(".")]


def _last_word(key: str) -> tuple[str, ...]:
    """Return the last word of a template that says something, and `weight` or `bias` behind it."""
    words = _words(key)
    return tuple(words[-2:] if words[-1] in _PARAMETERS else words[-1:])


def _bare_words(key: str) -> tuple[str, ...]:
    """Return the words of a template from its layer on, without what only one side puts there."""
    words = _words(key.partition("#.")[2] or key)
    return (str(key.count("#")), *(w.removeprefix("linear_").removesuffix("_proj") for w in words))


def _with_fields(key: str, like: str | None = None) -> str:
    """Return a template as a pattern, with the fields of the pattern `like`, or its own."""
    names = [
        "layer" if key.startswith(DECODER_LAYER) else "block",
        "expert" if is_of_local_expert(key) else "part",
        *(f"part{n}" for n in range(2, key.count("#"))),
    ]
    if like is not None:
        names = [field.partition("}")[0] for field in like.split("{")[1:]]
    fields = iter(names)
    pieces = key.split("#")
    return pieces[0] + "".join(f"{{{next(fields)}}}{piece}" for piece in pieces[1:])
