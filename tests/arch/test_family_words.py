"""A family word that the config table or the forward pass uses is a name in ARCHITECTURES.

Neither may import `arch`, so each spells the words; a typo there would drop a family in silence.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import ckptdiff.config.fields
import ckptdiff.forward
from ckptdiff.arch import ARCHITECTURES, find_architecture
from ckptdiff.config.fields import layers as layers_module
from ckptdiff.config.fields import rope as rope_module
from ckptdiff.forward import hf_config
from ckptdiff.forward.megatron_args import model as megatron_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAMES = {family.name for family in ARCHITECTURES}
MODEL_TYPES = {word for family in ARCHITECTURES for word in family.model_types}
# Functions of `config.fields.base` that take families, and which argument has them.
TAKES_FAMILIES = {"by_family": 0, "only": 0, "sets_in": 1}
MODULES = [
    f"{package.__name__}.{found.name}"
    for package in (ckptdiff.config.fields, ckptdiff.forward)
    for found in pkgutil.iter_modules(package.__path__)
]


class _Words(ast.NodeVisitor):
    """Collects the words of a module that stand for families, and those for model types."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.parameters: list[set[str]] = []  # of the functions around a node
        self.families: set[str] = set()
        self.model_types: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._inside(node)

    def _inside(self, node: ast.FunctionDef | ast.Lambda) -> None:
        self.parameters.append({one.arg for one in (*node.args.args, *node.args.kwonlyargs)})
        self.generic_visit(node)
        self.parameters.pop()

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for side in sides:
            if (words := self._words_of(side)) is not None:
                for other in sides:
                    if other is not side:
                        self._take(words, other)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in TAKES_FAMILIES:
            self._take(self.families, node.args[TAKES_FAMILIES[function.id]])
        if isinstance(function, ast.Attribute) and function.attr == "get" and node.args:
            words = self._words_of(node.args[0])
            if words is not None:
                self._take(words, function.value)
        for keyword in node.keywords:
            if keyword.arg == "family" and isinstance(keyword.value, ast.Constant):
                self._take(self.families, keyword.value)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        words = self._words_of(node.slice)
        if words is not None:
            self._take(words, node.value)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "model_type":
                self._take(self.model_types, value)
        self.generic_visit(node)

    def _words_of(self, node: ast.expr) -> set[str] | None:
        """Return the set that what an expression is compared with belongs to, if it is a family."""
        if isinstance(node, ast.BoolOp):  # side.family or ""
            return self._words_of(node.values[0])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str":
            return self._words_of(node.args[0])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            asked = node.args[0]
            is_type = isinstance(asked, ast.Constant) and asked.value == "model_type"
            return self.model_types if is_type and node.func.attr == "get" else None
        is_family = (isinstance(node, ast.Attribute) and node.attr == "family") or (
            isinstance(node, ast.Name) and node.id == "family"
        )
        return self.families if is_family else None

    def _take(self, words: set[str], node: ast.expr) -> None:
        try:
            value = eval(compile(ast.Expression(node), "<expression>", "eval"), self.namespace)
        except NameError as error:
            if error.name in set[str]().union(*self.parameters):
                return  # a parameter: the words are where the function is called
            raise
        if value is not None:
            words.update([value] if isinstance(value, str) else value)


def unknown_words(module: ModuleType, source: str | None = None) -> set[str]:
    """Return the words of a module, or of another source for it, that are no family's."""
    path = Path(str(module.__file__))
    namespace = dict(vars(module))
    if source is None:
        source = path.read_text()
    else:
        # As a module of the same package, without a trace of it in `sys.modules`.
        planted = ModuleType(module.__name__)
        planted.__package__ = module.__package__
        namespace = vars(planted)
        exec(compile(source, str(path), "exec"), namespace)
    found = _Words(namespace)
    found.visit(ast.parse(source))
    # The forward pass reads config.json by the model type and calls both a family.
    names = NAMES | MODEL_TYPES if ".forward." in module.__name__ else NAMES
    return (found.families - names) | (found.model_types - MODEL_TYPES)


def used_words() -> Iterator[str]:
    for name in MODULES:
        module = importlib.import_module(name)
        found = _Words(dict(vars(module)))
        found.visit(ast.parse(Path(str(module.__file__)).read_text()))
        yield from found.families | found.model_types


@pytest.mark.parametrize("name", MODULES)
def test_every_family_word_is_that_of_an_architecture(name: str) -> None:
    assert unknown_words(importlib.import_module(name)) == set()


def test_the_words_of_most_families_are_found() -> None:
    found = set(used_words())
    assert found >= {"llama", "deepseek", "deepseek_v3", "gemma3", "gemma3_text", "gpt_neox"}
    assert len(found & NAMES) > 20


@pytest.mark.parametrize(
    ("module", "word", "typo"),
    [
        (layers_module, '"gemma3"', '"gemma_3"'),
        (rope_module, '"gpt_neox"', '"gptneox"'),
        (hf_config, '"mixtral": experts.mixtral', '"mixtrel": experts.mixtral'),
        (megatron_args, '"olmo2"', '"olmo-2"'),
    ],
    ids=["layers", "rope", "hf_config", "megatron_args"],
)
def test_a_typo_in_a_family_word_is_found(module: ModuleType, word: str, typo: str) -> None:
    source = Path(str(module.__file__)).read_text()
    assert word in source
    found = unknown_words(module, source.replace(word, typo))
    assert found == {typo.split('"')[1]}


def families_of(model_types: Iterable[str]) -> set[str]:
    found = [find_architecture({"model_type": word}) for word in model_types]
    return {family.name for family in found if family is not None}


def test_an_architecture_says_whether_its_logits_are_computed() -> None:
    said = {family.name for family in ARCHITECTURES if family.computes_logits}
    assert said == families_of(hf_config.FAMILIES)
    assert said == set(megatron_args.FAMILIES)


def test_a_config_written_for_an_architecture_is_read_as_the_same() -> None:
    for family in ARCHITECTURES:
        written = family.written_class
        if written is not None:
            assert written.architecture in family.architectures
            assert written.model_type in family.model_types
