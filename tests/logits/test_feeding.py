"""What the two sides' programs would not be fed alike is said, and a lost BOS is exit 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.config.compare import compare_configs
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits import prompt as prompts
from ckptdiff.logits import run as engine
from ckptdiff.logits.feeding import fed_otherwise
from ckptdiff.logits.tokenizer import encode_text
from tests.support.pairs import edit_rank
from tests.support.program import ckptdiff
from tests.support.tokenizers_made import tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.assembly.recipe import Assembled
    from ckptdiff.config.compare import ConfigDiff
    from tests.support.oracle_client import Oracle

    Make = Callable[..., Path]

VOCAB = 320
PROMPT = "The capital of France is"


def fed(a: Path, b: Path, *ids: int) -> tuple[str, ...]:
    pair = assemble_pair(open_checkpoint(a), open_checkpoint(b))
    return fed_otherwise(*pair, compare_configs(*pair), ids)


def write(folder: Path, name: str, **settings: object) -> None:
    (folder / name).write_text(json.dumps(settings))


@pytest.fixture
def two(tiny_hf: Make, tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders of one model, each with a tokenizer that adds BOS."""
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        shutil.copytree(tiny_hf(vocab=VOCAB), folder)
        (folder / "tokenizer.json").write_text(tokenizer_json())
    return folders


@pytest.fixture
def megatron(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Callable[[Path], Path]
) -> Callable[..., tuple[Path, Path]]:
    """Return a model as both formats have it, its args changed."""

    def changed(**args: Any) -> tuple[Path, Path]:
        folder = copy_of(tiny_megatron(model={"vocab": VOCAB}))
        (file,) = folder.rglob("*.pt")
        edit_rank(file, lambda state: vars(state["args"]).update(args))
        return tiny_hf(vocab=VOCAB), folder

    return changed


def run(*arguments: str | Path) -> tuple[int, str]:
    done = ckptdiff(*arguments)
    return done.returncode, done.stdout


def test_a_lost_bos_is_exit_1_with_a_prompt_and_a_line_with_ids(two: tuple[Path, Path]) -> None:
    a, b = two
    assert run("logits", a, b, "--prompt", PROMPT)[0] == 0
    (b / "tokenizer.json").write_text(tokenizer_json(bos=False))
    code, text = run("logits", a, b, "--prompt", PROMPT)
    assert code == 1
    assert "!  A's tokenizer puts BOS (0 '<s>') before this text, B's does not" in text
    assert text.splitlines()[-1] == "verdict: arithmetic, but of other ids than B gets"
    code, text = run("logits", a, b, "--ids", "3,4,5")
    assert code == 0
    assert "i  Special tokens around a text: <s> in A, nothing in B" in text
    assert run("logits", a, b, "--prompt", PROMPT, "--bos", "no")[0] == 0
    code, text = run("logits", a, b, "--prompt", PROMPT, "--json", "-")
    document = json.loads(text)
    assert (document["verdict"], document["same_ids"], code) == ("arithmetic", False, 1)
    assert len(document["fed_otherwise"]) == 1
    code, text = run("diff", a, b)
    assert code == 1
    assert "!  Special tokens around a text" in text


def test_the_configs_are_compared_once(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def counted(a: Assembled, b: Assembled) -> list[ConfigDiff]:
        compared.append((a, b))
        return compare_configs(a, b)

    for module in (prompts, engine):
        monkeypatch.setattr(module, "compare_configs", counted)
    pair = assemble_pair(*map(open_checkpoint, two))
    prompt = prompts.prompt_of_ids((3, 4, 5), *pair, InlineExecutor())
    list(engine.compare_logits(*pair, prompt.ids, InlineExecutor(), config=prompt.config))
    assert len(compared) == 1


def test_an_add_bos_token_that_its_tokenizer_json_contradicts_is_said(
    two: tuple[Path, Path],
) -> None:
    a, b = two
    write(b, "tokenizer_config.json", add_bos_token=False, bos_token="<s>")
    (sentence,) = fed(a, b)
    assert sentence.startswith("B's tokenizer_config.json says add_bos_token false, but its")
    write(a, "tokenizer_config.json", add_bos_token=False, bos_token="<s>")
    assert fed(a, b) == ()


def test_a_chat_template_and_sampling_are_said_in_a_line_each(two: tuple[Path, Path]) -> None:
    a, b = two
    for folder in two:
        write(folder, "tokenizer_config.json", bos_token="<s>")
        write(folder, "generation_config.json", eos_token_id=7, top_k=50)
    assert fed(a, b) == ()
    (a / "chat_template.jinja").write_text("{{ messages }}")
    write(b, "generation_config.json", eos_token_id=8, temperature=0.6, top_p=0.9)
    template, stop, sampling = fed(a, b)
    assert template.startswith("Chat template: 14 characters (CRC ")
    assert template.endswith(", none in B. A chat becomes another text")
    assert stop.startswith("Stop tokens: 7 in A, 8 in B. Generation stops at other tokens")
    assert sampling == (
        "Generation's temperature: 1 in A, 0.6 in B; Generation's top_p: 1 in A, 0.9 in B. The "
        "same logits are sampled otherwise"
    )


def test_args_without_dropout_are_no_line(megatron: Callable[..., tuple[Path, Path]]) -> None:
    assert fed(*megatron(hidden_dropout=0.0, attention_dropout=0.0)) == ()


def test_dropout_of_the_args_is_said(megatron: Callable[..., tuple[Path, Path]]) -> None:
    assert fed(*megatron(hidden_dropout=0.0, attention_dropout=0.1)) == (
        "Dropout of attention: 0 in A, 0.1 in B. Only training uses it: its loss differs, "
        "the logits do not",
    )


def test_document_masks_are_said_where_the_prompt_ends_a_document(
    megatron: Callable[..., tuple[Path, Path]], two: tuple[Path, Path]
) -> None:
    _, b = megatron(
        reset_position_ids=True, eod_mask_loss=True, hidden_dropout=0.0, attention_dropout=0.0
    )
    a = two[0]
    assert len(fed(a, b, 3, 4)) == 1  # no file says what ends a document
    write(a, "generation_config.json", eos_token_id=7)
    assert fed(a, b, 3, 4) == ()
    (sentence,) = fed(a, b, 3, 7, 4)
    assert sentence.startswith(
        "B's args set reset_position_ids, eod_mask_loss: in training, behind"
    )
    assert sentence.endswith("though token 7 at position 1 ends one")


@pytest.mark.parametrize(
    ("args", "is_said"),
    [
        ({"tokenizer_type": "GPTSentencePieceTokenizer"}, True),
        ({"tokenizer_type": "Llama2Tokenizer"}, False),
        ({"tokenizer_type": "HuggingFaceTokenizer"}, False),
        (
            {
                "tokenizer_type": "HuggingFaceTokenizer",
                "legacy_tokenizer": False,
                "tokenizer_hf_include_special_tokens": False,
            },
            True,
        ),
    ],
)
def test_a_tokenizer_of_megatron_that_puts_no_bos_is_said(
    megatron: Callable[..., tuple[Path, Path]],
    two: tuple[Path, Path],
    args: dict[str, Any],
    is_said: bool,
) -> None:
    _, b = megatron(hidden_dropout=0.0, attention_dropout=0.0, **args)
    sentences = fed(two[0], b)
    assert len(sentences) == is_said
    assert all("unless a script does" in sentence for sentence in sentences)


@pytest.mark.oracle
def test_ids_are_those_of_transformers(
    two: tuple[Path, Path], tmp_path: Path, oracle: Oracle
) -> None:
    folders: list[Path] = []
    for kind in ("PreTrainedTokenizerFast", "LlamaTokenizerFast"):
        for bos in (True, False):
            for told in (None, True, False):
                folder = Path(shutil.copytree(two[0], tmp_path / f"{kind}-{bos}-{told}"))
                (folder / "tokenizer.json").write_text(tokenizer_json(bos=bos))
                more = {} if told is None else {"add_bos_token": told}
                write(
                    folder, "tokenizer_config.json", tokenizer_class=kind, bos_token="<s>", **more
                )
                folders.append(folder)
    found = oracle.compare("oracle_tokenizers", ranks=1, folders=[*map(str, folders)], text=PROMPT)
    for folder in folders:
        encoded = encode_text(folder / "tokenizer.json", PROMPT, "auto", None)
        assert list(encoded.ids) == found[str(folder)], folder.name
