"""Find where the content of each wrong shard comes from: another shard, or a known mistake."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ckptdiff.assembly.compose import rows_of, transpose
from ckptdiff.diagnosis.by_tensor import measure_by_tensor
from ckptdiff.diagnosis.layout_search import MistakeSearch
from ckptdiff.diagnosis.near_origins import find_near_origins
from ckptdiff.diagnosis.thresholds import MAX_RESIDUAL_ROWS, MIN_VERSION_COSINE
from ckptdiff.resharding.shard_pairs import chosen_rows, shard_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ckptdiff.arch.mistakes import Mistake
    from ckptdiff.assembly.recipe import Assembly
    from ckptdiff.diagnosis.by_tensor import ByTensor
    from ckptdiff.diagnosis.queries import ContentQueries
    from ckptdiff.kernels.evidence import Residual
    from ckptdiff.resharding.shard_pairs import ShardGrid, ShardPair

    Position = tuple[str, int | None, int | None, int]  # template, layer, expert, TP rank

Moves = dict[int, int]  # a rank, layer or expert, and the one whose content it holds
MovesByLayer = dict[int | None, Moves]


@dataclass(slots=True)
class Origins:
    """The wrong shards of B, and where their content comes from. `run` fills it in."""

    grid: ShardGrid
    ask: ContentQueries
    pairs: list[ShardPair] = field(default_factory=list)  # all of them, replicas included
    # The pairs that differ, with some of the rows that do.
    wrong: dict[ShardPair, list[int]] = field(default_factory=dict)
    wrong_fraction: dict[ShardPair, float] = field(default_factory=dict)  # of its rows, 0 to 1
    # The replicas that hold the same wrong content as the first one.
    equal_replicas: dict[ShardPair, list[ShardPair]] = field(default_factory=dict)
    # A pair, and the one whose expected content it holds.
    moved: dict[ShardPair, ShardPair] = field(default_factory=dict)
    # The likeliest mistake, and the words of others that leave the same bytes.
    mistaken: dict[ShardPair, tuple[Mistake, tuple[str, ...]]] = field(default_factory=dict)
    # What a pair would hold by its move or mistake alone, where values changed as well.
    predicted: dict[ShardPair, Assembly] = field(default_factory=dict)
    # How an unexplained pair differs from `predicted`, or else from the expected content.
    residual: dict[ShardPair, Residual] = field(default_factory=dict)
    # The same of each Hugging Face tensor in a pair, of matrices without a relation.
    by_tensor: dict[ShardPair, ByTensor] = field(default_factory=dict)
    # Hugging Face names of tensors that were transposed and have changed values.
    transposed: set[str] = field(default_factory=set)
    # The wrong pairs whose bytes no move and no mistake explains.
    unexplained: list[ShardPair] = field(default_factory=list)
    equal_names: set[str] = field(default_factory=set)  # Hugging Face names that do not differ
    # The first replica of each shard, by native name and TP rank.
    firsts: dict[tuple[str, int], ShardPair] = field(default_factory=dict)

    def run(self, differing: Collection[str]) -> None:
        """Search the origins of all shards of the `differing` tensors (Hugging Face names)."""
        self.equal_names = set(self.grid.a.tensors) - set(differing)
        self.pairs = list(shard_pairs(self.grid))
        self.firsts = {p.home: p for p in self.pairs if not p.is_copy}
        suspects = [
            p for p in self.pairs if p.actual.pieces and any(n in differing for n in p.hf_names)
        ]
        found = self.ask.rows_that_differ([(p.expected, p.actual) for p in suspects])
        for pair, (rows, differ, some) in zip(suspects, found, strict=True):
            if differ:
                self.wrong[pair] = some
                self.wrong_fraction[pair] = differ / max(1, rows)
        followers = self._find_equal_replicas()
        searched = [p for p in self.wrong if p not in followers]
        self._find_moves(searched)
        self.unexplained = [p for p in searched if p not in self.moved]
        self._find_mistakes()
        self.unexplained = [
            p for p in self.unexplained if p not in self.mistaken or p in self.predicted
        ]
        self._find_residuals()
        find_near_origins(self)
        self._follow_layers()
        self.by_tensor = measure_by_tensor(self, self.unexplained)

    def with_replicas(self, found: Iterable[ShardPair]) -> list[ShardPair]:
        """Return pairs, each followed by the replicas that hold the same wrong content."""
        return [q for p in found for q in (p, *self.equal_replicas.get(p, ()))]

    def cosines(self, pair: ShardPair) -> list[float]:
        """Return the cosines of what a pair holds with what it should: one a tensor, or none."""
        if pair not in self.residual:
            return []
        by_tensor = self.by_tensor.get(pair, {})
        found = by_tensor.values() if len(by_tensor) > 1 else (self.residual[pair],)
        return [r.cosine for r in found if r.constant != 0]  # with zeros it is not defined

    def _find_equal_replicas(self) -> set[ShardPair]:
        """Return the replicas that equal the first one: the same fault explains them."""
        with_firsts = [
            (self.firsts[p.home], p)
            for p in self.wrong
            if p.is_copy and self.firsts[p.home] in self.wrong
        ]
        alike = self.ask.are_equal([(first.actual, p.actual) for first, p in with_firsts])
        for (first, p), is_same in zip(with_firsts, alike, strict=True):
            if is_same:
                self.equal_replicas.setdefault(first, []).append(p)
        return {p for found in self.equal_replicas.values() for p in found}

    # ── content of other shards ──────────────────────────────────────────────────────────────

    def _find_moves(self, wrong: list[ShardPair]) -> None:
        """Look up the content of wrong shards in the whole reference, by digest."""
        firsts = [p for p in self.firsts.values() if p.expected.pieces]
        shapes = {p.expected.shape for p in firsts if p.rule.of_vocabulary}
        wanted = dict.fromkeys(s for p in wrong for s in self._shapes(p, shapes))
        firsts = [p for p in firsts if p.expected.shape in wanted]
        index: dict[tuple[tuple[int, ...], bytes], list[ShardPair]] = defaultdict(list)
        digests = self.ask.digests([p.expected for p in firsts])
        for pair, (digest, poor) in zip(firsts, digests, strict=True):
            if not poor:
                index[pair.expected.shape, digest].append(pair)
        found: list[tuple[ShardPair, ShardPair]] = []
        for shape in wanted:
            held = [p for p in wrong if shape in self._shapes(p, shapes)]
            recipes = [_first_rows(p, shape[0]) for p in held]
            for pair, (digest, poor) in zip(held, self.ask.digests(recipes), strict=True):
                others = [] if poor else index.get((shape, digest), [])
                others = [q for q in others if q.home != pair.home]
                if others:
                    found.append((pair, min(others, key=partial(_distance, pair))))
        same = self.ask.are_equal(
            [(q.expected, _first_rows(p, q.expected.shape[0])) for p, q in found]
        )
        self.moved = {p: q for (p, q), right in zip(found, same, strict=True) if right}
        self._follow_ranks(wrong)

    @staticmethod
    def _shapes(p: ShardPair, vocabularies: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes in which to look up a content: a vocabulary's padding may vary."""
        if p.stored is None:
            return [p.actual.shape]
        return [
            s for s in vocabularies if s[1:] == p.stored.shape[1:] and s[0] <= p.stored.shape[0]
        ]

    def _follow_ranks(self, wrong: list[ShardPair]) -> None:
        """Count a vocabulary shard as moved with its rank if the moved content is padding alone.

        Padding cannot be looked up: its rows are not in the reference.
        """
        ranks = self.rank_map()
        for pair in wrong:
            source = ranks.get(pair.tp_rank)
            if pair.stored is not None and pair not in self.moved and source is not None:
                home = self.firsts.get((pair.name, source))
                if home is not None and not home.expected.pieces:
                    self.moved[pair] = home

    def rank_map(self) -> dict[int, int]:
        """Return the exchange of TP ranks that most tensors show."""
        maps: dict[str, dict[int, int]] = defaultdict(dict)
        for p, q in self.moved.items():
            if p.tp_rank != q.tp_rank:
                maps[p.name][p.tp_rank] = q.tp_rank
        common = Counter(tuple(sorted(m.items())) for m in maps.values())
        best = max(common.items(), key=lambda found: (found[1], len(found[0])), default=((), 0))
        return dict(best[0])

    def layer_map(self) -> dict[int, int]:
        """Return the largest exchange of layers: tensors that are equal in two layers show less."""
        maps: dict[str, dict[int, int]] = defaultdict(dict)
        for p, q in self.moved.items():
            if p.layer is None or q.layer is None or p.template != q.template:
                continue
            if p.layer != q.layer:
                maps[p.template][p.layer] = q.layer
        return max(maps.values(), key=len, default={})

    def expert_moves(self) -> dict[tuple[str, int | None], Moves]:
        """Return the exchange of experts for each (template, layer).

        Content of a tensor with another name says nothing of the order of experts.
        """
        maps: dict[tuple[str, int | None], Moves] = defaultdict(dict)
        for p, q in self.moved.items():
            if p.expert is None or q.expert is None or p.template != q.template:
                continue
            if p.expert != q.expert:
                maps[p.template, p.layer][p.expert] = q.expert
        return maps

    def expert_maps(self) -> MovesByLayer:
        """Return the largest exchange of experts in each layer."""
        found: MovesByLayer = {}
        for (_, layer), moves in self.expert_moves().items():
            found[layer] = max(found.get(layer, {}), moves, key=len)
        return found

    def origin_finders(self) -> list[Callable[[ShardPair], ShardPair | None]]:
        """Return functions from a pair to the one whose content it may hold.

        The first returns the pair itself, the others follow the exchanges of ranks, layers and
        experts that other tensors show. None stands for a shard that the model does not have.
        """
        by_position = self._by_position()

        def moved(
            ranks: Moves, layers: Moves, experts: MovesByLayer, p: ShardPair
        ) -> ShardPair | None:
            layer = None if p.layer is None else layers.get(p.layer, p.layer)
            expert = p.expert
            if expert is not None:
                expert = experts.get(p.layer, {}).get(expert, expert)
            rank = ranks.get(p.tp_rank, p.tp_rank)
            return by_position.get((p.template, layer, expert, rank))

        ranks, layers = _closed_cycles(self.rank_map()), _closed_cycles(self.layer_map())
        exchanges: list[tuple[Moves, Moves, MovesByLayer]] = [({}, {}, {})]
        for experts in ({}, self.expert_maps()):
            for exchange in ((ranks, {}), ({}, layers), (ranks, layers), ({}, {})):
                if (*exchange, experts) not in exchanges:
                    exchanges.append((*exchange, experts))
        return [partial(moved, *exchange) for exchange in exchanges]

    def _by_position(self) -> dict[Position, ShardPair]:
        return {(p.template, p.layer, p.expert, p.tp_rank): p for p in self.firsts.values()}

    # ── layouts of known mistakes ────────────────────────────────────────────────────────────

    def _find_mistakes(self) -> None:
        """Try the known mistakes on each unexplained tensor, with moved content too."""
        by_name: dict[str, list[ShardPair]] = defaultdict(list)
        for pair in self.unexplained:
            by_name[pair.name].append(pair)
        known: dict[str, set[str]] = defaultdict(set)  # keys of mistakes, by template
        finders = self.origin_finders()
        for name, found in by_name.items():
            group = [p for p in self.firsts.values() if p.name == name and p.actual.pieces]
            for origin_of in (*finders, None):
                origins = (
                    [origin_of(p) for p in group] if origin_of else self._by_element_sums(group)
                )
                if None in origins:
                    continue
                with_origins = [
                    (p, q) for p, q in zip(group, origins, strict=True) if q is not None
                ]
                usual = known[group[0].template]
                right = MistakeSearch(self.grid, self.ask, self.wrong, with_origins).right(usual)
                if right:
                    usual.update(m.key for m in right)
                    words = tuple(dict.fromkeys(m.words for m in right[1:]))
                    for pair in found:
                        if not pair.is_copy:
                            self.mistaken[pair] = right[0], words
                    for pair, origin in with_origins:
                        if pair is not origin and pair in self.wrong:
                            self.moved[pair] = origin
                    break

    def _by_element_sums(self, group: list[ShardPair]) -> list[ShardPair | None]:
        """Return whose elements each rank of a tensor holds, in any order; [None] for its own."""
        if len(group) < 2:
            return [None]
        owners = dict(zip(self.ask.tallies([p.expected for p in group]), group, strict=True))
        found = [owners.get(tally) for tally in self.ask.tallies([p.actual for p in group])]
        return [None] if found == group else found

    def transposed_tensors(self, names: Iterable[str]) -> set[str]:
        """Return which of these Hugging Face tensors are square and hold their own transpose."""
        a, b = self.grid.a.tensors, self.grid.b.tensors
        square = [n for n in names if len(a[n].shape) == 2 and a[n].shape[0] == a[n].shape[1]]
        contents = [(replace(transpose(a[n]), dtype=b[n].dtype), b[n]) for n in square if n in b]
        return {n for n, same in zip(square, self.ask.are_equal(contents), strict=True) if same}

    # ── changed values ───────────────────────────────────────────────────────────────────────

    def _find_residuals(self) -> None:
        """Measure unexplained pairs against their expected content and against moved content."""
        self.residual = dict(zip(self.unexplained, self.measured(self.unexplained), strict=True))
        for origin_of in self.origin_finders()[1:]:
            origins = {
                p: q
                for p in self.unexplained
                if (q := origin_of(p)) is not None
                and q.home != p.home
                and _first_rows(p, q.expected.shape[0]).shape == q.expected.shape
                and self.residual[p].constant is None
                and p not in self.predicted
            }
            moved = [
                replace(
                    p,
                    expected=replace(q.expected, dtype=p.actual.dtype),
                    actual=_first_rows(p, q.expected.shape[0]),
                )
                for p, q in origins.items()
            ]
            for (pair, origin), found in zip(origins.items(), self.measured(moved), strict=True):
                is_like = found.closeness[0] or abs(found.cosine) > MIN_VERSION_COSINE
                if is_like and found.closeness > self.residual[pair].closeness:
                    self.residual[pair] = found
                    self.moved[pair] = origin

    def _follow_layers(self) -> None:
        """Count content without likeness as moved with its layer, where most of the layer was."""
        layers = _closed_cycles(self.layer_map())
        if set(layers) != set(layers.values()):
            return
        by_position = self._by_position()
        pairs_of_layer = Counter(p.layer for p in by_position.values())
        moved_of_layer = Counter(
            p.layer for p, q in self.moved.items() if q.layer == layers.get(p.layer or 0)
        )
        for pair in self.unexplained:
            found, layer = self.residual[pair], pair.layer
            is_like = found.constant is None and (
                found.closeness[0] or abs(found.cosine) > MIN_VERSION_COSINE
            )
            is_most = 2 * moved_of_layer[layer] > pairs_of_layer[layer]
            if layer in layers and is_most and not is_like:
                position = (pair.template, layers[layer], pair.expert, pair.tp_rank)
                self.moved.setdefault(pair, by_position[position])

    def measured(self, pairs: list[ShardPair]) -> list[Residual]:
        """Return how each pair's actual content differs from the predicted or expected one.

        Of a matrix, only rows that differ are measured, or the first ones.
        """
        items = []
        for pair in pairs:
            contents = self.predicted.get(pair, pair.expected), pair.actual
            if len(pair.actual.shape) > 1:
                rows = self.wrong.get(pair) or list(
                    range(min(MAX_RESIDUAL_ROWS, pair.actual.shape[0]))
                )
                contents = chosen_rows(contents[0], rows), chosen_rows(contents[1], rows)
            items.append((*contents, contents[1].dtype))
        return self.ask.residuals(items)


def _closed_cycles(moves: Moves) -> Moves:
    """Return an exchange with its open chains closed to cycles.

    The last link of a chain is unknown where that content was changed too: only one fits.
    """
    if len(set(moves.values())) < len(moves):
        return moves
    closed = dict(moves)
    for start in set(moves) - set(moves.values()):
        end = start
        while end in moves:
            end = moves[end]
        closed[end] = start
    return closed


def _first_rows(p: ShardPair, rows: int) -> Assembly:
    """Return the actual content; of a vocabulary the first `rows`, padding included."""
    if p.stored is None:
        return p.actual
    return replace(rows_of(p.stored, 0, min(rows, p.stored.shape[0])), dtype=p.actual.dtype)


def _distance(p: ShardPair, q: ShardPair) -> tuple[int, ...]:
    """Rank the origins `q` of content at `p`: the likeliest has most coordinates in common."""
    return (
        (p.template != q.template) + (p.layer != q.layer) + (p.tp_rank != q.tp_rank)
        + (p.expert != q.expert),
        p.template != q.template,
        abs((p.layer or 0) - (q.layer or 0)),
    )  # fmt: skip
