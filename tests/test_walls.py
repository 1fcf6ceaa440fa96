"""The rooms of the package: who may import what, one name for one thing, no room too full."""

from __future__ import annotations

import ast
import pickle
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from ckptdiff.cli.hints import OPTIONS
from ckptdiff.errors import BadArgument, Hint
from ckptdiff.tui.text.hints import KEYS
from tests.support.corpus import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mostly_slow(one_in=3)
PACKAGE = REPOSITORY / "ckptdiff"
ENGINE = (
    *("arch", "assembly", "comparison", "config", "conversion", "diagnosis", "formats", "forward"),
    *("kernels", "logits", "report", "resharding"),
)
WITHOUT_NUMPY = ("assembly", "comparison", "tui")
LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the package and its contracts, to plant imports in."""
    shutil.copytree(PACKAGE, tmp_path / "ckptdiff", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(LINT), "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_screen_or_numpy_in_the_engine_breaks_the_walls(copy: Path) -> None:
    """A new file is inside the walls by lying in its folder: none is named in a contract."""
    assert lint(copy)[0] == 0
    for package in ENGINE:
        (copy / "ckptdiff" / package / "planted.py").write_text("import textual\n")
    for package in WITHOUT_NUMPY:
        (copy / "ckptdiff" / package / "planted_too.py").write_text("import numpy\n")
    status, said = lint(copy)
    assert status == 1
    for package in ENGINE:
        assert f"ckptdiff.{package}.planted -> textual" in said
    for package in WITHOUT_NUMPY:
        assert f"ckptdiff.{package}.planted_too -> numpy" in said


def test_a_module_in_no_layer_breaks_the_walls(copy: Path) -> None:
    (copy / "ckptdiff/odd.py").write_text("")
    status, said = lint(copy)
    assert status == 1
    assert "odd" in said


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE), ast.parse(file.read_text())


def test_no_two_classes_share_a_name() -> None:
    """But for a Protocol beside what implements it."""
    found: dict[str, list[str]] = defaultdict(list)
    for file, tree in trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                is_protocol = any(ast.unparse(base) == "Protocol" for base in node.bases)
                found[node.name].append("protocol" if is_protocol else str(file))
    shared = {name: files for name, files in found.items() if len(files) > 1}
    assert not {name: files for name, files in shared.items() if "protocol" not in files}


# Pieces of names that only Megatron has. `forward` and `formats` have their own, beside `arch`:
# `forward` shares no mapping with the rules, a format knows how it stacks and splits tensors.
MEGATRON = re.compile(
    r"linear_(qkv|proj|fc[12]|q_|kv_)|self_attention\b|core_attention|query_key_value|"
    r"\bword_embeddings\.|output_layer\b|pre_mlp_layernorm|final_layernorm|layer_norm_weight|"
    r"\blocal_experts\.|\bmtp\.layers|\bdecoder\.|\bencoder\.|mlp\.router|h_to_4h"
)
MAY_NAME = ("arch", "forward", "formats")


def strings(tree: ast.Module) -> Iterator[str]:
    """Yield the strings of a module that are no docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.slow
def test_no_piece_of_a_megatron_name_is_outside_of_the_rules() -> None:
    assert MEGATRON.search("decoder.layers.0.self_attention.linear_qkv.weight")
    found = [
        (str(file), text)
        for file, tree in trees()
        if file.parts[0] not in MAY_NAME
        for text in strings(tree)
        if MEGATRON.search(text)
    ]
    assert found == []


def test_rooms_are_not_too_full() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 14
    long = {
        str(file.relative_to(PACKAGE)): lines
        for file in PACKAGE.rglob("*.py")
        if (lines := len(file.read_text().splitlines())) > 400
    }
    assert long == {}


# An option in a text of the engine: the screen shows the same text, and has no options. What the
# tables of the config say is Megatron's own flags, `conversion/command.py` writes the command, and
# `report` is what the command line prints.
OPTION = re.compile(r"(?:^|[\s('`])--[a-z]")
MAY_SAY_OPTIONS = ("cli", "tui", "report", "config", "guide")


def test_no_text_of_the_engine_speaks_of_options() -> None:
    assert OPTION.search("or give --ids")
    found = [
        (str(file), text)
        for file, tree in trees()
        if file.parts[0] not in MAY_SAY_OPTIONS and str(file) != "conversion/command.py"
        for text in strings(tree)
        if OPTION.search(text)
    ]
    assert found == []


def test_every_hint_has_words_for_the_command_line_and_for_the_screen() -> None:
    assert set(OPTIONS) == set(KEYS) == set(get_args(Hint))
    error = BadArgument("a: is not empty", hint="overwrite")
    assert pickle.loads(pickle.dumps(error)).hint == "overwrite"  # it comes from a worker
    assert error.with_hint(OPTIONS) == "a: is not empty; --overwrite replaces it"
    assert error.with_hint(KEYS) == "a: is not empty; choose yes at Replace to write over it"


REGISTRIES = {
    *(".", "arch", "arch/mistakes", "config/fields", "diagnosis/claims", "formats"),
    *("config/effects", "forward/hf_config"),
    "kernels",  # tells numpy how many threads to use, before anything there imports it
}


def test_importing_a_package_imports_nothing_but_where_it_is_a_registry() -> None:
    found = {
        str(file.parent)
        for file, tree in trees()
        if file.name == "__init__.py" and len(tree.body) > 1
    }
    assert found == REGISTRIES
