"""A Megatron checkpoint in memory, by rank, to plant faults in: nothing of ckptdiff."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from tests.support.oracle_state import load, save
from tests.support.pairs import load_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    Key = tuple[int, int, int]  # tp, pp, ep

_LAYER = re.compile(r"(?:decoder\.|module\.)*layers\.(\d+)\.")
_EXPERT = re.compile(r"experts\.(?:local_experts\.(\d+)\.(\w+\.weight)|(\w+\.weight)(\d+)$)")


@dataclass
class Native:
    """Every rank file of a checkpoint in Megatron's `torch` format."""

    folder: Path
    states: dict[Key, dict[str, Any]] = field(default_factory=dict)
    files: dict[Key, Path] = field(default_factory=dict)
    first_layer: dict[tuple[int, str], int] = field(default_factory=dict)  # of a stage's chunk

    @classmethod
    def read(cls, folder: Path, *, trusted: bool = False) -> Native:
        """Read what torch loads; the tests' own files are trusted, they name classes."""
        native = cls(folder)
        for file in sorted(folder.glob("*/mp_rank_*/model_optim_rng.pt")):
            state = (load if trusted else load_rank)(file)
            for chunk in [c for c in state if c.startswith("model")]:
                for name in [n for n, v in state[chunk].items() if type(v).__name__ == "_Stub"]:
                    del state[chunk][name]
            numbers = [int(n) for n in file.parent.name.removeprefix("mp_rank_").split("_")]
            args = state["args"]
            if len(numbers) == 2:
                is_pp = args.pipeline_model_parallel_size > 1
                numbers = [numbers[0], numbers[1], 0] if is_pp else [numbers[0], 0, numbers[1]]
            key = (numbers[0], *(numbers[1:] or [0, 0]))
            native.states[key] = state  # type: ignore[index]
            native.files[key] = file.relative_to(folder)  # type: ignore[index]
        native._number_layers()
        return native

    def _number_layers(self) -> None:
        chunks = sorted({c for s in self.states.values() for c in s if c.startswith("model")})
        at = 0
        for chunk in chunks:
            for pp in range(self.pp):
                found = {
                    int(match[1])
                    for name in self.states[0, pp, 0].get(chunk, {})
                    if (match := _LAYER.match(name))
                }
                self.first_layer[pp, chunk] = at
                at += len(found)
        self.num_layers = at

    # ── sizes ────────────────────────────────────────────────────────────────────────────────

    @property
    def args(self) -> Any:
        return self.states[0, 0, 0]["args"]

    @property
    def tp(self) -> int:
        return 1 + max(t for t, _, _ in self.states)

    @property
    def pp(self) -> int:
        return 1 + max(p for _, p, _ in self.states)

    @property
    def ep(self) -> int:
        return 1 + max(e for _, _, e in self.states)

    @property
    def etp(self) -> int:
        return getattr(self.args, "expert_tensor_parallel_size", None) or self.tp

    @property
    def heads(self) -> int:
        return int(self.args.num_attention_heads)

    @property
    def groups(self) -> int:
        grouped = getattr(self.args, "group_query_attention", False)
        return int(self.args.num_query_groups) if grouped else self.heads

    @property
    def gated(self) -> bool:
        return bool(self.args.swiglu)

    # ── tensors ──────────────────────────────────────────────────────────────────────────────

    def models(self) -> Iterator[tuple[Key, str, dict[str, Any]]]:
        """Yield every rank's model, or each of its chunks."""
        for key, state in self.states.items():
            for chunk, model in state.items():
                if chunk.startswith("model"):
                    yield key, chunk, model

    def tensors(self) -> Iterator[tuple[Key, str, dict[str, Any], int | None, str]]:
        """Yield rank, key, model, layer of the whole model (or None), and the name inside it."""
        for key, chunk, model in self.models():
            for name, value in list(model.items()):
                if not torch.is_tensor(value) or name.endswith("_extra_state"):
                    continue
                match = _LAYER.match(name)
                if match:
                    layer = self.first_layer[key[1], chunk] + int(match[1])
                    yield key, name, model, layer, name[match.end() :]
                else:
                    yield key, name, model, None, name

    def held(self, layer: int | None, *endings: str) -> dict[Key, tuple[dict[str, Any], str]]:
        """Return where each rank keeps a tensor: the model's dictionary and the key."""
        return {
            key: (model, name)
            for key, name, model, number, inner in self.tensors()
            if number == layer and inner.endswith(endings) and "experts." not in inner
        }

    def whole(self, layer: int | None, *endings: str) -> list[Tensor]:
        """Return the shard of each tensor parallel rank."""
        found = {t: m[n] for (t, _, _), (m, n) in reversed(self.held(layer, *endings).items())}
        return [found[t] for t in range(self.tp)]

    def put(self, layer: int | None, shards: list[Tensor], *endings: str) -> None:
        """Give every rank its shard; replicas over expert ranks and stages get the same."""
        held = self.held(layer, *endings)
        assert held, (layer, endings)
        for (t, _, _), (model, name) in held.items():
            assert shards[t].shape == model[name].shape
            model[name] = shards[t].to(model[name].dtype).contiguous().clone()

    def change(self, change: Callable[[Tensor], Tensor], layer: int | None, *endings: str) -> None:
        self.put(layer, [change(shard) for shard in self.whole(layer, *endings)], *endings)

    def experts(
        self, layer: int
    ) -> dict[int, dict[str, dict[int, list[tuple[dict[str, Any], str]]]]]:
        """Return where each expert's tensors lie: by expert, name, and expert tensor rank."""
        local = int(self.args.num_experts) // self.ep
        found: dict[int, Any] = {}
        for (t, _, e), name, model, number, inner in self.tensors():
            match = _EXPERT.search(inner)
            if number != layer or match is None or "shared_experts" in inner:
                continue
            expert = e * local + int(match[1] or match[4] or 0)
            places = found.setdefault(expert, {}).setdefault(match[2] or match[3], {})
            places.setdefault(t % self.etp, []).append((model, name))
        return found

    def write(self, folder: Path) -> Path:
        for key, state in self.states.items():
            kept = {k: v for k, v in state.items() if k != "rerun_state_machine"}
            file = folder / self.files[key]
            file.parent.mkdir(parents=True)
            save(kept, file)
        latest = "latest_checkpointed_iteration.txt"
        (folder / latest).write_text((self.folder / latest).read_text())
        return folder


@dataclass(frozen=True)
class Touched:
    """What was changed between two states of one checkpoint, byte by byte."""

    layers: tuple[int, ...]
    experts: tuple[int, ...]
    ranks: frozenset[Key]

    @property
    def tp(self) -> set[int]:
        return {t for t, _, _ in self.ranks}


def snapshot(native: Native) -> dict[tuple[Key, int, str], Tensor]:
    """Return a copy of every tensor."""
    return {
        (key, id(model), name): model[name].clone() for key, name, model, _, _ in native.tensors()
    }


def touched(native: Native, before: dict[tuple[Key, int, str], Tensor]) -> Touched:
    """Return the layers, experts and ranks whose bytes are not what they were."""
    layers, experts, ranks = set(), set(), set()
    for key, name, model, layer, inner in native.tensors():
        was = before[key, id(model), name]
        now = model[name]
        if was.dtype == now.dtype and torch.equal(was.view(torch.uint8), now.view(torch.uint8)):
            continue
        ranks.add(key)
        if layer is not None:
            layers.add(layer)
        if prediction := re.search(r"mtp\.layers\.(\d+)\.", name):
            layers.add(native.num_layers + int(prediction[1]))
        local = int(native.args.num_experts or 0) // native.ep
        if inner.endswith(("experts.weight1", "experts.weight2")):
            experts |= set(range(key[2] * local, (key[2] + 1) * local))
        match = _EXPERT.search(inner)
        if match and "shared_experts" not in inner:
            experts.add(key[2] * local + int(match[1] or match[4] or 0))
    return Touched(tuple(sorted(layers)), tuple(sorted(experts)), frozenset(ranks))
