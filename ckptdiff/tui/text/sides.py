"""A checkpoint in words: its family, format, parallelism and size."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptdiff.assembly.packed import tensor_counts
from ckptdiff.formats.hub.lookup import absolute
from ckptdiff.text import format_bytes, printable
from ckptdiff.tui.words import plural, short_path, shorten

if TYPE_CHECKING:
    from pathlib import Path

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.checkpoint import Checkpoint, HubModel
    from ckptdiff.tui.model.session import Session


def parallelism(checkpoint: Checkpoint) -> str:
    """Return the parallel sizes above 1: `TP 4 PP 2`, or "" for Hugging Face."""
    sizes = checkpoint.parallelism
    words = {"TP": sizes.tp, "PP": sizes.pp, "VPP": sizes.vpp, "EP": sizes.ep, "ETP": sizes.etp}
    used = [f"{word} {size}" for word, size in words.items() if size > 1]
    if not used and checkpoint.convention != "hf":
        return "TP 1"
    return " ".join(used)


def dtypes(counts: Counter[str]) -> str:
    """Return the dtype; of several, `mostly` and the most frequent one."""
    if not counts:
        return ""
    most_frequent = counts.most_common(1)[0][0].lower()
    return most_frequent if len(counts) == 1 else f"mostly {most_frequent}"


def recognised(checkpoint: Checkpoint, *, family: str | None, layers: int | None) -> str:
    """Return one line about an opened checkpoint: family, format, sizes, dtype."""
    stored: Counter[str] = Counter()
    nbytes = 0
    count = 0
    for shard in checkpoint.shards:
        for ref in shard.tensors.values():
            stored[ref.dtype] += 1
            nbytes += ref.nbytes
            count += 1
    parts = [printable(family) if family else FORMATS.get(checkpoint.format, checkpoint.format)]
    if family and checkpoint.format != "hf":
        parts[0] += f" ({FORMATS.get(checkpoint.format, checkpoint.format)})"
    parts += [parallelism(checkpoint), plural(layers, "layer") if layers else ""]
    parts += [plural(count, "tensor"), format_bytes(nbytes), dtypes(stored)]
    parts += [plural(len(checkpoint.files), "file")]
    return "  ".join(part for part in parts if part)


def described(side: Assembled) -> str:
    """Return format, family and parallelism of a checkpoint."""
    checkpoint = side.checkpoint
    family = "" if side.family is None else printable(side.family)
    parts = [FORMATS.get(checkpoint.format, checkpoint.format), family, parallelism(checkpoint)]
    return "  ".join(part for part in parts if part)


FORMATS = {
    "hf": "Hugging Face",
    "megatron": "Megatron",
    "torch_dist": "torch_dist",
    "dcp": "DCP",
    "meta": "Meta",
    "fsdp": "FSDP",
    "dcp_safetensors": "DCP in safetensors",
    "deepspeed": "DeepSpeed",
}


def title(session: Session, width: int) -> str:
    """Return the line above the list: each side's path and size, shortened to fit."""
    shown = []
    sides = (session.a, session.b)
    for letter, path, assembled in zip("AB", session.paths, sides, strict=False):
        extent = "" if assembled is None or session.in_part else _extent(assembled)
        hub = None if assembled is None else assembled.checkpoint.hub
        shown.append(("" if session.browsing else f"{letter} ", _name(path, hub, width), extent))
    family = ""
    if session.a is not None and session.a.family is None and session.a.checkpoint.config:
        family = "no rules"
    elif session.a is not None and session.a.family is not None:
        family = printable(session.a.family)
        if session.a.config is not None:
            family += f" {session.a.config.num_layers}L"
    room = width - 2 - len(family) - 2
    each = room // max(1, len(shown)) - 3
    parts = []
    for letter, name, extent in shown:
        most = max(8, each - len(letter) - len(extent) - 1)
        short = shorten(name, most, ascii_only=session.ascii_only)
        parts.append(f"{letter}{short} {extent}".rstrip())
    return f" {'   '.join(parts)}   {family}".rstrip()


def _name(path: Path, hub: HubModel | None, width: int) -> str:
    """Return what a side is called in a line of this width."""
    if hub is not None:  # its folder is named after a commit
        return printable(f"{hub.id}@{hub.commit[:8]}")
    return short_path(absolute(path)) if width >= 100 else printable(path.name or str(path))


def _extent(assembled: Assembled) -> str:
    """Return the number of tensors, of them those packed, and the parallelism, in brackets."""
    checkpoint = assembled.checkpoint
    ranks = parallelism(checkpoint)
    count, packed = tensor_counts(assembled)
    words = [f"{count:,}" if ranks else plural(count, "tensor")]
    words += [f"{packed:,} packed"] if packed else []
    return f"({', '.join([*words, ranks] if ranks else words)})"
