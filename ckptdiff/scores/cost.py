"""What a comparison of scores takes: memory, bytes to read, and how long, once some is measured."""

from __future__ import annotations

import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdiff.dtypes import BY_FLAG, ITEMSIZE
from ckptdiff.errors import OutOfMemory
from ckptdiff.forward.plan import MOST_SCORES, chunk_tokens, most_logits, most_tokens
from ckptdiff.text import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptdiff.forward.holdings import Ranks
    from ckptdiff.forward.model import Model
    from ckptdiff.forward.plan import Section
    from ckptdiff.scores.batches import QuestionBatch

STREAMS = 3  # A, A's weights in B's arithmetic, B
PROGRAM = 600 << 20  # bytes of the worker itself, with torch and lm_eval
SHARE = 0.8  # of the free memory, is used at most
# A batch ends when it is this large, whatever memory there is: by then reading the weights takes
# less than a hundredth of the time on a CPU, and a stopped run loses no more than one batch.
MOST_ON_CPU, MOST_ON_GPU = 1 << 14, 1 << 18
_CGROUPS = (  # limit, what is used, statistics and the word in them for what can be given back
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     "total_inactive_file"),
)  # fmt: skip


class Cost:
    """Memory and bytes to read of a batch, from the sizes of both models."""

    def __init__(self, models: Sequence[Model], sections: Sequence[Section], dtype: str) -> None:
        # A CPU without products of bf16 computes those in fp32.
        itemsize = max(4, ITEMSIZE[BY_FLAG[dtype]])
        self.read = sum(map(_stored, (one for one in sections if one.part != "first")))
        layers = [section for section in sections if section.part == "layer"]
        self._weights = max((_held(one, itemsize) for one in layers), default=(0, 0), key=sum)
        self._hidden = max(model.hidden_size for model in models)
        self._heads = max(model.num_attention_heads for model in models)
        self._widest = max(map(_widest, layers), default=self._hidden)
        self._itemsize = itemsize

    def memory(self, tokens: int, longest: int, device: str = "cpu") -> int:
        """Return the most bytes that a batch takes if its longest sequence is `longest` tokens.

        A GPU keeps no more of the experts than there is room for.
        """
        rest, experts = self._weights
        weights = rest if device.startswith("cuda") else rest + experts
        row = self._heads * longest
        scores = 4 * self._itemsize * min(row * longest, max(MOST_SCORES, 16 * row))
        kind = device.partition(":")[0]
        together = chunk_tokens(self._widest, self._itemsize, kind)
        # Of a sequence alone, only what attention takes is in memory as a whole.
        cut = max(together, min(longest, most_tokens(kind)))
        inside = max(longest, together) * 8 * self._hidden + cut * 3 * self._widest
        inside *= self._itemsize
        logits = STREAMS * (self._itemsize + 8) * most_logits(kind)
        return PROGRAM + max(weights + inside + scores, logits) + tokens * self._token

    @property
    def _token(self) -> int:
        """The bytes that a token takes between two layers."""
        return STREAMS * 2 * self._hidden * self._itemsize

    def fitting(self, free: int, longest: int, device: str) -> int:
        """Return how many tokens a batch may have, at most; 0 or less if nothing fits."""
        return int(SHARE * free - self.memory(0, longest, device)) // self._token


def batch_tokens(cost: Cost, longest: int, free: int | None, asked: int | None, device: str) -> int:
    """Return the tokens of a batch: as asked for, or what memory has room for.

    `longest` are the tokens of the longest sequence, `free` the bytes of free memory; None: not
    known. Raises OutOfMemory if what is asked for, or the longest sequence, does not fit.
    """
    most = MOST_ON_CPU if device == "cpu" else MOST_ON_GPU
    fitting = most if free is None else cost.fitting(free, longest, device)
    tokens = max(longest, min(most, fitting) if asked is None else asked)
    if tokens <= fitting or free is None:
        return tokens
    needed = format_bytes(cost.memory(tokens, longest, device) / SHARE)
    there = f"{needed} of free memory, {format_bytes(free)} are free"
    if fitting < longest:
        raise OutOfMemory(
            f"the longest question, of {longest:,} tokens, takes {there}. Leave out the task that "
            "asks it, or free memory"
        )
    raise OutOfMemory(
        f"a batch of {tokens:,} tokens takes {there}; {fitting} tokens fit", hint="batch-tokens"
    )


def free_memory() -> int | None:
    """Return the bytes that this machine, or this container, has free; None if it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        found = [int(sizes["MemAvailable"].split()[0]) << 10]
    except (OSError, LookupError, ValueError):
        return None
    for limit, used, statistics, word in _CGROUPS:
        folder = Path("/sys/fs/cgroup")
        try:
            stated = dict(one.split() for one in (folder / statistics).read_text().splitlines())
            kept = int((folder / used).read_text()) - int(stated[word])
            found.append(max(0, int((folder / limit).read_text()) - kept))
        except (OSError, LookupError, ValueError):  # there is none, or it is "max"
            continue
    return min(found)


class Pace:
    """How long what is left will take, from the sections that are done."""

    def __init__(self, batches: Sequence[QuestionBatch], sections: Sequence[Section]) -> None:
        self._tokens = [batch.tokens for batch in batches]
        self._questions = sum(len(batch.places) for batch in batches)
        self._parts = [section.part for section in sections]
        self._started = time.monotonic()
        self._each: list[float | None] = [None] * len(sections)  # seconds per token
        self._done = 0, 0  # batches, and sections of the next one

    def took(self, batch: int, section: int, seconds: float) -> None:
        """Note how long a section of a batch took, numbers from 0."""
        self._each[section] = seconds / max(1, self._tokens[batch])
        self._done = (batch, section + 1)

    @property
    def left(self) -> float | None:
        """The seconds that are left; None before the first layer is measured."""
        parts = zip(self._parts, self._each, strict=True)
        layers = [each for part, each in parts if part == "layer" and each is not None]
        if not layers:
            return None
        warm = layers[1:] or layers  # the first one waits for threads, and for the disk
        mean = sum(warm) / len(warm)
        # The first section takes little, and is always measured by now; the last is like a layer.
        each = [mean if one is None else one for one in self._each]
        batch, section = self._done
        here = self._tokens[batch] * sum(each[section:])
        return here + sum(self._tokens[batch + 1 :]) * sum(each)

    @property
    def rate(self) -> float | None:
        """Questions a second."""
        left = self.left
        if left is None:
            return None
        return self._questions / max(1e-9, time.monotonic() - self._started + left)


def _stored(section: Section) -> int:
    """Return the bytes that both sides' files hold of a section."""
    return sum(
        prod(held.shape) * ITEMSIZE.get(held.dtype, 1)
        for rank in (*section.a, *section.b)
        for held in rank.values()
    )


def _held(section: Section, itemsize: int) -> tuple[int, int]:
    """Return the bytes of both sides' weights of a layer as they are computed with.

    Those of experts apart; with the others is what one of them takes while it is read.
    """
    sizes = [
        (".experts." in name, prod(held.shape) * itemsize)
        for rank in (*section.a, *section.b)
        for name, held in rank.items()
    ]
    experts = sum(size for is_expert, size in sizes if is_expert)
    most = max((size for _, size in sizes), default=0)
    return sum(size for _, size in sizes) - experts + most, experts


def _widest(section: Section) -> int:
    """Return the most features that a matrix of a layer gives, over all ranks."""
    return max(_rows(section.a), _rows(section.b))


def _rows(ranks: Ranks) -> int:
    names: Iterable[str] = dict.fromkeys(name for rank in ranks for name in rank)
    return max(
        (
            sum(rank[name].shape[0] for rank in ranks if name in rank)
            for name in names
            if any(name in rank and len(rank[name].shape) == 2 for rank in ranks)
        ),
        default=0,
    )
