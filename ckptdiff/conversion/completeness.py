"""Refuse a source that is not what its config promises, or write what is there of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import fill_name, split_name, template
from ckptdiff.assembly.completeness import packed_misfits, with_shortfall
from ckptdiff.assembly.shortfall_words import shortfall_lines, way_out
from ckptdiff.errors import UnsupportedLayout
from ckptdiff.formats.ranks import safetensors_parts
from ckptdiff.text import format_shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.conversion.plan import Target


def checked_against_config(
    source: Assembled, target: Target, like: Assembled | None, notes: list[str]
) -> tuple[Assembled, tuple[str, ...]]:
    """Return the source with its shortfall, without what cannot be cut, and the names of that.

    The config is the one that is written: that of `like` if it lends its own. Adds to `notes`.
    Raises UnsupportedLayout for a source that is not what the config promises, unless the target
    allows it, and for one without any tensor.
    """
    if not source.tensors:
        raise UnsupportedLayout(f"{source.checkpoint.root}: holds no tensor that can be converted")
    packed = packed_misfits(source) if target.to != "hf" else []
    if packed:
        name, tensor = packed[0].name, source.tensors[packed[0].name]
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: {name} is {tensor.dtype} {format_shape(tensor.shape)}, by "
            f"the config {format_shape(packed[0].promised)}: packed weights cannot be cut; unpack "
            "them first"
        )
    if target.to == "hf" and like is not None and source.architecture is not None:
        own, source = source, replace(source, shortfall=_against(source, like).shortfall)
        if own.shortfall and not source.shortfall:
            lines = [line.removeprefix("incomplete: ") for line in shortfall_lines(own)]
            notes.append(
                f"not as the source's own config promises: {'; '.join(lines)}; config.json is that "
                f"of {like.checkpoint.root}, by which nothing is missing"
            )
    if target.to != "hf" and is_headless(source):
        said = (
            "its class has no head over the vocabulary, and args promise an output layer: Megatron "
            "starts it anew, or refuses to load"
        )
        if not target.allow_incomplete:
            raise UnsupportedLayout(f"{source.checkpoint.root}: {said}", hint="allow-incomplete")
        notes.append(said)
    if source.checkpoint.format == safetensors_parts.NAME and source.config is None:
        said = (
            "its files state neither whole shapes nor how many ranks there were, and without a "
            "config.json of a family that is known nothing tells whether all are there"
        )
        if not target.allow_incomplete:
            raise UnsupportedLayout(f"{source.checkpoint.root}: {said}", hint="allow-incomplete")
        notes.append(said)
    if not source.shortfall:
        return source, ()
    lines = [line.removeprefix("incomplete: ") for line in shortfall_lines(source)]
    if not target.allow_incomplete:
        raise UnsupportedLayout(
            f"{source.checkpoint.root} is not what its config promises: {'; '.join(lines)}. "
            f"{way_out(source.shortfall)}",
            hint="allow-incomplete",
        )
    notes += [f"not as the config promises: {line}" for line in lines]
    notes.append("the config is written as it is, and promises more or other than is there")
    uncut = () if target.to == "hf" else tuple(dict.fromkeys(_uncut(source)))
    if uncut:
        notes.append(f"left out, since it cannot be cut without the rest: {', '.join(uncut)}")
    kept = {name: tensor for name, tensor in source.tensors.items() if name not in uncut}
    return replace(source, tensors=kept), uncut


def without_empty(source: Assembled, notes: list[str]) -> Assembled:
    """Return the source without tensors of no element, which Megatron builds no parameter for.

    transformers writes them for a part of size 0, such as a shared expert. Adds a note of them.
    """
    empty = [name for name, tensor in source.tensors.items() if 0 in tensor.shape]
    if not empty:
        return source
    what = (
        "tensor holds no element and is" if len(empty) == 1 else "tensors hold no element and are"
    )
    notes.append(f"{len(empty)} {what} left out: {', '.join(empty[:3])}{' …' * (len(empty) > 3)}")
    kept = {name: tensor for name, tensor in source.tensors.items() if 0 not in tensor.shape}
    return replace(source, tensors=kept)


def is_headless(source: Assembled) -> bool:
    """Return whether an untied source has no head, and its config promises none."""
    if source.architecture is None:
        return False  # no family, so nothing is promised
    heads = [rule.hf[0] for rule in source.architecture.mappings if rule.role == "head"]
    there = {*source.tensors, *source.shortfall.lacking}
    is_tied = source.config is None or source.config.tied_embeddings
    return not is_tied and not there.intersection(heads)


def _against(source: Assembled, like: Assembled) -> Assembled:
    """Return the source with its shortfall against the config of `like`."""
    if like.config is None or like.architecture is None:
        return source
    seen = replace(source.checkpoint, config=like.checkpoint.config, convention="hf")
    return with_shortfall(
        replace(source, checkpoint=seen, config=like.config, architecture=like.architecture)
    )


def _uncut(source: Assembled) -> Iterator[str]:
    """Yield the tensors that no rank's shard can be cut from.

    They are of another shape than the config says, of a layer that it does not count, or go into
    one tensor with another that is missing.
    """
    assert source.architecture is not None
    lost = {*source.shortfall.lacking, *source.shortfall.beyond}
    lost |= {misfit.name for misfit in source.shortfall.misfits}
    yield from (name for name in source.tensors if name in lost)
    joined = {template(hf): rule for rule in source.architecture.mappings for hf in rule.hf}
    for name in source.tensors:
        key, numbers = split_name(name)
        rule = joined.get(key)
        if rule is not None and len(rule.hf) > 1:
            names = [fill_name(hf, numbers) for hf in rule.hf]
            if any(other in lost or other not in source.tensors for other in names):
                yield name


def has_predictions(side: Assembled) -> bool:
    """Return whether a side holds a tensor of a prediction layer."""
    assert side.architecture is not None
    assert side.config is not None
    found = [split_name(name) for name in side.tensors]
    for rule in side.architecture.mappings:
        if rule.of_predictions and rule.role == "eh_proj":
            layers = side.architecture.layers_of(rule, side.config.num_layers)
            key = template(rule.hf[0])
            return any(k == key and (not n or n[0] in layers) for k, n in found)
    return False


def rows_of_vocabulary(side: Assembled) -> int:
    """Return the rows of the embedding; without one those of the head, or of the config.

    Raises UnsupportedLayout if nothing tells them.
    """
    assert side.architecture is not None
    assert side.config is not None
    rules = [rule for rule in side.architecture.mappings if rule.of_vocabulary]
    tables = [side.tensors[rule.hf[0]] for rule in rules if rule.hf[0] in side.tensors]
    rows = tables[0].shape[0] if tables and tables[0].shape else side.config.vocab_size
    if type(rows) is not int or rows < 1:
        raise UnsupportedLayout(
            f"{side.checkpoint.root}: has no embedding, and its config no size of the vocabulary"
        )
    return rows
