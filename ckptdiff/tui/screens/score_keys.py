"""The keys of the scores screen."""

from __future__ import annotations

from textual.binding import Binding

SCORE_KEYS = (
    Binding("t", "tasks", "Tasks", id="scores.tasks", tooltip="type the names of tasks"),
    Binding(
        "r", "again", "Run", id="scores.again",
        tooltip="compare the scores of these tasks; after a stop, go on",
    ),
    Binding(
        "x", "stop", "Stop", id="scores.stop",
        tooltip="stop; what was answered is put together, a second time it is dropped",
    ),
    Binding(
        "p,4", "logits", "Logits", id="scores.logits",
        tooltip="give both sides the item under the cursor as a prompt, layer by layer",
    ),
    Binding(
        "s", "shown", "Go to item", id="scores.shown",
        tooltip="go to the first item that shows that weights or config differ",
    ),
    Binding(
        "a", "every_metric", "All metrics", id="scores.metrics",
        tooltip="every metric of every task, or the table again, with MMLU by its classes",
    ),
    Binding(
        "d", "dtype", "dtype", show=False, id="scores.dtype",
        tooltip="the dtype of the next run; fp32 tells a fault from rounding",
    ),
    Binding(
        "D", "device", "Device", show=False, id="scores.device",
        tooltip="compute the next run on another device: auto, cpu or a GPU",
    ),
    Binding("y", "copy_table", "Copy", id="scores.copy", tooltip="copy verdict and table"),
    Binding(
        "Y", "copy_command", "Copy command", show=False, id="scores.copy_command",
        tooltip="copy the command line that does the same",
    ),
    Binding(
        "2", "config", "Config", show=False, id="scores.config",
        tooltip="compare config.json with the args",
    ),
    Binding(
        "1", "back", "Tensors", show=False, id="scores.tensors",
        tooltip="back to the tensors; a run goes on",
    ),
    Binding(
        "question_mark", "guide", "Guide", id="scores.guide",
        tooltip="what the guide says of these numbers",
    ),
)  # fmt: skip
