"""Two panes of checkpoints on the disk: stages, stacked experts, tied copies, plain terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.demo import make_demo
from ckptdiff.executor import InlineExecutor
from ckptdiff.tui.app import CkptDiffApp
from ckptdiff.tui.theme import CKPTDIFF_16
from ckptdiff.tui.workers.engine import LocalEngine
from tests.support.corpus import CORPUS, NO_CORPUS
from tests.support.tui.harness import lines, rows, settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    Tiny = Callable[..., Path]
    Shown = Callable[..., Any]

pytestmark = pytest.mark.mostly_slow(one_in=4)
WIDE = (150, 60)


class InlineEngine(LocalEngine):
    """The real one, in this process."""

    def executor(self) -> Executor:
        return InlineExecutor()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., CkptDiffApp]:
    return lambda *paths, **options: CkptDiffApp(
        paths, engine=InlineEngine(), settings_file=tmp_path / "settings.json", **options
    )


async def table(app: CkptDiffApp, *keys: str, size: tuple[int, int] = WIDE) -> list[list[str]]:
    """Return what stands left, between and right of the bars, the header first."""
    async with app.run_test(size=size) as pilot:
        await settle(app, pilot)
        rows(app).fold_all(unfolded=True)
        for key in keys:
            await pilot.press(key)
            await settle(app, pilot)
        found = [line.replace("│ ", "| ").replace(" |", "  |") for line in lines(rows(app))]
        return [[part.strip() for part in line.split(" | ")] for line in found if line.strip()]


def row_of(shown: list[list[str]], left: str) -> list[str]:
    (found,) = [row for row in shown if row[0].split()[:1] == [left]]
    return found


async def test_stages_count_their_layers_anew_and_have_a_column(
    make: Shown, tiny_hf: Tiny, tiny_megatron: Tiny
) -> None:
    shown = await table(make(tiny_hf(single=True), tiny_megatron(tp=2, pp=2)))
    assert shown[0][2].split()[-3:] == ["shape", "tp", "pp"]
    headings = [row for row in shown if row[0].startswith("- model.layers.")]
    assert [row[2].split() for row in headings] == [
        ["-", "decoder.layers.0", "0"],
        ["-", "decoder.layers.0", "1"],
    ]
    first, second = [row for row in shown if row[0].startswith("self_attn.o_proj.weight")]
    assert first[2].split()[-2:] == ["0-1", "0"]
    assert second[2].split()[-2:] == ["0-1", "1"]


@pytest.mark.parametrize(
    ("experts", "name"),
    [
        ("te_grouped", "mlp.experts.linear_fc1.weight1"),
        ("grouped", "mlp.experts.weight1"),
        ("sequential", "mlp.experts.local_experts.1.linear_fc1.weight"),
    ],
)
async def test_experts_stand_beside_what_holds_them(
    make: Shown, tiny_hf: Tiny, tiny_megatron: Tiny, experts: str, name: str
) -> None:
    a = tiny_hf(family="mixtral", single=True)
    b = tiny_megatron({"family": "mixtral"}, ep=2, experts=experts)
    shown = await table(make(a, b), size=(200, 60))
    assert shown[0][2].split()[-2:] == ["shape", "ep"]
    for part in ("w1", "w3"):
        expert = f"block_sparse_moe.experts.3.{part}.weight"
        row = next(row for row in shown if row[0].startswith(expert))
        assert row[1].split()[0] == "="
        if part == "w3":  # beside the lower end of a bracket
            assert row[2].split()[:2] == ["└", "3.w3"]
        elif experts == "grouped":  # inside one, whose line is read as one more bar
            assert row[2:] == ["", row[3]]
            assert row[3].split()[0] == "3.w1"
        else:
            assert row[2].split()[0] == "┌"
            assert row[2].split()[-1] == "1"
    text = "\n".join(row[-1] for row in shown)
    assert name in text


async def test_a_tied_head_stands_beside_the_embedding(
    make: Shown, tiny_hf: Tiny, tiny_megatron: Tiny
) -> None:
    a = tiny_hf(family="qwen2", tied=True, single=True)
    b = tiny_megatron({"family": "qwen2", "tied": True}, tp=2)
    shown = await table(make(a, b))
    assert "embedding.word_embeddings.weight" in row_of(shown, "model.embed_tokens.weight")[2]
    statuses = {row[1].split()[0] for row in shown[1:] if len(row) == 3 and row[1]}
    assert statuses == {"="}


async def test_sorted_rows_that_lie_apart_have_no_bracket(make: Shown, tmp_path: Path) -> None:
    shown = await table(make(*make_demo(tmp_path / "demo")), "s", size=(200, 60))
    ends = ["layers.2.self_attn.k_proj", "layers.2.self_attn.v_proj"]
    first = [row[0].split()[0] for row in shown[1:3]]
    assert all(any(name.endswith(end) for name in first) for end in ends)
    # Both differ, and stand together; what they share their stored tensor with does not.
    qkv = "layers.2.self_attention.linear_qkv"
    bracket, name = shown[1][2].split()[:2]
    assert bracket == "┌"
    assert name.removesuffix(".weight").endswith(qkv)
    assert shown[2][2].startswith("└")
    (row,) = [row for row in shown if "2.self_attn.q_proj" in row[0]]
    assert row[2].split()[0] == name


async def test_one_checkpoint_of_megatron_alone(make: Shown, tiny_megatron: Tiny) -> None:
    shown = await table(make(tiny_megatron(tp=2)))
    assert shown[0][0].split() == ["Canonical", "name", "shape"]
    row = next(row for row in shown if row[0].startswith("self_attn.q_proj.weight"))
    assert row[1].split()[0] == "BF16"
    assert row[2].split()[:2] == ["┌", "self_attention.linear_qkv.weight"]


async def test_brackets_and_bars_in_ascii(make: Shown, tmp_path: Path) -> None:
    app = make(*make_demo(tmp_path / "demo"), ascii_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        shown = "\n".join(lines(rows(app)))
        assert "/ self_attention.linear_qkv.weight" in shown
        assert shown.isascii()
        frame = app.export_screenshot(simplify=True)
        assert not set("│┌└─") & set(frame)


@pytest.mark.parametrize(
    ("environ", "no_color"),
    [({"TERM": "linux", "COLORTERM": ""}, False), ({"NO_COLOR": "1"}, True)],
    ids=["16 colours", "no colour"],
)
async def test_the_panes_tell_what_differs_without_many_colours(
    make: Shown,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    no_color: bool,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    app = make(*make_demo(tmp_path / "demo"), no_color=no_color)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        assert app.theme == CKPTDIFF_16.name
        shown = rows(app)
        strips = [shown.render_line(y) for y in range(shown.scrollable_content_region.height)]
        (here,) = [strip for strip in strips if "self_attn.k_proj.weight" in strip.text]
        assert all(s.style and s.style.reverse for s in here if s.text.strip())
        (next_one,) = [strip for strip in strips if "self_attn.v_proj.weight" in strip.text]
        assert "!1" in next_one.text
        assert not any(segment.style and segment.style.reverse for segment in next_one)
        active = [s for s in strips[0] if s.text.strip().startswith("A ")]
        other = [s for s in strips[0] if s.text.strip().startswith("B ")]
        assert active[0].style != other[0].style
        await pilot.press("tab")
        assert rows(app).cells.pane == "b"


TRAINED = CORPUS / "llama2/megatron-tp2-dp2-trained2steps-distopt-torch"


@pytest.mark.skipif(not TRAINED.is_dir(), reason=NO_CORPUS)
async def test_the_moments_of_a_weight_are_told_from_it(make: Shown) -> None:
    shown = await table(make(TRAINED, TRAINED.with_name(f"{TRAINED.name}_dist")), "o", "G")
    names = {row[0].split()[0].removesuffix(".weight") for row in shown[1:] if row[0]}
    kinds = ("", "optimizer.exp_avg.", "optimizer.exp_avg_sq.", "optimizer.fp32_param.")
    assert {f"{kind}output_layer" for kind in kinds} <= names
