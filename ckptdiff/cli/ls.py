"""The command `ls`: list what is in a checkpoint, from its headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.cli.arguments import PATTERN_HELP
from ckptdiff.cli.fetching import add_download
from ckptdiff.cli.progress import counter

if TYPE_CHECKING:
    import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `ls` to a parser."""
    parser.description = "List a checkpoint's tensors from its headers alone."
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--raw", action="store_true", help="native names, file by file")
    parser.add_argument("--filter", metavar="PATTERN", help=PATTERN_HELP)
    add_download(parser)


def run(options: argparse.Namespace) -> int:
    """List; return 0. Raises a CkptDiffError."""
    from ckptdiff.assembly.assemble import assemble
    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.errors import CkptDiffError
    from ckptdiff.formats import open_checkpoint
    from ckptdiff.name_filter import matcher
    from ckptdiff.report import ls as listing

    wanted = matcher(options.filter or "")
    progress = counter("reading headers", "files")
    checkpoint = open_checkpoint(options.path, progress=progress)
    try:
        side = assemble(checkpoint)
    except CkptDiffError:
        if not options.raw:
            raise
        # Native names need neither rules nor config.
        side = Assembled(checkpoint, None, None, {}, unmapped=(), errors={})
    if options.json:
        from ckptdiff.report.pages import print_json

        make = listing.raw_document if options.raw else listing.listing_document
        print_json(make(side, wanted), "-")
    else:
        from ckptdiff.cli.output import print_parts

        lines = (listing.raw_lines if options.raw else listing.listing_lines)(side, wanted)
        print_parts(lines, is_listing=True)
    return 0
