"""Packed weights: which stored tensors make up each of them, and their numbers where known."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.fused import canonical
from ckptdiff.arch.order import put_in_model_order
from ckptdiff.assembly.packing_schemes import FP8, MARKS, SCHEMES
from ckptdiff.assembly.quantisation import is_factor_of_matrix
from ckptdiff.assembly.recipe import Assembly, PackedWeight, Piece, whole_box
from ckptdiff.checkpoint import Rank, TensorRef, contiguous
from ckptdiff.config.quantisation import Quantisation
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.packing_schemes import Found, Scheme
    from ckptdiff.assembly.recipe import Assembled

# What `quant_method`, `quant_algo` or `format` of a config says, and the schemes that it may mean.
# A label that is not here is not judged.
_LABELS: dict[str, tuple[str, ...]] = {
    "mxfp4": ("mxfp4",),
    "nvfp4": ("nvfp4",),
    "nvfp4_awq": ("nvfp4",),
    "nvfp4-pack-quantized": ("nvfp4",),
    "mxfp4-pack-quantized": ("mxfp4",),
    "fp8": ("fp8",),
    "fbgemm_fp8": ("fp8",),
    "float-quantized": ("fp8",),
    "pack-quantized": ("int2", "int3", "int4", "int8", "packed integers"),
    "int-quantized": ("int8",),
    "gptq": ("GPTQ",),
    "awq": ("AWQ",),
    "hqq": ("HQQ",),
    "quanto": ("quanto",),
    "torchao": ("torchao",),
    "bitsandbytes": ("nf4 of bitsandbytes", "fp4 of bitsandbytes", "int8 of bitsandbytes"),
}
_QUANTIZER = "_quantizer."  # ModelOpt's buffers while it calibrates; exports leave them out
_MODULE_DEPTHS = (1, 2, 3)  # parts of a name that a scheme may add to its module's


def without_packed(
    stored: Mapping[str, TensorRef],
    settings: Mapping[str, Any],
    architecture: Architecture | None,
) -> tuple[dict[str, TensorRef], dict[str, TensorRef], dict[str, PackedWeight]]:
    """Return the plain tensors, the parts of packed weights, and those weights by canonical name.

    The parts get names of the rules as well, so that two equally packed checkpoints pair up
    whatever their prefixes are. One packed tensor may hold several weights of the rules.
    """
    found = _find(stored, settings)
    plain = dict(stored)
    parts: dict[str, TensorRef] = {}
    packed: dict[str, PackedWeight] = {}
    for name, (scheme, held, what) in found.items():
        views = _views_of(name, what, architecture)
        renamed, own = {}, []
        for end, ref in held.items():
            own.append(name.removesuffix(scheme.weight) + end)
            plain.pop(own[-1], None)
            renamed[_part_name(name, end, scheme, views, architecture)] = ref
        parts |= renamed
        for rule_name, view in views.items():
            weight = PackedWeight(
                name, tuple(own), tuple(renamed), what.scheme, what.form, what.dtype,
                None if what.shape is None else view.shape, what.problem,
            )  # fmt: skip
            numbers = None if what.numbers is None else what.numbers.part(view, weight.text)
            packed[rule_name] = replace(weight, numbers=numbers)
    return plain, parts, packed


def multiplied_out(side: Assembled, names: Container[str] | None = None) -> Assembled:
    """Return a side with packed weights as tensors of numbers, multiplied out while they are read.

    Only those of `names`, or all, whose scheme is decoded; weights that share their parts all have
    to be. Tensors in chunks stay packed.
    """
    if side.checkpoint.chunks is not None:
        return side
    kept = {
        part
        for name, weight in side.packed.items()
        if weight.numbers is None or (names is not None and name not in names)
        for part in weight.parts
    }
    done = {n: w for n, w in side.packed.items() if kept.isdisjoint(w.parts)}
    if not done:
        return side
    parts = {part for weight in done.values() for part in weight.parts}
    tensors = {name: tensor for name, tensor in side.tensors.items() if name not in parts}
    for name, weight in done.items():
        ref = weight.numbers
        assert ref is not None
        whole = whole_box(ref)
        # Halves of bytes are of no dtype: what is read are the products.
        dtype = "F32" if ref.scale is not None and ref.scale.in_halves else ref.dtype
        tensors[name] = Assembly(name, ref.shape, dtype, (Piece(ref, Rank(), whole, whole),))
    packed = {name: weight for name, weight in side.packed.items() if name not in done}
    ordered = put_in_model_order(tensors, side.architecture)
    done = {**side.multiplied_out, **done}
    return replace(side, tensors=ordered, packed=packed, multiplied_out=done)


def multiplied_out_words(side: Assembled) -> list[str]:
    """Return in words what was multiplied out, and which parts of it are of no use then."""
    weights = side.multiplied_out
    ways = Counter(weight.text for weight in weights.values())
    words = [f"{plural(n, 'weight')}, packed as {way}, multiplied out" for way, n in ways.items()]
    refs = [weight.numbers for weight in weights.values() if weight.numbers is not None]
    used = {ref.name for ref in refs}
    used |= {factors.name for ref in refs if ref.scale is not None for factors in ref.scale.refs}
    beside = dict.fromkeys(n for w in weights.values() for n in w.stored if n not in used)
    if beside:
        first, *others = beside
        more = f" and {plural(len(others), 'other')}" if others else ""
        words.append(f"left out, since plain weights have no use for it: {first}{more}")
    return words


def plain_names(side: Assembled) -> frozenset[str]:
    """Return the names in a Hugging Face folder as they would be if nothing were packed."""
    weights = [*side.packed.values(), *side.multiplied_out.values()]
    parts = {name for weight in weights for name in weight.stored}
    (shard,) = side.checkpoint.shards
    return frozenset(shard.tensors.keys() - parts | {w.plain_name for w in weights})


def without_parts(side: Assembled) -> Assembled:
    """Return a side without the parts of packed weights: what is left are plain numbers."""
    parts = {part for weight in side.packed.values() for part in weight.parts}
    if not parts:
        return side
    return replace(side, tensors={n: t for n, t in side.tensors.items() if n not in parts})


def packed_apart(side: Assembled) -> dict[str, int]:
    """Return the packed weights of a pair that are not compared, each with the bytes of its parts.

    Their parts are not in `tensors`. Weights that share their parts have equal shares of them.
    """
    apart = {
        name: weight
        for name, weight in side.packed.items()
        if name in side.errors and side.tensors.keys().isdisjoint(weight.parts)
    }
    if not apart:
        return {}
    sharing = Counter(weight.stored for weight in apart.values())
    (shard,) = side.checkpoint.shards
    return {
        name: sum(shard.tensors[part].nbytes for part in weight.stored if part in shard.tensors)
        // sharing[weight.stored]
        for name, weight in apart.items()
    }


def tensor_counts(side: Assembled) -> tuple[int, int]:
    """Return how many tensors a side has and how many of them are packed, each as one tensor."""
    apart = packed_apart(side)
    return len(side.tensors) + len(apart), len(apart)


def tensors_and_bytes(side: Assembled) -> tuple[int, int, int]:
    """Return how many tensors a side has, how many of them are packed, and the bytes of all.

    The bytes of a packed weight that is not compared are those of its parts.
    """
    return *tensor_counts(side), side.nbytes + sum(packed_apart(side).values())


def label_problem(
    packed: Mapping[str, PackedWeight],
    plain: Mapping[str, TensorRef],
    settings: Mapping[str, Any],
) -> str | None:
    """Return how the config's quantisation contradicts what is stored; None if it does not.

    `plain` are the other tensors, some of which may have block factors of fp8.
    """
    stated = Quantisation.of(settings)
    if not packed and not stated.is_stated:
        return None
    schemes = Counter(weight.scheme for weight in packed.values())
    held = " and ".join(
        f"1 weight is {scheme}" if count == 1 else f"{count} weights are {scheme}"
        for scheme, count in schemes.items()
    )
    if settings and not stated.is_stated:
        return f"config.json does not say that weights are packed, but {held}"
    # The narrowest label counts: "modelopt" says who wrote it, "nvfp4" what was written.
    for label in stated.labels:
        wanted = _LABELS.get(label.lower())
        if wanted is None:
            continue
        if schemes.keys() & set(wanted):
            return None
        if "fp8" in wanted and any(ref.dtype in FP8 for ref in plain.values()):
            return None
        return f"config.json says {label}, but {held or 'no weight is packed'}"
    return None


def problems(packed: Mapping[str, PackedWeight], plain: Iterable[str]) -> list[str]:
    """Return what is wrong with packed weights as they are stored, in few sentences."""
    if not packed:
        return []
    wrong = [weight.problem for weight in packed.values() if weight.problem]
    found = [f"{wrong[0]}{_more(len(wrong), 'packed weight')}"] if wrong else []
    buffers = [name for name in plain if _QUANTIZER in name]
    if buffers:
        more = _more(len(buffers), "tensor")
        found.append(f"{buffers[0]} was left by a quantiser, and loaders do not know it{more}")
    return found


def _more(count: int, what: str) -> str:
    """Return that a sentence holds for others too, if it does."""
    if count == 1:
        return ""
    return f" (and {count - 1} more {what}{'' if count == 2 else 's'} likewise)"


def _find(
    stored: Mapping[str, TensorRef], settings: Mapping[str, Any]
) -> dict[str, tuple[Scheme, dict[str, TensorRef], Found]]:
    """Return, by the stored name that the plain weight would have, scheme, parts and what it is.

    Parts are by what follows the name of the module.
    """
    marked = [n for n in stored if n.endswith(MARKS) and not is_factor_of_matrix(n, stored)]
    found: dict[str, tuple[Scheme, dict[str, TensorRef], Found]] = {}
    if not marked:
        return found
    stated = Quantisation.of(settings)
    modules: dict[str, list[str]] | None = None
    for name in marked:
        for scheme in SCHEMES:
            if not name.endswith(scheme.mark):
                continue
            base = name.removesuffix(scheme.mark)
            plain = base + scheme.weight
            if plain in found:
                continue
            held = {end: stored[base + end] for end in scheme.parts if base + end in stored}
            if scheme.open_ended:
                if modules is None:
                    modules = _by_module(stored)
                held |= {
                    other[len(base) :]: stored[other]
                    for other in modules[base]
                    if other[len(base) :].startswith(scheme.open_ended)
                }
            what = scheme.describe(held, stated, plain)
            if what is not None:
                found[plain] = scheme, held, what
    return found


def _by_module(stored: Mapping[str, TensorRef]) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = defaultdict(list)
    for name in stored:
        words = name.split(".")
        for depth in _MODULE_DEPTHS:
            modules[".".join(words[:-depth])].append(name)
    return modules


def _views_of(name: str, what: Found, architecture: Architecture | None) -> dict[str, TensorRef]:
    """Return the canonical names of what a packed tensor holds, with the view of the plain weight.

    Where its shape is not known, the views are of 12 rows, which divide into parts of any rule.
    """
    if what.numbers is not None:
        whole = what.numbers.ref
    else:
        whole = _stand_in(
            name, what.shape or ((what.experts, 12, 12) if what.experts else (12, 12)), what.file
        )
    if architecture is None:
        return {name: whole}
    split, _ = canonical({name: whole}, architecture)
    return split or {name: whole}


def _part_name(
    plain: str,
    end: str,
    scheme: Scheme,
    views: Mapping[str, TensorRef],
    architecture: Architecture | None,
) -> str:
    """Return the name of a part of a packed weight, with the beginning that the rules have."""
    base = plain.removesuffix(scheme.weight)
    (first, *others) = views
    if not others and first.endswith(scheme.weight):
        return first.removesuffix(scheme.weight) + end
    for prefix, ours in architecture.prefixes if architecture is not None else ():
        if base.startswith(prefix):
            return ours + base[len(prefix) :] + end
    return base + end


def _stand_in(name: str, shape: tuple[int, ...], file: Path) -> TensorRef:
    """Return a tensor of the plain weight's shape, from which names and shapes are read alone."""
    return TensorRef(name, shape, "U8", file, 0, contiguous(shape))
