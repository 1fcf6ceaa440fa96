"""What the layers of all sides have in common: weights, norms, rotary positions, attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from ckptdiff.errors import BadArgument, MissingShard
from ckptdiff.forward.arithmetic import at_least_float32
from ckptdiff.forward.rope import angles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ckptdiff.forward.arithmetic import Arithmetic
    from ckptdiff.forward.holdings import HeldTensor, Ranks
    from ckptdiff.forward.model import LayerSpec, Model, Rope
    from ckptdiff.forward.reading import Reader


MOST_ELEMENTS = 1 << 22  # of the output head that are read at a time


@dataclass
class LayerOf:
    """One layer of one side. Values are (positions, features) or (positions, heads, channels)."""

    sinks_name: ClassVar[str] = "self_attn.sinks"

    model: Model
    number: int  # in the whole model, from 0; any number before the first and after the last layer
    ranks: Ranks
    reader: Reader
    arithmetic: Arithmetic
    copy: int = 0  # the rank whose copy of a replicated tensor is used
    copied: set[str] = field(default_factory=set)  # names of the replicated tensors that were used
    # Positions of each sequence, where several lie end to end; (): they are all of one.
    lengths: tuple[int, ...] = ()

    # ── weights ──────────────────────────────────────────────────────────────────────────────────

    def has(self, name: str) -> bool:
        return name in self.ranks[0]

    def weight(self, name: str, rank: int | None = None) -> Tensor:
        """Return a rank's tensor; without a rank, the replicated one. Raises MissingShard."""
        return self.reader.tensor(self.held(name, rank))

    def held(self, name: str, rank: int | None = None) -> HeldTensor:
        """Return where a rank's tensor lies; without a rank, the replicated one.

        Raises MissingShard.
        """
        if rank is None:
            rank = self.copy
            self.copied.add(name)
        if name not in self.ranks[rank]:
            on = f" on tensor rank {rank}" if len(self.ranks) > 1 else ""
            raise MissingShard(
                f"{name} is missing{on}: copy the file that has it, or convert again"
            )
        return self.ranks[rank][name]

    def optional(self, name: str, rank: int | None = None) -> Tensor | None:
        """Return a tensor; None if it is not there, or a bias that the program does not add."""
        is_held = name in self.ranks[self.copy if rank is None else rank]
        module, _, kind = name.rpartition(".")
        if not is_held or (kind == "bias" and module in self.model.without_bias):
            return None
        return self.weight(name, rank)

    # ── steps ────────────────────────────────────────────────────────────────────────────────────

    @property
    def layer(self) -> LayerSpec:
        return self.model.layers[self.number]

    @property
    def features(self) -> frozenset[str]:
        """Return the optional steps that it takes, and the structures that it has (see `steps`)."""
        model, latent = self.model, self.model.latent
        has = {
            "norm1": model.norms_in_front,
            "norm2": model.norms_in_front,
            "norm_attention": model.norms_behind,
            "norm_mlp": model.norms_behind,
            "positions": model.learned_positions,
            "parallel residual": model.parallel_residual,
            "experts": self.layer.routing is not None,
            "an MLP alone": self.layer.mixer is None,
            "no MLP": not self.layer.mlp,
            "a gated DeltaNet": self.layer.mixer == "delta_net",
            "a Mamba mixer": self.layer.mixer == "mamba",
            "experts in a latent space": model.expert_latent is not None,
            "latent attention": latent is not None,
            "an output gate of attention": model.output_gate,
            "compress_queries": latent is not None and latent.query_rank is not None,
            "norm_queries": latent is not None and latent.query_rank is not None,
        }
        return frozenset(name for name, on in has.items() if on)

    def norm(self, name: str, x: Tensor, epsilon: float | None = None) -> Tensor:
        model = self.model
        epsilon = model.layernorm_epsilon if epsilon is None else epsilon
        weight = self.weight(f"{name}.weight")
        if model.zero_centered:
            weight = (at_least_float32(weight) if model.wide_norm else weight) + 1
        if model.rms_norm:
            return self.arithmetic.rms_norm(x, weight, epsilon, is_wide=model.wide_norm)
        return self.arithmetic.layer_norm(x, weight, self.optional(f"{name}.bias"), epsilon)

    def each_head(self, norm: str, x: Tensor) -> Tensor:
        """Return x, (positions, heads, channels), normalised by head or over all heads at once."""
        if self.model.norms_all_heads:
            return self.norm(norm, x.flatten(1)).view_as(x)
        return self.norm(norm, x)

    def vocab_parallel_rows(self, ids: Tensor, parts: Iterable[HeldTensor]) -> Tensor:
        """Return rows of a matrix whose rows are split over ranks: (ids, columns).

        As in Megatron's VocabParallelEmbedding, a rank gives zeros for rows of others, and the
        results are added up.
        """
        total: Tensor | None = None
        start = 0
        for held in parts:
            size = held.shape[0]
            mine = (ids >= start) & (ids < start + size)
            rows = self.reader.rows(held, torch.where(mine, ids - start, 0))
            rows = torch.where(mine[:, None].to(rows.device), rows, 0)
            total = rows if total is None else total + rows
            start += size
        assert total is not None
        return total

    def learned_positions(self, ids: Tensor, name: str) -> Tensor:
        """Return (ids, features): the rows of the first positions. Raises BadArgument beyond."""
        table = self.held(name)
        if len(ids) > table.shape[0]:
            raise BadArgument(
                f"the prompt has {len(ids)} tokens, and {name} has a row for each of the first "
                f"{table.shape[0]} positions alone. Give a prompt of at most {table.shape[0]} "
                "tokens"
            )
        return self.reader.rows(table, slice(len(ids)))

    def start(self, embed: Tensor) -> Tensor:
        return embed

    def scaled(self, rows: Tensor) -> Tensor:
        """Return an embedding's rows times the model's `embedding_scale`."""
        return self.arithmetic.scaled(rows, self.model.embedding_scale)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        rope = self.layer.rope
        return (q, k) if rope is None else (self.rotated(rope, q), self.rotated(rope, k))

    def rotated(self, rope: Rope, x: Tensor) -> Tensor:
        """Return x, (positions, heads, channels), with its first `rope.dim` channels rotated."""
        is_polar = self.arithmetic.complex_rope or rope.is_complex
        cosine, sine = self.angles(rope, x, polar=is_polar)
        rotated = self.arithmetic.rotate(
            x,
            cosine,
            sine,
            neighbours=rope.interleaved,
            is_wide=rope.is_wide,
            is_complex=rope.is_complex,
        )
        if rope.interleaved and not rope.regroups:
            halves = rotated[..., : rope.dim].chunk(2, -1)
            pairs = torch.stack(halves, -1).flatten(-2)
            rotated = torch.cat((pairs, rotated[..., rope.dim :]), -1)
        return rotated

    def angles(self, rope: Rope, x: Tensor, *, polar: bool) -> tuple[Tensor, Tensor]:
        """Return cosine and sine for the positions of x, each (positions, rope.dim)."""
        if not self.lengths:
            return angles(rope, len(x), x, polar=polar)
        by_length = {n: angles(rope, n, x, polar=polar) for n in set(self.lengths)}
        cosines, sines = zip(*(by_length[n] for n in self.lengths), strict=True)
        return torch.cat(cosines), torch.cat(sines)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        model, rope = self.model, self.layer.rope
        if self.arithmetic.complex_rope or (rope is not None and rope.is_complex):
            q, k = self._neighbours(q), self._neighbours(k)
        return self.arithmetic.attend(
            q,
            k,
            v,
            model.softmax_scale,
            self.layer.window,
            model.attention_cap,
            self.sinks(q),
            is_causal=model.is_causal,
        ).flatten(1)

    def _neighbours(self, x: Tensor) -> Tensor:
        """Return x, (positions, heads, channels), with pairs as complex numbers have them.

        What was rotated is compared as halves; such a program sums over neighbours.
        """
        first = 0 if self.model.latent is None else self.model.latent.unrotated
        pairs = torch.stack(x[..., first:].chunk(2, -1), -1).flatten(-2)
        return torch.cat((x[..., :first], pairs), -1) if first else pairs

    def gate_context(self, ctx: Tensor, gate: Tensor) -> Tensor:
        """Return ctx, (positions, features), times the sigmoid of (positions, heads, channels)."""
        return self.arithmetic.times_sigmoid(ctx, gate.flatten(1))

    def sinks(self, q: Tensor) -> Tensor | None:
        """Return what each head's softmax has beside positions, (heads,); None: nothing."""
        if self.model.softmax_type == "vanilla":
            return None
        if self.model.softmax_type == "off-by-one":
            return q.new_zeros(q.shape[1])
        return torch.cat([self.weight(self.sinks_name, rank) for rank in range(len(self.ranks))])

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        model = self.model
        return self.arithmetic.gate(gate, up, model.activation, model.gate_limit, model.up_offset)

    def norm2(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def norm2_beside(self, x: Tensor, x1: Tensor) -> Tensor:
        """Return the input of the MLP, from the stream before and after attention."""
        return self.norm2(x if self.model.parallel_residual else x1)

    def add_beside(self, x: Tensor, attention: Tensor, x1: Tensor, mlp: Tensor) -> Tensor:
        """Return the stream after both, in the order in which they are added up."""
        if self.model.parallel_residual:
            return self.add(self.add(mlp, attention), x)
        return self.add(x1, mlp)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        return self.arithmetic.add(x, update)

    def row_parallel(self, x: Tensor, name: str) -> Tensor:
        """Return x times a weight whose columns are split over ranks, and its bias."""
        weights = (self.weight(f"{name}.weight", rank) for rank in range(len(self.ranks)))
        parts = zip(x.chunk(len(self.ranks), -1), weights, strict=True)
        return self.arithmetic.row_parallel(parts, self.optional(f"{name}.bias"))

    def head_parts(self) -> tuple[HeldTensor, ...]:
        """Return the matrices whose rows, one after another, are those of the output head."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Return (positions, padded vocabulary); some rows of the head are read at a time."""
        parts = [
            self.arithmetic.linear(x, self.reader.rows(held, rows))
            for held in self.head_parts()
            for rows in head_blocks(held)
        ]
        return self.arithmetic.capped(torch.cat(parts, -1), self.model.logit_cap)

    def some_logits(self, x: Tensor, head_rows: Tensor) -> Tensor:
        """Return (positions, rows) of logits, of some rows of the head."""
        return self.arithmetic.capped(self.arithmetic.linear(x, head_rows), self.model.logit_cap)


def head_blocks(held: HeldTensor) -> list[slice]:
    """Return the rows of a matrix of the output head that are read at a time."""
    rows, columns = held.shape
    step = max(1, MOST_ELEMENTS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
