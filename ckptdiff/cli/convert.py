"""The command `convert`: its options, its progress, and its report at the end."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.cli.arguments import ADAPTER_HELP, JOBS_HELP, JSON_HELP, positive, size
from ckptdiff.cli.fetching import add_download
from ckptdiff.cli.progress import ProgressBar
from ckptdiff.config.programs import DEFAULT, PROGRAMS
from ckptdiff.errors import BadArgument

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.conversion.plan import Conversion, Target
    from ckptdiff.conversion.remap import Remap
    from ckptdiff.conversion.run import Lost, Written
    from ckptdiff.results import TensorDiff

EXAMPLES = """\
examples:
  ckptdiff convert llama-hf llama-tp8 --to megatron --tp 8 --pp 2
  ckptdiff convert run7/iter_0001000 llama-back --to hf --like llama-hf
  ckptdiff convert run7 run7-tp1 --to torch_dist

What is written is compared with its source before it takes its name: exit code 0 means that every
byte was, 1 that every byte was but the program that it is for cannot compute the model. A run that
was killed goes on behind its last complete file when it is started again.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `convert` to a parser."""
    parser.description = "Convert a checkpoint; neither side has to fit into memory."
    parser.epilog = EXAMPLES
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint to convert")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that is not there yet")
    parser.add_argument(
        "--to", required=True, choices=("hf", "megatron", "torch_dist"),
        help="megatron is Megatron's `torch` format",
    )  # fmt: skip
    for flag, what in (
        ("--tp", "tensor"), ("--pp", "pipeline"), ("--vpp", "virtual pipeline"), ("--ep", "expert"),
    ):  # fmt: skip
        parser.add_argument(
            flag, type=positive, default=1, metavar="N", help=f"{what} model parallel size"
        )
    parser.add_argument(
        "--etp", type=positive, metavar="N", help="expert tensor parallel size (default: TP)"
    )
    parser.add_argument(
        "--first-stage-layers", type=positive, metavar="N",
        help="layers of the first pipeline stage, where stages are uneven",
    )  # fmt: skip
    parser.add_argument(
        "--last-stage-layers", type=positive, metavar="N",
        help="layers of the last pipeline stage, where stages are uneven",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32"), help="cast to it (default: as stored)"
    )
    parser.add_argument(
        "--names", choices=("mcore", "te", "legacy"),
        help="mcore: megatron-core's local layers (default), te: Transformer Engine's (default for "
        "torch_dist, and for models that Megatron-LM computes in no other way)",
    )  # fmt: skip
    parser.add_argument(
        "--moe-grouped-gemm", action="store_true",
        help="with --names te: experts as TEGroupedMLP names them",
    )  # fmt: skip
    parser.add_argument(
        "--target-version", choices=tuple(PROGRAMS), default=DEFAULT, metavar="VERSION",
        help=f"the Megatron-LM that is to load the result ({', '.join(PROGRAMS)}; default: "
        f"{DEFAULT}), bridge is Megatron-Bridge",
    )  # fmt: skip
    parser.add_argument(
        "--run-config", action="store_true",
        help="with --to torch_dist: write the run_config.yaml beside it that Megatron-Bridge wants",
    )  # fmt: skip
    parser.add_argument(
        "--accept", action="store_true",
        help="exit code 0 though the program cannot compute the model, or, with --family, "
        "config.json cannot say all of it",
    )  # fmt: skip
    parser.add_argument(
        "--vocab-divisible-by", type=positive, default=128, metavar="N",
        help="pad the vocabulary to a multiple of N times TP (default: 128)",
    )  # fmt: skip
    parser.add_argument(
        "--max-shard-size", type=size, default=size("5GB"), metavar="SIZE",
        help="most bytes of a .safetensors or .distcp file (default: 5GB)",
    )  # fmt: skip
    parser.add_argument(
        "--like", type=Path, metavar="DIR",
        help="the Hugging Face folder of this model: the result is compared with it, and with --to "
        "hf has its config.json, tokenizer and tensor names",
    )  # fmt: skip
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=ADAPTER_HELP.format("SRC"))
    parser.add_argument(
        "--family", metavar="NAME",
        help="the family to write, instead of the first whose config.json can say the model",
    )  # fmt: skip
    parser.add_argument(
        "--undo", action="append", default=[], metavar="SPEC",
        help="take a fault out: the `undo` of one of diff's findings; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--allow-unmapped", action="store_true", help="leave out what no rule knows"
    )
    parser.add_argument(
        "--allow-incomplete", action="store_true",
        help="write a source that is not what its config promises, as far as it is there",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is not empty")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the result with its source"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help=JOBS_HELP)
    parser.add_argument("--json", metavar="FILE", help=JSON_HELP)
    add_download(parser)


def run(options: argparse.Namespace) -> int:
    """Convert; return 0, 1 if the target program cannot compute the model, 2 if it is not mended.

    Raises a CkptDiffError if the conversion fails.
    """
    from ckptdiff.executor import WorkerPool

    start: Any = "fork" if sys.platform == "linux" else "spawn"
    with WorkerPool(options.jobs, start=start) as pool:
        pool.warm()
        from ckptdiff.cli.output import print_parts
        from ckptdiff.conversion.command import (
            against_line,
            cannot_lines,
            closing_lines,
            start_lines,
        )
        from ckptdiff.conversion.plan import plan_conversion
        from ckptdiff.conversion.run import convert
        from ckptdiff.conversion.verify import compare_with_like, compare_with_merged_like

        source, like = _open(options)
        conversion = plan_conversion(source, options.out, _target(options), like)
        quiet = options.json == "-"
        if not quiet:
            print_parts(_plan_lines(conversion))
        with closing(convert(conversion, pool, verify=not options.no_verify)) as events:
            lost, compared = _follow(events, conversion)
        against, is_merged = None, False
        if like is not None and not (options.no_verify and not options.undo):
            against = compare_with_like(conversion, pool)
            if against.weights not in ("same", "close"):
                # That folder may be the base that the adapter was added to, or what both give.
                merged = compare_with_merged_like(conversion, pool)
                if merged is not None and merged.weights in ("same", "close"):
                    against, is_merged = merged, True
    if not quiet:
        print_parts(closing_lines(conversion, lost, compared))
        if against is not None:
            print_parts([against_line(against, like, with_adapter=is_merged)])
        print_parts((*cannot_lines(conversion), *start_lines(conversion)))
    if options.json is not None:
        from ckptdiff.report.pages import print_json

        document = _document(conversion, lost, compared)
        if against is not None:
            document["against_like"] = {
                "weights": against.weights,
                "counts": dict(against.counts),
                "with_adapter": is_merged,
            }
        print_json(document, options.json)
    # Without a fault to take out, the folder may be of another model of the same kind.
    is_mended = not options.undo or against is None or against.weights in ("same", "close")
    if not is_mended:
        return 2
    return 1 if conversion.cannot and not options.accept else 0


def _open(options: argparse.Namespace) -> tuple[Assembled, Assembled | None]:
    """Return the source, and the folder of `--like`. Raises BadArgument if that is no HF folder."""
    from ckptdiff.assembly.assemble import assemble
    from ckptdiff.formats import open_checkpoint

    like = None
    if options.like is not None:
        like = assemble(open_checkpoint(options.like))
        if like.checkpoint.convention != "hf":
            raise BadArgument(f"--like {options.like}: is no Hugging Face folder")
    source = assemble(open_checkpoint(options.source), like=like)
    if options.adapter is not None:
        from ckptdiff.assembly.merging import with_merged
        from ckptdiff.formats import open_adapter

        source = with_merged(source, assemble(open_adapter(options.adapter), like=source))
    return source, like


def _target(options: argparse.Namespace) -> Target:
    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.conversion.plan import Target

    etp = options.etp or options.tp
    return Target(
        options.to,
        Parallelism(options.tp, options.pp, options.vpp, options.ep, etp),
        dtype=options.dtype,
        names=options.names,
        vocab_divisible_by=options.vocab_divisible_by,
        max_shard_size=options.max_shard_size,
        first_layers=options.first_stage_layers,
        last_layers=options.last_stage_layers,
        moe_grouped_gemm=options.moe_grouped_gemm,
        version=options.target_version,
        family=options.family,
        run_config=options.run_config,
        accept=options.accept,
        undo=tuple(map(_remap, options.undo)),
        allow_unmapped=options.allow_unmapped,
        allow_incomplete=options.allow_incomplete,
        overwrite=options.overwrite,
    )


def _plan_lines(conversion: Conversion) -> Iterator[str]:
    from ckptdiff.text import format_bytes, pasted_name, printable

    source = conversion.source
    family = source.architecture.name if source.architecture is not None else "unknown family"
    yield f"from  {pasted_name(str(source.checkpoint.root))} ({source.checkpoint.format}, {family})"
    size = format_bytes(conversion.nbytes)
    yield f"to    {pasted_name(str(conversion.out))} ({conversion.target.to}, {size})"
    if source.merging is not None:
        yield f"      with the adapter {printable(str(source.merging.root))}: " + printable(
            source.merging.words
        )
    for note in conversion.notes:
        yield f"      {printable(note)}"


def _document(
    conversion: Conversion, lost: list[Lost], compared: list[TensorDiff]
) -> dict[str, Any]:
    from ckptdiff.report.names import merging_document
    from ckptdiff.report.shortfall import shortfall_document

    size = conversion.target.parallelism
    hub = conversion.source.checkpoint.hub
    return {
        "schema": "ckptdiff.convert/1",
        "source": str(conversion.source.checkpoint.root),
        "source_hub": None if hub is None else {"id": hub.id, "commit": hub.commit},
        "with_adapter": merging_document(conversion.source),
        "out": str(conversion.out),
        "to": conversion.target.to,
        "parallelism": {n: getattr(size, n) for n in ("tp", "pp", "vpp", "ep", "etp")},
        "files": len(conversion.files),
        "bytes": conversion.nbytes,
        "tensors": len(conversion.source.tensors),
        "notes": list(conversion.notes),
        "cannot": list(conversion.cannot),
        "target_version": conversion.target.version,
        "launch": conversion.launch,
        "left_out": list(conversion.left),
        **shortfall_document(conversion.source),
        "losses": [
            {
                "name": item.name,
                "rounded": item.loss.rounded,
                "overflowed": item.loss.overflowed,
                "flushed": item.loss.flushed,
            }
            for item in lost
        ],
        "verified": bool(compared) and not conversion.source.shortfall,
        "same": sum(result.status == "same" for result in compared),
    }


def _follow(
    events: Iterable[Written | Lost | TensorDiff], conversion: Conversion
) -> tuple[list[Lost], list[TensorDiff]]:
    """Return the losses and results of a conversion; show progress if stderr is a terminal."""
    from ckptdiff.conversion.run import Lost, Written

    lost: list[Lost] = []
    compared: list[TensorDiff] = []
    with ProgressBar("bytes") as bar:
        bar.begin("write", conversion.nbytes)
        for event in events:
            if isinstance(event, Written):
                bar.advance(event.nbytes, event.file)
            elif isinstance(event, Lost):
                lost.append(event)
            else:
                if not compared:
                    bar.begin("verify", 2 * conversion.nbytes)
                compared.append(event)
                bar.advance(event.nbytes)
    return lost, compared


def _remap(text: str) -> Remap:
    from ckptdiff.conversion.remap import Remap

    try:
        return Remap.parse(text)
    except BadArgument as error:
        raise BadArgument(f"--undo {error}") from error
