"""Store canonical tensors as Hugging Face does: names, fused tensors, numbered files."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import fill_template, split_name, template
from ckptdiff.assembly.compose import RecipePart, compose, renamed, transpose
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ckptdiff.arch.base import Architecture
    from ckptdiff.arch.fused import Fused
    from ckptdiff.assembly.recipe import Assembled, Assembly

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. The recipe's shape may differ from `shape`, not its row-major bytes."""

    name: str
    shape: tuple[int, ...]
    recipe: Assembly


def stored(side: Assembled, like: Collection[str] | None) -> list[StoredTensor]:
    """Return the tensors of a Hugging Face folder of this model, in model order.

    `like` are the tensor names of another folder: names and fused tensors are as there. Without it
    they are as in the family's published checkpoints. Raises UnsupportedLayout if a part of a fused
    tensor is missing, or has another shape.
    """
    found: dict[str, StoredTensor] = {}
    fused = _fused_groups(side, like)
    other_names = _names_in(side.architecture, like)
    done: set[str] = set()
    for name, tensor in side.tensors.items():
        if name in done:
            continue
        group = fused.get(name)
        if group is not None:
            whole, names = _join(group, side.tensors)
            done.update(names)
            found[whole.name] = whole
        else:
            own = other_names.get(name, name)
            found[own] = StoredTensor(own, tensor.shape, renamed(tensor, own))
        for copy in _copies(side, name, like):
            found[copy] = StoredTensor(copy, tensor.shape, renamed(tensor, copy))
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Group:
    """A fused tensor and the canonical tensors that are its parts."""

    name: str
    rule: Fused
    indices: tuple[int, ...]
    members: tuple[tuple[int, int, str], ...]  # expert, number of the part, canonical name


def _fused_groups(side: Assembled, like: Collection[str] | None) -> dict[str, _Group]:
    """Return the group of each canonical tensor that is stored fused."""
    rules = side.architecture.fused if side.architecture is not None else ()
    groups: dict[str, _Group] = {}
    for rule in rules:
        if len(rule.parts) == 1 and "{expert}" not in rule.parts[0]:
            continue  # a rule that only renames a tensor
        by_indices: dict[tuple[int, ...], list[tuple[int, int, str]]] = defaultdict(list)
        keys = {template(part): number for number, part in enumerate(rule.parts)}
        for name in side.tensors:
            key, indices = split_name(name)
            if key in keys:
                by_expert = "{expert}" in rule.parts[0]
                expert = indices[-1] if by_expert else 0
                fused_indices = indices[:-1] if by_expert else indices
                by_indices[fused_indices].append((expert, keys[key], name))
        for indices, members in by_indices.items():
            name = fill_template(template(rule.hf), indices)
            name = _with_prefix_of(name, side.architecture, like)
            if name in like if like is not None else rule.on_disk:
                group = _Group(name, rule, indices, tuple(sorted(members)))
                groups |= {member: group for _, _, member in members}
    return groups


def _join(group: _Group, tensors: Mapping[str, Assembly]) -> tuple[StoredTensor, set[str]]:
    """Return the fused tensor, and the canonical names of its parts."""
    rule, count = group.rule, len(group.rule.parts)
    experts = sorted({expert for expert, _, _ in group.members})
    names = {name for _, _, name in group.members}
    shapes = {tensors[name].shape for name in names}
    if (
        len(shapes) != 1
        or experts != list(range(len(experts)))
        or (len(names) != len(experts) * count)
    ):
        raise UnsupportedLayout(f"{group.name}: its parts are not all there, or not of one shape")
    (shape,) = shapes
    # Of the recipe: (experts, parts, rows, columns); with `alternating`, (experts, rows, parts,
    # columns). Transposed parts have (columns, parts, rows). Its bytes are those of `final`.
    own = shape[::-1] if rule.transposed else shape
    rows = len(own) - 1 if rule.transposed else 0
    part_dim = rows + 1 if rule.alternating else rows
    with_parts = [*own[:part_dim], count, *own[part_dim:]]
    parts = []
    for expert, number, name in group.members:
        source = transpose(tensors[name]) if rule.transposed and len(shape) > 1 else tensors[name]
        of = tuple((0, n) for n in own)
        box = [*of[:part_dim], (number, number + 1), *of[part_dim:]]
        parts.append(RecipePart(source, of, ((expert, expert + 1), *box)))
    by_expert = "{expert}" in rule.parts[0]
    fused = [*own[:rows], own[rows] * count, *own[rows + 1 :]]
    final = (len(experts), *fused) if by_expert else tuple(fused)
    dtype = tensors[group.members[0][2]].dtype
    recipe = compose(group.name, (len(experts), *with_parts), dtype, parts)
    return StoredTensor(group.name, final, recipe), names


def _with_prefix_of(
    name: str, architecture: Architecture | None, like: Collection[str] | None
) -> str:
    """Return a name with the prefix that it has in `like`; unchanged if it is not there."""
    if like is None or name in like or architecture is None:
        return name
    for prefix, ours in architecture.prefixes:
        if name.startswith(ours) and prefix + name[len(ours) :] in like:
            return prefix + name[len(ours) :]
    return name


def _names_in(architecture: Architecture | None, like: Collection[str] | None) -> dict[str, str]:
    """Return the spelling in `like` of each canonical name that is there."""
    if architecture is None or like is None:
        return {}
    found: dict[str, str] = {}
    single = {
        template(rule.hf): template(rule.parts[0])
        for rule in architecture.fused
        if len(rule.parts) == 1 and "{expert}" not in rule.parts[0]
    }
    for name in like:
        for prefix, ours in (("", ""), *architecture.prefixes):
            if name.startswith(prefix):
                key, indices = split_name(ours + name[len(prefix) :])
                canonical = single.get(key, key)
                if architecture.order_of(canonical) is not None:
                    found.setdefault(fill_template(canonical, indices), name)
    return found


def _copies(side: Assembled, name: str, like: Collection[str] | None) -> Iterator[str]:
    """Yield names under which Hugging Face stores a tensor again: a tied head, MTP embeddings."""
    architecture, config = side.architecture, side.config
    if architecture is None or config is None:
        return
    heads = [m.hf[0] for m in architecture.mappings if m.role == "head"]
    if like is not None and name == architecture.embedding().hf[0]:
        yield from (head for head in heads if head in like and head not in side.tensors)
    layers = {i[0] for key, i in map(split_name, side.tensors) if i and i[0] >= config.num_layers}
    for pattern, original in architecture.shared:
        for layer in sorted(layers) if original == name else ():
            copy = fill_template(template(pattern), (layer,))
            if like is None or copy in like:
                yield copy


def split_files(tensors: Iterable[StoredTensor], limit: int) -> list[list[StoredTensor]]:
    """Return the tensors split into files of at most `limit` bytes; a larger one is alone."""
    files: list[list[StoredTensor]] = []
    size = limit
    for tensor in tensors:
        if not files or size + tensor.recipe.nbytes > limit:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += tensor.recipe.nbytes
    return files


def file_names(count: int) -> list[str]:
    """Return the names that transformers gives to `count` files."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def index_text(files: Mapping[str, list[StoredTensor]]) -> bytes:
    """Return the JSON of `model.safetensors.index.json`: which file holds which tensor."""
    size = sum(t.recipe.nbytes for tensors in files.values() for t in tensors)
    elements = sum(prod(t.shape) for tensors in files.values() for t in tensors)
    weight_map = {t.name: file for file, tensors in files.items() for t in tensors}
    metadata = {"total_parameters": elements, "total_size": size}
    document = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(document, indent=2) + "\n").encode()
