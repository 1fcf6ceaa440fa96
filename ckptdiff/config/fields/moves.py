"""The steps of a forward pass that a setting can move, by the names of the values they give.

A step starts from the same values on both sides, so a setting moves those steps alone that read it,
and none behind them. The names are those of the forward pass.
"""

from __future__ import annotations

NOTHING: frozenset[str] = frozenset()  # no logit depends on it
EMBED = frozenset({"embed"})
TABLE = frozenset({"positions"})  # of learned positions
PROJECTED = frozenset({"q", "k", "v", "q_latent", "kv_latent", "k_shared"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})
NORMS = HEAD_NORMS | {
    *("norm1", "norm2", "attn_norm", "mlp_norm", "final_norm"),
    *("q_latent_norm", "kv_latent_norm", "ctx_norm"),
}
ROTATED = frozenset({"q_rope", "k_rope"})
ATTEND = frozenset({"ctx"})
GATED = frozenset({"gate", "ctx_gated"})
ATTENTION_OUT = frozenset({"attn_out"})
ATTENTION = PROJECTED | HEAD_NORMS | ROTATED | ATTEND | GATED | ATTENTION_OUT
DELTA_NET = frozenset(
    {
        *("q", "k", "v", "gate", "b", "a", "q_conv", "k_conv", "v_conv", "decay", "beta"),
        *("ctx", "ctx_norm", "attn_out"),
    }
)
MAMBA = frozenset(
    {
        *("gate", "X", "B", "C", "dt", "X_conv", "B_conv", "C_conv", "dt_size"),
        *("ctx", "ctx_norm", "attn_out"),
    }
)
MIXERS = ATTENTION | DELTA_NET | MAMBA
ACTIVATED = frozenset({"act", "experts_act", "shared_act"})
EXPERTS_LATENT = frozenset({"experts_in", "experts_latent"})
MLP = ACTIVATED | EXPERTS_LATENT | {"mlp_out", "experts_out", "shared_out"}
SHARED = frozenset({"shared_act", "shared_out"})
ROUTER = frozenset({"router"})
ROUTING = frozenset({"routing"})
EXPERTS = ROUTER | ROUTING | MLP
HEAD = frozenset({"logits"})
ALL = EMBED | TABLE | NORMS | MIXERS | EXPERTS | HEAD
