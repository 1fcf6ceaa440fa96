"""Prompts become ids, and ids text; a bad tokenizer is one clear error."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.errors import BadArgument, CkptDiffError, CorruptFile, UnreadableFile
from ckptdiff.executor import InlineExecutor, WorkerPool
from ckptdiff.formats import open_checkpoint
from ckptdiff.logits.prompt import Prompt, encode, prompt_of_ids, with_texts
from ckptdiff.logits.tokenizer import MAX_FILE
from ckptdiff.results import Candidate, LogitDiff, LogitMetrics, Next
from tests.support.tokenizers_made import TEXT, sentencepiece_model, tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptdiff.assembly.recipe import Assembled

    Make = Callable[..., Path]

PROMPT = "The capital of France is"
VOCAB = 320


@pytest.fixture(scope="session")
def bpe() -> str:
    return tokenizer_json()


@pytest.fixture(scope="session")
def pieces() -> bytes:
    return sentencepiece_model()


class Pair:
    """Two folders of one model; what is written beside the weights is up to the test."""

    def __init__(self, a: Path, b: Path) -> None:
        self.a, self.b = a, b

    @property
    def sides(self) -> tuple[Assembled, Assembled]:
        return assemble_pair(open_checkpoint(self.a), open_checkpoint(self.b))

    def encode(self, text: str = PROMPT, **options: Any) -> Prompt:
        return encode(text, *self.sides, InlineExecutor(), **options)

    def of_ids(self, *ids: int) -> Prompt:
        return prompt_of_ids(ids, *self.sides, InlineExecutor())


@pytest.fixture
def pair(tiny_hf: Make, tiny_megatron: Make, copy_of: Callable[[Path], Path]) -> Pair:
    """Return a Hugging Face folder as A and a Megatron one as B, both without a tokenizer."""
    return Pair(copy_of(tiny_hf(vocab=VOCAB)), tiny_megatron(model={"vocab": VOCAB}, tp=2))


def configure(folder: Path, name: str, **settings: object) -> None:
    """Change some settings of a JSON file, which is made if it is not there."""
    file = folder / name
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**found, **settings}))


# Text to ids


def test_a_post_processor_adds_bos_and_both_other_policies_are_exact(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    found = pair.encode()
    assert found.ids[0] == 0
    assert found.texts == ("<s>", "The", " capital", " of", " France", " is")
    assert found.notes == ()
    assert found.tokenizer == pair.a / "tokenizer.json"
    assert pair.encode(bos="yes") == found
    assert pair.encode(bos="no").ids == found.ids[1:]


def test_spaces_are_kept_where_a_decoder_strips_the_first(pair: Pair) -> None:
    (pair.a / "tokenizer.json").write_text(tokenizer_json(metaspace=True, bos=False))
    assert "".join(pair.encode().texts) == f" {PROMPT}"


def test_a_sentencepiece_model_adds_its_bos_if_it_is_told(pair: Pair, pieces: bytes) -> None:
    (pair.a / "tokenizer.model").write_bytes(pieces)
    configure(pair.a, "tokenizer_config.json", add_bos_token=True)
    found = pair.encode()
    assert found.ids[0] == 1
    assert found.texts[0] == "<s>"
    assert "".join(found.texts[1:]) == f" {PROMPT}"
    assert pair.encode(bos="no").ids == found.ids[1:]
    assert pair.encode(bos="yes").ids == found.ids


def test_text_that_looks_like_bos_is_text_to_sentencepiece(pair: Pair, pieces: bytes) -> None:
    (pair.a / "tokenizer.model").write_bytes(pieces)
    found = pair.encode("<s>", bos="no")
    assert 1 not in found.ids
    assert "".join(found.texts) == " <s>"


def test_bytes_without_a_piece_of_their_own_are_shown(pair: Pair, pieces: bytes) -> None:
    (pair.a / "tokenizer.model").write_bytes(pieces)
    assert pair.encode("\n", bos="no").texts[-1] == "\n"
    assert pair.encode("é", bos="no").texts[-2:] == ("�", "�")


# What transformers 5.23 does with a tokenizer.model: with tokenizer_class LlamaTokenizer,
# LlamaTokenizerFast, GemmaTokenizer, PreTrainedTokenizerFast, or no tokenizer_config.json at all.
@pytest.mark.parametrize("told", [True, False, None])
def test_add_bos_token_decides_for_a_sentencepiece_model_alone(
    pair: Pair, pieces: bytes, told: bool | None
) -> None:
    more = {} if told is None else {"add_bos_token": told}
    configure(pair.a, "tokenizer_config.json", bos_token={"content": "<s>"}, **more)
    (pair.a / "tokenizer.json").write_text(tokenizer_json(bos=False))
    assert pair.encode().texts[0] == "The"
    (pair.a / "tokenizer.json").unlink()
    (pair.a / "tokenizer.model").write_bytes(pieces)
    assert (pair.encode().ids[0] == 1) is bool(told)


def test_a_post_processor_goes_before_add_bos_token(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    configure(pair.a, "tokenizer_config.json", add_bos_token=True, bos_token="<s>")
    assert pair.encode().texts[:2] == ("<s>", "The")


def test_without_a_post_processor_nothing_is_added(pair: Pair) -> None:
    (pair.a / "tokenizer.json").write_text(tokenizer_json(bos=False))
    assert pair.encode().texts[0] == "The"


def test_bos_is_the_models_own_where_the_tokenizer_names_none(pair: Pair) -> None:
    (pair.a / "tokenizer.json").write_text(tokenizer_json(bos=False))
    with pytest.raises(BadArgument, match="names no BOS token"):
        pair.encode(bos="yes")
    configure(pair.a, "config.json", bos_token_id=7)
    assert pair.encode(bos="yes").ids[0] == 7
    (pair.a / "tokenizer.json").unlink()
    (pair.a / "tokenizer.model").write_bytes(sentencepiece_model(bos_id=-1))
    assert pair.encode(bos="yes").ids[0] == 7
    assert pair.encode().ids[0] != 7


def test_a_double_bos_is_a_note(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    found = pair.encode(f"<s>{PROMPT}")
    assert found.ids[:2] == (0, 0)
    (note,) = found.notes
    assert "BOS (0 '<s>') twice" in note
    assert "leave it out of the text" in note
    assert pair.encode(f"<s>{PROMPT}", bos="no").notes == ()


def test_padding_and_truncation_of_a_training_run_do_not_touch_the_prompt(
    pair: Pair, bpe: str
) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    plain = pair.encode()
    kept = {
        **json.loads(bpe),
        "truncation": {
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>",
        },
    }  # fmt: skip
    (pair.a / "tokenizer.json").write_text(json.dumps(kept))
    assert pair.encode() == plain


# Both sides


def test_bs_tokenizer_serves_where_a_has_none(
    tiny_hf: Make, tiny_megatron: Make, copy_of: Callable[[Path], Path], bpe: str
) -> None:
    pair = Pair(tiny_megatron(model={"vocab": VOCAB}, tp=2), copy_of(tiny_hf(vocab=VOCAB)))
    (pair.b / "tokenizer.json").write_text(bpe)
    found = pair.encode()
    assert found.ids[0] == 0
    assert found.notes == ("the ids are by B's tokenizer: A has none",)


def test_without_a_tokenizer_the_error_says_what_to_do(pair: Pair) -> None:
    with pytest.raises(BadArgument, match=r"put tokenizer\.json beside config\.json") as refused:
        pair.encode()
    assert refused.value.hint == "ids"


@pytest.fixture
def two(pair: Pair, tmp_path: Path, bpe: str) -> Pair:
    """Return two Hugging Face folders; A has a tokenizer."""
    other = Path(shutil.copytree(pair.a, tmp_path / "other"))
    (pair.a / "tokenizer.json").write_text(bpe)
    return Pair(pair.a, other)


def test_tokenizers_that_agree_are_no_note(two: Pair, bpe: str) -> None:
    (two.b / "tokenizer.json").write_text(bpe)
    found = two.encode()
    assert (found.notes, found.fed, found.same_ids) == ((), (), True)


def test_the_first_token_that_differs_is_named(two: Pair, bpe: str) -> None:
    tokenizer = json.loads(bpe)
    merges = tokenizer["model"]["merges"]
    (last,) = [merge for merge in merges if "".join(merge) == "Ġcapital"]
    merges.remove(last)
    (two.b / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = two.encode()
    first = last[0].replace("Ġ", " ")
    other = tokenizer["model"]["vocab"][last[0]]
    assert not found.same_ids
    assert found.fed == (
        f"the tokenizers differ: token 2 is {found.ids[2]} ' capital' by A's and "
        f"{other} '{first}' by B's; A's ids are used",
    )


def test_a_lost_bos_is_told(two: Pair) -> None:
    (two.b / "tokenizer.json").write_text(tokenizer_json(bos=False))
    configure(two.b, "tokenizer_config.json", add_bos_token=False)
    found = two.encode("")
    assert not found.same_ids
    assert found.fed == (
        "A's tokenizer puts BOS (0 '<s>') before this text, B's does not: the two programs would "
        "not get the same ids; A's are used",
    )


def test_a_broken_tokenizer_of_b_is_a_note(two: Pair) -> None:
    (two.b / "tokenizer.json").write_text("{")
    found = two.encode()
    assert found.ids[0] == 0
    (note,) = found.notes
    assert note.startswith("the ids are by A's tokenizer; B's does not work: ")
    assert str(two.b / "tokenizer.json") in note


# What cannot be


def test_an_empty_prompt_without_bos_is_refused(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    assert pair.encode("").ids == (0,)
    with pytest.raises(BadArgument, match="the prompt is empty"):
        pair.encode("", bos="no")


def test_no_ids_are_refused(pair: Pair) -> None:
    found = pair.of_ids(0, 7)
    assert found == Prompt((0, 7), (), config=found.config)
    assert found.config is not None
    with pytest.raises(BadArgument, match="no ids"):
        pair.of_ids()


def test_a_prompt_that_is_not_unicode_is_refused(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    with pytest.raises(BadArgument, match="not UTF-8"):
        pair.encode("\udcff")


# Ids to text


def finished(*candidates: int) -> LogitDiff:
    """Return a comparison of one position with these candidates on both sides."""
    some = tuple(Candidate(number, 0.5) for number in candidates)
    metrics = LogitMetrics(0, (0, 0), 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, None, None)
    return LogitDiff(
        (0,), (), "cpu", "fp32", "bf16", "arithmetic", "", None, 0, 0, (), metrics,
        (Next(0, some, some),), None, notes=("one",),
    )  # fmt: skip


def test_candidates_get_their_texts(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    prompt = pair.encode()
    last = prompt.ids[-1]
    found = with_texts(finished(0, last, 319), replace(prompt, notes=("two",)), InlineExecutor())
    assert found.texts == prompt.texts
    assert found.notes == ("two", "one")
    for side in (found.top[0].a, found.top[0].b):
        assert [one.text for one in side] == ["<s>", " is", None]  # no token has the last id
        assert [one.id for one in side] == [0, last, 319]


def test_ids_get_texts_where_there_is_a_tokenizer(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    found = pair.of_ids(0, 319)
    assert (found.ids, found.texts) == ((0, 319), ("<s>", ""))
    (pair.a / "tokenizer.json").write_text("{")
    found = pair.of_ids(0, 319)
    assert (found.texts, found.tokenizer) == ((), None)
    assert found.notes[0].startswith("tokens are shown without text: ")


def test_without_a_tokenizer_candidates_stay_as_they_are(pair: Pair) -> None:
    found = with_texts(finished(3), pair.of_ids(3), InlineExecutor())
    assert found.top[0].a[0].text is None


def test_results_pickle(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    prompt = pair.encode()
    assert pickle.loads(pickle.dumps(prompt)) == prompt


# Hostile and broken files


def test_a_tiktoken_file_is_refused_with_a_hint(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\nIw== 2\n")
    with pytest.raises(BadArgument, match=r"tiktoken vocabulary.*tokenizer\.json") as refused:
        pair.encode()
    assert refused.value.hint == "ids"
    (pair.a / "tokenizer.json").write_text(bpe)  # goes first
    assert pair.encode().ids[0] == 0


def without_templates_token(tokenizer: dict[str, Any]) -> None:
    tokenizer["post_processor"]["special_tokens"] = {}


def with_a_pattern_that_backtracks(tokenizer: dict[str, Any]) -> None:
    tokenizer["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "([a-zA-Z ]+)+$"}, "behavior": "Isolated",
        "invert": False,
    }  # fmt: skip


@pytest.mark.parametrize("spoil", [without_templates_token, with_a_pattern_that_backtracks])
def test_a_panic_of_the_library_is_one_error(
    pair: Pair, bpe: str, spoil: Callable[[dict[str, Any]], None]
) -> None:
    tokenizer = json.loads(bpe)
    spoil(tokenizer)
    (pair.a / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CorruptFile, match=r"tokenizer\.json: cannot be used as a tokenizer"):
        pair.encode(f"{'a' * 60}!")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_garbage_is_one_error(pair: Pair, bpe: str, pieces: bytes, name: str) -> None:
    whole = bpe.encode() if name.endswith("json") else pieces
    generator = random.Random(0)
    cases = [
        b"",
        b"\0" * 1000,
        b"garbage " * 9,
        b"[" * 100_000,
        b"\xff\xfe",
        generator.randbytes(5000),
    ]
    cases += [whole[: len(whole) * part // 10] for part in range(1, 10)]
    for content in cases:
        (pair.a / name).write_bytes(content)
        with pytest.raises(CorruptFile, match=name):
            pair.encode()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_changed_bytes_are_an_error_or_some_ids(
    pair: Pair, bpe: str, pieces: bytes, name: str
) -> None:
    whole = bpe.encode() if name.endswith("json") else pieces
    generator = random.Random(1)
    sides = pair.sides
    failures = []
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 9)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        (pair.a / name).write_bytes(content)
        try:
            encode(PROMPT, *sides, InlineExecutor())
        except CkptDiffError as error:
            failures.append(str(error))
    assert failures
    assert all(name in text for text in failures)


def test_a_pointer_of_git_lfs_says_so(pair: Pair) -> None:
    (pair.a / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CorruptFile, match="git lfs pull"):
        pair.encode()


def test_a_huge_file_is_not_read(pair: Pair) -> None:
    with (pair.a / "tokenizer.json").open("wb") as file:
        os.truncate(file.fileno(), MAX_FILE + 1)
    with pytest.raises(UnreadableFile, match="more than the"):
        pair.encode()


def test_a_broken_tokenizer_config_is_one_error(pair: Pair, bpe: str) -> None:
    (pair.a / "tokenizer.json").write_text(bpe)
    (pair.a / "tokenizer_config.json").write_text("[")
    with pytest.raises(CorruptFile, match=r"tokenizer_config\.json"):
        pair.encode()


@pytest.mark.slow
def test_a_file_that_eats_memory_kills_a_worker_and_reads_well(pair: Pair, bpe: str) -> None:
    tokenizer = json.loads(bpe)
    tokenizer["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000} for _ in range(4)
        ],
    }
    (pair.a / "tokenizer.json").write_text(json.dumps(tokenizer))
    with WorkerPool(1) as pool:
        with pytest.raises(CorruptFile, match="the library that reads tokenizers crashed on it"):
            encode(PROMPT, *pair.sides, pool)
        (pair.a / "tokenizer.json").write_text(bpe)
        assert encode(TEXT, *pair.sides, pool).ids[0] == 0  # the pool goes on
