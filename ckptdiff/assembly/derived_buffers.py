"""Buffers that a model computes from its config when it is built; old checkpoints store them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ckptdiff.checkpoint import Entry, contiguous
from ckptdiff.dtypes import ITEMSIZE
from ckptdiff.formats.files import open_regular, read_at
from ckptdiff.text import format_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.checkpoint import Checkpoint, TensorRef
    from ckptdiff.config.model import ModelConfig

_NAMES = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", "rope.freqs")
_MAX_BYTES = 65536  # of a buffer that is checked; a head has some hundred channels at most
# Relative: inverse frequencies are computed in float32, then rounded to the stored dtype.
_TOLERANCE = {"F32": 1e-6, "F16": 1e-3, "BF16": 4e-3}


def is_derived(name: str) -> bool:
    """Return whether a native name is that of a buffer that is computed from the config."""
    return name.endswith(_NAMES)


def derived_entry(ref: TensorRef, config: ModelConfig | None, checkpoint: Checkpoint) -> Entry:
    """Return a buffer as an entry whose text says whether the config gives these values.

    The inverse frequencies of rotary embeddings are rotary_base ** (-2i / rotated channels) for
    i = 0, 1, …, as in RotaryEmbedding of megatron.core.models.common.embeddings. With a scaled RoPE
    they are not checked.
    """
    kind = f"{ref.dtype} {format_shape(ref.shape)}"
    checked = _checked(ref, config, _parts(ref, checkpoint))
    return Entry(ref.name, "derived", f"{kind}, {checked}", ref)


def _parts(ref: TensorRef, checkpoint: Checkpoint) -> list[TensorRef]:
    """Return where the buffer lies: in one piece, or in the chunks of a whole tensor."""
    if checkpoint.chunks is None:
        return [ref]
    return [chunk.ref for chunk in sorted(checkpoint.chunks[ref], key=lambda chunk: chunk.box)]


def _checked(ref: TensorRef, config: ModelConfig | None, parts: Sequence[TensorRef]) -> str:
    if config is None or config.rotary_base is None or config.rope_is_scaled:
        return "not checked against the config"
    base = float(config.rotary_base)
    is_plain = len(ref.shape) == 1 and all(p.stride == contiguous(p.shape) for p in parts)
    is_plain = is_plain and sum(part.nbytes for part in parts) == ref.nbytes
    if not is_plain or ref.dtype not in _TOLERANCE or ref.nbytes > _MAX_BYTES or not ref.nbytes:
        return "not checked against the config"
    count = ref.shape[0]
    found = [value for part in parts for value in _read(part)]
    wanted = [base ** (-i / count) for i in range(count)]
    pairs = zip(found, wanted, strict=True)
    if all(abs(x - y) <= _TOLERANCE[ref.dtype] * y + 1e-9 for x, y in pairs):
        return f"as a rotary base of {base:g} makes it"
    return f"not what a rotary base of {base:g} makes of it"


def _read(ref: TensorRef) -> list[float]:
    with open_regular(ref.file) as fd:
        raw = read_at(fd, ref.offset, ref.nbytes)
    size = ITEMSIZE[ref.dtype]
    parts = [raw[i : i + size] for i in range(0, len(raw), size)]
    if ref.dtype == "BF16":  # the upper two bytes of a float32
        return [struct.unpack("<f", b"\0\0" + part)[0] for part in parts]
    return [struct.unpack("<e" if size == 2 else "<f", part)[0] for part in parts]
