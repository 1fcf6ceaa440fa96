"""The user's problems. `CkptDiffError` is caught once in `cli.main` and once per job.

CkptDiffError
├── NotACheckpoint       the path holds nothing that can be opened
├── CorruptFile          a header or a file contradicts itself, or ends too early
├── MissingShard         ranks, stages or files that the rest says must exist are not there
├── MixedShards          files that belong to different saves, or one rank twice
├── UnsupportedLayout    the tensors cannot be what the configuration says
├── UnknownConfig        the number of heads and so on is not known
├── UnreadableFile       the operating system refused to open, read or write
├── WorkerDied           a worker process was killed (file shrank under it, or out of memory)
├── Unverified           what a conversion wrote is not what its source holds
└── BadArgument          a pattern, a tolerance or an option that makes no sense

A way out that is an option on the command line and a key on the screen is a hint: each has words
of its own for it (`cli.hints`, `tui.text.hints`).
"""

from __future__ import annotations

from typing import Literal

Hint = Literal[
    "ids",  # tokens by their numbers need no tokenizer
    "no-bos",  # a prompt as it is, without BOS
    "overwrite",
    "allow-unmapped",  # convert what rules know, leave the rest out
    "cpu",
]


class CkptDiffError(Exception):
    """Something the user can mend: the message says what, where and what to do."""

    def __init__(self, message: str, *, hint: Hint | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotACheckpoint(CkptDiffError):
    """The path holds nothing that can be opened."""


class CorruptFile(CkptDiffError):
    """A header or a file contradicts itself, or ends too early."""


class MissingShard(CkptDiffError):
    """Ranks, stages or files that the rest of the checkpoint says must exist are not there."""


class MixedShards(CkptDiffError):
    """Files of different saves in one checkpoint, or one rank twice."""


class UnsupportedLayout(CkptDiffError):
    """The tensors cannot be what the configuration says they are."""


class UnknownConfig(CkptDiffError):
    """A number that the layout depends on is in neither checkpoint."""


class UnreadableFile(CkptDiffError):
    """The operating system refused to open, read or write a file."""


class WorkerDied(CkptDiffError):
    """A worker process was killed: a file shrank while it was read, or memory ran out."""


class Unverified(CkptDiffError):
    """What a conversion wrote is not what its source holds."""


class BadArgument(CkptDiffError):
    """A pattern, a tolerance or an option that makes no sense."""
