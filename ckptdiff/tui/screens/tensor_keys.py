"""The keys of the main screen."""

from __future__ import annotations

from textual.binding import Binding

from ckptdiff.tui.text.list import COPIES

TENSOR_KEYS = (
    Binding("n", "difference(1)", "Next diff", id="tensors.next", tooltip="next difference"),
    Binding(
        "N", "difference(-1)", "Previous diff", show=False, id="tensors.previous",
        tooltip="previous difference",
    ),
    Binding(
        "slash", "filter", "Filter", key_display="/", id="tensors.filter",
        tooltip="show only names with these words, or else letters; re:PATTERN; ! inverts",
    ),
    Binding(
        "x", "stop", "Stop", id="tensors.stop",
        tooltip="stop reading or comparing; what is known stays",
    ),
    Binding(
        "c", "convert", "Convert", id="tensors.convert",
        tooltip="convert a checkpoint, or show the conversion that runs",
    ),
    Binding(
        "f,3", "findings", "Findings", id="tensors.findings",
        tooltip="what is wrong, why, and how to mend it; after a stop, look for it",
    ),
    Binding(
        "d", "differences_only", "Diffs only", id="tensors.differences",
        tooltip="show differences only, or all tensors again",
    ),
    Binding(
        "i", "statistics", "Statistics", id="tensors.statistics",
        tooltip="read all of a large tensor for its distribution and first values",
    ),
    Binding("y", "copy_name", "Copy", id="tensors.copy", tooltip=COPIES),
    Binding(
        "s", "sort", "Sort", id="tensors.sort",
        tooltip="next sort: model order, max|d|, cos, size",
    ),
    Binding(
        "S", "reverse", "Reverse", show=False, id="tensors.reverse",
        tooltip="sort the other way round",
    ),
    Binding(
        "vertical_line", "view", "View", key_display="|", id="tensors.view",
        tooltip="show both sides, canonical names, or what each file of B holds",
    ),
    Binding(
        "r", "again", "Again", id="tensors.again",
        tooltip="read the headers and compare again; after a stop, go on",
    ),
    Binding(
        "w", "write_report", "Report", id="tensors.report", tooltip="write a report to a file"
    ),
    Binding(
        "e", "entries", "Entries", id="tensors.entries",
        tooltip="what else the files hold: arguments, optimizer, random states",
    ),
    Binding(
        "o", "optimizer", "Optimizer", show=False, id="tensors.optimizer",
        tooltip="compare master weights and moments as well, or the weights alone again",
    ),
    Binding(
        "2", "config", "Config", id="tensors.config",
        tooltip="compare config.json with the args, meaning by meaning",
    ),
    Binding(
        "p,4", "logits", "Logits", id="tensors.logits",
        tooltip="give both sides a prompt and compare what they compute, layer by layer",
    ),
    Binding(
        "Y", "copy_command", "Copy command", show=False, id="tensors.copy_command",
        tooltip="copy the command line that does the same",
    ),
)  # fmt: skip
