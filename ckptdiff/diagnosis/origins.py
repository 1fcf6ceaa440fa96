"""Look at what differs, shard by shard: is it another place's content, or a known mistake's."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import rows_of, transpose
from ckptdiff.diagnosis.layout_search import MistakeSearch
from ckptdiff.diagnosis.near_origins import find_nearly
from ckptdiff.resharding.shard_pairs import chosen_rows, shard_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.diagnosis.queries import ContentQueries
    from ckptdiff.kernels.evidence import Residual
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair

Moves = dict[int, int]  # what is held there instead
Maps = dict[int | None, Moves]  # by layer
NEAR = 0.5  # cosine from which a content is taken for a version of the expected one


@dataclass(slots=True)
class Origins:
    """Everything that is known of the places that hold something wrong."""

    grid: ShardGrid
    ask: ContentQueries
    places: list[ShardPair] = field(default_factory=list)
    wrong: dict[ShardPair, list[int]] = field(default_factory=dict)  # some of the rows that differ
    share_wrong: dict[ShardPair, float] = field(default_factory=dict)  # of its rows
    follows: dict[ShardPair, list[ShardPair]] = field(
        default_factory=dict
    )  # replicas with its content
    moved: dict[ShardPair, ShardPair] = field(default_factory=dict)  # it holds what belongs there
    mistaken: dict[ShardPair, tuple[Mistake, tuple[str, ...]]] = field(default_factory=dict)
    # What a place would hold by its mistake alone, where it has other values as well.
    instead: dict[ShardPair, Assembly] = field(default_factory=dict)
    residual: dict[ShardPair, Residual] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)  # HF names of transposes, other values beside
    left: list[ShardPair] = field(default_factory=list)  # wrong, and nothing explains it
    same: set[str] = field(default_factory=set)  # Hugging Face names that do not differ
    firsts: dict[tuple[str, int], ShardPair] = field(default_factory=dict)  # without replicas

    def run(self, differing: Collection[str]) -> None:
        """Look at every place of the tensors that differ."""
        self.same = set(self.grid.a.tensors) - set(differing)
        self.places = list(shard_pairs(self.grid))
        self.firsts = {p.home: p for p in self.places if not p.is_copy}
        suspects = [
            p for p in self.places if p.actual.pieces and any(n in differing for n in p.share.hf)
        ]
        found = self.ask.rows_that_differ([(p.expected, p.actual) for p in suspects])
        for place, (rows, differ, some) in zip(suspects, found, strict=True):
            if differ:
                self.wrong[place] = some
                self.share_wrong[place] = differ / max(1, rows)
        followers = self._find_followers()
        own = [p for p in self.wrong if p not in followers]
        self._find_moves(own)
        self.left = [p for p in own if p not in self.moved]
        self._find_mistakes()
        self.left = [p for p in self.left if p not in self.mistaken or p in self.instead]
        self._find_residuals()
        find_nearly(self)
        self._follow_layers()

    def together(self, found: Iterable[ShardPair]) -> list[ShardPair]:
        """Return places with the replicas that hold the same."""
        return [q for p in found for q in (p, *self.follows.get(p, ()))]

    def _find_followers(self) -> set[ShardPair]:
        """Find the replicas that hold just what the first does: what is said of it holds there."""
        pairs = [
            (self.firsts[p.home], p)
            for p in self.wrong
            if p.is_copy and self.firsts[p.home] in self.wrong
        ]
        alike = self.ask.alike([(first.actual, p.actual) for first, p in pairs])
        for (first, p), is_same in zip(pairs, alike, strict=True):
            if is_same:
                self.follows.setdefault(first, []).append(p)
        return {p for found in self.follows.values() for p in found}

    # ── contents found elsewhere ─────────────────────────────────────────────────────────────

    def _find_moves(self, wrong: list[ShardPair]) -> None:
        """Look up what wrong places hold in the whole reference."""
        firsts = [p for p in self.firsts.values() if p.expected.pieces]
        shapes = {p.expected.shape for p in firsts if p.rule.of_vocabulary}
        wanted = dict.fromkeys(s for p in wrong for s in self._shapes(p, shapes))
        firsts = [p for p in firsts if p.expected.shape in wanted]
        index: dict[tuple[tuple[int, ...], bytes], list[ShardPair]] = defaultdict(list)
        digests = self.ask.digests([p.expected for p in firsts])
        for place, (digest, poor) in zip(firsts, digests, strict=True):
            if not poor:
                index[place.expected.shape, digest].append(place)
        found: list[tuple[ShardPair, ShardPair]] = []
        for shape in wanted:
            held = [p for p in wrong if shape in self._shapes(p, shapes)]
            recipes = [_at_most(p, shape[0]) for p in held]
            for place, (digest, poor) in zip(held, self.ask.digests(recipes), strict=True):
                others = [] if poor else index.get((shape, digest), [])
                others = [q for q in others if q.home != place.home]
                if others:
                    found.append((place, min(others, key=partial(_distance, place))))
        same = self.ask.alike([(q.expected, _at_most(p, q.expected.shape[0])) for p, q in found])
        self.moved = {p: q for (p, q), right in zip(found, same, strict=True) if right}
        self._follow_ranks(wrong)

    @staticmethod
    def _shapes(p: ShardPair, vocabularies: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes in which a place's content may be found elsewhere."""
        if p.stored is None:
            return [p.actual.shape]
        return [
            s for s in vocabularies if s[1:] == p.stored.shape[1:] and s[0] <= p.stored.shape[0]
        ]

    def _follow_ranks(self, wrong: list[ShardPair]) -> None:
        """Let vocabularies go with the ranks' exchange where padding alone was to be found."""
        ranks = self.rank_map()
        for place in wrong:
            source = ranks.get(place.share.rank)
            if place.stored is not None and place not in self.moved and source is not None:
                home = self.firsts.get((place.name, source))
                if home is not None and not home.expected.pieces:
                    self.moved[place] = home

    def rank_map(self) -> dict[int, int]:
        """Return the most common exchange of ranks among what was found in another rank."""
        maps: dict[str, dict[int, int]] = defaultdict(dict)
        for p, q in self.moved.items():
            if p.share.rank != q.share.rank:
                maps[p.name][p.share.rank] = q.share.rank
        common = Counter(tuple(sorted(m.items())) for m in maps.values())
        best = max(common.items(), key=lambda found: (found[1], len(found[0])), default=((), 0))
        return dict(best[0])

    def layer_map(self) -> dict[int, int]:
        """Return the largest exchange of layers: tensors alike in all layers show less of it."""
        maps: dict[str, dict[int, int]] = defaultdict(dict)
        for p, q in self.moved.items():
            if p.layer is None or q.layer is None or p.template != q.template:
                continue
            if p.layer != q.layer:
                maps[p.template][p.layer] = q.layer
        return max(maps.values(), key=len, default={})

    def expert_moves(self) -> dict[tuple[str, int | None], Moves]:
        """Return the exchange of experts in the tensors of each template and layer.

        Content of another name was not taken for another expert's: it says nothing of their order.
        """
        maps: dict[tuple[str, int | None], Moves] = defaultdict(dict)
        for p, q in self.moved.items():
            if p.expert is None or q.expert is None or p.template != q.template:
                continue
            if p.expert != q.expert:
                maps[p.template, p.layer][p.expert] = q.expert
        return maps

    def expert_maps(self) -> Maps:
        """Return the largest exchange of experts in each layer."""
        found: Maps = {}
        for (_, layer), moves in self.expert_moves().items():
            found[layer] = max(found.get(layer, {}), moves, key=len)
        return found

    def homes(self) -> list[Callable[[ShardPair], ShardPair | None]]:
        """Return where a content may belong: in its own place, or by the exchanges of the rest."""
        by_what = {(p.template, p.layer, p.expert, p.share.rank): p for p in self.firsts.values()}

        def moved(ranks: Moves, layers: Moves, experts: Maps, p: ShardPair) -> ShardPair | None:
            layer = None if p.layer is None else layers.get(p.layer, p.layer)
            expert = p.expert
            if expert is not None:
                expert = experts.get(p.layer, {}).get(expert, expert)
            rank = ranks.get(p.share.rank, p.share.rank)
            return by_what.get((p.template, layer, expert, rank))

        ranks, layers = _closed(self.rank_map()), _closed(self.layer_map())
        exchanges: list[tuple[Moves, Moves, Maps]] = [({}, {}, {})]
        for experts in ({}, self.expert_maps()):
            for exchange in ((ranks, {}), ({}, layers), (ranks, layers), ({}, {})):
                if (*exchange, experts) not in exchanges:
                    exchanges.append((*exchange, experts))
        return [partial(moved, *exchange) for exchange in exchanges]

    # ── known mistakes ───────────────────────────────────────────────────────────────────────

    def _find_mistakes(self) -> None:
        by_name: dict[str, list[ShardPair]] = defaultdict(list)
        for place in self.left:
            by_name[place.name].append(place)
        known: dict[str, set[str]] = defaultdict(set)  # keys of mistakes, by template
        homes = self.homes()
        for name, found in by_name.items():
            group = [p for p in self.firsts.values() if p.name == name and p.actual.pieces]
            for home in (*homes, None):
                origins = [home(p) for p in group] if home else self._by_numbers(group)
                if None in origins:
                    continue
                pairs = [(p, q) for p, q in zip(group, origins, strict=True) if q is not None]
                usual = known[group[0].template]
                right = MistakeSearch(self.grid, self.ask, self.wrong, pairs).right(usual)
                if right:
                    usual.update(m.key for m in right)
                    words = tuple(dict.fromkeys(m.words for m in right[1:]))
                    for place in found:
                        if not place.is_copy:
                            self.mistaken[place] = right[0], words
                    for place, origin in pairs:
                        if place is not origin and place in self.wrong:
                            self.moved[place] = origin
                    break

    def _by_numbers(self, group: list[ShardPair]) -> list[ShardPair | None]:
        """Return whose numbers each rank of a tensor holds, in whatever order; Nones if its own."""
        if len(group) < 2:
            return [None]
        owners = dict(zip(self.ask.tallies([p.expected for p in group]), group, strict=True))
        found = [owners.get(tally) for tally in self.ask.tallies([p.actual for p in group])]
        return [None] if found == group else found

    def transposed_tensors(self, names: Iterable[str]) -> set[str]:
        """Return the square tensors that hold their own transpose."""
        a, b = self.grid.a.tensors, self.grid.b.tensors
        square = [n for n in names if len(a[n].shape) == 2 and a[n].shape[0] == a[n].shape[1]]
        pairs = [(replace(transpose(a[n]), dtype=b[n].dtype), b[n]) for n in square if n in b]
        return {n for n, same in zip(square, self.ask.alike(pairs), strict=True) if same}

    # ── values ───────────────────────────────────────────────────────────────────────────────

    def _find_residuals(self) -> None:
        """Measure what is left against what should be there, or what the exchanges put there."""
        self.residual = dict(zip(self.left, self.measured(self.left), strict=True))
        for home in self.homes()[1:]:
            origins = {
                p: q
                for p in self.left
                if (q := home(p)) is not None
                and q.home != p.home
                and _at_most(p, q.expected.shape[0]).shape == q.expected.shape
                and self.residual[p].constant is None
                and p not in self.instead
            }
            moved = [
                replace(
                    p,
                    expected=replace(q.expected, dtype=p.actual.dtype),
                    actual=_at_most(p, q.expected.shape[0]),
                )
                for p, q in origins.items()
            ]
            for (place, origin), found in zip(origins.items(), self.measured(moved), strict=True):
                is_like = found.closeness[0] or abs(found.cosine) > NEAR
                if is_like and found.closeness > self.residual[place].closeness:
                    self.residual[place] = found
                    self.moved[place] = origin

    def _follow_layers(self) -> None:
        """Let content that is like nothing go where most of its layer went."""
        layers = _closed(self.layer_map())
        if set(layers) != set(layers.values()):
            return
        by_what = {(p.template, p.layer, p.expert, p.share.rank): p for p in self.firsts.values()}
        of_layer = Counter(p.layer for p in by_what.values())
        went = Counter(
            p.layer for p, q in self.moved.items() if q.layer == layers.get(p.layer or 0)
        )
        for place in self.left:
            found, layer = self.residual[place], place.layer
            is_like = found.constant is None and (found.closeness[0] or abs(found.cosine) > NEAR)
            if layer in layers and 2 * went[layer] > of_layer[layer] and not is_like:
                what = (place.template, layers[layer], place.expert, place.share.rank)
                self.moved.setdefault(place, by_what[what])

    def measured(self, found: list[ShardPair]) -> list[Residual]:
        triples = []
        for place in found:
            pair = self.instead.get(place, place.expected), place.actual
            if len(place.actual.shape) > 1:
                rows = self.wrong.get(place) or list(range(min(48, place.actual.shape[0])))
                pair = chosen_rows(pair[0], rows), chosen_rows(pair[1], rows)
            triples.append((*pair, pair[1].dtype))
        return self.ask.residuals(triples)


def _closed(moves: Moves) -> Moves:
    """Return an exchange with its open ends tied: what else may be so changed as not to show it."""
    if len(set(moves.values())) < len(moves):
        return moves
    closed = dict(moves)
    for start in set(moves) - set(moves.values()):
        end = start
        while end in moves:
            end = moves[end]
        closed[end] = start
    return closed


def _at_most(p: ShardPair, rows: int) -> Assembly:
    """Return what a place holds; of a vocabulary so many rows."""
    if p.stored is None:
        return p.actual
    return replace(rows_of(p.stored, 0, min(rows, p.stored.shape[0])), dtype=p.actual.dtype)


def _distance(p: ShardPair, q: ShardPair) -> tuple[int, ...]:
    """Order the places that a content may have come from: the less was mistaken, the likelier."""
    return (
        (p.template != q.template) + (p.layer != q.layer) + (p.share.rank != q.share.rank)
        + (p.expert != q.expert),
        p.template != q.template,
        abs((p.layer or 0) - (q.layer or 0)),
    )  # fmt: skip
