"""What is slow to import is imported by whoever needs it, when it is needed, and by nobody else."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ckptdiff
from tests.support.pairs import compare, odd_models
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., Path]

pytestmark = pytest.mark.mostly_slow(one_in=4)
PACKAGE = Path(ckptdiff.__file__).parent
PROBE = """
import json, sys
from ckptdiff.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def imported(*arguments: object) -> tuple[int, set[str]]:
    """Return the exit code of a command, and the top-level names of what was imported for it."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    code, names = json.loads(done.stdout.splitlines()[-1])
    return code, set(names)


HEAVY = {
    "torch", "numpy", "textual", "rich", "safetensors", "tokenizers", "sentencepiece",
    "transformers", "megatron", "huggingface_hub",
}  # fmt: skip


@pytest.mark.parametrize("words", [["--help"], ["diff", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_slow(words: list[str]) -> None:
    code, names = imported(*words)
    assert code == 0
    assert not names & HEAVY


@pytest.mark.mostly_slow(one_in=9)
@pytest.mark.parametrize("options", [[], ["--json"], ["--raw"]], ids=str)
def test_a_listing_imports_nothing_slow(
    tiny_hf: Make, tiny_megatron: Make, options: list[str]
) -> None:
    for folder in (tiny_hf(), tiny_hf(kind="bin"), tiny_megatron(tp=2, names="te")):
        code, names = imported("ls", folder, *options)
        assert code == 0
        assert not names & HEAVY


@pytest.mark.slow
def test_a_whole_comparison_imports_no_torch(tiny_hf: Make, tiny_megatron: Make) -> None:
    for a, b in ((tiny_hf(), tiny_megatron(tp=2)), (tiny_hf(kind="bin"), tiny_hf(seed=1))):
        code, names = imported("diff", a, b)
        assert code in (0, 1)
        assert not names & (HEAVY - {"numpy"})


def test_the_workers_of_a_comparison_import_no_torch(tiny_hf: Make, tmp_path: Path) -> None:
    """Jobs run in processes of their own: what they import is seen by running one here."""
    script = f"""
import sys
from pathlib import Path
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
a, b = (open_checkpoint(Path(p)) for p in ({str(tiny_hf())!r}, {str(tiny_hf(seed=1))!r}))
results = list(diff(*assemble_pair(a, b), InlineExecutor()))
assert any(r.status == "differ" for r in results)
assert "numpy" in sys.modules
print(sorted(n for n in sys.modules if n.partition(".")[0] in {HEAVY - {"numpy"}!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "[]\n"


def test_a_demo_imports_nothing_slow(tmp_path: Path) -> None:
    code, names = imported("demo", tmp_path / "demo", "--no-tui")
    assert code == 0
    assert not names & HEAVY


# The source itself


def modules() -> list[str]:
    return sorted(str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py"))


def imports_at_module_scope(tree: ast.Module) -> Iterator[str]:
    """Yield what importing a module imports; blocks for type checkers alone are left out."""
    open_nodes: list[ast.AST] = list(tree.body)
    while open_nodes:
        node = open_nodes.pop()
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                open_nodes += orelse
            case _:
                open_nodes += ast.iter_child_nodes(node)


def test_imports_at_module_scope_are_recognised() -> None:
    source = """
import a.b
from c import d as e
if TYPE_CHECKING:
    import f
else:
    import g
try:
    import h
except ImportError:
    pass
class C:
    import i
def function():
    import j
"""
    found = set(imports_at_module_scope(ast.parse(source)))
    assert found == {"a.b", "c.d", "g", "h", "i"}


# Without numpy: plain values that results are made of, and that kernels are given.
PLAIN = ("ckptdiff.kernels.stats", "ckptdiff.kernels.views")
# Imported only where something is painted on a terminal.
WITH_RICH = ("tui/", "cli/paint.py", "cli/table.py")


@pytest.mark.parametrize("module", modules())
def test_kernels_and_torch_are_imported_by_nobody_at_module_scope(module: str) -> None:
    found = set(imports_at_module_scope(ast.parse((PACKAGE / module).read_text())))
    inside = module.startswith("kernels/")
    kernels = {n for n in found if n.startswith("ckptdiff.kernels")}
    assert inside or all(name.startswith(PLAIN) for name in kernels)
    assert inside or not {n for n in found if n.partition(".")[0] == "numpy"}
    if not module.startswith("forward/"):
        assert not {n for n in found if n.partition(".")[0] == "torch"}
    if not module.startswith(WITH_RICH):
        assert not {n for n in found if n.partition(".")[0] in ("textual", "rich")}


def test_the_plain_values_of_the_kernels_need_no_numpy() -> None:
    script = f"import sys, {', '.join(PLAIN)}; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "False\n"


def test_results_are_unpickled_without_numpy(tmp_path: Path) -> None:
    """A screen takes results from workers and never waits for numpy."""
    script = f"""
import pickle, sys
from pathlib import Path
found = pickle.loads(Path({str(tmp_path / "results")!r}).read_bytes())
print(len(found), "numpy" in sys.modules)
"""
    results = list(compare(*odd_models(tmp_path)).results.values())
    (tmp_path / "results").write_bytes(pickle.dumps(results))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == f"{len(results)} False\n"
