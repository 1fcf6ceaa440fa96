"""Hold a checkpoint against its own config: the names and shapes that it promises."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from ckptdiff.arch.fused import knows, spellings
from ckptdiff.arch.layer_parts import alternatives, part_of
from ckptdiff.arch.order import in_model_order
from ckptdiff.arch.promised_shapes import promised_sizes
from ckptdiff.arch.templates import fill_name, fill_template, split_name, template
from ckptdiff.assembly.recipe import Misfit, Shortfall
from ckptdiff.config.compare import config_side
from ckptdiff.config.layer_parts import stated_parts
from ckptdiff.dtypes import FLOATS
from ckptdiff.errors import CkptDiffError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptdiff.arch.base import Architecture, ParamMapping
    from ckptdiff.arch.layer_parts import Part
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.model import ModelConfig

    Numbers = tuple[int, ...]  # of layer and expert in a name

MAX_NAMES = 300_000  # that a config may promise: more than the largest models have
MANY_NAMES = 100_000  # which a config may promise however few tensors there are
MAX_HEADS = 100_000
# How transformers ends the classes without a head over the vocabulary.
_HEADLESS = ("Model", "SequenceClassification", "TokenClassification", "QuestionAnswering")


def with_shortfall(side: Assembled) -> Assembled:
    """Return the side with what it lacks of what its config promises, by the rules of its family.

    A tensor that some models of the family have is promised if the config says so, or if another
    layer of the same kind has it. Without rules or config nothing is promised.
    """
    is_alone = side.adapter is not None and side.adapter.is_alone
    if side.architecture is None or side.config is None or is_alone:
        return side
    return replace(side, shortfall=_Promise(side, side.architecture, side.config).shortfall())


def packed_misfits(side: Assembled) -> list[Misfit]:
    """Return the tensors of another shape than the config promises that hold no plain floats."""
    if side.architecture is None or side.config is None:
        return []
    found = _Promise(side, side.architecture, side.config).misfits()
    return [one for one in found if side.tensors[one.name].dtype not in FLOATS]


class _Promise:
    """What is held, by template, while it is compared with what is promised."""

    def __init__(self, side: Assembled, architecture: Architecture, config: ModelConfig) -> None:
        self.side = side
        self.architecture = architecture
        self.config = config
        self.held: dict[str, set[Numbers]] = defaultdict(set)
        self.shapes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
        for name, tensor in side.tensors.items():
            key, numbers = split_name(name)
            self.held[key].add(numbers)
            self.shapes[key].add(tensor.shape)
        self._layers_of_key: dict[str, set[int]] = {}
        self._full: dict[str, bool] = {}
        for stored in chain(side.errors, side.packed):
            for name in spellings(stored, architecture):
                key, numbers = split_name(name)
                self.held[key].add(numbers)
        self.decoder = [rule for rule in architecture.mappings if rule.of_layers]
        self.predicting = [rule for rule in architecture.mappings if rule.of_predictions]

    def shortfall(self) -> Shortfall:
        layers, experts = self.config.num_layers, self.config.num_experts
        if not self._is_of_these_rules():
            return Shortfall()
        count = sum(max(1, experts if rule.of_experts else 1) for rule in self.decoder) * layers
        tensors = self.side.tensors
        # What is packed has another shape, and is no gap.
        misfits = tuple(one for one in self.misfits() if tensors[one.name].dtype in FLOATS)
        in_files = self._layers_of(self.decoder)
        predictions = self._predictions()
        extra = sorted(n for n in in_files if n >= layers and n not in predictions)
        if count > min(MAX_NAMES, max(MANY_NAMES, 100 * len(tensors))):
            # A hostile config may promise anything: its names are not listed.
            first = range(len(in_files), layers)
            return Shortfall(
                misfits=misfits,
                layers=layers,
                layers_held=len(in_files - predictions),
                absent_layers=tuple(first[:1]),
                extra_layers=tuple(extra),
            )
        absent = tuple(sorted(set(range(layers)) - in_files))
        lacking = {name: None for name in self._unheld(predictions) if not self._is_fused(name)}
        return Shortfall(
            tuple(in_model_order(lacking, self.architecture)),
            tuple(self._beyond(set(extra))),
            misfits,
            layers,
            len(in_files - predictions),
            absent,
            tuple(extra),
            tuple(self._unknown()) if lacking else (),
        )

    def _unknown(self) -> Iterator[str]:
        """Yield the stored names that no rule knows: what is lacking may have one of them."""
        adapter = () if self.side.adapter is None else self.side.adapter.names
        yield from self.side.unmapped
        for name in self.side.tensors:
            if name not in adapter and not knows(self.architecture, split_name(name)[0]):
                yield name

    def _is_of_these_rules(self) -> bool:
        """Return whether the names promise to be those of the rules.

        A model without a head, say, has a class of its own, and may have other names altogether.
        """
        classes = self._settings.get("architectures")
        if not isinstance(classes, list) or self.side.checkpoint.convention != "hf":
            return True
        if any(name in self.architecture.architectures for name in classes):
            return True
        return any(template(hf) in self.held for rule in self.decoder for hf in rule.hf)

    def _has_head(self) -> bool:
        """Return whether the class of the model is one with a head over the vocabulary."""
        classes = self._settings.get("architectures")
        if not isinstance(classes, list) or self.side.checkpoint.convention != "hf":
            return True
        # A class that is not known may have a head: only one that is a body alone has none.
        return not classes or any(not str(name).endswith(_HEADLESS) for name in classes)

    @property
    def _settings(self) -> Mapping[str, Any]:
        return self.side.checkpoint.config or {}

    # ── names ────────────────────────────────────────────────────────────────────────────────

    def _unheld(self, predictions: frozenset[int]) -> Iterator[str]:
        """Yield the promised names that are not held."""
        for rule in self.architecture.mappings:
            if rule.of_layers or rule.of_predictions:
                continue
            if rule.role == "head" and self._is_tied_or_headless():
                continue
            for hf in rule.hf:
                if not self.held[template(hf)] and self._is_promised(rule, elsewhere=False):
                    yield hf
        layers = frozenset(range(self.config.num_layers))
        yield from self._unheld_in(self.decoder, layers)
        yield from self._unheld_in(self.predicting, predictions)

    def _is_tied_or_headless(self) -> bool:
        tied = self.config.tied_embeddings or self._settings.get("tie_word_embeddings") is True
        return tied or not self._has_head()

    def _is_promised(self, rule: ParamMapping, *, elsewhere: bool) -> bool:
        """Return whether a rule's tensor is promised; `elsewhere`: another layer has one."""
        return elsewhere or rule.promised is None or rule.promised(self.config)

    def _unheld_in(self, rules: list[ParamMapping], layers: frozenset[int]) -> Iterator[str]:
        """Yield the names of layers that are promised and not held."""
        if not layers:
            return
        of_part = self._layers_by_part(rules, layers)
        experts = range(self.config.num_experts)
        for rule in rules:
            part = part_of(rule)
            within = layers if part is None else of_part[part]
            keys = {hf: template(hf) for hf in rule.hf}
            there = any(not within.isdisjoint(self._layers(key)) for key in keys.values())
            if not within or not self._is_promised(rule, elsewhere=there):
                continue
            for hf, key in keys.items():
                found = self.held[key]
                if rule.of_experts and within <= self._layers(key) and self._is_full(key):
                    continue
                if "{" not in hf:
                    wanted: set[Numbers] = {()}
                elif rule.of_experts:
                    wanted = {(layer, expert) for layer in within for expert in experts}
                else:
                    wanted = {(layer,) for layer in within}
                if not wanted <= found:
                    yield from (fill_name(hf, numbers) for numbers in wanted - found)

    def _layers(self, key: str) -> set[int]:
        """Return the layers that hold a tensor of this template."""
        if key not in self._layers_of_key:
            self._layers_of_key[key] = {n[0] for n in self.held[key] if n}
        return self._layers_of_key[key]

    def _is_full(self, key: str) -> bool:
        """Return whether every layer that has one of these experts has all, and no more."""
        if key not in self._full:
            count = self.config.num_experts
            numbers = {n[-1] for n in self.held[key]}
            size = len(self._layers(key)) * count
            self._full[key] = numbers == set(range(count)) and len(self.held[key]) == size
        return self._full[key]

    def _layers_by_part(
        self, rules: list[ParamMapping], layers: frozenset[int]
    ) -> dict[Part, frozenset[int]]:
        """Return the layers of each part: what they hold shows it, or else the config states it."""
        shown: dict[Part, set[int]] = defaultdict(set)
        for rule in rules:
            part = part_of(rule)
            if part is not None:
                shown[part] |= {n for hf in rule.hf for n in self._layers(template(hf))}
        found: dict[Part, frozenset[int]] = defaultdict(frozenset)
        parts = {part for rule in rules if (part := part_of(rule)) is not None}
        for group in alternatives(self.architecture):
            choices = {p for p in group & parts if p != "experts" or self.config.num_experts}
            if len(choices) == 1:
                found[choices.pop()] = layers
                continue
            several = {i for i in layers if sum(i in shown[part] for part in choices) != 1}
            stated = stated_parts(config_side(self.side), several) if several else {}
            for part in choices:
                found[part] = frozenset(
                    i for i in layers if part in stated.get(i, ()) or (i in shown[part] - several)
                )
        return found

    def _layers_of(self, rules: list[ParamMapping]) -> set[int]:
        """Return the layers that hold a tensor of one of the rules."""
        return {n for rule in rules for hf in rule.hf for n in self._layers(template(hf))}

    def _predictions(self) -> frozenset[int]:
        """Return the prediction layers that are promised, as Hugging Face numbers them.

        transformers leaves them out when it saves, so a Hugging Face folder has all or none.
        """
        own = [rule for rule in self.predicting if rule.role == "eh_proj"]
        there = {n[0] if n else 0 for rule in own for n in self.held[template(rule.hf[0])]}
        checkpoint = self.side.checkpoint
        is_stated = checkpoint.convention == "megatron" and checkpoint.config is not None
        if not self.predicting or not (there or is_stated):
            return frozenset()
        start = self.architecture.layers_of(self.predicting[0], self.config.num_layers).start
        return frozenset(range(start, start + min(self.config.mtp_num_layers, 100))) | there

    def _is_fused(self, name: str) -> bool:
        """Return whether a name is part of a fused or packed tensor that could not be taken apart.

        That tensor is an error, or packed.
        """
        key, numbers = split_name(name)
        stored = [*self.side.errors, *self.side.packed]
        for fused in self.architecture.fused:
            if key in map(template, fused.parts):
                whole = fill_template(template(fused.hf), numbers[: fused.hf.count("{")])
                if any(whole in spellings(name, self.architecture) for name in stored):
                    return True
        return False

    def _beyond(self, extra: set[int]) -> Iterator[str]:
        """Yield the names of layers and experts that the config does not count."""
        experts = self.config.num_experts
        rules = {template(hf): rule for rule in self.decoder for hf in rule.hf}
        for key, rule in rules.items():
            if self._layers(key).isdisjoint(extra) and (not rule.of_experts or self._is_full(key)):
                continue
            for numbers in self.held[key]:
                if numbers[0] in extra or (rule.of_experts and numbers[-1] >= experts):
                    yield fill_template(key, numbers)

    # ── shapes ───────────────────────────────────────────────────────────────────────────────

    def misfits(self) -> Iterator[Misfit]:
        """Yield the tensors whose shape is not the one that rules and config give."""
        wrong: dict[str, dict[int, int]] = {}
        for rule in self.architecture.mappings:
            for source, hf in enumerate(rule.hf):
                key = template(hf)
                sizes = self._sizes(rule, source) if key in self.shapes else {}
                if not all(_fits(shape, sizes) for shape in self.shapes.get(key, ())):
                    wrong[key] = sizes
        if not wrong:
            return
        for name, tensor in self.side.tensors.items():
            sizes = wrong.get(split_name(name)[0], {})
            if not _fits(tensor.shape, sizes):
                promised = tuple(sizes.get(d, n) for d, n in enumerate(tensor.shape))
                yield Misfit(name, tensor.shape, promised)

    def _sizes(self, rule: ParamMapping, source: int) -> dict[int, int]:
        """Return the sizes along the dimensions that follow from the config, by dimension."""
        config = self.config
        heads = (config.num_attention_heads, config.linear_num_key_heads, config.mamba_num_heads)
        if max(heads) > MAX_HEADS or (rule.of_vocabulary and type(config.vocab_size) is not int):
            return {}
        sizes: dict[int, int] = {}
        try:
            if rule.partition is not None and rule.dim is not None:
                parts = [p.stop for p in rule.partition(config, 1, 0) if p.source == source]
                sizes[rule.dim] = max(parts, default=0)
        except (CkptDiffError, ArithmeticError, TypeError, ValueError):
            return {}
        width = self._expert_width() if rule.of_experts else config.hidden_size
        if width is not None:
            seen = replace(config, hidden_size=width)
            sizes |= promised_sizes(self.architecture, rule, seen)
        return {1 - d: n for d, n in sizes.items()} if rule.transposed else sizes

    def _expert_width(self) -> int | None:
        """Return what goes into a routed expert: the hidden size, or a smaller one beside it."""
        inner = self._settings.get("text_config")
        settings = {**self._settings, **inner} if isinstance(inner, dict) else self._settings
        latent = settings.get("moe_latent_size")
        return self.config.hidden_size if latent is None else _positive(latent)


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _fits(shape: tuple[int, ...], sizes: Mapping[int, int]) -> bool:
    return all(d < len(shape) and shape[d] == n for d, n in sizes.items())
