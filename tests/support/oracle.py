"""An independent writer of Megatron checkpoints: plain loops, torch, nothing of ckptdiff.

It follows the formulas of NVIDIA's converter, and `test_oracle` holds it to files that the
converter wrote. So it can be held against the package under test.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import torch

from tests.support.oracle_hf import make_hf as make_hf
from tests.support.oracle_state import (
    RerunMode,
    flat_optimizer,
    megatron_args,
    save,
    training_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from torch import Tensor

Config = dict[str, Any]
Names = Literal["mcore", "te", "legacy"]
Extra = Literal["none", "bytesio", "tensor"] | None


def make_megatron(
    folder: Path,
    weights: dict[str, Tensor],
    config: Config,
    *,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    ep: int = 1,
    names: Names = "mcore",
    experts: Literal["sequential", "te_grouped", "grouped"] = "sequential",
    pad: Literal["repeat", "zeros", "random"] = "repeat",
    divisible_by: int = 128,
    layers_per_stage: Sequence[int] | None = None,
    iteration: int | Literal["release"] = 1,
    extra_state: Extra = None,
    optimizer: bool | Literal["distributed"] = False,
    prefix: str = "",
    lies: Collection[Literal["mha", "rope", "dtype"]] = (),
    views: bool = False,
    rank_dir: Callable[[int, int, int], str] | None = None,
) -> Path:
    """Write `weights` (Hugging Face names) as a checkpoint of Megatron's `torch` format.

    `layers_per_stage` counts layers by stage; with virtual stages by (chunk, stage), chunk first.
    `lies` are wrong arguments that real converters write. `views` leaves the shards views into
    larger storages. `rank_dir` names a folder after (tp, pp, ep) otherwise than Megatron does.
    """
    if names == "legacy" and (config["model_type"] in ("qwen3", "mixtral") or prefix or ep > 1):
        raise ValueError("Megatron's legacy model has no such thing")
    counts = layers_per_stage or [config["num_hidden_layers"] // (pp * vpp)] * (pp * vpp)
    assert len(counts) == pp * vpp
    assert sum(counts) == config["num_hidden_layers"]
    layout = Layout(weights, config, tp, ep, names, experts, extra_state, pad, divisible_by, views)
    args = megatron_args(layout, pp, vpp, lies=lies, distributed=optimizer == "distributed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(iteration))
    name = iteration if isinstance(iteration, str) else f"iter_{iteration:07d}"
    for t, p, e in [(t, p, e) for t in range(tp) for p in range(pp) for e in range(ep)]:
        state: dict[str, Any] = {"args": args, "checkpoint_version": 3.0}
        state["iteration"] = 0 if iteration == "release" else iteration
        models = []
        for chunk in range(vpp):
            place = chunk * pp + p
            first = sum(counts[:place])
            layers = range(first, first + counts[place])
            model = layout.model(t, e, layers, first=place == 0, last=place == pp * vpp - 1)
            models.append(model)
            key = "model" if vpp == 1 else f"model{chunk}"
            state[key] = nested(model) if names == "legacy" else prefixed(model, prefix)
        state["rerun_state_machine"] = {"mode": RerunMode.DISABLED, "sharded": {"max_values": {}}}
        state["num_floating_point_operations_so_far"] = 0
        rank = folder / name / (rank_dir or mp_rank(pp, ep))(t, p, e)
        rank.mkdir(parents=True)
        if optimizer:
            state |= training_state(models, distributed=optimizer == "distributed")
        save(state, rank / "model_optim_rng.pt")
        if optimizer == "distributed":
            save(flat_optimizer(models), rank / "distrib_optim.pt")
    return folder


def mp_rank(pp: int, ep: int) -> Callable[[int, int, int], str]:
    """Return Megatron's name of a rank's folder, which leaves out sizes of one."""

    def name(t: int, p: int, e: int) -> str:
        return f"mp_rank_{t:02d}" + f"_{p:03d}" * (pp > 1) + f"_{e:03d}" * (ep > 1)

    return name


class Layout:
    """What a rank holds of a model."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        config: Config,
        tp: int,
        ep: int,
        names: Names,
        experts: str,
        extra_state: Extra,
        pad: str,
        divisible_by: int,
        views: bool,
    ) -> None:
        self.weights, self.config, self.tp, self.ep = weights, config, tp, ep
        self.names, self.experts, self.extra_state = names, experts, extra_state
        self.pad, self.divisible_by, self.views = pad, divisible_by, views
        self.heads: int = config["num_attention_heads"]
        self.groups: int = config["num_key_value_heads"]
        self.head_dim: int = config.get("head_dim") or config["hidden_size"] // self.heads
        block = divisible_by * tp
        self.padded_vocab = (config["vocab_size"] + block - 1) // block * block

    def own(self, shard: Tensor) -> Tensor:
        return shard if self.views else shard.contiguous().clone()

    def part(self, full: Tensor, rank: int, dim: int) -> Tensor:
        """Return rank's even share of `full` along `dim`."""
        size = full.shape[dim] // self.tp
        return self.own(full.narrow(dim, rank * size, size))

    def vocab(self, full: Tensor, rank: int) -> Tensor:
        """Return rank's rows of a matrix with one row a token, padded behind the last token."""
        rows = self.padded_vocab - len(full)
        if self.pad == "repeat":
            padding = full[-1:].repeat(rows, 1)
        elif self.pad == "zeros":
            padding = full.new_zeros(rows, full.shape[1])
        else:
            generator = torch.Generator().manual_seed(99)
            padding = torch.randn(rows, full.shape[1], generator=generator).to(full.dtype)
        return self.part(torch.cat([full, padding]), rank, 0)

    def qkv(self, layer: str, kind: str, rank: int) -> Tensor:
        """Return a rank's rows of the groups: of each its query heads, its key and value head.

        With more ranks than groups, a rank has a part of one.
        """
        q, k, v = (self.weights[f"{layer}self_attn.{x}_proj.{kind}"] for x in "qkv")
        d, per_group = self.head_dim, self.heads // self.groups
        rows = []
        for group in range(self.groups):
            heads = range(group * per_group, (group + 1) * per_group)
            rows += [q[head * d : (head + 1) * d] for head in heads]
            rows += [x[group * d : (group + 1) * d] for x in (k, v)]
        return torch.cat(rows).chunk(self.tp)[rank]

    def gated(self, gate: Tensor, up: Tensor, rank: int) -> Tensor:
        """Return the rank's share of the gate above its share of the up projection."""
        return torch.cat([self.part(gate, rank, 0), self.part(up, rank, 0)])

    def module(self, out: dict[str, Any], name: str, extra: Extra, **tensors: Tensor) -> None:
        for kind, tensor in tensors.items():
            out[f"{name}.{kind}"] = tensor
        if extra == "tensor":
            out[f"{name}._extra_state"] = torch.empty(0, dtype=torch.uint8)
        elif extra == "bytesio":
            buffer = io.BytesIO()
            torch.save(None, buffer)
            out[f"{name}._extra_state"] = buffer
        elif extra == "none":
            out[f"{name}._extra_state"] = None

    def layer(self, number: int, t: int, e: int) -> dict[str, Any]:
        """Return rank (t, e)'s tensors of one decoder layer, by their names inside the layer."""
        layer, legacy, te = f"model.layers.{number}.", self.names == "legacy", self.names == "te"
        qkv_name, proj_name, fc1_name, fc2_name = (
            ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
            if legacy
            else ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
        )
        norm_1 = self.own(self.weights[layer + "input_layernorm.weight"])
        norm_2 = self.own(self.weights[layer + "post_attention_layernorm.weight"])
        moe = self.config["model_type"] == "mixtral"
        qkv = {"layer_norm_weight": norm_1} if te else {}
        for kind in ("weight", "bias"):
            if f"{layer}self_attn.q_proj.{kind}" in self.weights:
                qkv[kind] = self.qkv(layer, kind, t)
        proj = self.part(self.weights[layer + "self_attn.o_proj.weight"], t, 1)
        out: dict[str, Any] = {}
        if not te:
            out["input_norm.weight" if legacy else "input_layernorm.weight"] = norm_1
        elif self.extra_state:
            self.module(out, "self_attention.core_attention", self.extra_state)
        if legacy:
            self.module(out, f"self_attention.{qkv_name}", self.extra_state, **qkv)
        self.module(out, f"self_attention.{proj_name}", self.extra_state, weight=proj)
        if not legacy:
            self.module(out, f"self_attention.{qkv_name}", self.extra_state, **qkv)
        for x in "qk":
            norm = self.weights.get(f"{layer}self_attn.{x}_norm.weight")
            if norm is not None:
                out[f"self_attention.{x}_layernorm.weight"] = self.own(norm)
        if not te or moe:
            out["post_attention_norm.weight" if legacy else "pre_mlp_layernorm.weight"] = norm_2
        if moe:
            out |= self.moe(layer, t, e)
            return out
        gate, up, down = (
            self.weights[f"{layer}mlp.{x}_proj.weight"] for x in ("gate", "up", "down")
        )
        fc1 = {"layer_norm_weight": norm_2} if te else {}
        fc1["weight"] = self.gated(gate, up, t)
        self.module(out, f"mlp.{fc1_name}", self.extra_state, **fc1)
        self.module(out, f"mlp.{fc2_name}", self.extra_state, weight=self.part(down, t, 1))
        return out

    def moe(self, layer: str, t: int, e: int) -> dict[str, Any]:
        """Return the router and the experts of expert rank `e`."""
        moe = layer + "block_sparse_moe."
        out: dict[str, Any] = {"mlp.router.weight": self.own(self.weights[moe + "gate.weight"])}
        local = self.config["num_local_experts"] // self.ep
        fc1, fc2 = [], []
        for expert in range(e * local, (e + 1) * local):
            w1, w3, w2 = (
                self.weights[f"{moe}experts.{expert}.{x}.weight"] for x in ("w1", "w3", "w2")
            )
            fc1.append(self.gated(w1, w3, t))  # (2 * ffn / tp, hidden)
            fc2.append(self.part(w2, t, 1))  # (hidden, ffn / tp)
        if self.experts == "grouped":
            # Megatron reshapes these memory blocks to (local, hidden, -1) and (local, -1, hidden).
            hidden = fc1[0].shape[1]
            out["mlp.experts.weight1"] = torch.stack([w.t() for w in fc1]).reshape(hidden, -1)
            out["mlp.experts.weight2"] = torch.stack([w.t() for w in fc2]).reshape(-1, hidden)
            return out
        if self.experts == "te_grouped":
            out |= {f"mlp.experts.linear_fc1.weight{i}": w for i, w in enumerate(fc1)}
            out |= {f"mlp.experts.linear_fc2.weight{i}": w for i, w in enumerate(fc2)}
            return out
        for i in range(local):
            name = f"mlp.experts.local_experts.{i}."
            out |= {name + "linear_fc1.weight": fc1[i], name + "linear_fc2.weight": fc2[i]}
        return out

    def model(self, t: int, e: int, layers: range, *, first: bool, last: bool) -> dict[str, Any]:
        """Return one chunk's state, flat, with mcore's or legacy's dotted names."""
        legacy, out = self.names == "legacy", OrderedDict[str, Any]()
        top = "language_model." if legacy else ""
        embedding = self.weights["model.embed_tokens.weight"]
        if first:
            out[f"{top}embedding.word_embeddings.weight"] = self.vocab(embedding, t)
        for local, number in enumerate(layers):
            block = f"{top}encoder.layers" if legacy else "decoder.layers"
            for name, value in self.layer(number, t, e).items():
                out[f"{block}.{local}.{name}"] = value
        if last:
            norm = self.own(self.weights["model.norm.weight"])
            name = "encoder.final_norm" if legacy else "decoder.final_layernorm"
            extra: Extra = "tensor" if self.extra_state == "tensor" else None
            self.module(out, top + name, extra, weight=norm)
            tied = self.config["tie_word_embeddings"]
            head = self.vocab(embedding if tied else self.weights["lm_head.weight"], t)
            if not (first and tied):
                name = "word_embeddings_for_head" if legacy and tied else f"{top}output_layer"
                self.module(out, name, None, weight=head)
            if self.extra_state and not (legacy and tied):
                self.module(out, f"{top}output_layer", "none")
        return out


def prefixed(model: dict[str, Any], prefix: str) -> OrderedDict[str, Any]:
    return OrderedDict((prefix + name, value) for name, value in model.items())


def nested(model: dict[str, Any]) -> dict[str, Any]:
    """Return legacy Megatron's tree: dictionaries by module, the encoder's names still dotted."""
    out: dict[str, Any] = {}
    for name, value in model.items():
        *path, last = name.split(".")
        if "encoder" in path:
            path, last = ["language_model", "encoder"], name.removeprefix("language_model.encoder.")
        node = out
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return out
