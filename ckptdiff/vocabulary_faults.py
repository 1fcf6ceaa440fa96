"""Claims of the vocabulary: rows that lie elsewhere or are gone, heads that are no copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ckptdiff.naming_faults import Claim
from ckptdiff.places import with_padding
from ckptdiff.study import NEAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptdiff.places import Place
    from ckptdiff.study import Study

FEW = 0.1  # part of the vocabulary that a shift may leave in place at its beginning


def tied(study: Study, left: list[Place]) -> Iterator[Claim]:
    """A head that is to be a copy of the embedding, and is not."""
    for place in left:
        stored = place.actual.pieces[0].ref.name
        if (
            place.is_copy
            and place.rule.vocabulary == "embedding"
            and stored.endswith(("output_layer.weight", "word_embeddings_for_head.weight"))
            and place not in study.moved
        ):
            yield Claim("TIED", "copy", (place,), "the head is no copy of the embedding",
                        "tied weights were saved from another moment", is_lost=True)  # fmt: skip


def vocabulary(study: Study, left: list[Place]) -> Iterator[Claim]:
    """Rows of the vocabulary that lie elsewhere, or are gone."""
    by_tensor: dict[str, list[Place]] = defaultdict(list)
    for place in left:
        if place.rule.vocabulary and not place.is_copy:
            by_tensor[place.share.hf[0]].append(place)
    for name, found in by_tensor.items():
        if any(abs(study.residual[p].cosine) > NEAR for p in found):
            continue
        one, other = study.grid.a.tensors[name], study.grid.b.tensors[name]
        match = study.ask.match(one, with_padding(other))
        own, padding = match[: one.shape[0]], match[one.shape[0] :]
        # A row that many others repeat is what a gap was filled with.
        filled = {row for row, times in Counter(own).items() if times > 1}
        right = sum(m == i for i, m in enumerate(own))
        displaced = {
            i: m - i for i, m in enumerate(own) if m not in (i, -1, -2) and m not in filled
        }
        gone = [i for i, m in enumerate(own) if m != i and i not in displaced]
        if len(displaced) > 0.3 * (len(own) - right):
            yield _displaced(tuple(found), own, padding, displaced)
        elif (
            gone and gone[-1] == len(own) - 1 and len(gone) >= 0.9 * (len(own) - gone[0])
            and right >= 0.5 * gone[0] and any(study.share_wrong[p] < 1 for p in found)
        ):  # fmt: skip
            yield Claim(
                "VOCAB-TRUNC", str(gone[0]), tuple(found),
                f"rows {gone[0]} to {len(own) - 1} of the vocabulary do not hold what A has",
                "the vocabulary was cut off and filled up again", is_lost=True,
            )  # fmt: skip


def _displaced(
    found: tuple[Place, ...], own: list[int], padding: list[int], displaced: dict[int, int]
) -> Claim:
    step, most = Counter(displaced.values()).most_common(1)[0]
    before = next(i for i, m in enumerate(own) if i in displaced)
    held: dict[int, int] = {}
    for at, row in enumerate((*own, *padding)):
        if row >= 0:
            held.setdefault(row, at)
    rows = [held[row] for row in range(len(own)) if row in held]
    whole = rows if len(rows) == len(own) else []
    if most >= 0.8 * len(displaced) and before <= FEW * len(own):
        return Claim(
            "VOCAB-SHIFT", str(step), found,
            f"rows of the vocabulary lie {abs(step)} {'later' if step < 0 else 'earlier'} than "
            "they should", "a token was counted, or not, before the first row",
            is_lost=not whole, rows=whole,
        )  # fmt: skip
    return Claim(
        "VOCAB-PAD", "", found, "padding lies between rows of the vocabulary",
        "the vocabulary was padded rank by rank, not as a whole", is_lost=not whole, rows=whole,
    )  # fmt: skip
