"""Errors that the user can mend. `CkptDiffError` is caught once in `cli.main` and once per job.

CkptDiffError
├── NotACheckpoint       the path holds nothing that can be opened
├── CorruptFile          a header or a file contradicts itself, or ends too early
├── MissingShard         ranks, stages or files are missing that the others need
├── MixedShards          files that belong to different saves, or one rank twice
├── UnsupportedLayout    the tensors do not fit the configuration or the rules
├── UnknownConfig        a size that the layout depends on, such as the number of heads, is unknown
├── UnreadableFile       the operating system refused to open, read or write
├── WorkerDied           a worker process was killed (file shrank under it, or out of memory)
├── OutOfMemory          a device has too little memory for a step of a forward pass
├── NotInstalled         a library that an extra of the installation brings is not there
├── Unverified           what a conversion wrote is not what its source holds
└── BadArgument          a pattern, a tolerance or an option that makes no sense

Where the way out is an option on the command line and a key on the screen, an error has a hint. The
two word it differently (`cli.hints`, `tui.text.hints`).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Hint = Literal[
    "ids",  # tokens by their numbers need no tokenizer
    "no-bos",  # a prompt as it is, without BOS
    "overwrite",
    "allow-unmapped",  # convert what the rules know, leave out the rest
    "merge",  # add an adapter that is not merged, or convert what is there without it
    "allow-incomplete",  # convert what is there of what the config promises
    "cpu",  # compute without a GPU
    "lend",  # a folder to be like, or a family by name, says what Megatron's args do not
    "no-verify",  # hold nothing that is read against hashes that were saved
    "accept",  # write what cannot be said in full
    "batch-tokens",  # compute fewer tokens at a time
    "download",  # fetch a model from the hub
    "fetch-rest",  # fetch the files that a snapshot lacks
]

# What a file system answers that cannot map files: some FUSE, 9p and network file systems. Files
# there are read instead.
UNMAPPABLE = frozenset({errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP})


class CkptDiffError(Exception):
    """An error that the user can mend: the message says what is wrong, where, and what to do."""

    def __init__(self, message: str, *, hint: Hint | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def with_hint(self, words: Mapping[Hint, str]) -> str:
        """Return the message and, in these words, the way out."""
        return str(self) if self.hint is None else f"{self}; {words[self.hint]}"


class NotACheckpoint(CkptDiffError):
    """The path holds nothing that can be opened."""


class CorruptFile(CkptDiffError):
    """A header or a file contradicts itself, or ends too early."""


class MissingShard(CkptDiffError):
    """Ranks, stages or files are missing that the rest of the checkpoint needs."""


class MixedShards(CkptDiffError):
    """Files of different saves in one checkpoint, or one rank twice."""


class UnsupportedLayout(CkptDiffError):
    """The tensors do not fit the configuration or the rules."""


class UnknownConfig(CkptDiffError):
    """A size that the layout depends on is in neither checkpoint."""


class UnreadableFile(CkptDiffError):
    """The operating system refused to open, read or write a file."""


class WorkerDied(CkptDiffError):
    """A worker process was killed: a file shrank while it was read, or memory ran out."""


class OutOfMemory(CkptDiffError):
    """A device has too little memory for a step of a forward pass."""


class NotInstalled(CkptDiffError):
    """A library that an extra of the installation brings is not there."""


class Unverified(CkptDiffError):
    """What a conversion wrote is not what its source holds."""


class BadArgument(CkptDiffError):
    """A pattern, a tolerance or an option that makes no sense."""
