"""The family that a Megatron checkpoint is written as, without a folder to be like.

Its args name none, and what they and the tensors say has to be said by the config.json that is
written: the first family that can is taken, and without one the conversion is refused. Where the
args hold the config.json that they were made from (`config.carried`), and it still makes these
args, that is the one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.assembly.assemble import assemble
from ckptdiff.assembly.families import fitting_families
from ckptdiff.checkpoint import Checkpoint, Parallelism
from ckptdiff.config import model as configs
from ckptdiff.config.carried import carried_config
from ckptdiff.config.compare import config_side
from ckptdiff.config.fields import FIELDS
from ckptdiff.config.huggingface_config import huggingface_config
from ckptdiff.config.megatron_args import megatron_args
from ckptdiff.config.programs import DEFAULT
from ckptdiff.errors import BadArgument, UnknownConfig, UnsupportedLayout

if TYPE_CHECKING:
    from ckptdiff.arch.base import Architecture
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.programs import Version
    from ckptdiff.conversion.plan import Target

# Programs that args are written otherwise for; those of the other releases are the default's.
_ARGS_DIFFER: tuple[Version, ...] = (DEFAULT, "bridge")
_MOST_CLAUSES = 3  # in an error
_NOT_WRITTEN = "ForConditionalGeneration"  # a language model alone is none of these classes


def way_back(
    source: Assembled, target: Target, like: Assembled | None
) -> tuple[Assembled, Assembled | None]:
    """Return a Megatron side by the rules that it is written by without a folder to be like.

    Beside it, the side that has the config.json to write; None: it is made from args. Any other
    source is returned as it is.

    Raises BadArgument for a family that does not fit its names, or that is chosen for another
    conversion; UnsupportedLayout if no config.json says all of it, or that of the chosen family
    does not and the target does not accept that.
    """
    is_back = target.to == "hf" and source.checkpoint.convention == "megatron" and like is None
    if target.family is not None and not is_back:
        raise BadArgument(
            f"family {target.family}: a family is chosen for a Megatron checkpoint that goes to "
            "Hugging Face's format without a folder to be like"
        )
    known = source.architecture is not None and not source.architecture.by_words
    if not is_back or not known or source.config is None or source.errors:
        return source, None
    fitting = [
        family
        for family in fitting_families(source.checkpoint)
        if not family.architectures[0].endswith(_NOT_WRITTEN)
    ]
    if target.family is not None:
        fitting = [_chosen(target.family, fitting, source)]
    carried = _carried(source, fitting)
    if carried is not None:
        return carried
    told: list[tuple[Architecture, list[str]]] = []
    incomplete: list[Assembled] = []
    for family in fitting:
        cannot = huggingface_config(replace(source, architecture=family), dtype="BF16").cannot
        told.append((family, cannot))
        if cannot:
            continue
        side = _by_rules_of(family, source)
        if not side.shortfall:
            return side, None
        incomplete.append(side)
    if incomplete:
        return incomplete[0], None
    family, cannot = min(told, key=lambda one: len(one[1]))
    if target.family is not None and target.accept:
        return _by_rules_of(family, source), None
    more = f"; and {len(cannot) - _MOST_CLAUSES} more" if len(cannot) > _MOST_CLAUSES else ""
    what = f"{'; '.join(clause.rstrip('.') for clause in cannot[:_MOST_CLAUSES])}{more}"
    root = source.checkpoint.root
    if target.family is not None:
        raise UnsupportedLayout(
            f"{root}: a config.json of {family.name} does not say what its args and tensors say: "
            f"{what}",
            hint="accept",
        )
    raise UnsupportedLayout(
        f"{root}: no family's config.json says all that its args and tensors say. The closest is "
        f"{family.name}: {what}",
        hint="lend",
    )


def _chosen(name: str, fitting: list[Architecture], source: Assembled) -> Architecture:
    for family in fitting:
        if family.name == name:
            return family
    fit = ", ".join(family.name for family in fitting) or "none"
    known = any(family.name == name for family in ARCHITECTURES)
    why = "its rules do not know the names" if known else "there is no such family"
    raise BadArgument(f"family {name}: {why} in {source.checkpoint.root}; families that fit: {fit}")


def _by_rules_of(family: Architecture, source: Assembled) -> Assembled:
    if family is source.architecture:
        return source
    return replace(assemble(source.checkpoint, family=family), wrapping=source.wrapping)


def _carried(source: Assembled, fitting: list[Architecture]) -> tuple[Assembled, Assembled] | None:
    """Return the way back by the config.json in args; None if there is none, or it is not theirs.

    It is theirs if Megatron's args made of it read, line by line of the table, as they do: then
    nothing that either says was changed since.
    """
    config = carried_config(source.checkpoint.config or {})
    family = None if config is None else find_architecture(config)
    if config is None or family not in fitting:
        return None
    try:
        sizes = configs.from_huggingface(config, tied_by_default=family.tied_by_default)
    except (UnknownConfig, TypeError, ValueError):
        return None
    opened = Checkpoint(source.checkpoint.root, "hf", "hf", config, Parallelism(), (), ())
    lender = replace(source, checkpoint=opened, architecture=family, config=sizes, tensors={})
    side = _by_rules_of(family, source)
    lender = replace(lender, tensors=side.tensors)
    if side.shortfall or not any(_makes_the_args_of(side, lender, v) for v in _ARGS_DIFFER):
        return None
    return side, lender


def _makes_the_args_of(source: Assembled, lender: Assembled, version: Version) -> bool:
    """Return whether the lender's config.json makes args that read as the source's do."""
    own, carried = config_side(source), lender.checkpoint.config
    padded = own.get("padded_vocab_size")
    if type(padded) is not int or not carried or own.get("vocab_size") != carried["vocab_size"]:
        return False
    made = megatron_args(
        lender,
        Parallelism(),
        names="mcore",
        dtype="BF16",
        ckpt_format="torch",
        padded_vocab_size=padded,
        version=version,
    )
    other = replace(own, fields=vars(made.settings))
    for field in FIELDS:
        effects = field.has_effect(own), field.has_effect(other)
        here, there = field.read(own), field.read(other)
        if effects[0] != effects[1] or (here is None) != (there is None):
            return False
        if here is not None and there is not None and not field.same(here.value, there.value):
            return False
    return True
