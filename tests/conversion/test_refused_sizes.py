"""Plans are refused that megatron-core refuses, and only those."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble
from ckptdiff.checkpoint import Parallelism
from ckptdiff.config.megatron_args import megatron_args
from ckptdiff.conversion.plan import Target
from ckptdiff.conversion.refused_sizes import LIMITS, Planned, check_limits
from ckptdiff.conversion.stages import stages_of, uneven_ends
from ckptdiff.errors import BadArgument
from ckptdiff.formats import open_checkpoint
from tests.conversion.test_families import made
from tests.support.corpus import REPOSITORY
from tests.support.families import MODELS
from tests.support.patience import PATIENCE
from tests.support.skips import NO_NEWEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.config.programs import Version
    from tests.support.oracle_client import Oracle

WHEEL = os.environ.get("CKPTDIFF_MEGATRON", "")
PLANS = 9  # of each family
# Args of families with sizes that no others have: more plans of them find each limit alone.
RARE = ("multi_latent_attention", "mamba_num_heads", "linear_num_key_heads")
Args = dict[str, Any]
Plan = tuple[Planned, Args]
# Limits of what is not built here: the legacy model, rank files; a vocabulary is padded to fit.
UNSEEN = [
    limit
    for limit in LIMITS
    if limit.unfit.__name__ in ("_few_groups_in_legacy", "_shared_files")
    or "padded_vocab_size {} is" in [c.cell_contents for c in limit.unfit.__closure__ or ()]
]


def args_of(folder: Path) -> Args:
    """Return the args that the conversion of a folder writes, in one piece."""
    source = assemble(open_checkpoint(folder))
    made_args = megatron_args(
        source, Parallelism(), names="mcore", dtype="BF16", ckpt_format="torch",
        padded_vocab_size=128,
    )  # fmt: skip
    return vars(made_args.settings)


def cycled(value: Any, old: int, new: int) -> Any:
    """Return a list, or a pattern, with one entry for each layer, for another number of layers."""
    if isinstance(value, (list, str)) and len(value) == old and old > 1:
        return (value * new)[:new]
    return value


# Sizes that most parallel sizes divide, and some that few do.
FITTING = {"heads": 24, "groups": 24, "ffn": 48, "hidden": 48, "experts": 12, "expert_ffn": 24,
           "shared": 24, "queries": 24, "keys": 20, "delta": 24, "states": 24}  # fmt: skip
UNFIT = {"heads": (4, 9, 14), "groups": (1, 2, 3, 4), "ffn": (20, 36, 42), "hidden": (21,),
         "experts": (4, 6, 7), "expert_ffn": (10, 21), "shared": (10, 21), "queries": (10, 21),
         "keys": (12, 17), "delta": (2, 3), "states": (2, 3)}  # fmt: skip


def resized(args: Args, chance: random.Random) -> Args:
    """Return args of a model of the same family with other sizes, one or two of them unfit."""
    layers = chance.choice([3, 4, 6, 8, 8])
    if args.get("hybrid_override_pattern"):
        layers = max(layers, args["num_layers"])  # keep a layer of each kind: each has limits
    args = {name: cycled(value, args["num_layers"], layers) for name, value in args.items()}
    unfit = {name: chance.choice(UNFIT[name]) for name in chance.sample(sorted(UNFIT), 3)}
    of = FITTING | unfit
    if of["heads"] % of["groups"]:
        of["groups"] = of["heads"]
    args |= {
        "num_layers": layers,
        "num_attention_heads": of["heads"],
        "ffn_hidden_size": of["ffn"],
        "hidden_size": of["hidden"],
        "kv_channels": chance.choice([6, 7]),
    }
    if args["group_query_attention"]:
        args["num_query_groups"] = of["groups"]
    if args.get("num_experts"):
        args |= {"num_experts": of["experts"], "moe_ffn_hidden_size": of["expert_ffn"]}
    if args.get("moe_shared_expert_intermediate_size"):
        args["moe_shared_expert_intermediate_size"] = of["shared"]
    if args.get("multi_latent_attention"):
        args["q_lora_rank"] = chance.choice([of["queries"], None])
        args["kv_lora_rank"] = of["keys"]
        args["mtp_num_layers"] = chance.choice([None, 1, 1])
    if args.get("linear_num_key_heads"):
        args |= {"linear_num_key_heads": of["delta"], "linear_num_value_heads": 2 * of["delta"]}
    if args.get("mamba_num_heads"):
        args |= {"mamba_num_groups": of["states"], "mamba_num_heads": 2 * of["states"]}
    return args


def size_of(args: Args, chance: random.Random) -> Parallelism:
    """Return parallel sizes, most often with one above 1, that Megatron may refuse."""
    size = Parallelism(
        tp=chance.choice([2, 3, 4, 6, 8]),
        pp=chance.choice([2, 3, 4, 9]),
        vpp=chance.choice([1, 2, 3]),
        ep=chance.choice([2, 3, 4]),
        etp=chance.choice([2, 3, 4]),
    )
    routed = bool(args.get("num_experts"))
    kinds = [
        Parallelism(tp=size.tp, etp=size.tp),
        Parallelism(tp=size.tp),
        Parallelism(pp=size.pp),
        Parallelism(pp=size.pp, vpp=size.vpp),
        Parallelism(ep=size.ep) if routed or chance.random() < 0.2 else Parallelism(tp=size.tp),
        Parallelism(etp=size.etp, tp=size.etp) if routed else Parallelism(vpp=size.vpp),
        replace(size, ep=size.ep if routed else 1, vpp=1),
    ]
    return chance.choice(kinds)


def plan_of(args: Args, size: Parallelism, ends: Sequence[int | None], version: Version) -> Plan:
    """Return a plan to split a model, and its args."""
    block = 12 * size.tp
    args = args | {
        "tensor_model_parallel_size": size.tp,
        "pipeline_model_parallel_size": size.pp,
        "virtual_pipeline_model_parallel_size": size.vpp if size.vpp > 1 else None,
        "expert_model_parallel_size": size.ep,
        "expert_tensor_parallel_size": size.etp,
        "decoder_first_pipeline_num_layers": ends[0],
        "decoder_last_pipeline_num_layers": ends[1],
        "padded_vocab_size": -(-100 // block) * block,
    }
    planned = Planned(
        size, version, "mcore", args["num_layers"], args, first=ends[0], last=ends[1],
        is_hybrid=bool(args.get("mamba_num_heads")), has_rank_files=False,
    )  # fmt: skip
    return planned, args


def refusal(planned: Planned, args: Args) -> str | None:
    """Return why a plan is refused; adds the stages that the conversion would choose to args."""
    try:
        check_limits(planned)
        target = Target("megatron", planned.size, first_layers=planned.first,
                        last_layers=planned.last)  # fmt: skip
        first, last = uneven_ends(stages_of(planned.num_layers, target), planned.size.pp)
        args["decoder_first_pipeline_num_layers"] = first
        args["decoder_last_pipeline_num_layers"] = last
    except BadArgument as error:
        return str(error)
    return None


def proposed(plan: Plan, why: str, chance: random.Random) -> Plan | None:
    """Return the plan with a size that a refusal proposes, where one size is refused."""
    found = re.fullmatch(r"(\w+) (\d+): [^;]*; \1 ([\d, or]+) would do", why)
    if found is None:
        return None
    planned, args = plan
    name, value = found[1].lower(), int(chance.choice(re.findall(r"\d+", found[3])))
    follows = name == "tp" and planned.size.etp == planned.size.tp
    changed = {name: value, **({"etp": value} if follows else {})}
    size = replace(planned.size, **changed)
    return plan_of(args, size, (planned.first, planned.last), planned.version)


HEADS = {"num_attention_heads": 12, "kv_channels": 8}
GROUPS = HEADS | {"num_query_groups": 4, "group_query_attention": True}
SENTENCES: list[tuple[Parallelism, Args, tuple[int | None, int | None], str]] = [
    (Parallelism(tp=5, etp=5), HEADS, (None, None),
     "TP 5: 12 attention heads are not divisible by it; TP 1, 2, 3, 4, 6 or 12 would do"),
    (Parallelism(tp=6, etp=6), GROUPS, (None, None),
     "TP 6: 4 query groups are neither a multiple nor a divisor of it; TP 1, 2 or 4 would do"),
    (Parallelism(pp=2), HEADS, (9, None),
     "PP 2: with 9 layers on the first stage, there would be more than the 7 of the model"),
    (Parallelism(pp=2), HEADS, (3, 3),
     "PP 2: with 3 layers on the first stage and 3 on the last, 1 of 7 are left, and no stage for "
     "them; PP 3 would do"),
    (Parallelism(pp=3), HEADS, (None, 2),
     "PP 3: with 2 layers on the last stage, 5 of 7 are left, not divisible by the other 2 stages; "
     "PP 2 or 6 would do"),
    (Parallelism(pp=2), HEADS, (7, None),
     "PP 2: with 7 layers on the first stage, none is left for the other stage; PP 1 would do"),
    (Parallelism(), HEADS, (3, 4),
     "PP 1: layers of a first and of a last stage are asked for, and there is one stage alone; "
     "PP 2 would do"),
    (Parallelism(pp=2, vpp=3), HEADS, (1, None),
     "VPP 3: a stage of 1 layer is not divisible by it; VPP 1 would do"),
]  # fmt: skip


@pytest.mark.parametrize(("size", "settings", "ends", "sentence"), SENTENCES)
def test_a_refusal_says_once_what_does_not_fit(
    size: Parallelism, settings: Args, ends: tuple[int | None, int | None], sentence: str
) -> None:
    planned = Planned(size, "0.16", "mcore", 7, settings, first=ends[0], last=ends[1])
    with pytest.raises(BadArgument) as refused:
        check_limits(planned)
    assert str(refused.value) == sentence


@pytest.fixture(scope="module")
def families(described: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Args]:
    folder = tmp_path_factory.mktemp("families")
    found = {}
    for model in MODELS:
        made(folder / model, described[model])
        found[model] = args_of(folder / model)
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("version", ["0.16", "0.19"])
def test_what_megatron_refuses_is_refused_and_nothing_else(
    families: dict[str, Args], oracle: Oracle, version: Version
) -> None:
    wheel = WHEEL if version == "0.19" else ""
    if version == "0.19" and not (wheel and (Path(wheel) / "megatron/core").is_dir()):
        pytest.skip(NO_NEWEST)
    plans: list[Plan] = []
    chances: list[random.Random] = []
    for family, args in families.items():
        chance = random.Random(family)
        rare = any(map(args.get, RARE))
        for _ in range(PLANS * (4 if rare else 1)):
            changed = resized(args, chance)
            size = size_of(args, chance)
            ends = [chance.choice([None, None, 1, 2]) if size.pp > 1 else None for _ in range(2)]
            plans.append(plan_of(changed, size, ends, version))
            chances.append(chance)
    ours = [refusal(*plan) for plan in plans]
    sole = sole_limits(plans)
    second = [
        other
        for plan, why, chance in zip(plans, ours, chances, strict=True)
        if why and (other := proposed(plan, why, chance))
    ]
    assert [why for plan in second if (why := refusal(*plan))] == []
    theirs = asked(oracle, wheel, [args for _, args in (*plans, *second)])
    assert theirs["version"].startswith(version)
    answers = theirs["answers"]
    odd = [
        (planned.size, planned.first, planned.last, mine, its)
        for (planned, _), mine, its in zip(plans, ours, answers, strict=False)
        if (mine is None) != (its is None)
    ]
    assert odd == []
    assert [its for its in answers[len(plans) :] if its] == []
    # Each limit was the only one that a plan did not fit, so that none hides behind another.
    known = {n for n, limit in enumerate(LIMITS) if version in limit.versions}
    assert sorted(known - sole) == [n for n in sorted(known) if LIMITS[n] in UNSEEN]
    assert min(ours.count(None), len(second)) > len(plans) // 4


def sole_limits(plans: list[Plan]) -> set[int]:
    """Return the limits, by number, that are the only one that some plan does not fit."""
    found = [
        [
            number
            for number, limit in enumerate(LIMITS)
            if planned.version in limit.versions and limit.unfit(planned)
        ]
        for planned, _ in plans
    ]
    return {numbers[0] for numbers in found if len(numbers) == 1}


def asked(oracle: Oracle, wheel: str, plans: list[Args]) -> Any:
    done = subprocess.run(
        [oracle.python, "-m", "tests.support.megatron_refuses", wheel],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        input=json.dumps(plans),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
