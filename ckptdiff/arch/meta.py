"""How Meta's own files name and split the tensors of Llama."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ckptdiff.arch.templates import template


@dataclass(frozen=True, slots=True)
class MetaRule:
    """One tensor: its Hugging Face name, and how model parallelism splits it over Meta's files.

    `rotary` is split by rows, and the rows of each head are in pairs: Meta rotates channel 2i with
    2i+1, Hugging Face channel i with i + head_dim/2. So Hugging Face's row i of half h is Meta's
    row 2i + h.
    """

    hf: str
    split: Literal["whole", "rows", "columns", "rotary", "either"]
    heads: Literal["query", "group"] | None = None  # which heads its rows are


_LAYER = "layers.{layer}."
_HF = "model.layers.{layer}."

_RULES = {
    # Llama 1 and 2 split the embedding along its columns, Llama 3 along the vocabulary.
    "tok_embeddings.weight": MetaRule("model.embed_tokens.weight", "either"),
    f"{_LAYER}attention_norm.weight": MetaRule(f"{_HF}input_layernorm.weight", "whole"),
    f"{_LAYER}attention.wq.weight": MetaRule(f"{_HF}self_attn.q_proj.weight", "rotary", "query"),
    f"{_LAYER}attention.wk.weight": MetaRule(f"{_HF}self_attn.k_proj.weight", "rotary", "group"),
    f"{_LAYER}attention.wv.weight": MetaRule(f"{_HF}self_attn.v_proj.weight", "rows", "group"),
    f"{_LAYER}attention.wo.weight": MetaRule(f"{_HF}self_attn.o_proj.weight", "columns"),
    f"{_LAYER}ffn_norm.weight": MetaRule(f"{_HF}post_attention_layernorm.weight", "whole"),
    f"{_LAYER}feed_forward.w1.weight": MetaRule(f"{_HF}mlp.gate_proj.weight", "rows"),
    f"{_LAYER}feed_forward.w3.weight": MetaRule(f"{_HF}mlp.up_proj.weight", "rows"),
    f"{_LAYER}feed_forward.w2.weight": MetaRule(f"{_HF}mlp.down_proj.weight", "columns"),
    "norm.weight": MetaRule("model.norm.weight", "whole"),
    "output.weight": MetaRule("lm_head.weight", "rows"),
}
META_RULES = {template(name): rule for name, rule in _RULES.items()}
EMBEDDING = "tok_embeddings.weight"
HEAD = "output.weight"
GATE = template(f"{_LAYER}feed_forward.w1.weight")
QUERY = template(f"{_LAYER}attention.wq.weight")
