"""What Megatron refuses of a plan: the parallel sizes that a model cannot have, and which it can.

The source of each row is named by the class or function of megatron-core that raises, or that cuts
with `divide`; `validate_args` is Megatron-LM's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptdiff.config.fields.shape import HYBRID_PATTERNS
from ckptdiff.config.programs import PROGRAMS, Version
from ckptdiff.errors import BadArgument
from ckptdiff.text import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from ckptdiff.arch.naming import Names
    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.config.model import ModelConfig
    from ckptdiff.conversion.plan import Target

Size = Literal["tp", "pp", "vpp", "ep", "etp"]
SIZES: tuple[Size, ...] = ("tp", "pp", "vpp", "ep", "etp")
ALL: frozenset[Version] = frozenset(PROGRAMS)
SINCE_16 = ALL - {"0.14"}
_SHOWN = 8  # values that would do
_MOST = 1024  # a size beyond it is not proposed


@dataclass(frozen=True, slots=True)
class Planned:
    """A model, and how it is to be split."""

    size: Parallelism
    version: Version
    names: Names
    num_layers: int
    settings: Mapping[str, Any]  # args
    is_hybrid: bool = False  # has Mamba layers
    first: int | None = None  # layers that are asked for on the first stage; None: evenly
    last: int | None = None  # and on the last one
    has_rank_files: bool = True  # is written in Megatron's torch format

    def count(self, name: str) -> int:
        """Return an arg that is a number, 0 if it is not set."""
        value = self.settings.get(name)
        return value if type(value) is int else 0

    @property
    def groups(self) -> int:
        """The query groups: as many as heads unless they are grouped."""
        grouped = self.settings.get("group_query_attention")
        return self.count("num_query_groups" if grouped else "num_attention_heads")

    @property
    def has_fewer_groups(self) -> bool:
        """Whether groups need a limit beside that of the heads: there are fewer of them."""
        return 0 < self.groups < self.count("num_attention_heads")

    @property
    def is_latent(self) -> bool:
        return bool(self.settings.get("multi_latent_attention"))

    @property
    def middle(self) -> tuple[int, int]:
        """The layers and the stages between the first and the last that were asked for."""
        ends = [layers for layers in (self.first, self.last) if layers is not None]
        return self.num_layers - sum(ends), self.size.pp - len(ends)

    @property
    def dense_ffn(self) -> int:
        """The features of MLPs that are no experts; 0 if there are none."""
        pattern = next(filter(None, map(self.settings.get, HYBRID_PATTERNS)), None)
        frequency = self.settings.get("moe_layer_freq", 1)
        if pattern:
            has_dense = "-" in pattern
        elif not self.count("num_experts"):
            has_dense = True
        elif isinstance(frequency, (list, tuple)):
            has_dense = 0 in frequency
        else:
            has_dense = frequency != 1
        return self.count("ffn_hidden_size") if has_dense else 0


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that a parallel size must fit.

    `unfit` returns what does not fit it, as a clause behind "TP 4: ", or None.
    """

    size: Size
    unfit: Callable[[Planned], str | None]
    versions: frozenset[Version] = ALL


def divides(
    size: Size,
    count: Callable[[Planned], int],
    what: str,
    versions: frozenset[Version] = ALL,
) -> Limit:
    """Return the limit that a size divides a number; 0 stands for a model without such a part."""

    def unfit(plan: Planned) -> str | None:
        number = count(plan)
        is_divided = number % getattr(plan.size, size) == 0
        return None if is_divided else f"{what.format(number)} not divisible by it"

    return Limit(size, unfit, versions)


def _few_groups(plan: Planned) -> str | None:
    tp, groups = plan.size.tp, plan.groups
    if not plan.has_fewer_groups or plan.names == "legacy":
        return None
    if groups % tp == 0 or tp % groups == 0:
        return None
    return f"{groups} query groups are neither a multiple nor a divisor of it"


def _few_groups_in_legacy(plan: Planned) -> str | None:
    if not plan.has_fewer_groups or plan.names != "legacy" or plan.groups % plan.size.tp == 0:
        return None
    return f"{plan.groups} query groups are not divisible by it, as the legacy model needs"


def _few_groups_in_14(plan: Planned) -> str | None:
    tp, groups = plan.size.tp, plan.groups
    if not plan.has_fewer_groups or plan.names == "legacy" or groups % tp == 0:
        return None
    later = ", and 0.16 does not" if tp % groups == 0 else ""
    return f"{groups} query groups are not divisible by it, as {PROGRAMS['0.14']} needs{later}"


def _qkv_rows(plan: Planned) -> int:
    """Return the rows of linear_qkv where heads fit and groups are split, else 0."""
    heads, tp = plan.count("num_attention_heads"), plan.size.tp
    if plan.is_latent or heads % tp or plan.groups == 0 or tp % plan.groups:
        return 0
    return (heads + 2 * plan.groups) * plan.count("kv_channels")


def _local_latent(count: Callable[[Planned], int]) -> Callable[[Planned], int]:
    """Return a rank of latent attention, which the local layers split and TE's hold whole."""
    return lambda plan: count(plan) if plan.is_latent and plan.names == "mcore" else 0


def _no_experts(plan: Planned) -> str | None:
    if plan.count("num_experts") or plan.size.ep == 1:
        return None
    return "the model has no routed experts"


def _expert_ffn(plan: Planned) -> int:
    return plan.count("moe_ffn_hidden_size") if plan.count("num_experts") else 0


def _biased_experts(plan: Planned) -> str | None:
    biased = plan.count("num_experts") and plan.settings.get("add_bias_linear")
    return "experts with biases are not split" if biased and plan.size.etp > 1 else None


def _shared_files(plan: Planned) -> str | None:
    routed = plan.count("num_experts") and plan.has_rank_files
    if not routed or not plan.size.shares_files:
        return None
    size = plan.size
    return (
        f"at TP {size.tp} and EP {size.ep}, ranks with other slices of the same experts would "
        "share a file of Megatron's torch format; torch_dist has no such files"
    )


def _too_few_layers(plan: Planned) -> str | None:
    ends = plan.first is not None or plan.last is not None
    if ends or plan.num_layers >= plan.size.pp:
        return None
    return f"there are only {plan.num_layers} layers"


def _uneven_hybrid(plan: Planned) -> str | None:
    ends = plan.first is not None or plan.last is not None
    if not plan.is_hybrid or (not ends and plan.num_layers % plan.size.pp == 0):
        return None
    return (
        f"{plan.num_layers} layers, Mamba layers among them, are not divisible by it, and "
        f"{PROGRAMS['0.14']} has no uneven stages of those"
    )


def _uneven_middle(plan: Planned) -> str | None:
    layers, stages = plan.middle
    if plan.first is None and plan.last is None:
        return None
    if stages < 0:
        return "layers of a first and of a last stage are asked for, and there is one stage alone"
    if layers < 0:
        return f"with {_ends(plan)}, there would be more than the {plan.num_layers} of the model"
    left = f"with {_ends(plan)}, {layers} of {plan.num_layers} are left"
    if layers and not stages:
        return f"{left}, and no stage for them"
    if layers and layers % stages:
        return f"{left}, not divisible by the other {stages} stages"
    return None


def _ends(plan: Planned) -> str:
    """Return the layers that are asked for on the first and the last stage."""
    if plan.first is None:
        return f"{plural(plan.last or 0, 'layer')} on the last stage"
    last = "" if plan.last is None else f" and {plan.last} on the last"
    return f"{plural(plan.first, 'layer')} on the first stage{last}"


def _empty_middle(plan: Planned) -> str | None:
    layers, stages = plan.middle
    if (plan.first is None and plan.last is None) or layers or stages <= 0:
        return None
    others = "stage" if stages == 1 else f"{stages} stages"
    return f"with {_ends(plan)}, none is left for the other {others}"


def _one_stage(plan: Planned) -> str | None:
    return "needs a PP above 1" if plan.size.vpp > 1 and plan.size.pp == 1 else None


def _hybrid_chunks(plan: Planned) -> str | None:
    if not plan.is_hybrid or plan.size.vpp == 1:
        return None
    return "a model with Mamba layers has no virtual stages"


def _uneven_chunks(plan: Planned) -> str | None:
    pp, vpp = plan.size.pp, plan.size.vpp
    if vpp == 1 or pp == 1 or _uneven_middle(plan):
        return None
    if plan.first is None and plan.last is None:
        if plan.num_layers % (pp * vpp) == 0:
            return None
        return f"{plan.num_layers} layers are not divisible by {pp} stages of {vpp} chunks"
    layers, stages = plan.middle
    each = layers // stages if stages else 0
    odd = next((n for n in (plan.first or 0, each, plan.last or 0) if n % vpp), 0)
    return f"a stage of {plural(odd, 'layer')} is not divisible by it" if odd else None


LIMITS: tuple[Limit, ...] = (
    # TransformerConfig.__post_init__
    divides("tp", lambda p: p.count("num_attention_heads"), "{} attention heads are"),
    Limit("tp", _few_groups, SINCE_16),
    Limit("tp", _few_groups_in_14, frozenset({"0.14"})),
    # The value heads are a multiple of these.
    divides("tp", lambda p: p.count("linear_num_key_heads"), "{} DeltaNet key heads are", SINCE_16),
    # ParallelAttention of Megatron-LM's legacy model
    Limit("tp", _few_groups_in_legacy),
    # ColumnParallelLinear and RowParallelLinear of SelfAttention, MLP, SharedExpertMLP,
    # MLASelfAttention by local layers and MultiTokenPredictionLayer; VocabParallelEmbedding
    divides("tp", _qkv_rows, "{} rows of queries, keys and values are"),
    divides("tp", lambda p: p.dense_ffn, "ffn_hidden_size {} is"),
    divides(
        "tp",
        lambda p: p.count("moe_shared_expert_intermediate_size"),
        "moe_shared_expert_intermediate_size {} is",
    ),
    divides("tp", _local_latent(lambda p: p.count("q_lora_rank")), "q_lora_rank {} is"),
    divides(
        "tp",
        _local_latent(lambda p: p.count("kv_lora_rank") + p.count("qk_pos_emb_head_dim")),
        "kv_lora_rank + qk_pos_emb_head_dim {} is",
    ),
    divides(
        "tp",
        lambda p: p.count("hidden_size") if p.count("mtp_num_layers") else 0,
        "hidden_size {}, with prediction layers, is",
    ),
    divides("tp", lambda p: p.count("padded_vocab_size"), "padded_vocab_size {} is"),
    # MambaMixer; its heads are a multiple of the groups
    divides("tp", lambda p: p.count("mamba_num_groups") * p.is_hybrid, "{} Mamba groups are"),
    # validate_args, TransformerConfig.__post_init__, MoELayer
    Limit("ep", _no_experts),
    divides("ep", lambda p: p.count("num_experts"), "{} experts are"),
    # ColumnParallelLinear and RowParallelLinear of the experts
    divides("etp", _expert_ffn, "moe_ffn_hidden_size {} is"),
    # TransformerConfig.__post_init__; before, experts have no biases at all
    Limit("etp", _biased_experts, SINCE_16),
    # get_checkpoint_name
    Limit("etp", _shared_files),
    # get_num_layers_to_build; a remainder goes to the first and the last stage
    Limit("pp", _too_few_layers),
    # MambaStack._select_layers_for_pipeline_parallel
    Limit("pp", _uneven_hybrid, frozenset({"0.14"})),
    # TransformerConfig.__post_init__
    Limit("pp", _uneven_middle),
    Limit("pp", _empty_middle, SINCE_16),
    # initialize_model_parallel
    Limit("vpp", _one_stage),
    # MambaModel, and select_pipeline_segment of HybridModel
    Limit("vpp", _hybrid_chunks),
    # validate_args
    Limit("vpp", _uneven_chunks),
)


def planned_of(
    target: Target, names: Names, config: ModelConfig, settings: Mapping[str, Any]
) -> Planned:
    """Return what is planned for a target; `settings` are the args of the model."""
    return Planned(
        target.parallelism,
        target.version,
        names,
        config.num_layers,
        settings,
        is_hybrid=config.mamba_num_heads > 0,
        first=target.first_layers,
        last=target.last_layers,
        has_rank_files=target.to == "megatron",
    )


def check_limits(plan: Planned) -> None:
    """Raise BadArgument with all that Megatron refuses of a plan, and the sizes that would do."""
    refused = {size: clauses for size in SIZES if (clauses := list(_clauses(plan, size)))}
    found = []
    for size, clauses in refused.items():
        name, given = size.upper(), getattr(plan.size, size)
        fitting = _near(list(_fitting(plan, size, refused)), given)
        would = f"; {name} {_either(fitting)} would do" if fitting else ""
        found.append(f"{name} {given}: {', and '.join(clauses)}{would}")
    if found:
        raise BadArgument(". ".join(found))


def _clauses(plan: Planned, size: Size) -> Iterator[str]:
    """Yield what of a plan does not fit a size."""
    for limit in LIMITS:
        if limit.size == size and plan.version in limit.versions:
            clause = limit.unfit(plan)
            if clause is not None:
                yield clause


def _fitting(plan: Planned, size: Size, refused: Collection[Size]) -> Iterator[int]:
    """Yield the values of a size that fit, and with which no other size is refused anew.

    The expert tensor size follows the tensor size where the two are the same.
    """
    most = {
        "tp": plan.count("num_attention_heads"), "ep": plan.count("num_experts") or 1,
        "etp": _expert_ffn(plan), "pp": plan.num_layers, "vpp": plan.num_layers,
    }[size]  # fmt: skip
    kept = [other for other in SIZES if other == size or other not in refused]
    follows = size == "tp" and plan.size.etp == plan.size.tp
    for value in range(1, min(most, _MOST) + 1):
        changed = {size: value, **({"etp": value} if follows else {})}
        tried = replace(plan, size=replace(plan.size, **changed))
        if not any(any(_clauses(tried, other)) for other in kept):
            yield value


def _near(values: list[int], given: int) -> list[int]:
    """Return the values next to the one given, in order."""
    nearest = sorted(values, key=lambda value: (abs(value - given), value))[:_SHOWN]
    return sorted(nearest)


def _either(values: list[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
