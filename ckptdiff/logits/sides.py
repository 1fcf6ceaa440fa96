"""What a comparison of logits needs to know of each side: model, tensors, dtype, vocabulary."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.config.compare import config_side
from ckptdiff.config.model_classes import unknown_classes
from ckptdiff.config.old_args import in_new_words
from ckptdiff.config.texts import check_texts
from ckptdiff.config.unknown_args import not_computed, noted
from ckptdiff.config.unused import unused_tensors
from ckptdiff.dtypes import DTYPES, FLOATS
from ckptdiff.errors import BadArgument, UnknownConfig, UnsupportedLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.forward.holdings import Holdings
    from ckptdiff.forward.plan import ForwardSide, Section

# Args of which any tells how rotary positions are scaled.
_SCALING = ("use_rope_scaling", "rotary_seq_len_interpolation_factor", "rotary_scaling_factor")
MOST_TOKENS = 1024  # attention scores of all pairs of them are in memory


def forward_side(side: Assembled, other: Assembled, reference: str) -> ForwardSide:
    """Return how a side is computed; what Megatron's args do not state is as on the other side.

    `reference` "meta" computes a Hugging Face side as Meta's code does. Raises UnknownConfig, or
    UnsupportedLayout for a family or a setting that is not computed, and for packed weights.
    """
    if side.merging is not None:
        raise UnsupportedLayout(
            f"{side.checkpoint.root}: is read with the adapter {side.merging.root} added; logits "
            "are computed of stored weights: convert it with the adapter first"
        )
    packed = [*side.packed.values(), *side.multiplied_out.values()]
    if packed:
        ways = " and as ".join(dict.fromkeys(weight.text for weight in packed))
        raise UnsupportedLayout(
            f"{side.checkpoint.root}: {len(packed)} weights are packed as {ways}. Logits are "
            "computed of plain numbers: give a dequantised copy"
        )
    try:
        return _side_of(side, other, reference)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        # A field of another type than it always has, a list that is too short, and the like.
        raise UnknownConfig(
            f"{side.checkpoint.root}: a field of its config or args makes no sense to a forward "
            f"pass ({type(error).__name__}: {error}). Mend it there; -v says where it was read"
        ) from error


def _side_of(side: Assembled, other: Assembled, reference: str) -> ForwardSide:
    from ckptdiff.forward import hf_config, meta_params
    from ckptdiff.forward.megatron_args import model as megatron_args
    from ckptdiff.forward.plan import ForwardSide

    checkpoint = side.checkpoint
    config = checkpoint.config
    if not config:
        raise UnknownConfig(
            f"{checkpoint.root}: has no config or args, without which logits cannot be computed; "
            "put config.json there, or give a Megatron folder with its args"
        )
    if checkpoint.convention == "hf":
        check_texts(config, f"{checkpoint.root}: config.json")
        return ForwardSide(
            "huggingface",
            hf_config.read(config),
            "meta" if reference == "meta" else "transformers",
        )
    if checkpoint.convention == "meta":
        return ForwardSide("meta", meta_params.read(config), "meta", len(checkpoint.shards))
    if checkpoint.config_file is not None:
        megatron_args.check_stated(config, str(checkpoint.config_file))
    family = side.architecture or other.architecture
    other_config = other.checkpoint.config if other.checkpoint.convention == "hf" else None
    model = megatron_args.read(
        in_new_words(config),
        family.name if family is not None else "",
        hf_config.read(other_config) if other_config else None,
    )
    beyond, taken = not_computed(config, megatron_args.NOT_YET), model.taken
    if checkpoint.config_file is not None:  # its classes have defaults, and are not loaded
        beyond += unknown_classes(config, model.family)
        if not any(name in config for name in _SCALING) and any(x.rope for x in model.layers):
            taken = (*taken, "scaling of rotary positions")
    model = replace(
        model,
        not_computed=(*model.not_computed, *beyond),
        notes=(*model.notes, *noted(config)),
        taken=taken,
    )
    # A torch_dist checkpoint has whole tensors and counts as one rank.
    ranks = len({shard.rank.tp for shard in checkpoint.shards})
    expert_ranks = len({shard.rank.ep for shard in checkpoint.shards})
    slices = {checkpoint.parallelism.expert_slice(shard.rank) for shard in checkpoint.shards}
    found = ForwardSide("megatron", model, "megatron", ranks, expert_ranks)
    return found if model.routing is None else replace(found, expert_slices=len(slices))


def holdings_of(side: Assembled, plan: ForwardSide) -> Holdings:
    """Return the tensors that a side's files hold, by layer and rank. Raises MissingShard."""
    from ckptdiff.forward import holdings

    read = {"huggingface": holdings.huggingface, "meta": holdings.meta}.get(
        plan.kind, holdings.megatron
    )
    return read(side.checkpoint, plan.model)


def check_families(sides: Sequence[ForwardSide], held: Sequence[Holdings]) -> None:
    """Raise UnsupportedLayout if all layers of a side lack norms that the other side's have.

    A Hugging Face side whose own config asks for them is another case: its files are incomplete.
    """
    for letter, own, other, holdings in zip("AB", sides, reversed(sides), held, strict=True):
        asks = own.kind == "huggingface" and own.model.norms_behind
        if asks or not other.model.norms_behind or holdings.has_norms_behind:
            continue
        raise UnsupportedLayout(
            f"no layer of {letter} has norms behind attention and MLP, as each of a "
            f"{other.model.family} has: {letter} is of another family, or lost them all. Give two "
            "checkpoints of one model, each with its own config"
        )


def sections_of(
    pair: tuple[Assembled, Assembled], sides: tuple[ForwardSide, ForwardSide]
) -> Iterable[Section]:
    """Return what jobs compute of two sides.

    Raises UnsupportedLayout if these are not of one model, MissingShard if a tensor is not there.
    """
    from ckptdiff.forward.sizes import of_models

    if why := of_models(*(side.model for side in sides)):
        raise UnsupportedLayout(
            f"{why}: they cannot be compared step by step. Give two checkpoints of one model, "
            "each with its own config"
        )
    held = [holdings_of(*side) for side in zip(pair, sides, strict=True)]
    check_families(sides, held)
    return sections(*held)


def sections(a: Holdings, b: Holdings) -> Iterable[Section]:
    """Yield what a job computes: the steps before the layers, each layer, the steps after."""
    from ckptdiff.forward.plan import Section

    yield Section("first", 0, a.first, b.first)
    for number, (one, other) in enumerate(zip(a.layers, b.layers, strict=True)):
        yield Section("layer", number, one, other)
    yield Section("last", 0, a.last, b.last)


def canonical_names(
    a: Assembled, sections: Iterable[Section]
) -> dict[tuple[int | None, str], list[str]]:
    """Return the canonical names of what A's layers hold, by layer and name in the file.

    The layer is None before the first and after the last.
    """
    names_at: dict[tuple[Path, int], list[str]] = {}  # by file and offset of a stored tensor
    for name, assembly in a.tensors.items():
        for start in {(piece.ref.file, piece.ref.offset) for piece in assembly.pieces}:
            names_at.setdefault(start, []).append(name)
    found: dict[tuple[int | None, str], list[str]] = {}
    for section in sections:
        layer = section.number if section.part == "layer" else None
        for held in (held for rank in section.a for held in rank.values()):
            names = found.setdefault((layer, held.name), [])
            for chunk in held.chunks:
                names += names_at.get((chunk.ref.file, chunk.ref.offset), ())
    return found


def largest_tensor(section: Section) -> int:
    """Return the elements of a layer's largest tensor; 0 outside layers, where blocks are read."""
    if section.part != "layer":
        return 0
    return max(prod(held.shape) for rank in (*section.a, *section.b) for held in rank.values())


def stored_dtype(sections: Sequence[Section]) -> str:
    """Return the flag of the dtype that most elements of A's first layer have, or bf16."""
    sizes: dict[str, int] = {}
    for held in sections[1].a[0].values():
        if held.dtype not in FLOATS:
            continue
        sizes[held.dtype] = sizes.get(held.dtype, 0) + prod(held.shape)
    return DTYPES[max(sizes, key=lambda dtype: sizes[dtype], default="BF16")].flag or "bf16"


def token_count(a: Assembled, b: Assembled) -> int:
    """Return how many tokens both sides have, padding not counted. Raises UnknownConfig."""
    sizes = []
    for side in (a, b):
        known = side.config.vocab_size if side.config is not None else None
        rules = side.architecture.mappings if side.architecture is not None else ()
        names = [m.hf[0] for m in rules if m.role == "embedding"]
        rows = [side.tensors[n].shape[0] for n in names if n in side.tensors]
        if known is not None and type(known) is not int:
            raise UnknownConfig(f"{side.checkpoint.root}: vocab_size is {known!r}, no size")
        sizes += [n for n in (known if side.checkpoint.convention == "hf" else None, *rows) if n]
    if not sizes:
        raise UnknownConfig("neither side tells how many tokens there are")
    return min(sizes)


def left_out(a: Assembled, b: Assembled) -> list[str]:
    """Return notes of what the sides hold and is not computed: tensors that a config switches off.

    And the tokens that one side alone has, for which no logits are compared.
    """
    words = (unused_tensors(config_side(side), side.tensors) for side in (a, b))
    notes = [f"{letter} holds {one}" for letter, one in zip("AB", words, strict=True) if one]
    one, other = token_count(a, a), token_count(b, b)
    if one == other:
        return notes
    larger, both, most = ("A", other, one) if one > other else ("B", one, other)
    which = f"token {both}" if most == both + 1 else f"{most - both} tokens, {both} to {most - 1},"
    return [
        *notes,
        f"{which} of {larger} {'is' if most == both + 1 else 'are'} not compared: the other side "
        f"has {both} tokens",
    ]


def check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """Raise BadArgument if there are no ids, too many, or one outside the vocabulary."""
    if not ids:
        raise BadArgument("the prompt has no token; give some text")
    if len(ids) > MOST_TOKENS:
        raise BadArgument(f"the prompt has {len(ids)} tokens; {MOST_TOKENS} at most are compared")
    wrong = [i for i in ids if not 0 <= i < vocabulary]
    if wrong:
        raise BadArgument(f"token {wrong[0]} is not in the vocabulary of {vocabulary} tokens")
