"""Where a checkpoint is not what its config promises, in sentences."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

from ckptdiff.arch.templates import fill_template, split_name
from ckptdiff.text import format_shape, number_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptdiff.assembly.recipe import Assembled, Shortfall

MAX_NAMES = 8  # in one sentence


def shortfall_lines(side: Assembled) -> list[str]:
    """Return, in sentences without a full stop, where a side is not what its config promises.

    The first begins with `incomplete` if something is lacking.
    """
    short = side.shortfall
    lines: list[str] = []
    if short.absent_layers or short.extra_layers:
        lines.append(_layer_line(side))
    elif short.beyond:
        lines.append(f"more experts in the files than in the config: {_names(short.beyond)[0]}")
    lacking = [
        n for n in short.lacking if (split_name(n)[1] or (-1,))[0] not in short.absent_layers
    ]
    if lacking:
        what = "1 tensor" if len(lacking) == 1 else f"{len(lacking)} tensors"
        verb = "is" if len(lacking) == 1 else "are"
        known = " under the names of its rules" if short.unknown else ""
        lines.append(
            f"{what} of the config {verb} not in the files{known}: {_joined(_names(lacking))}"
        )
    if short.unknown:
        count = len(short.unknown)
        lines.append(
            f"no rule knows {'1 name' if count == 1 else f'{count} names'} in the files, such as "
            f"{short.unknown[0]}: what is missing may have such a name"
        )
    if lines and (short.lacking or short.absent_layers):
        lines[0] = f"incomplete: {lines[0]}"
    shapes: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = defaultdict(list)
    for misfit in short.misfits:
        shapes[misfit.shape, misfit.promised].append(misfit.name)
    for (shape, promised), names in list(shapes.items())[:MAX_NAMES]:
        verb = "is" if len(names) == 1 else "are"
        lines.append(
            f"{_joined(_names(names))} {verb} {format_shape(shape)}, "
            f"by the config {format_shape(promised)}"
        )
    return lines


def way_out(short: Shortfall) -> str:
    """Return what mends a shortfall, as a sentence without a full stop."""
    if short.lacking or short.absent_layers:
        return "Copy what is missing, or mend the config"
    return "Mend the config, or convert the files again"


def _layer_line(side: Assembled) -> str:
    short = side.shortfall
    count = "1 layer" if short.layers == 1 else f"{short.layers} layers"
    text = f"{count} in the config, {short.layers_held} in the files"
    if short.unknown:
        text += " under the names of its rules"
    if short.extra_layers:
        return f"{text}: {_layers(short.extra_layers)} not counted"
    size = side.checkpoint.parallelism
    if len(short.absent_layers) + short.layers_held != short.layers:
        return text
    text += f": {_layers(short.absent_layers)} missing"
    if side.checkpoint.has_ranks and short.layers % (size.pp * size.vpp):
        # Ranks number their layers from 0, and stages may be uneven.
        text += ", or others: they are numbered by their count in the files"
    return text


def _layers(numbers: tuple[int, ...]) -> str:
    one = len(numbers) == 1
    return f"layer{'' if one else 's'} {number_ranges(numbers)} {'is' if one else 'are'}"


def _joined(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _names(names: Iterable[str]) -> list[str]:
    """Return names that differ in numbers only as one, with ranges: `model.layers.0-3.mlp`."""
    by_key: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name in names:
        key, numbers = split_name(name)
        by_key[key].append(numbers)
    found = []
    for key, places in by_key.items():
        axes = [sorted({numbers[d] for numbers in places}) for d in range(key.count("#"))]
        if prod(map(len, axes)) == len(set(places)):
            text = key
            for axis in axes:
                text = text.replace("#", number_ranges(axis, ","), 1)
            found.append(text)
        else:
            found += [fill_template(key, numbers) for numbers in sorted(places)]
    return found
