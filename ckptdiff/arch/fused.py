"""Stored Hugging Face tensors as tensors of the rules: renamed, or views of one that is fused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import fill_name, split_name, template
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.errors import UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.arch.base import Architecture
    from ckptdiff.checkpoint import TensorRef


@dataclass(frozen=True, slots=True)
class Fused:
    """A stored tensor that holds several tensors of the rules, each a view of it.

    Where the parts have an `{expert}`, the first dimension counts the experts. A single part
    without one is the same tensor under another name.
    """

    hf: str
    parts: tuple[str, ...]
    transposed: bool = False  # each matrix is stored as (in, out)
    alternating: bool = False  # rows of the parts alternate; else each part is one range of rows
    on_disk: bool = False  # the family's own checkpoints hold it, not the parts


def canonical(
    tensors: Mapping[str, TensorRef], architecture: Architecture
) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Return the tensors under the names of the rules, and why some cannot be: name to reason.

    A name that no rule knows stays as it is.
    """
    fused_by_key = _by_key(architecture.fused)
    found: dict[str, TensorRef] = {}
    errors: dict[str, str] = {}
    for stored, ref in tensors.items():
        for name in spellings(stored, architecture):
            key, indices = split_name(name)
            if key in fused_by_key or architecture.order_of(key) is not None:
                break
        else:
            name = _beside_a_known(stored, architecture)
            clash = name in found or (name in tensors and name != stored)
            found[stored if clash else name] = ref
            continue
        # A tensor without offsets for its elements cannot be cut: it keeps its stored name.
        if (name == stored or ref.blob_nbytes is not None) and key not in fused_by_key:
            found[name] = ref
            continue
        if ref.blob_nbytes is not None:
            found[stored] = ref
            continue
        try:
            parts = (
                dict(_parts(fused_by_key[key], indices, ref))
                if key in fused_by_key
                else {name: ref}
            )
        except UnsupportedLayout as error:
            errors[stored] = str(error)
            continue
        # If a part is stored under its own name too, this tensor keeps its stored name.
        clash = any(part in found or (part in tensors and part != stored) for part in parts)
        found |= {stored: ref} if clash else parts
    return found, errors


def knows(architecture: Architecture, key: str) -> bool:
    """Return whether a family has a tensor of this name, given as a template.

    Under any of its prefixes, fused, a copy, or what a quantised weight has beside it.
    """
    if architecture.shared and any(key == template(one) for one, _ in architecture.shared):
        return True
    return any(
        _is_of_rules(spelling, architecture) or _has_known_host(spelling, architecture)
        for spelling in spellings(key, architecture)
    )


@lru_cache(maxsize=100)
def _by_key(fused: tuple[Fused, ...]) -> dict[str, Fused]:
    return {template(one.hf): one for one in fused}


def _is_of_rules(name: str, architecture: Architecture) -> bool:
    key, _ = split_name(name)
    return architecture.order_of(key) is not None or key in _by_key(architecture.fused)


def _beside_a_known(stored: str, architecture: Architecture) -> str:
    """Return a name with the prefix of the rules if it stands beside one that they know."""
    for name in spellings(stored, architecture):
        if _has_known_host(name, architecture):
            return name
    return stored


def _has_known_host(name: str, architecture: Architecture) -> bool:
    """Return whether a tensor belongs to a weight that the rules know, as its factors do.

    Beside `x.weight` those are `x.weight_scale`, `x.qweight`, `x.weight.absmax` or an adapter's
    `x.lora_A.weight`; beside `experts.down_proj` it is `experts.down_proj_blocks`.
    """
    fused = _by_key(architecture.fused)
    return any(architecture.order_of(key) is not None or key in fused for key in _hosts(name))


@lru_cache(maxsize=1000)  # every family is asked for one name after the other
def _hosts(name: str) -> frozenset[str]:
    """Return the templates of the names that a tensor may belong to."""
    module, _, last = name.rpartition(".")
    outer = module.rpartition(".")[0]
    hosts = [f"{module}.weight", module, outer, f"{outer}.weight"]
    if "_" in last:
        hosts.append(name.rpartition("_")[0])
    return frozenset(split_name(host)[0] for host in hosts)


def spellings(name: str, architecture: Architecture) -> Iterator[str]:
    """Yield a stored name as it is, then with a known prefix replaced by that of the rules."""
    yield name
    for prefix, ours in architecture.prefixes:
        if name.startswith(prefix):
            yield ours + name[len(prefix) :]


def _parts(
    fused: Fused, indices: tuple[int, ...], ref: TensorRef
) -> Iterator[tuple[str, TensorRef]]:
    """Yield the name and view of each part of a fused tensor.

    Raises UnsupportedLayout if its rows do not divide into the parts.
    """
    shape, stride = ref.shape, ref.stride
    experts = range(1)
    between_experts = 0
    if "{expert}" in fused.parts[0] and shape:
        experts = range(shape[0])
        between_experts = stride[0]
        shape, stride = shape[1:], stride[1:]
    if fused.transposed:
        shape, stride = shape[::-1], stride[::-1]
    count = len(fused.parts)
    if not shape or shape[0] % count:
        raise UnsupportedLayout(
            f"{ref.file}: {ref.name} of shape {list(ref.shape)} does not hold {count} equal parts"
        )
    rows = shape[0] // count
    row_step, between_parts = stride[0], rows * stride[0]
    if fused.alternating:
        row_step, between_parts = count * stride[0], stride[0]
    for expert in experts:
        for part, pattern in enumerate(fused.parts):
            first = expert * between_experts + part * between_parts
            yield (
                fill_name(pattern, (*indices, expert)),
                replace(
                    ref,
                    shape=(rows, *shape[1:]),
                    stride=(row_step, *stride[1:]),
                    offset=ref.offset + first * ITEMSIZE[ref.dtype],
                ),
            )
