"""The structure of a model, which decides what fields have an effect."""

from __future__ import annotations

from ckptdiff.config.fields.base import MEGATRON, TRANSFORMERS, ConfigSide, Stated

SHAPES = "Tensors have other shapes, so the weights of one side do not load into the other."
MAX_LAYERS = 10_000  # of a pattern, which is listed layer by layer
PATTERN = "moe_layer_freq"
# Megatron's args that list the kinds of a hybrid's layers by letters: the older name first.
HYBRID_PATTERNS = ("hybrid_override_pattern", "hybrid_layer_pattern")


def is_latent(side: ConfigSide) -> bool:
    """Return whether attention is multi-latent (DeepSeek)."""
    if side.kind == "hf":
        return side.get("kv_lora_rank") is not None
    return bool(side.get("multi_latent_attention"))


def expert_names(side: ConfigSide) -> tuple[str, ...]:
    """Return the fields that may state how many routed experts there are."""
    if side.kind == "hf":
        return "num_local_experts", "num_experts", "n_routed_experts"
    return ("num_experts",)


def expert_count(side: ConfigSide) -> int:
    """Return how many routed experts there are; 0 for a dense model, whatever is said of them."""
    if _is_hybrid_without(side):
        return 0
    return next((n for name in expert_names(side) if type(n := side.get(name)) is int and n > 0), 0)


def _is_hybrid_without(side: ConfigSide) -> bool:
    """Return whether layers are listed by kind (Nemotron-H), and none has experts."""
    kinds = side.get("layers_block_type") if side.kind == "hf" else None
    if isinstance(kinds, list):
        return "moe" not in kinds
    letters = next(filter(None, map(side.get, HYBRID_PATTERNS)), None)
    return isinstance(letters, str) and "E" not in letters.partition("/")[0]


def has_dense_layers(side: ConfigSide) -> bool:
    """Return whether some layer has a dense MLP."""
    if not expert_count(side):
        return True
    pattern = layer_pattern(side)
    return pattern is not None and 0 in pattern.value


def layer_count(side: ConfigSide) -> int | None:
    """Return how many layers a side states; None if it states no integer, or more than any has."""
    names = ("num_hidden_layers", "n_layer") if side.kind == "hf" else ("num_layers",)
    count = next((n for name in names if type(n := side.get(name)) is int), None)
    return None if count is None or count > MAX_LAYERS else count


def layer_pattern(side: ConfigSide) -> Stated | None:
    """Return 1 for each layer of experts and 0 for each dense one."""
    count = layer_count(side)
    if count is None or count <= 0:
        return None
    return (_pattern_hf if side.kind == "hf" else _pattern_megatron)(side, count)


def _pattern_hf(side: ConfigSide, count: int) -> Stated | None:
    if side.get("model_type") == "glm4_moe_lite":  # whose class reads nothing else for it
        kinds = side.get("mlp_layer_types") or ["dense", *["sparse"] * (count - 1)]
        pattern = [int(kind == "sparse") for kind in kinds]
        name = "mlp_layer_types" if side.get("mlp_layer_types") else None
        return Stated(pattern, name, kinds, None if name else TRANSFORMERS)
    dense = side.get("first_k_dense_replace")
    if dense is not None:
        every = side.get(PATTERN) or 1
        pattern = [int(i >= dense and i % every == 0) for i in range(count)]
        return Stated(pattern, "first_k_dense_replace", dense)
    step, skipped = side.get("decoder_sparse_step"), side.get("mlp_only_layers") or []
    if step is not None or skipped:
        pattern = [int(i not in skipped and (i + 1) % (step or 1) == 0) for i in range(count)]
        name = "mlp_only_layers" if skipped else "decoder_sparse_step"
        return Stated(pattern, name, side.get(name))
    if side.family is None:
        return None
    return Stated([1] * count, None, [1] * count, f"every {side.family} model")


def _pattern_megatron(side: ConfigSide, count: int) -> Stated | None:
    freq = side.get(PATTERN)
    if isinstance(freq, list):
        return Stated([int(bool(one)) for one in freq], PATTERN, freq)
    if type(freq) is int and freq > 0:
        return Stated([int(i % freq == 0) for i in range(count)], PATTERN, freq)
    if side.has(PATTERN):
        return None
    return Stated([1] * count, None, [1] * count, MEGATRON)
