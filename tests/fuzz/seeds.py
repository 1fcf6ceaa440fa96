"""Real files to begin with, made by torch, safetensors, tokenizers, sentencepiece, and ckptdiff."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch.distributed.checkpoint import state_dict_saver

from ckptdiff.formats import hf
from ckptdiff.result_cache import ResultCache
from ckptdiff.results import Answer, Answers, Numbers, StepApart, TensorDiff
from ckptdiff.scores.journal import FoundStep, Journal
from ckptdiff.scores.results import Question
from ckptdiff.settings import RecentPair, Settings, save_settings
from tests.fuzz.mutate_zip import members
from tests.support import deepspeed_runs, hostile_ranks, oracle_state
from tests.support.corpus import REPOSITORY
from tests.support.hostile import SAFETENSORS
from tests.support.hostile_torch import PICKLES, TENSORS, ZIPS, mapping
from tests.support.odd_configs import ODD
from tests.support.oracle import make_megatron
from tests.support.oracle_hf import make_hf
from tests.support.oracle_meta import make_meta
from tests.support.tokenizers_made import llama_json, sentencepiece_model, tokenizer_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST = 40_000  # bytes of a seed; the bases are whole
OPTIMIZER = "optimizer.state.exp_avg"


PEFT = REPOSITORY / "tests/data/peft/adapter"
ADAPTERS = (
    {"r": 8, "lora_alpha": 16.5, "use_rslora": True, "target_modules": "q_proj"},
    {"rank_pattern": {"^model.layers.[0-9]+.self_attn.q_proj": 8}, "alpha_pattern": {"q_proj": 2}},
)

MODEL = {
    "decoder.final_layernorm.weight": torch.ones(4, dtype=torch.bfloat16),
    "decoder.layers.0.self_attention.linear_proj.weight": torch.ones(4, 4, dtype=torch.bfloat16),
}


def make_bases(folder: Path) -> None:
    """Write small checkpoints of each format into a folder: what stands around an input."""
    for family in ("llama", "qwen3", "mixtral"):
        weights = make_hf(folder / family, family, single=True)
        config = json.loads((folder / family / "config.json").read_text())
        if family == "llama":
            make_megatron(folder / "megatron", weights, config, divisible_by=8)
            make_meta(folder / "meta", weights, config)
            make_hf(folder / "indexed", family)
    _make_dcp(folder / "dcp")
    deepspeed_runs.unpack(folder, "zero3")
    state = {"args": _args(folder), "iteration": 7, "checkpoint_version": 3.0, "model": MODEL}
    state |= oracle_state.training_state([MODEL], distributed=False)
    state.pop("rng_state")
    (folder / "rank.pt").write_bytes(torch_file(state))


def _make_dcp(folder: Path) -> None:
    """Write a distributed checkpoint with the names of megatron-core."""
    state: dict[str, Any] = {
        "decoder.layers.self_attention.linear_proj.weight": torch.ones(2, 4, 4),
        "decoder.final_layernorm.weight": torch.ones(4, dtype=torch.bfloat16),
        "embedding.word_embeddings.weight": torch.ones(8, 4),
        f"{OPTIMIZER}.x": torch.ones(3),
        "iteration": 3,
        "rng_state": {"a": [1, 2]},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells that this is a single process
        state_dict_saver.save(state, checkpoint_id=folder, no_dist=True)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    args = _args(folder.parent)
    common = {"args": args, "iteration": 3, "checkpoint_version": 3.0}
    (folder / "common.pt").write_bytes(torch_file(common))


def _args(bases: Path) -> Any:
    return oracle_state.load(next((bases / "megatron").rglob("model_optim_rng.pt")))["args"]


def _adapter() -> Any:
    return json.loads((PEFT / "adapter_config.json").read_text())


def _configs(bases: Path) -> Iterator[dict[str, Any]]:
    for family in ("llama", "qwen3", "mixtral"):
        base = json.loads((bases / family / "config.json").read_text())
        yield base
        for change in ODD[family].values():
            yield {**base, **change}
    for family, changes in ODD.items():
        if family not in ("llama", "qwen3", "mixtral"):
            yield {**base, "model_type": family, **next(iter(changes.values()))}


def torch_file(state: object) -> bytes:
    """Return what torch.save writes."""
    with TemporaryDirectory() as folder:
        oracle_state.save(state, file := Path(folder) / "archive.pt")
        return file.read_bytes()


def _small_safetensors() -> bytes:
    tensors = {f"layers.{i}.weight": torch.ones(2, 3, dtype=torch.bfloat16) for i in range(3)}
    return save({**tensors, "scalar": torch.tensor(1.5)}, {"format": "pt"})


def _states() -> Iterator[bytes]:
    weight = torch.ones(2, 3, dtype=torch.bfloat16)
    linear = torch.nn.Linear(2, 2).state_dict()
    yield torch_file({"a": weight, "b": linear, "c": weight.t()})
    yield torch_file({"state_dict": linear, "epoch": 3, "optimizer": {"lr": 0.1, 0: [weight]}})
    yield torch_file({"p": torch.nn.Parameter(weight), "q": torch.eye(2).to_sparse()})
    yield torch_file({"model": {"x.weight": torch.ones(1, dtype=torch.float8_e4m3fn)}})


def _pickle_of(file: bytes) -> bytes:
    return next(one.content for one in members(file) if one.name.endswith(b"data.pkl"))


def _ranks(args: Any) -> Iterator[bytes]:
    """Yield small files as Megatron writes them, with the optimizer in front or behind."""
    model = {"decoder.final_layernorm.weight": torch.ones(4, dtype=torch.bfloat16)}
    optimizer = {"optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{}]}}
    state = {"args": args, "iteration": 7, "checkpoint_version": 3.0}
    yield torch_file({**state, "model": model, "optimizer": optimizer, "rng_state": [{"a": (1,)}]})
    yield torch_file({"optimizer": optimizer, **state, "model0": model, "model1": model})


def _results(folder: Path) -> bytes:
    grid: Any = {"histogram": (3, 1), "grid": b"\1\0\0\0", "grid_shape": (2, 2)}
    sums = (0.5, (0, 1), 0.1, 0.2, 0.3, 0.9, 7, 0, 0, 0, 0, 1.0, 1.0)
    numbers = Numbers(4, 1, *sums, **grid)
    sides = ("F32", "F32", (2, 2), (2, 2))
    found = TensorDiff("a", "differ", None, None, "a note", *sides, 0, 32, numbers)
    checkpoint = hf.open(folder)
    with ResultCache(folder / "cache", checkpoint, checkpoint, "0") as cache:
        cache.add(found, 1.5)
        cache.add(TensorDiff("b", "same", dtype_a="BF16", dtype_b="BF16"), 2.5)
        cache.add(TensorDiff("c", "close", "cast", shape_a=(1,), shape_b=(1,)), 3.5)
    return b"".join(cache.file.read_bytes().splitlines(keepends=True)[1:])


def _scores(folder: Path) -> bytes:
    journal = Journal(folder, "f")
    answer = Answer(-1.5, is_greedy=True)
    answers = {Question(b"\1\0\0\0\2\0\0\0", 1): Answers(answer, answer, answer, 0.1, 0.0, 0.2)}
    step = FoundStep(StepApart(1, "mlp", 0.25, 0, ("a.weight",)), "k")
    journal.add(answers, [step])
    journal.add(answers, [])
    assert journal.file is not None
    return b"".join(journal.file.read_bytes().splitlines(keepends=True)[1:])


def _settings(folder: Path) -> bytes:
    pair = RecentPair("/a", "/b", "same", 0, 1.5)
    save_settings(Settings((pair, pair), "ckptdiff-light", True, {"list.down": "j"}), folder / "s")
    return (folder / "s").read_bytes()


def _post_processor(text: str) -> bytes:
    """Return a tokenizer.json with few pieces, so that changes meet something else."""
    made = json.loads(text)
    made["model"]["merges"] = made["model"]["merges"][:20]
    return json.dumps(made).encode()


YAML = b"""_target_: megatron.bridge.models.llama.Llama31ModelProvider
model: &m
  _target_: x.y.GPTModelProvider
  num_layers: 2
  hidden_size: 32
  activation_func: {_target_: torch.nn.functional.silu, _call_: false}
  params_dtype: !!python/name:torch.bfloat16 ''
  gated_linear_unit: true
  num_query_groups: 2
  rotary_base: 1e4
  attention_backend: !!python/object/apply:megatron.core.AttnBackend [5]
checkpoint: {save: "/x", 'y': [1, 2.5, ~, null, yes], z: *m}
text: |
  two
  lines
"""


JOURNAL = b"""["config.json", 2, 1, 424242, []]
["a/b.pt", 2, 1, 5, [["x.weight", "a/b.pt", 0, 1, 0, 0]]]
"whole"
"""


def make_seeds(folder: Path, bases: Path) -> Mapping[str, list[bytes]]:
    """Return the inputs to begin with, by harness. `folder` is for scratch files."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = next((bases / "megatron").rglob("model_optim_rng.pt")).read_bytes()
    args, common = _args(bases), (bases / "dcp/common.pt").read_bytes()
    zero3 = bases / "zero3" / deepspeed_runs.STEP
    index = (bases / "indexed/model.safetensors.index.json").read_bytes()
    plain = [{"a": [1, 2.5, "x", b"y", None, True]}, (1, {2, 3}, frozenset({4}), bytearray(b"5"))]
    shutil.copytree(bases / "llama", folder / "llama", dirs_exist_ok=True)
    tokenizers = [tokenizer_json(), tokenizer_json(metaspace=True), llama_json()]
    token_config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True,
                    "tokenizer_class": "LlamaTokenizer", "model_max_length": 10**30,
                    "added_tokens_decoder": {"0": {"content": "<s>", "special": True}},
                    "chat_template": "{{ x }}"}  # fmt: skip
    parts = {"a": hostile_ranks.dtensor(), "b": hostile_ranks.sharded()}
    seeds: dict[str, list[bytes]] = {
        "safetensors": [_small_safetensors(), *SAFETENSORS.values()],
        "pickle": [*(pickle.dumps(plain, n) for n in range(6)), *PICKLES.values()],
        "torch_zip": [*_states(), *TENSORS.values(), *ZIPS.values(), rank],
        "rank": [rank, *_ranks(args)],
        "optimizer": [(bases / "rank.pt").read_bytes()],
        "flat_optimizer": [torch_file(oracle_state.flat_optimizer([MODEL]))],
        "ranks": [hostile_ranks.rank_file(mapping(parts))],
        "deepspeed_model": [(zero3 / deepspeed_runs.PART.format(0)).read_bytes()],
        "deepspeed_flat": [(zero3 / deepspeed_runs.OPTIMIZER.format(0)).read_bytes()],
        "metadata": [(bases / "dcp/.metadata").read_bytes()],
        "common_state": [common, torch_file([{"args": args, "iteration": 5}])],
        "config": [json.dumps(one).encode() for one in _configs(bases)],
        "index": [index, b'{"metadata":{},"weight_map":{"a":"x.safetensors"}}'],
        "args": [_pickle_of(common), _pickle_of(torch_file({"args": vars(args)}))],
        "params": [(bases / "meta/params.json").read_bytes()],
        "yaml": [YAML],
        "token_files": [*(json.dumps(token_config).encode(), b'{"bos_token_id": [1, 2]}')],
        "tokenizer": [*map(_post_processor, tokenizers), sentencepiece_model()],
        "adapter": [json.dumps(one).encode() for one in (_adapter(), *ADAPTERS)],
        "settings": [_settings(folder)],
        "results": [_results(folder / "llama")],
        "journal": [JOURNAL, JOURNAL[: JOURNAL.index(b'"whole')], JOURNAL[:40]],
        "scores": [_scores(folder)],
    }
    seeds["token_files"] += seeds["tokenizer"][:3]
    return {name: [one for one in found if len(one) <= MOST] for name, found in seeds.items()}


def write_all(work: Path) -> None:
    """Write bases and seeds into a folder."""
    for old in ("bases", "made", "seeds"):
        shutil.rmtree(work / old, ignore_errors=True)
    make_bases(work / "bases")
    for name, seeds in make_seeds(work / "made", work / "bases").items():
        (work / "corpus" / name).mkdir(parents=True, exist_ok=True)
        (work / "seeds" / name).mkdir(parents=True)
        for number, seed in enumerate(seeds):
            (work / "seeds" / name / f"{number:03}").write_bytes(seed)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
