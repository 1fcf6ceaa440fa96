"""What a fault does to the model, by its class."""

from __future__ import annotations

_ATTENTION = "attention is wrong in the layers named; they compute with others' rows"
_MLP = "the MLP is wrong in the layers named"
_LAYERS = "the layers run in another order than they were trained in, or some twice"
_PARTS = "every matrix product with these tensors is wrong"
_EXPERTS = "tokens are sent to experts that were trained for others"

EFFECTS = {
    "QKV-LAYOUT": _ATTENTION,
    "QKV-SWAP": _ATTENTION,
    "QKV-HEADMAP": "query heads use the keys and values of other heads",
    "QKV-BIAS": "attention adds other heads' biases in the layers named",
    "KV-REPL": "several query groups share keys and values that are not theirs",
    "ROPE-PERM": "positions are rotated wrongly: the longer the text, the worse the output",
    "FC1-SWAP": f"{_MLP}: the activation is applied to the wrong half",
    "FC1-TPLAYOUT": f"{_MLP}: gate and up are mixed",
    "FC1-INTERLEAVE": f"{_MLP}: gate and up are mixed, unless the model reads rows by turns",
    "TRANSPOSE": _PARTS,
    "TP-ORDER": _PARTS,
    "TP-DUP": f"{_PARTS}; a part of them is lost",
    "TP-AXIS": _PARTS,
    "REPLICA": "ranks compute with different values of what should be one tensor",
    "BIAS-SCALE": "the bias counts as often as there are ranks, or too little",
    "LAYER-OFFSET": _LAYERS,
    "LAYER-ORDER": _LAYERS,
    "LAYER-DUP": f"{_LAYERS}; one layer is lost",
    "MISSING": "what is missing keeps its initial values, or loading fails",
    "VOCAB-PAD": "tokens behind the padding get the embeddings of others",
    "VOCAB-SHIFT": "tokens get the embeddings of their neighbours",
    "VOCAB-TRUNC": "the tokens of these rows are not what was trained",
    "TIED": "the output layer is not the one that was trained",
    "EMBED-HEAD": "input and output vectors of all tokens are exchanged",
    "GAMMA-OFFSET": "norms scale by one too much or too little",
    "NORM-SWAP": "inputs are scaled by the weights of another norm",
    "NOT-LOADED": "these tensors hold no trained weights",
    "EXPERT-ORDER": _EXPERTS,
    "EXPERT-DUP": f"{_EXPERTS}; some experts are lost",
    "EXPERT-LAYOUT": "experts compute with the rows of others",
    "ROUTER-ORDER": _EXPERTS,
    "MTP-LAYOUT": "the prediction layer is wrong; the main model is not touched",
    "DTYPE": "values were rounded more than once, or to a coarser type",
    "BLOCK-SCALE": "blocks of weights are scaled wrongly",
    "STALE": "a part of the model is of another moment of the training",
    "LOW-RANK": "an adapter was merged into the weights, or was not",
    "SCALE": "these weights are too large or too small by one factor",
}


def effect_of(kind: str, *, is_info: bool) -> str:
    """Return what follows for the model; nothing where that is not known."""
    return "none: the model computes the same" if is_info else EFFECTS.get(kind, "")
