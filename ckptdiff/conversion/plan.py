"""Plan a conversion from headers alone: the files to write, and the recipes in them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckptdiff.arch.without_place import why_without_place
from ckptdiff.assembly.packed import multiplied_out, multiplied_out_words
from ckptdiff.checkpoint import Parallelism
from ckptdiff.config.programs import DEFAULT, Version
from ckptdiff.config.restating import token_rows
from ckptdiff.conversion.casting import cast_to
from ckptdiff.conversion.completeness import (
    checked_against_config,
    rows_of_vocabulary,
    without_empty,
)
from ckptdiff.conversion.launching import launch_of
from ckptdiff.conversion.partial.folder import has_become, notes_on
from ckptdiff.conversion.plan_huggingface import huggingface_files
from ckptdiff.conversion.plan_megatron import megatron_files
from ckptdiff.conversion.reference_rope import with_rope_of_reference
from ckptdiff.conversion.tied_head import settled_head
from ckptdiff.conversion.undo import undone
from ckptdiff.conversion.unmerged import without_adapter
from ckptdiff.conversion.way_back import way_back
from ckptdiff.errors import BadArgument, UnknownConfig, UnsupportedLayout
from ckptdiff.text import plural

if TYPE_CHECKING:
    from ckptdiff.arch.naming import Names
    from ckptdiff.assembly.recipe import Assembled, Assembly
    from ckptdiff.conversion.output_file import OutputFile
    from ckptdiff.conversion.remap import Remap

To = Literal["hf", "megatron", "torch_dist"]
MAX_SHARD_SIZE = 5_000_000_000  # bytes of a file, the default of transformers' save_pretrained
VOCAB_DIVISIBLE_BY = 128  # the default of Megatron's --make-vocab-size-divisible-by


@dataclass(frozen=True, slots=True)
class Target:
    """The format, layout and options to convert to."""

    to: To
    parallelism: Parallelism = field(default_factory=Parallelism)
    dtype: str | None = None  # a key of dtypes.BY_FLAG; None: as stored
    names: Names | None = None  # None: what naming_scheme says
    vocab_divisible_by: int = VOCAB_DIVISIBLE_BY  # rows; times TP
    max_shard_size: int = MAX_SHARD_SIZE  # bytes
    first_layers: int | None = None  # of the first pipeline stage; None: spread evenly
    last_layers: int | None = None  # of the last one
    moe_grouped_gemm: bool = False  # name the experts as TEGroupedMLP does
    undo: tuple[Remap, ...] = ()  # faults to undo, the last first
    version: Version = DEFAULT  # of the program that is to load a Megatron checkpoint
    family: str | None = None  # that a Megatron checkpoint is written as; None: one that fits
    run_config: bool = False  # write Megatron-Bridge's config beside a torch_dist checkpoint
    accept: bool = False  # what that program cannot compute, or that family say, is known
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
    if target.run_config and target.to != "torch_dist":
        raise BadArgument("run_config.yaml lies beside a torch_dist checkpoint: choose that format")
    _check_out(out, source, target)
    source = multiplied_out(source)
    notes = [*notes_on(out), *multiplied_out_words(source)]
    source, lender = way_back(source, target, like)
    source, adapter = without_adapter(source, target, notes)
    left = _check_source(source, target)
    source, uncut = checked_against_config(source, target, like, notes)
    if target.to != "hf":
        source = without_empty(source, notes)
    stated: tuple[str, ...] = ()
    if target.undo:
        source = undone(source, target.undo)
        notes += [f"taken out: {remap.kind}" for remap in target.undo]
        if target.to != "hf":
            source, stated = with_rope_of_reference(source, like, notes)
    if source.wrapping is not None:
        notes.append(f"{source.wrapping.words}: {source.wrapping.written}")
    source = _with_vocabulary(source, notes, to_huggingface=target.to == "hf")
    launch: str | None = None
    source = settled_head(source, to_huggingface=target.to == "hf", notes=notes)
    side = cast_to(source, target.dtype)
    cannot: list[str] = []
    if target.to == "hf":
        files, texts = huggingface_files(side, target, like, lender, notes, cannot)
    else:
        files, texts, more, args = megatron_files(side, target, notes, cannot)
        left = (*left, *more)
        sides = [one for one in (source, like) if one is not None]
        tokens = rows_of_vocabulary(side)
        launch = launch_of(target, args, out, files[0].path, tokens, sides, stated)
    kept = {name: tensor for name, tensor in source.tensors.items() if name not in left}
    if left and not target.allow_unmapped:
        dots = " …" if len(left) > 5 else ""
        many = f"{len(left)} names are" if len(left) > 1 else "1 name is"
        why = "".join(f"; {one}" for one in why_without_place(left) if target.to != "hf")
        raise UnsupportedLayout(
            f"{many} known by no rule and would be left out: {', '.join(left[:5])}{dots}{why}",
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
    # As the system follows links, however they are nested: `resolve` fails where they lead in a
    # circle.
    folder, real = (
        Path(os.path.realpath(path)) for path in (root if root.is_dir() else root.parent, out)
    )
    if real == folder or real in folder.parents or folder in real.parents:
        raise BadArgument(f"{out}: lies in the source, or the source in it; give another folder")
    # The source may be a folder of links to files that are there: they would be replaced.
    for file in source.checkpoint.files if out.exists() else ():
        if real in Path(os.path.realpath(file)).parents:
            raise BadArgument(f"{out}: {file} is a link into it; give another folder")
    try:
        if out.exists() and not out.is_dir():
            raise BadArgument(f"{out}: is a file; a folder is written")
        filled = out.exists() and any(out.iterdir())
        is_mount = real.is_mount()
    except OSError as error:
        raise BadArgument(f"{out}: cannot be read ({error.strerror})") from error
    if filled and not target.overwrite and not has_become(out):
        raise BadArgument(f"{out}: is not empty", hint="overwrite")
    if is_mount:
        raise BadArgument(f"{out}: is where a disk is mounted; give a folder in it")


def _check_source(source: Assembled, target: Target) -> tuple[str, ...]:
    """Return the names without a rule.

    Raises UnsupportedLayout for tensors that cannot be read or unpacked, and for an unknown family.
    """
    if source.errors:
        name, error = next(iter(source.errors.items()))
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: {plural(len(source.errors), 'tensor')} cannot be read; "
            f"{name}: {error.text}"
        )
    if source.packed:
        ways = " and as ".join(dict.fromkeys(weight.text for weight in source.packed.values()))
        raise UnsupportedLayout(
            f"{source.checkpoint.root}: {plural(len(source.packed), 'weight')}, packed as {ways}, "
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


def _with_vocabulary(side: Assembled, notes: list[str], *, to_huggingface: bool) -> Assembled:
    """Return a Megatron side without the padding rows of its vocabulary."""
    if side.architecture is None or side.checkpoint.convention != "megatron":
        return side
    names = [m.hf[0] for m in side.architecture.mappings if m.of_vocabulary]
    held = max((side.tensors[n].shape[0] for n in names if n in side.tensors), default=0)
    rows, assumed = token_rows(side)
    notes += assumed
    padding = max((t.padding_rows for t in side.tensors.values()), default=0)
    if padding and to_huggingface:
        notes.append(
            f"padded vocabulary {rows + padding} -> {rows}: {plural(padding, 'row')} dropped"
        )
    if rows < held:
        notes.append(
            f"vocabulary: {rows} of {held} rows are kept, as its config says; "
            "a Hugging Face folder to be like would tell for certain"
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
