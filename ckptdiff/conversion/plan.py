"""Plan a conversion from headers alone: the files to write, and the recipes in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ckptdiff.assembly.packed import plain_names
from ckptdiff.checkpoint import Parallelism, Rank
from ckptdiff.config.huggingface_config import huggingface_config
from ckptdiff.config.megatron_args import megatron_args
from ckptdiff.config.programs import DEFAULT, Version
from ckptdiff.config.restating import token_rows
from ckptdiff.conversion.completeness import (
    checked_against_config,
    has_predictions,
    rows_of_vocabulary,
)
from ckptdiff.conversion.launching import launch_of
from ckptdiff.conversion.output_file import OutputFile
from ckptdiff.conversion.stages import stages_of, uneven_ends
from ckptdiff.conversion.storable import check_storable
from ckptdiff.conversion.tied_head import settled_head
from ckptdiff.conversion.torch_dist_files import distributed_files
from ckptdiff.conversion.torch_files import rank_files
from ckptdiff.conversion.undo import undone
from ckptdiff.conversion.unmerged import without_adapter
from ckptdiff.dtypes import BY_FLAG, FLOATS, ITEMSIZE, has_numbers
from ckptdiff.errors import BadArgument, UnknownConfig, UnsupportedLayout
from ckptdiff.formats import megatron
from ckptdiff.formats.files import leads_out
from ckptdiff.formats.safetensors import lay_out
from ckptdiff.resharding.to_huggingface import INDEX, file_names, index_text, split_files, stored
from ckptdiff.resharding.to_megatron import shard

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.conversion.remap import Remap

To = Literal["hf", "megatron", "torch_dist"]
MAX_SHARD_SIZE = 5_000_000_000  # bytes of a file, the default of transformers' save_pretrained
VOCAB_DIVISIBLE_BY = 128  # the default of Megatron's --make-vocab-size-divisible-by
# The tokenizer's files and the generation config of a Hugging Face folder.
_COPIED_FILES = (
    "tokenizer*", "*.tiktoken", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template*", "generation_config.json",
)  # fmt: skip
_MAX_COPIED_BYTES = 200_000_000  # of one such file: the plan holds it in memory


@dataclass(frozen=True, slots=True)
class Target:
    """The format, layout and options to convert to."""

    to: To
    parallelism: Parallelism = field(default_factory=Parallelism)
    dtype: str | None = None  # a key of dtypes.BY_FLAG; None: as stored
    names: Names | None = None  # None: te for torch_dist, mcore for Megatron's torch format
    vocab_divisible_by: int = VOCAB_DIVISIBLE_BY  # rows; times TP
    max_shard_size: int = MAX_SHARD_SIZE  # bytes
    first_layers: int | None = None  # of the first pipeline stage; None: spread evenly
    last_layers: int | None = None  # of the last one
    moe_grouped_gemm: bool = False  # name the experts as TEGroupedMLP does
    undo: tuple[Remap, ...] = ()  # faults to undo, the last first
    version: Version = DEFAULT  # of the program that is to load a Megatron checkpoint
    accept: bool = False  # what that program cannot compute is known
    allow_unmapped: bool = False  # leave out tensors without a rule
    allow_incomplete: bool = False  # write what is there of what the config promises
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """A plan: everything to write, and the recipes to write it by."""

    source: Assembled  # with only the tensors and rows that are written
    target: Target
    out: Path
    files: tuple[OutputFile, ...]
    texts: tuple[tuple[str, bytes], ...]  # (path, content) of small files, written last, in order
    notes: tuple[str, ...]  # for the user, before the conversion starts
    left: tuple[str, ...]  # names that are left out: no rule knows them
    like: Assembled | None = None  # the folder that lends config, tokenizer and names
    cannot: tuple[str, ...] = ()  # what the target program cannot compute, a clause each
    launch: str | None = None  # the line to start the target program; None: of no Megatron one

    @property
    def nbytes(self) -> int:
        """The bytes of all files with tensors."""
        return sum(file.layout.nbytes for file in self.files)


def plan_conversion(
    source: Assembled, out: Path, target: Target, like: Assembled | None = None
) -> Conversion:
    """Return the plan to convert `source` into the folder `out`. Reads headers, and a tied head.

    `like` is a Hugging Face folder of the model, which gives config, tokenizer and tensor names.
    Raises BadArgument for an unfit `out` or target, UnsupportedLayout for a source that cannot be
    converted to it.
    """
    _check_out(out, source, target)
    notes: list[str] = []
    source, adapter = without_adapter(source, target, notes)
    left = _check_source(source, target)
    source, uncut = checked_against_config(source, target, like, notes)
    if target.undo:
        source = undone(source, target.undo)
        notes += [f"taken out: {remap.kind}" for remap in target.undo]
    if source.wrapping is not None:
        notes.append(f"{source.wrapping.words}: {source.wrapping.written}")
    source = _with_vocabulary(source, notes)
    cannot: list[str] = []
    launch: str | None = None
    source = settled_head(source, to_huggingface=target.to == "hf", notes=notes)
    side = _with_dtype(source, target.dtype)
    if target.to == "hf":
        files, texts = _to_huggingface(side, target, like, notes)
    else:
        files, texts, more, args = _to_megatron(side, target, notes, cannot)
        left = (*left, *more)
        sides = (source, *(() if like is None else (like,)))
        launch = launch_of(target, args, out, rows_of_vocabulary(side), sides)
    kept = {name: tensor for name, tensor in source.tensors.items() if name not in left}
    if left and not target.allow_unmapped:
        dots = " …" if len(left) > 5 else ""
        many = f"{len(left)} names are" if len(left) > 1 else "1 name is"
        raise UnsupportedLayout(
            f"{many} known by no rule and would be left out: {', '.join(left[:5])}{dots}",
            hint="allow-unmapped",
        )
    if left:
        notes.append(f"left out, since no rule knows them: {', '.join(left)}")
    if source.derived:
        notes.append(f"{len(source.derived)} buffers that follow from the config are left out")
    source = replace(source, tensors=kept, unmapped=())
    left = (*adapter, *left, *uncut)
    return Conversion(
        source, target, out, files, texts, tuple(notes), left, like, tuple(cannot), launch
    )


def _check_out(out: Path, source: Assembled, target: Target) -> None:
    """Raise BadArgument if `out` overlaps the source, or is in use and not to be overwritten."""
    root = source.checkpoint.root
    folder = (root if root.is_dir() else root.parent).resolve()
    real = out.resolve()
    if real == folder or real in folder.parents or folder in real.parents:
        raise BadArgument(f"{out}: lies in the source, or the source in it; give another folder")
    if out.exists() and not out.is_dir():
        raise BadArgument(f"{out}: is a file; a folder is written")
    try:
        filled = out.exists() and any(out.iterdir())
    except OSError as error:
        raise BadArgument(f"{out}: cannot be read ({error.strerror})") from error
    if filled and not target.overwrite:
        raise BadArgument(f"{out}: is not empty", hint="overwrite")
    if real.is_mount():
        raise BadArgument(f"{out}: is where a disk is mounted; give a folder in it")


def _check_source(source: Assembled, target: Target) -> tuple[str, ...]:
    """Return the names without a rule.

    Raises UnsupportedLayout for tensors that cannot be read or unpacked, and for an unknown family.
    """
    if source.errors:
        name, error = next(iter(source.errors.items()))
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: {_count(len(source.errors), 'tensor')} cannot be read; "
            f"{name}: {error.text}"
        )
    if source.packed:
        ways = " and as ".join(dict.fromkeys(weight.text for weight in source.packed.values()))
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: {_count(len(source.packed), 'weight')}, packed as {ways}, "
            "would have to be multiplied out first: write a dequantised copy and convert that"
        )
    is_megatron = source.checkpoint.convention == "megatron"
    if source.architecture is None and is_megatron and not source.checkpoint.config:
        raise UnknownConfig(
            f"{source.checkpoint.root}: holds no args, so the number of heads is not known; choose "
            "a Hugging Face folder to be like, whose config.json has it"
        )
    if source.architecture is None and target.to != "hf":
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: its family is not known, so there are no rules to cut it by"
        )
    if source.architecture is None and source.checkpoint.convention != "hf":
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: its family is not known, so there are no rules that say "
            "what its tensors are called in Hugging Face's format, and how they are joined or cut"
        )
    return source.unmapped


def _with_vocabulary(side: Assembled, notes: list[str]) -> Assembled:
    """Return a Megatron side without the padding rows of its vocabulary."""
    if side.architecture is None or side.checkpoint.convention != "megatron":
        return side
    names = [m.hf[0] for m in side.architecture.mappings if m.of_vocabulary]
    held = max((side.tensors[n].shape[0] for n in names if n in side.tensors), default=0)
    rows, assumed = token_rows(side)
    notes += assumed
    padding = max((t.padding_rows for t in side.tensors.values()), default=0)
    if padding:
        notes.append(f"vocabulary: {padding} padding rows are dropped")
    if rows < held:
        notes.append(
            f"vocabulary: {rows} of {held} rows are kept, as its config says; "
            "a Hugging Face folder to be like knows"
        )
    assert side.config is not None
    tensors = {
        name: _first_rows(tensor, rows) if name in names and rows < held else tensor
        for name, tensor in side.tensors.items()
    }
    return replace(side, tensors=tensors, config=replace(side.config, vocab_size=rows))


def _first_rows(tensor: Assembly, rows: int) -> Assembly:
    """Return the recipe of a tensor's first rows."""
    kept = []
    for piece in tensor.pieces:
        start, stop = piece.box[0]
        if start < rows:
            box = ((start, min(stop, rows)), *piece.box[1:])
            # Replicas are compared on the rows that are kept: the others are padding.
            kept.append(piece.inside(box))
    return replace(tensor, shape=(rows, *tensor.shape[1:]), pieces=tuple(kept))


def _with_dtype(side: Assembled, dtype: str | None) -> Assembled:
    """Return the tensors with the dtypes to write: floats as `dtype`, a key of dtypes.BY_FLAG."""
    tensors = {}
    for name, tensor in side.tensors.items():
        wanted = tensor.dtype
        if tensor.is_scaled:
            wanted = "BF16"  # quantised codes are multiplied by their scales
        if dtype is not None and tensor.dtype in FLOATS and not _stays_exact(name):
            wanted = BY_FLAG[dtype]
        tensors[name] = replace(tensor, dtype=wanted)
    return replace(side, tensors=tensors)


def _stays_exact(name: str) -> bool:
    """Return whether a tensor is a buffer that Megatron and Hugging Face keep in float32."""
    return name.endswith("e_score_correction_bias")


def _main_dtype(side: Assembled) -> str:
    """Return the dtype with numbers that most bytes have: the one that a config states."""
    sizes: dict[str, int] = {}
    for tensor in side.tensors.values():
        if has_numbers(tensor.dtype):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default="BF16")


def _to_huggingface(
    side: Assembled, target: Target, like: Assembled | None, notes: list[str]
) -> tuple[tuple[OutputFile, ...], tuple[tuple[str, bytes], ...]]:
    """Return the files and the texts of a Hugging Face folder; adds to `notes`."""
    is_hf = side.checkpoint.convention == "hf"
    pattern = like or (side if is_hf and side.architecture is not None else None)
    names = None if pattern is None else plain_names(pattern)
    tensors = stored(side, names)
    groups = split_files(tensors, target.max_shard_size)
    files = dict(zip(file_names(len(groups)), groups, strict=True))
    outputs = []
    for file, held in files.items():
        # Tensors with wide elements first, so that every tensor is aligned to its elements.
        ordered = sorted(held, key=lambda t: -ITEMSIZE.get(t.recipe.dtype, 1))
        layout = lay_out((t.name, t.recipe.dtype, t.shape) for t in ordered)
        outputs.append(OutputFile(file, layout, tuple(t.recipe for t in ordered)))
    restated = huggingface_config(like or side, dtype=_main_dtype(side))
    config = restated.settings
    if like is not None:
        notes.append(f"config.json as in {like.checkpoint.root}")
    notes += [*restated.notes, *restated.cannot]
    texts = _copied_texts(pattern, notes)
    if len(files) > 1:
        texts.append((INDEX, index_text(files)))
    if config:
        texts.append(("config.json", (json.dumps(config, indent=2) + "\n").encode()))
    notes.append(f"{_count(len(tensors), 'tensor')} in {_count(len(files), 'file')}")
    return tuple(outputs), tuple(texts)


def _copied_texts(pattern: Assembled | None, notes: list[str]) -> list[tuple[str, bytes]]:
    """Return (name, content) of the files to copy from a Hugging Face folder; adds to `notes`."""
    if pattern is None:
        notes.append("no tokenizer: one is copied from a Hugging Face folder to be like")
        return []
    root = pattern.checkpoint.root
    folder = root if root.is_dir() else root.parent
    found = sorted({f for glob in _COPIED_FILES for f in folder.glob(glob) if f.is_file()})
    if linked := [f.name for f in found if leads_out(f)]:
        notes.append(f"not copied, since they are links out of {folder}: {', '.join(linked)}")
    found = [f for f in found if f.name not in linked]
    texts = [(f.name, f.read_bytes()) for f in found if f.stat().st_size <= _MAX_COPIED_BYTES]
    if texts:
        notes.append(f"copied from {folder}: {', '.join(name for name, _ in texts)}")
    return texts


def _to_megatron(
    side: Assembled, target: Target, notes: list[str], cannot: list[str]
) -> tuple[
    tuple[OutputFile, ...], tuple[tuple[str, bytes], ...], tuple[str, ...], argparse.Namespace
]:
    """Return the files, the texts, the names left out, and the args of a Megatron checkpoint.

    Adds to `notes`, and to `cannot` what the program that it is for cannot compute.
    """
    assert side.architecture is not None
    check_storable(side)
    if side.config is None:
        raise UnsupportedLayout(f"{side.checkpoint.root}: its config says too little to cut it")
    size = target.parallelism
    names = target.names or ("te" if target.to == "torch_dist" else "mcore")
    if names == "legacy" and target.to == "torch_dist":
        raise BadArgument("Megatron's legacy model has no torch_dist checkpoints")
    if target.moe_grouped_gemm and names != "te":
        raise BadArgument("grouped experts have Transformer Engine's names: choose the names te")
    if side.config.num_experts == 0 and size.ep > 1:
        raise BadArgument(f"EP {size.ep}: the model has no routed experts")
    if size.etp > size.tp and target.to == "megatron":
        raise UnsupportedLayout(
            f"expert tensor parallel size {size.etp} is above TP {size.tp}: two ranks would share "
            "a file of Megatron's torch format; choose torch_dist"
        )
    rows = rows_of_vocabulary(side)
    block = target.vocab_divisible_by * size.tp
    padded = -(-rows // block) * block
    if padded > rows:
        notes.append(
            f"vocabulary: {padded - rows} padding rows added to {rows}, each a copy of the last"
        )
    config = replace(side.config, vocab_size=rows, padded_vocab_size=padded)
    stages = stages_of(config.num_layers, target)
    first, last = uneven_ends(stages)
    restated = megatron_args(
        side,
        size,
        names=names,
        dtype=_main_dtype(side),
        ckpt_format="torch" if target.to == "megatron" else "torch_dist",
        padded_vocab_size=padded,
        make_vocab_size_divisible_by=target.vocab_divisible_by,
        grouped_experts=target.moe_grouped_gemm,
        first_layers=first,
        last_layers=last,
        version=target.version,
    )
    args = restated.settings
    notes += restated.notes
    cannot += restated.cannot
    if getattr(args, "mtp_num_layers", None) and not has_predictions(side):
        args.mtp_num_layers = None
        notes.append("the config counts prediction layers, the files hold none: args count none")
    saved = side.checkpoint.iteration
    iteration = 1 if saved is None or side.checkpoint.convention == "hf" else saved
    texts: tuple[tuple[str, bytes], ...] = ()
    if target.to == "torch_dist":
        whole = Parallelism()
        sharded = shard(side, config, whole, [config.num_layers], "mcore")
        files, texts = distributed_files(
            sharded.models[Rank(), 0],
            side.architecture,
            config,
            args,
            iteration=iteration,
            names=names,
            max_size=target.max_shard_size,
        )
    else:
        sharded = shard(side, config, size, stages, names, grouped=target.moe_grouped_gemm)
        files = tuple(rank_files(sharded, size, args, iteration, names))
    tracker = "release" if iteration == "release" else str(iteration)
    tensors = _count(len(side.tensors) - len(sharded.left), "tensor")
    how = (
        "each whole: they load at any parallelism"
        if target.to == "torch_dist"
        else f"layers by stage: {' '.join(map(str, stages))}"
    )
    notes.append(f"{tensors} in {_count(len(files), 'file')}; {how}")
    return files, (*texts, (megatron.TRACKER, tracker.encode())), sharded.left, args


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
