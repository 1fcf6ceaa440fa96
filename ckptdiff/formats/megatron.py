"""Megatron's `torch` format: a model_optim_rng.pt per rank, in mp_rank_TT[_PPP][_EEE] folders."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdiff.checkpoint import Checkpoint, Entry, Parallelism, Rank, Shard
from ckptdiff.errors import CkptDiffError, CorruptFile, MissingShard, MixedShards, NotACheckpoint
from ckptdiff.formats import torch_zip, tree
from ckptdiff.formats.files import each_file, is_there, no_file, read_small
from ckptdiff.formats.inert import Placeholder
from ckptdiff.formats.unfinished import METADATA, why_unfinished
from ckptdiff.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from ckptdiff.checkpoint import TensorRef
    from ckptdiff.formats.files import Progress

NAME = "megatron"
TRACKER = "latest_checkpointed_iteration.txt"
WEIGHT_FILES = ("model_optim_rng.pt", "model_rng.pt")  # the second is older and has no optimizer
OPTIMIZER_FILE = "distrib_optim.pt"
CHECKPOINT_VERSION = 3.0  # of written files; it states the order of rows in linear_qkv

MAX_RANKS = 1_000_000
_RANK_FOLDER = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(?:_(\d+))?$")
_ITERATION_FOLDER = re.compile(r"iter_(\d+)$")
_CHUNK = re.compile(r"model([0-9]{0,4})$")

# Args that the layout depends on, so that all ranks of one save must agree on them.
SHARED_ARGS = (
    "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size",
    "expert_tensor_parallel_size", "virtual_pipeline_model_parallel_size", "num_layers",
    "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups",
    "group_query_attention", "kv_channels", "num_experts", "padded_vocab_size",
    "untie_embeddings_and_output_weights", "context_parallel_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RankFile:
    """What one rank's file holds."""

    file: Path
    numbers: tuple[int, ...]  # in the folder's name: tp, then pp or ep or both
    args: Mapping[str, Any]  # of the first file all, of the others those in SHARED_ARGS
    iteration: int | None
    chunks: Mapping[int, dict[str, TensorRef]]  # by virtual pipeline chunk, then by native name


def sniff(path: Path) -> bool:
    """Return whether `path` is, or leads to, a folder of mp_rank folders, or one rank's file."""
    if path.is_dir():
        return (path / TRACKER).exists() or any(
            _RANK_FOLDER.match(child.name) or iteration_of(child.name) is not None
            for child in path.iterdir()
        )
    return path.name in WEIGHT_FILES


def open(path: Path, progress: Progress | None = None) -> Checkpoint:  # noqa: A001
    """Open an iteration folder, the folder above it, or one rank's file, from the headers alone.

    Raises MissingShard if ranks or stages are missing, MixedShards if files are of different saves
    or of the same rank, CorruptFile, UnreadableFile, UnsupportedLayout or NotACheckpoint.
    """
    root, iteration = (path, None) if path.is_file() else iteration_folder(path)
    files = [root] if root.is_file() else _rank_files(root)
    read = partial(_read_rank, first=files[0])
    ranks = [rank for _, rank in each_file(files, read, progress)]
    first = ranks[0]
    parallelism = _parallelism(ranks)
    by_rank = _by_rank(ranks, parallelism, root)
    _check_same_save(ranks)
    notes: tuple[str, ...] = ()
    if root.is_file():
        notes = (f"one rank's file of TP {parallelism.tp} PP {parallelism.pp}",)
    else:
        cp = first.args.get("context_parallel_size")
        notes = _check_complete(by_rank, parallelism, root, cp if type(cp) is int else 1)
    return Checkpoint(
        root=root,
        format=NAME,
        convention="megatron",
        config=first.args or None,
        parallelism=parallelism,
        shards=tuple(
            Shard(rank, chunk, tensors)
            for rank, file in sorted(by_rank.items(), key=lambda item: item[0])
            for chunk, tensors in sorted(file.chunks.items())
        ),
        files=tuple(files),
        iteration=first.iteration if first.iteration is not None else iteration,
        notes=notes,
    )


def iteration_folder(path: Path) -> tuple[Path, int | str | None]:
    """Return the folder that holds the mp_rank folders (or `.metadata`), and its iteration.

    Raises CorruptFile or MissingShard if the tracker is wrong, NotACheckpoint if there is none and
    not exactly one iteration folder.
    """
    tracker = path / TRACKER
    if is_there(tracker):
        text = read_small(tracker, 1000).decode("utf-8", "replace").strip()
        name = text if text == "release" else f"iter_{int(text):07d}" if text.isdecimal() else None
        if name is None:
            raise CorruptFile(f"{tracker}: says {text[:40]!r}; an iteration or 'release' is needed")
        if not (path / name).is_dir():
            found = sorted(c.name for c in path.iterdir() if iteration_of(c.name) is not None)
            raise MissingShard(
                f"{tracker}: names {name}, which is not there; "
                f"found {', '.join(found) or 'no iteration folder'}"
            )
        return path / name, iteration_of(name)
    if any(_RANK_FOLDER.match(c.name) or c.name == METADATA for c in path.iterdir()):
        return path, iteration_of(path.name)
    found = sorted(child.name for child in path.iterdir() if iteration_of(child.name) is not None)
    if len(found) == 1:
        return path / found[0], iteration_of(found[0])
    raise NotACheckpoint(
        f"{path}: holds {', '.join(found) or 'no iteration'} and no {TRACKER}; "
        "give the iteration folder itself"
    )


def iteration_of(name: str) -> int | str | None:
    """Return the iteration that a folder's name states, or `release`; None for another folder."""
    if name == "release":
        return name
    match = _ITERATION_FOLDER.match(name)
    return int(match[1]) if match else None


def iteration_in(stated: object) -> int | None:
    """Return the iteration that a file states; None if it is no plausible number."""
    return stated if type(stated) is int and abs(stated) < 1 << 63 else None


def iteration_name(iteration: int | str) -> str:
    """Return the folder name of an iteration, or of `release`."""
    return iteration if isinstance(iteration, str) else f"iter_{iteration:07d}"


def _rank_files(root: Path) -> list[Path]:
    """Return the weight file of every rank folder. Raises MissingShard or MixedShards."""
    folders = sorted(child for child in root.iterdir() if _RANK_FOLDER.match(child.name))
    if not folders:
        raise NotACheckpoint(why_unfinished(root) or f"{root}: holds no mp_rank folder")
    files = []
    seen: dict[tuple[int, int], Path] = {}
    for folder in folders:
        found = [folder / name for name in WEIGHT_FILES if is_there(folder / name)]
        if not found:
            raise MissingShard(f"{folder}: holds neither {' nor '.join(WEIGHT_FILES)}")
        if len(found) > 1:
            raise MixedShards(f"{folder}: holds both {' and '.join(WEIGHT_FILES)}; remove one")
        if not found[0].exists():
            raise MissingShard(f"{found[0]}: {no_file(found[0])}")
        status = found[0].stat()
        twin = seen.setdefault((status.st_dev, status.st_ino), found[0])
        if twin is not found[0]:
            raise MixedShards(f"{found[0]} and {twin} are one and the same file, for two ranks")
        files.append(found[0])
    return files


def _read_rank(file: Path, *, first: Path) -> RankFile:
    """Read a rank's weights and args; the optimizer state behind them is skipped."""
    index = torch_zip.read_index(file, before="optimizer")
    wanted = None if file == first else SHARED_ARGS
    args = plain_args(index, file, wanted)
    virtual = args.get("virtual_pipeline_model_parallel_size")
    chunks_expected = virtual if type(virtual) is int else 1
    if (
        not isinstance(index, dict)
        or not index.keys() >= {"args", "iteration"}
        or sum(map(_is_chunk, index)) < chunks_expected
    ):
        index = torch_zip.read_index(file)  # the optimizer is in front of them
        args = plain_args(index, file, wanted)
    if not isinstance(index, dict) or not any(map(_is_chunk, index)):
        raise NotACheckpoint(f"{file}: holds no `model`; not a Megatron checkpoint")
    match = _RANK_FOLDER.match(file.parent.name)
    numbers = tuple(int(n) for n in match.groups() if n is not None) if match else (0,)
    chunks = {}
    for key in filter(_is_chunk, index):
        if not isinstance(index[key], dict):
            raise CorruptFile(f"{file}: {key} is not a dictionary of tensors")
        try:
            chunks[int(key[5:] or 0)] = tree.weights(index[key])
        except CkptDiffError as error:
            raise type(error)(f"{file}: {error}") from error
    iteration = index.get("iteration")
    return RankFile(file, numbers, args, iteration_in(iteration), chunks)


def plain_args(index: object, file: Path, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """Return the args of a read file (`wanted`: only these) as values that JSON has.

    Raises CorruptFile as `tree.plain_values` does.
    """
    args = index.get("args") if isinstance(index, dict) else None
    state = args.state if isinstance(args, Placeholder) else args
    if not isinstance(state, dict):
        return {}
    if wanted is not None:
        state = {key: state[key] for key in wanted if key in state}
    try:
        return tree.plain_values(state)
    except CorruptFile as error:
        raise CorruptFile(f"{file}: {error}") from error


def read_entries(checkpoint: Checkpoint) -> list[Entry]:
    """Return the args once, and of every rank file all that is not a weight."""
    found = [tree.entry(f"args.{key}", value) for key, value in (checkpoint.config or {}).items()]
    first = checkpoint.files[0]
    for file, entries in each_file(checkpoint.files, _other_entries):
        prefix = "" if file == first else f"{file.parent.name}/"
        found += [Entry(prefix + e.name, e.kind, e.text) for e in entries]
    return found


def _other_entries(file: Path) -> list[Entry]:
    found: list[Entry] = []
    index = torch_zip.read_index(file)
    if not isinstance(index, dict):  # it was one up to the optimizer, where opening it stops
        raise CorruptFile(f"{file}: holds no dictionary")
    for key, value in index.items():
        if _is_chunk(key):
            extras = tree.extra_states(value)
            found += [Entry(f"{key}.{e.name}", e.kind, e.text) for e in extras]
        elif key != "args":
            found += tree.entries(tree.text_of(key), value)
    if (file.parent / OPTIMIZER_FILE).exists():
        size = (file.parent / OPTIMIZER_FILE).stat().st_size
        found.append(Entry(OPTIMIZER_FILE, "opaque", f"{size} bytes, distributed optimizer"))
    return found


def _is_chunk(key: object) -> bool:
    return isinstance(key, str) and _CHUNK.match(key) is not None


def _parallelism(ranks: list[RankFile]) -> Parallelism:
    """Return the parallel sizes that the args state; without args, those of the folders' names."""
    first = ranks[0]
    if not first.args:
        most = [max(numbers) + 1 for numbers in zip(*(r.numbers for r in ranks), strict=False)]
        tp, pp, ep = [*most, 1, 1][:3]
        return Parallelism(tp=tp, pp=pp, vpp=len(first.chunks), ep=ep)

    def size(name: str) -> int:
        value = first.args.get(name)
        return value if type(value) is int and value > 0 else 1

    tp = size("tensor_model_parallel_size")
    etp = first.args.get("expert_tensor_parallel_size")
    return Parallelism(
        tp=tp,
        pp=size("pipeline_model_parallel_size"),
        vpp=len(first.chunks),
        ep=size("expert_model_parallel_size"),
        etp=(etp if type(etp) is int and etp > 0 else tp) if first.args.get("num_experts") else 1,
    )


def _by_rank(
    ranks: Iterable[RankFile], parallelism: Parallelism, root: Path
) -> dict[Rank, RankFile]:
    """Return the files by rank. Raises MixedShards if two are of the same rank.

    A second and last number in a folder's name is the pipeline stage if there are several stages,
    else the expert-parallel rank.
    """
    by_rank: dict[Rank, RankFile] = {}
    for file in ranks:
        tp, *rest = file.numbers
        if len(rest) == 2:
            rank = Rank(tp, rest[0], rest[1])
        elif rest and parallelism.pp == 1 and parallelism.ep > 1:
            rank = Rank(tp, 0, rest[0])
        else:
            rank = Rank(tp, rest[0] if rest else 0)
        if rank in by_rank:
            raise MixedShards(
                f"{root}: {by_rank[rank].file.parent.name} and {file.file.parent.name} are both "
                f"{describe_rank(rank)}; keep the folder of one save only"
            )
        by_rank[rank] = file
    return by_rank


def _check_same_save(ranks: list[RankFile]) -> None:
    """Raise MixedShards if ranks disagree on the iteration, SHARED_ARGS or virtual chunks."""
    iterations = Counter(file.iteration for file in ranks)
    if len(iterations) > 1:
        most_common = iterations.most_common(1)[0][0]
        odd = [f for f in ranks if f.iteration != most_common]
        raise MixedShards(
            f"{odd[0].file}: is of iteration {odd[0].iteration}, "
            f"{len(ranks) - len(odd)} other ranks are of {most_common}; copy all ranks of one save"
        )
    first = ranks[0]
    for file in ranks[1:]:
        for name in SHARED_ARGS:
            if file.args.get(name) != first.args.get(name):
                raise MixedShards(
                    f"{file.file}: args say {name} {shown(file.args.get(name))}, those of "
                    f"{first.file.parent.name} say {shown(first.args.get(name))}; "
                    "copy all ranks of one save"
                )
        if file.chunks.keys() != first.chunks.keys():
            raise MixedShards(
                f"{file.file}: holds {len(file.chunks)} virtual pipeline chunks, "
                f"{first.file.parent.name} holds {len(first.chunks)}"
            )


def _check_complete(
    by_rank: Mapping[Rank, RankFile], size: Parallelism, root: Path, cp: int
) -> tuple[str, ...]:
    """Return notes; raise MissingShard if a rank of the args' sizes is missing.

    Raises MixedShards if there is one more. `cp` is the context parallel size.
    """
    if size.processes * size.pp > MAX_RANKS:
        raise MissingShard(
            f"{root}: the args say TP {size.tp} PP {size.pp} EP {size.ep}, more ranks than there "
            f"can be; found {len(by_rank)}: {_listed(sorted(by_rank))}"
        )
    wanted = set(size.ranks())
    sizes = f"TP {size.tp} PP {size.pp}" + (f" EP {size.ep}" if size.ep > 1 else "")
    if size.ep > 1 and size.etp != size.tp:
        sizes += f" ETP {size.etp}"
    missing = sorted(wanted - by_rank.keys())
    if missing and by_rank.keys() in saved_sets(size, cp):
        return (
            f"{len(by_rank)} of the {len(wanted)} rank files of {sizes}: all that Megatron saves "
            "there, with every weight, but it cannot load them again: the others are missing",
        )
    if missing:
        stages = sorted({rank.pp for rank in missing} - {rank.pp for rank in by_rank})
        what = (
            f"pipeline stage {', '.join(map(str, stages))} of {size.pp} is missing"
            if stages
            else f"missing {_listed(missing)}"
        )
        raise MissingShard(
            f"{root}: {what}. The args say {sizes}; found {len(by_rank)} of {len(wanted)} ranks: "
            f"{_listed(sorted(by_rank))}. Copy the missing mp_rank folders, or convert again if "
            "they were never written."
        )
    strays = sorted(by_rank.keys() - wanted)
    if strays:
        raise MixedShards(
            f"{root}: the args say {sizes}, and there is also {_listed(strays)}; "
            "remove what is left of another save"
        )
    return ()


def saved_sets(size: Parallelism, cp: int) -> list[set[Rank]]:
    """Return the sets of ranks, less than all, that Megatron can have saved, with every weight.

    Up to 0.18 the first ETP x EP processes of a stage save (expert data parallel rank 0), since
    0.19 the first TP x CP too (data parallel rank 0): save_checkpoint of megatron.training.
    """
    experts = size.etp * size.ep
    sets = [size.ranks_of_first(n) for n in (experts, max(experts, size.tp * cp))]
    return [ranks for ranks in sets if {rank.tp for rank in ranks} == set(range(size.tp))]


def describe_rank(rank: Rank) -> str:
    """Return a rank as text, such as `tp 1 pp 2`; pp 0 and ep 0 are left out."""
    parts = [f"tp {rank.tp}"]
    if rank.pp:
        parts.append(f"pp {rank.pp}")
    if rank.ep:
        parts.append(f"ep {rank.ep}")
    return " ".join(parts)


def _listed(ranks: list[Rank]) -> str:
    shown = ", ".join(
        f"mp_rank_{r.tp:02d} stage {r.pp}" + (f" ep {r.ep}" if r.ep else "") for r in ranks[:8]
    )
    return shown + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
