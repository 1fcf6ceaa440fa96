"""The inert pickle machine reads plain data as pickle does, and makes nothing else real."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import enum
import pickle
import pickletools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptdiff.errors import CkptDiffError
from ckptdiff.formats.inert import Global, Placeholder
from ckptdiff.formats.unpickle import load

pytestmark = pytest.mark.mostly_slow(one_in=3)
PROTOCOLS = st.integers(0, 5)
TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    TEXT,
    st.binary(max_size=300),
)
LEAVES = HASHABLE | st.builds(bytearray, st.binary(max_size=20))
KEYS = st.recursive(
    HASHABLE.filter(lambda key: key == key),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=4,
)
DATA = st.recursive(
    LEAVES | KEYS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(KEYS, inner, max_size=5),
        st.sets(KEYS, max_size=5),
        st.frozensets(KEYS, max_size=5),
    ),
    max_leaves=30,
)


@st.composite
def graphs(draw: st.DrawFn) -> object:
    """Return lists, dictionaries and tuples that hold one another, in any order and in circles."""
    nodes: list[Any] = draw(st.lists(st.sampled_from([list, dict]), min_size=1, max_size=6))
    nodes = [make() for make in nodes]
    for _ in range(draw(st.integers(0, 3))):
        nodes.append(tuple(draw(st.lists(st.sampled_from(nodes), max_size=3))))
    value = st.sampled_from(nodes) | LEAVES
    for node in nodes:
        if isinstance(node, list):
            node.extend(draw(st.lists(value, max_size=4)))
        elif isinstance(node, dict):
            node.update(draw(st.dictionaries(KEYS, value, max_size=4)))
    return draw(st.sampled_from(nodes))


def same_leaf(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack(">d", a) == struct.pack(">d", b) or (a != a and b != b)
    return type(a) is type(b) and a == b


def isomorphic(a: Any, b: Any) -> bool:
    """Return whether two graphs of containers are equal, shared and circular parts included."""
    twins: dict[int, int] = {}
    todo = [(a, b)]
    while todo:
        x, y = todo.pop()
        if isinstance(x, (list, tuple, dict)):
            if type(x) is not type(y) or len(x) != len(y):
                return False
            if id(x) in twins:
                if twins[id(x)] != id(y) and not isinstance(x, tuple):
                    return False
                continue
            twins[id(x)] = id(y)
            todo += zip(x, y, strict=True)  # of a dictionary the keys
            if isinstance(x, dict) and isinstance(y, dict):
                todo += zip(x.values(), y.values(), strict=True)
        elif isinstance(x, (set, frozenset)):
            if type(x) is not type(y) or x != y or set(map(type, x)) != set(map(type, y)):
                return False
        elif not same_leaf(x, y):
            return False
    return True


@pytest.mark.slow
@given(DATA, PROTOCOLS)
@example([True, 1, 1.0, -0.0, "", b"", (), 2**63, -(2**63), 2**2039, -1, 255, 256, 65536], 2)
@example({"\ud800": "\udfff", "\\u0041\n\r\0": "\x85\u2028"}, 0)
@example(["x" * 70_000, b"y" * 70_000, bytearray(70_000)], 5)
@example(list(range(3000)), 2)
@example(dict.fromkeys(range(3000)), 4)
def test_plain_data_is_read_as_pickle_reads_it(data: object, protocol: int) -> None:
    assert isomorphic(data, load(pickle.dumps(data, protocol)))


@given(DATA, PROTOCOLS)
def test_plain_data_is_read_without_a_memo(data: object, protocol: int) -> None:
    assert isomorphic(data, load(pickletools.optimize(pickle.dumps(data, protocol))))


@pytest.mark.slow
@given(graphs(), PROTOCOLS)
def test_shared_and_circular_parts_stay_shared_and_circular(data: object, protocol: int) -> None:
    assert isomorphic(data, load(pickle.dumps(data, protocol)))


def test_two_pickles_in_a_row_are_read_to_the_first_end() -> None:
    assert load(pickle.dumps([1]) + pickle.dumps([2])) == [1]


class Colour(enum.Enum):
    RED = "r"


@dataclass
class Point:
    x: int
    y: object = None


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self) -> None:
        self.x = 1
        self.y = 2


class Keyword:
    def __new__(cls, *args: object, **kwargs: object) -> Keyword:
        return object.__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[int, ...], dict[str, int]]:
        return (1, 2), {"z": 3}


class Items(list[int]):
    pass


class Pairs(dict[str, int]):
    pass


class Outer:
    class Inner:
        pass


HERE = __name__


def named(cls: str) -> Global:
    return Global(HERE, cls)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_an_instance_is_remembered_by_its_class_and_state(protocol: int) -> None:
    found = load(pickle.dumps(Point(3, [4]), protocol))
    assert isinstance(found, Placeholder)
    assert (found.what, found.args, found.state) == (named("Point"), (), {"x": 3, "y": [4]})


@pytest.mark.parametrize("protocol", range(2, 6))
def test_slots_are_remembered_beside_the_empty_state(protocol: int) -> None:
    found = load(pickle.dumps(Slotted(), protocol))
    assert (found.what, found.state) == (named("Slotted"), (None, {"x": 1, "y": 2}))


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_is_remembered_by_what_was_called_with_what(protocol: int) -> None:
    colour, day = load(pickle.dumps([Colour.RED, datetime.date(2024, 2, 3)], protocol))
    assert (colour.what, colour.args) == (named("Colour"), ("r",))
    assert (day.what, day.args) == (Global("datetime", "date"), (b"\x07\xe8\x02\x03",))


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_instance_of_an_old_pickle_is_a_call_that_names_its_class(protocol: int) -> None:
    found = load(pickle.dumps(Point(3), protocol))
    assert found.what == Global("copy_reg", "_reconstructor")
    assert found.args[0] == named("Point")
    assert found.state == {"x": 3, "y": None}


def test_keyword_arguments_are_remembered() -> None:
    found = load(pickle.dumps(Keyword(), 4))
    assert (found.what, found.args) == (named("Keyword"), ((1, 2), {"z": 3}))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_items_of_a_list_or_dictionary_of_another_class_are_remembered(protocol: int) -> None:
    items, pairs = load(pickle.dumps((Items([1, 2]), Pairs(a=1, b=2)), protocol))
    assert (items.what, items.items) == (named("Items"), [1, 2])
    assert (pairs.what, pairs.items) == (named("Pairs"), [("a", 1), ("b", 2)])


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_class_inside_a_class_keeps_its_qualified_name(protocol: int) -> None:
    found = load(pickle.dumps([Outer.Inner, Outer.Inner()], protocol))
    assert found[0] == named("Outer.Inner")
    assert found[1].what == named("Outer.Inner")


@pytest.mark.parametrize("protocol", range(6))
def test_a_function_is_a_name_and_equal_names_are_equal(protocol: int) -> None:
    found = load(pickle.dumps([len, Point, Point], protocol))
    assert found[1:] == [named("Point")] * 2
    assert found[0] == Global("builtins" if protocol > 2 else "__builtin__", "len")
    assert str(found[1]) == f"{HERE}.Point"


def test_one_instance_that_is_shared_is_one_placeholder() -> None:
    point = Point(1)
    point.y = [point]
    found = load(pickle.dumps([point, point], 2))
    assert found[0] is found[1]
    assert found[0].state["y"][0] is found[0]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_an_ordered_dictionary_is_a_dictionary_in_its_order(protocol: int) -> None:
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(load(pickle.dumps(ordered, protocol)).items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_an_array_is_inert_and_what_follows_it_is_read(protocol: int) -> None:
    state: Any = np.random.RandomState(0).get_state()
    found = load(pickle.dumps({"rng": state, "next": 7}, protocol))
    assert found["next"] == 7
    assert isinstance(found["rng"][1], Placeholder)
    assert found["rng"][2] == state[2]


def test_arguments_of_a_program_are_a_state_by_name() -> None:
    found = load(pickle.dumps(argparse.Namespace(lr=0.1, dtype=Colour.RED), 2))
    assert found.what == Global("argparse", "Namespace")
    assert found.state["lr"] == 0.1
    assert found.state["dtype"].args == ("r",)


def test_a_persistent_id_becomes_what_the_caller_makes_of_it() -> None:
    data = b"\x80\x02](K\x05QK\x06Qe."
    assert load(data, lambda pid: ("found", pid)) == [("found", 5), ("found", 6)]


def test_an_error_of_the_caller_passes_through() -> None:
    def refuse(pid: object) -> object:
        raise CkptDiffError(f"no {pid}")

    with pytest.raises(CkptDiffError, match="no 5"):
        load(b"\x80\x02K\x05Q.", refuse)


@given(st.binary(max_size=200))
def test_any_bytes_bring_data_or_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(CkptDiffError):
        load(data)


@pytest.mark.slow
@given(DATA, PROTOCOLS, st.data())
def test_a_pickle_cut_anywhere_brings_an_error(
    data: object, protocol: int, draw: st.DataObject
) -> None:
    whole = pickle.dumps(data, protocol)
    cut = whole[: draw.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(CkptDiffError):
        load(cut)
