"""The classes of faults: what went wrong, what it does to the model, whether it can be undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

FaultClass = Literal[
    "QKV-LAYOUT", "QKV-SWAP", "QKV-HEADMAP", "QKV-BIAS", "KV-REPL", "ROPE-PERM", "FC1-SWAP",
    "FC1-TPLAYOUT", "FC1-INTERLEAVE", "TRANSPOSE", "TP-ORDER", "TP-DUP", "TP-AXIS", "REPLICA",
    "BIAS-SCALE", "LAYER-OFFSET", "LAYER-ORDER", "LAYER-DUP", "MISSING", "VOCAB-PAD",
    "VOCAB-SHIFT", "VOCAB-TRUNC", "TIED", "EMBED-HEAD", "GAMMA-OFFSET", "NORM-SWAP", "NOT-LOADED",
    "EXPERT-ORDER", "EXPERT-DUP", "EXPERT-LAYOUT", "ROUTER-ORDER", "MTP-LAYOUT", "DTYPE",
    "BLOCK-SCALE", "STALE", "LOW-RANK", "SCALE", "CONFIG", "SHAPE",
    "EXTRA", "INCOMPLETE", "NAMES", "PART", "DAMAGED",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One class of faults, in words."""

    what: str  # went wrong
    effect: str  # on the model; empty where each finding says its own
    can_be_undone: bool  # by a re-mapping, of some of them at least: the right numbers are there
    is_of_names: bool = False  # the right numbers are all there: nothing to convert again
    # What to do where nothing can be undone.
    remedy: str = "it cannot be undone: convert again from the source"


_ATTENTION = "attention is wrong in these layers: rows of q, k and v are in each other's places"
_MLP = "the MLP is wrong in these layers"
_LAYERS = "the layers run in another order than they were trained in, or some twice"
_PARTS = "every matrix product with these tensors is wrong"
_EXPERTS = "tokens are sent to experts that were trained for others"

FAULT_CLASSES: Mapping[FaultClass, FaultRow] = {
    "QKV-LAYOUT": FaultRow(
        "query, key and value rows flat, or grouped for another number of groups",
        _ATTENTION,
        can_be_undone=True,
    ),
    "QKV-SWAP": FaultRow(
        "query, key and value exchanged",
        _ATTENTION,
        can_be_undone=True,
    ),
    "QKV-HEADMAP": FaultRow(
        "heads assigned to the groups by stride",
        "query heads use the keys and values of other heads",
        can_be_undone=True,
    ),
    "QKV-BIAS": FaultRow(
        "its bias in another order, or never written",
        "attention adds the biases of other heads in these layers",
        can_be_undone=True,
    ),
    "KV-REPL": FaultRow(
        "key and value heads replicated, others lost",
        "several query groups share keys and values that are not theirs",
        can_be_undone=False,
    ),
    "ROPE-PERM": FaultRow(
        "rotary rows in the other order",
        "positions are rotated wrongly: the longer the text, the worse the output",
        can_be_undone=True,
    ),
    "FC1-SWAP": FaultRow(
        "gate and up exchanged",
        f"{_MLP}: the activation is applied to the wrong half",
        can_be_undone=True,
    ),
    "FC1-TPLAYOUT": FaultRow(
        "gate and up split or joined as one matrix",
        f"{_MLP}: gate and up are mixed",
        can_be_undone=True,
    ),
    "FC1-INTERLEAVE": FaultRow(
        "gate and up alternate",
        f"{_MLP}: gate and up are mixed, unless the model reads rows by turns",
        can_be_undone=True,
    ),
    "TRANSPOSE": FaultRow(
        "a square matrix as its transpose",
        _PARTS,
        can_be_undone=True,
    ),
    "TP-ORDER": FaultRow(
        "shards of ranks in another order",
        _PARTS,
        can_be_undone=True,
    ),
    "TP-DUP": FaultRow(
        "a rank's shard written twice, or never",
        f"{_PARTS}; a part of them is lost",
        can_be_undone=False,
    ),
    "TP-AXIS": FaultRow(
        "split or joined along the other dimension",
        _PARTS,
        can_be_undone=True,
    ),
    "REPLICA": FaultRow(
        "replicas that drifted apart",
        "ranks compute with different values of what should be one tensor",
        can_be_undone=False,
    ),
    "BIAS-SCALE": FaultRow(
        "a row-parallel bias summed over the ranks",
        "the bias counts as often as there are ranks, or too little",
        can_be_undone=False,
    ),
    "LAYER-OFFSET": FaultRow(
        "layers numbered from another start",
        _LAYERS,
        can_be_undone=True,
    ),
    "LAYER-ORDER": FaultRow(
        "layers, stages or chunks exchanged",
        _LAYERS,
        can_be_undone=True,
    ),
    "LAYER-DUP": FaultRow(
        "a layer in the place of another",
        f"{_LAYERS}; one layer is lost",
        can_be_undone=False,
    ),
    "MISSING": FaultRow(
        "tensors that are in no file",
        "what is missing keeps its initial values, or loading fails",
        can_be_undone=False,
    ),
    "VOCAB-PAD": FaultRow(
        "padding between the rows of the vocabulary",
        "tokens behind the padding get the embeddings of others",
        can_be_undone=True,
    ),
    "VOCAB-SHIFT": FaultRow(
        "the vocabulary moved by some rows",
        "tokens get the embeddings of their neighbours",
        can_be_undone=True,
    ),
    "VOCAB-TRUNC": FaultRow(
        "its end lost",
        "the tokens of these rows are not what was trained",
        can_be_undone=False,
    ),
    "TIED": FaultRow(
        "a tied head that is no copy, or an untied one that is",
        "the output layer is not the one that was trained",
        can_be_undone=False,
    ),
    "EMBED-HEAD": FaultRow(
        "embedding and head exchanged",
        "input and output vectors of all tokens are exchanged",
        can_be_undone=True,
    ),
    "GAMMA-OFFSET": FaultRow(
        "one added to a norm, or taken off",
        "norms scale by one too much or too little",
        can_be_undone=False,
    ),
    "NORM-SWAP": FaultRow(
        "norms under each other's names",
        "inputs are scaled by the weights of another norm",
        can_be_undone=True,
    ),
    "NOT-LOADED": FaultRow(
        "zeros, ones or fresh random numbers",
        "these tensors hold no trained weights",
        can_be_undone=False,
    ),
    "EXPERT-ORDER": FaultRow(
        "experts exchanged",
        _EXPERTS,
        can_be_undone=True,
    ),
    "EXPERT-DUP": FaultRow(
        "experts by their local number",
        f"{_EXPERTS}; some experts are lost",
        can_be_undone=False,
    ),
    "EXPERT-LAYOUT": FaultRow(
        "grouped experts in another memory order",
        "experts compute with the rows of others",
        can_be_undone=False,
    ),
    "ROUTER-ORDER": FaultRow(
        "rows of the router exchanged",
        _EXPERTS,
        can_be_undone=True,
    ),
    "MTP-LAYOUT": FaultRow(
        "the halves of the prediction layer's projection exchanged",
        "the prediction layer is wrong; the main model is not touched",
        can_be_undone=True,
    ),
    "DTYPE": FaultRow(
        "values through a narrower dtype",
        "values were rounded more than once, or to a coarser type",
        can_be_undone=False,
    ),
    "BLOCK-SCALE": FaultRow(
        "block factors left out, or rounded",
        "blocks of weights are scaled wrongly",
        can_be_undone=False,
    ),
    "STALE": FaultRow(
        "a file of another save",
        "a part of the model is of another moment of the training",
        can_be_undone=False,
        remedy="take the files of one save, or convert again from the source",
    ),
    "LOW-RANK": FaultRow(
        "an adapter merged on one side alone, or twice",
        "an adapter was merged into the weights, or was not",
        can_be_undone=False,
        remedy="this looks like an adapter (LoRA) that is merged on one side alone, or twice: "
        "merge or unmerge it, or compare with the model that it was merged into",
    ),
    "SCALE": FaultRow(
        "a factor, or the sign",
        "these weights are too large or too small by one factor",
        can_be_undone=False,
    ),
    "CONFIG": FaultRow(
        "config.json and args that say different things of the model",
        "",
        can_be_undone=False,
    ),
    "SHAPE": FaultRow(
        "tensors of another shape, none of them a vocabulary",
        "loading fails, or these tensors are left out",
        can_be_undone=False,
    ),
    "EXTRA": FaultRow(
        "tensors that the reference does not have",
        "loading fails, or these tensors are left out",
        can_be_undone=False,
        is_of_names=True,
    ),
    "INCOMPLETE": FaultRow(
        "tensors missing that the config promises, or of another shape",
        "what is missing keeps its initial values, or loading fails",
        can_be_undone=False,
    ),
    "NAMES": FaultRow(
        "tensors under other names: with a wrapper's piece, or under each other's",
        "loaders do not find these tensors, or take them for others; the numbers are right",
        can_be_undone=False,
        is_of_names=True,
    ),
    "PART": FaultRow(
        "one rank's part in the place of the whole tensor",
        "the other ranks' parts are lost; loading fails",
        can_be_undone=False,
    ),
    "DAMAGED": FaultRow(
        "a stretch of a file that was never written or copied",
        "the weights that lie in it are lost",
        can_be_undone=False,
        remedy="it cannot be undone: copy the file again from the source",
    ),
}


# Notes of these classes say of two models that they are not the same one, or do not know it.
_OF_ANOTHER_MODEL = ("EXTRA", "LOW-RANK", "STALE")


def effect_of(kind: FaultClass, *, is_info: bool) -> str:
    """Return what follows for the model; nothing where that is not known."""
    if is_info:
        return "" if kind in _OF_ANOTHER_MODEL else "none: the model computes the same"
    return FAULT_CLASSES[kind].effect
