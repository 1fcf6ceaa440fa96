"""The config is read where its program keeps it: in the chunks, or in a file of YAML."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

from ckptdiff.assembly.assemble import assemble
from ckptdiff.config.model_classes import unknown_classes
from ckptdiff.formats import open_checkpoint, read_entries
from tests.support.logit_runs import compare_logits
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare
from tests.support.program import ckptdiff, document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

LAYERS, HIDDEN, HEADS, GROUPS, CHANNELS, FFN, VOCAB = 2, 32, 4, 2, 8, 48, 64
ARGS: dict[str, Any] = {
    "num_layers": LAYERS,
    "hidden_size": HIDDEN,
    "ffn_hidden_size": FFN,
    "num_attention_heads": HEADS,
    "group_query_attention": True,
    "num_query_groups": GROUPS,
    "kv_channels": CHANNELS,
    "swiglu": True,
    "normalization": "RMSNorm",
    "norm_epsilon": 1e-5,
    "rotary_base": 10000,
    "position_embedding_type": "rope",
    "add_bias_linear": False,
    "untie_embeddings_and_output_weights": True,
    "padded_vocab_size": VOCAB,
    "tensor_model_parallel_size": 2,
}
# The same in the words of the classes that Megatron-Bridge dumps.
BRIDGE = f"""
_target_: megatron.bridge.training.config.ConfigContainer
model:
  _target_: megatron.bridge.models.llama.llama_provider.LlamaModelProvider
  activation_func:
    _call_: false
    _target_: torch.nn.functional.silu
  add_bias_linear: false
  add_qkv_bias: false
  attention_backend:
    _args_: [5]
    _call_: true
    _name_: auto
    _target_: megatron.core.transformer.enums.AttnBackend
  ffn_hidden_size: {FFN}
  gated_linear_unit: true
  hidden_size: {HIDDEN}
  kv_channels: {CHANNELS}
  layernorm_epsilon: 1.0e-05
  layernorm_zero_centered_gamma: false
  multi_latent_attention: false
  mtp_num_layers: null
  normalization: RMSNorm
  num_attention_heads: {HEADS}
  num_layers: {LAYERS}
  num_moe_experts: null
  num_query_groups: {GROUPS}
  params_dtype:
    _call_: false
    _target_: torch.bfloat16
  position_embedding_type: rope
  qk_layernorm: false
  rope_scaling: false
  rotary_base: 10000
  rotary_interleaved: false
  rotary_percent: 1.0
  seq_length: 8192
  share_embeddings_and_output_weights: false
  softmax_scale: null
  tensor_model_parallel_size: 2
  vocab_size: {VOCAB}
  window_size: null
train:
  train_iters: 10
"""


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    make_hf(
        folder, vocab=VOCAB, hidden=HIDDEN, heads=HEADS, groups=GROUPS, head_dim=CHANNELS, ffn=FFN
    )
    return folder


@pytest.fixture(scope="module")
def weights(hf: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: t for file in hf.glob("*.safetensors") for name, t in load_file(file).items()}


def stacked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that megatron-core's torch_dist format has, by plain torch."""

    def layers(make: Callable[[str], Tensor]) -> Tensor:
        return torch.stack([make(f"model.layers.{i}.") for i in range(LAYERS)])

    def qkv(layer: str) -> Tensor:
        q, k, v = (
            weights[f"{layer}self_attn.{one}_proj.weight"].view(GROUPS, -1, HIDDEN) for one in "qkv"
        )
        return torch.cat([q, k, v], 1).reshape(-1, HIDDEN)

    norm = "decoder.layers.self_attention.linear_qkv.layer_norm_weight"
    return {
        "embedding.word_embeddings.weight": weights["model.embed_tokens.weight"],
        norm: layers(lambda p: weights[f"{p}input_layernorm.weight"]),
        "decoder.layers.self_attention.linear_qkv.weight": layers(qkv),
        "decoder.layers.self_attention.linear_proj.weight": layers(
            lambda p: weights[f"{p}self_attn.o_proj.weight"]
        ),
        "decoder.layers.mlp.linear_fc1.layer_norm_weight": layers(
            lambda p: weights[f"{p}post_attention_layernorm.weight"]
        ),
        "decoder.layers.mlp.linear_fc1.weight": layers(
            lambda p: torch.cat([weights[f"{p}mlp.{one}_proj.weight"] for one in ("gate", "up")])
        ),
        "decoder.layers.mlp.linear_fc2.weight": layers(
            lambda p: weights[f"{p}mlp.down_proj.weight"]
        ),
        "decoder.final_layernorm.weight": weights["model.norm.weight"],
        "output_layer.weight": weights["lm_head.weight"],
    }


def save(folder: Path, state: Mapping[str, Any], backend: str | None = "torch_dist") -> Path:
    """Have torch write a distributed checkpoint: tensors as tensors, all else as objects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planner = DefaultSavePlanner(flatten_state_dict=False)  # a list is one object
        dcp.state_dict_saver.save(dict(state), checkpoint_id=folder, planner=planner, no_dist=True)
    if backend is not None:
        text = json.dumps({"sharded_backend": backend, "sharded_backend_version": 1})
        (folder / "metadata.json").write_text(text)
    return folder


@pytest.fixture
def newest(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """Return a folder as megatron-core 0.17 and later write it: no common.pt."""
    common = {"args": Namespace(**ARGS), "iteration": 12, "checkpoint_version": 3.0}
    save(tmp_path / "iter_0000012", {**stacked(weights), "common_state/shard_0_1": [common]})
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("12")
    return tmp_path


def test_args_are_read_from_the_object_among_the_chunks(newest: Path) -> None:
    checkpoint = open_checkpoint(newest)
    assert checkpoint.config == ARGS
    assert checkpoint.iteration == 12
    assert checkpoint.parallelism.tp == 2
    entries = {entry.name: entry.text for entry in read_entries(checkpoint)}
    assert entries["args.num_layers"] == "2"
    assert entries["checkpoint_version"] == "3.0"
    assert "common_state/shard_0_1" not in entries


def test_a_newest_checkpoint_is_listed_compared_and_converted_alone(
    newest: Path, hf: Path, tmp_path: Path
) -> None:
    names = {tensor["name"] for tensor in document(ckptdiff("ls", newest, "--json"))["tensors"]}
    assert names == compare(hf, newest).results.keys()
    comparison = compare(hf, newest)
    assert comparison.statuses == {}
    assert comparison.summary.verdict == "same"
    assert comparison.summary.config_why is None
    done = ckptdiff("convert", newest, tmp_path / "out", "--to", "hf")
    assert done.returncode == 0, done.stderr
    assert compare(hf, tmp_path / "out").statuses == {}


def test_a_conflict_with_those_args_is_said(weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:  # fmt: skip
    common = {"args": Namespace(**{**ARGS, "rotary_base": 500000})}
    save(tmp_path / "out", {**stacked(weights), "common_state/shard_0_1": [common]})
    (line,) = compare(hf, tmp_path / "out").summary.conflicts
    assert (line.meaning, line.a, line.b) == ("RoPE base", 10000.0, 500000)


def numbered(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that Megatron-FSDP writes: each layer's, gate and up apart."""
    found = {}
    for name, tensor in stacked(weights).items():
        if ".layers." not in name:
            found[name] = tensor
            continue
        for layer, one in enumerate(tensor):
            key = name.replace("layers.", f"layers.{layer}.")
            if key.endswith("linear_fc1.weight"):
                found[f"{key}_w"], found[f"{key}_v"] = (part.clone() for part in one.chunk(2))
            else:
                found[key] = one.clone()
    return found


@pytest.mark.parametrize("backend", ["fsdp_dtensor", None])
def test_what_megatron_fsdp_writes_is_read_with_its_args(
    backend: str | None, weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    named = {f"model.module.{name}": tensor for name, tensor in numbered(weights).items()}
    state = {"args": Namespace(**ARGS), "iteration": 5, "checkpoint_version": 3.0}
    root = save(tmp_path / "out", {**named, **state}, backend)
    checkpoint = open_checkpoint(root)
    assert checkpoint.config == ARGS
    assert checkpoint.iteration == 5
    comparison = compare(hf, root)
    assert (comparison.statuses, comparison.summary.verdict) == ({}, "same")
    # Gate and up exchanged in one layer: no content is lost, and nothing is the same.
    fc1 = "model.module.decoder.layers.1.mlp.linear_fc1.weight"
    named[f"{fc1}_w"], named[f"{fc1}_v"] = named[f"{fc1}_v"], named[f"{fc1}_w"]
    swapped = save(tmp_path / "swapped", {**named, **state}, backend)
    assert compare(hf, swapped).statuses == dict.fromkeys(
        ("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"), "differ"
    )


def bridge(
    folder: Path, weights: Mapping[str, Tensor], text: str = BRIDGE, *, front: str = ""
) -> Path:
    named = {f"{front}{name}": tensor for name, tensor in stacked(weights).items()}
    save(folder / "iter_0000010", named)
    torch.save({"iteration": 10, "content_metadata": {}}, folder / "iter_0000010/common.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("10")
    (folder / "iter_0000010/run_config.yaml").write_text(text)
    return folder


def test_megatron_bridge_states_its_config_in_yaml(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    folder = bridge(tmp_path / "bridge", weights)
    side = assemble(open_checkpoint(folder))
    assert side.config is not None
    assert (side.config.num_query_groups, side.config.tied_embeddings) == (GROUPS, False)
    assert any("run_config.yaml" in note for note in side.checkpoint.notes)
    comparison = compare(hf, folder)
    assert comparison.statuses == {}
    assert comparison.summary.verdict == "same"
    assert comparison.summary.config_status == "same"
    out = tmp_path / "out"
    assert ckptdiff("convert", folder, out, "--to", "hf").returncode == 0
    again = compare(hf, out)
    assert (again.statuses, again.summary.verdict) == ({}, "same")
    written = tmp_path / "megatron"
    assert ckptdiff("convert", folder, written, "--to", "megatron", "--tp", "2").returncode == 0
    assert compare(hf, written).summary.verdict == "same"


def test_a_conflict_is_said_in_the_words_of_the_yaml(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    text = BRIDGE.replace("1.0e-05", "1.0e-06")
    folder = bridge(tmp_path / "bridge", weights, text)
    (line,) = compare(hf, folder).summary.conflicts
    assert (line.name_b, line.b) == ("layernorm_epsilon", 1e-6)
    assert line.fix == "layernorm_epsilon: 1e-05 in run_config.yaml"


def test_fields_of_the_transformer_may_have_an_object_of_their_own(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    model = BRIDGE.split("model:\n")[1].split("train:")[0]
    nested = "model:\n  transformer:\n" + "".join(f"  {one}\n" for one in model.splitlines())
    comparison = compare(hf, bridge(tmp_path / "bridge", weights, nested))
    assert (comparison.statuses, comparison.summary.verdict) == ({}, "same")


@pytest.mark.parametrize("text", ["model: [1", "model: 3", "- 1", ""])
def test_a_yaml_that_says_nothing_is_noted_and_the_weights_are_compared(
    text: str, weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    comparison = compare(hf, bridge(tmp_path / "bridge", weights, text))
    assert comparison.statuses == {}
    assert any("run_config.yaml" in note for note in comparison.b.checkpoint.notes)
    assert comparison.summary.config_why == "the configs were not compared: B has no args"


NEMO = f"""
_target_: nemo.collections.llm.gpt.model.llama.LlamaModel
config:
  _target_: nemo.collections.llm.gpt.model.llama.Llama2Config7B
  num_layers: {LAYERS}
  hidden_size: {HIDDEN}
  num_attention_heads: {HEADS}
  num_query_groups: {GROUPS}
  ffn_hidden_size: {FFN}
"""


def nemo(folder: Path, weights: Mapping[str, Tensor], text: str = NEMO) -> Path:
    save(folder / "weights", {f"module.{name}": t for name, t in stacked(weights).items()})
    torch.save(
        {"global_step": 7, "pytorch-lightning_version": "2.5.0"}, folder / "weights/common.pt"
    )
    (folder / "context").mkdir()
    (folder / "context/model.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("below", ["", "weights"])
def test_a_folder_of_nemo_opens_as_one_checkpoint(
    below: str, weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    folder = nemo(tmp_path / "nemo", weights)
    comparison = compare(hf, folder / below)
    assert comparison.statuses == {}
    assert comparison.summary.verdict == "same"
    assert comparison.b.checkpoint.iteration == 7
    # The class has defaults that are not loaded, so what is left out is not Megatron's default.
    unknown = {line.meaning for line in comparison.summary.config if line.status == "unknown"}
    assert {"Norm epsilon", "RoPE base", "Activation"} <= unknown
    assert comparison.summary.config_status == "unknown"
    printed = [one for one in ckptdiff("diff", hf, folder).stdout.splitlines() if one[:1] == "?"]
    why = "?  not in B's config, so not compared"
    assert [one.partition(": ")[0] for one in printed] == [why]
    assert len(assemble(open_checkpoint(folder)).tensors) == len(weights)


def test_what_a_yaml_leaves_out_is_kept_by_the_tensors_or_named(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    folder = nemo(tmp_path / "nemo", weights)
    done = ckptdiff("convert", folder, tmp_path / "mg", "--to", "megatron")
    assert done.returncode == 0, done.stderr
    saved = next((tmp_path / "mg").rglob("model_optim_rng.pt"))
    args = torch.load(saved, weights_only=False)["args"]
    assert args.untie_embeddings_and_output_weights is True
    assert "norm_epsilon 1e-05, " in done.stdout
    assert compare(hf, tmp_path / "mg").statuses == {}
    words = "convert", folder, tmp_path / "hf", "--to", "hf"
    done = ckptdiff(*words)
    assert done.returncode == 2
    assert "model.yaml does not state these" in done.stderr
    done = ckptdiff(*words, "--family", "llama", "--accept")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert not config.keys() & {"rms_norm_eps", "rope_theta"}
    (line,) = [one for one in done.stdout.splitlines() if "transformers takes" in one]
    assert "rms_norm_eps 1e-06, " in line
    assert "rope_theta 10000.0, " in line
    assert "model.yaml has no vocab_size" in done.stdout
    assert "args" not in done.stdout
    like = ckptdiff("convert", folder, tmp_path / "like", "--to", "hf", "--like", hf)
    assert "transformers takes" not in like.stdout
    assert compare(hf, tmp_path / "like").summary.verdict == "same"


def test_a_scaling_that_a_yaml_leaves_out_is_a_condition_of_the_verdict(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    """The class that has a default for it is not loaded: it may be one that scales."""
    said = compare_logits(hf, bridge(tmp_path / "says", weights), [5, 9, 3])
    assert (said.verdict, said.conditions) == ("arithmetic", ())
    text = BRIDGE.replace("  rope_scaling: false\n", "")
    found = compare_logits(hf, bridge(tmp_path / "left-out", weights, text), [5, 9, 3])
    wanted = "B is run with the same scaling of rotary positions as A"
    assert (found.verdict, found.conditions) == ("arithmetic", (wanted,))


def test_yaml_without_query_groups_does_not_guess_them(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    text = NEMO.replace(f"  num_query_groups: {GROUPS}\n", "")
    folder = nemo(tmp_path / "nemo", weights, text)
    side = assemble(open_checkpoint(folder))
    assert side.architecture is None
    assert any("how many heads" in note for note in side.notes)
    assert compare(hf, folder).statuses == {}


def test_without_any_config_the_last_line_says_so(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    root = save(tmp_path / "plain", stacked(weights))
    done = ckptdiff("diff", hf, root)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == (
        "verdict: same; the configs were not compared: B has no args"
    )
    found = document(ckptdiff("diff", hf, root, "--json", "-"))
    assert found["config_status"] == "unknown"
    assert found["config_why"] == "the configs were not compared: B has no args"
    listed = document(ckptdiff("ls", root, "--json"))
    assert {tensor["name"] for tensor in listed["tensors"]} == {
        name.replace("layers.", f"layers.{i}.")
        for name in stacked(weights)
        for i in range(LAYERS if ".layers." in name else 1)
    }
    raw = ckptdiff("ls", root, "--raw")
    assert raw.returncode == 0
    assert "decoder.layers.self_attention.linear_qkv.weight" in raw.stdout
    refused = ckptdiff("convert", root, tmp_path / "out", "--to", "hf")
    assert refused.returncode == 2
    assert "number of heads is not known" in refused.stderr
    done = ckptdiff("convert", root, tmp_path / "out", "--to", "hf", "--like", hf)
    assert done.returncode == 0, done.stderr


PROVIDER = "megatron.bridge.models.llama.llama_provider.LlamaModelProvider"
GEMMA = "megatron.bridge.models.gemma.gemma_provider.GemmaModelProvider"
SPEC = "  transformer_layer_spec:\n    {}\n    _target_: {}\n"


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        (BRIDGE.replace(PROVIDER, GEMMA), GEMMA),  # it scales embeddings
        (BRIDGE.replace(PROVIDER, "mine.LlamaModelProvider"), "mine.LlamaModelProvider"),
        (BRIDGE.replace(PROVIDER, f"{PROVIDER[:-18]}Llama31ModelProvider8B"), ""),
        (BRIDGE.replace("train:\n", SPEC.format("_call_: false", "mine.spec") + "train:\n"),
         "mine.spec"),
        (BRIDGE.replace("train:\n", SPEC.format(
            "_partial_: true", "megatron.core.models.gpt.gpt_layer_specs.get_gpt_decoder_block_spec"
        ) + "train:\n"), ""),
    ],
    ids=["gemma", "own class", "llama 3.1", "own spec", "spec of core"],
)  # fmt: skip
def test_a_class_whose_code_is_not_known_is_not_computed(
    text: str, unknown: str, weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    found = compare_logits(hf, bridge(tmp_path / "bridge", weights, text), [5, 9, 3])
    assert found.verdict == ("undecided" if unknown else "arithmetic")
    assert unknown in found.sentence


def test_a_config_that_names_no_class_is_not_computed(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    text = BRIDGE.replace(f"  _target_: {PROVIDER}\n", "")
    found = compare_logits(hf, bridge(tmp_path / "bridge", weights, text), [5, 9, 3])
    assert found.verdict == "undecided"
    assert "whose class its config does not name" in found.sentence


@pytest.mark.parametrize(
    ("named", "unknown"),
    [
        ("megatron.bridge.models.transformer_config.TransformerConfig", ""),
        ("megatron.bridge.models.transformer_config.HeterogeneousTransformerConfig", "Heterogen"),
        (None, ""),
    ],
)
def test_fields_in_an_object_of_their_own_are_computed(
    named: str | None, unknown: str, weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    """As newer releases of Megatron-Bridge write them, beside what builds a model of them."""
    outer = "  _target_: megatron.bridge.models.gpt.gpt_builder.GPTModelConfig\n"
    outer += "  _builder_: megatron.bridge.models.gpt.gpt_builder.GPTModelBuilder\n  transformer:\n"
    start, _, rest = BRIDGE.partition(f"  _target_: {PROVIDER}\n")
    inner, end = rest.split("train:\n")
    if named is not None:
        inner = f"  _target_: {named}\n{inner}"
    nested = "".join(f"  {line}\n" for line in inner.splitlines())
    text = f"{start}{outer}{nested}train:\n{end}"
    found = compare_logits(hf, bridge(tmp_path / "bridge", weights, text), [5, 9, 3])
    assert found.verdict == ("undecided" if unknown else "arithmetic")
    assert unknown in found.sentence


@pytest.mark.parametrize(("kind", "unknown"), [("LlamaModel", []), ("GemmaModel", ["GemmaModel"])])
def test_the_class_of_a_model_of_nemo_counts(
    kind: str, unknown: list[str], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = nemo(tmp_path / "nemo", weights, NEMO.replace("LlamaModel", kind))
    config = open_checkpoint(folder).config
    assert config is not None
    wanted = [f"nemo.collections.llm.gpt.model.llama.{name}" for name in unknown]
    found = list(unknown_classes(config, "llama"))
    assert found == [f"the class {name}, whose code is not known" for name in wanted]


@pytest.mark.parametrize("front", ["module.", "module.module."])
def test_logits_are_computed_of_names_with_module_in_front(
    front: str, weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    found = compare_logits(hf, bridge(tmp_path / "bridge", weights, front=front), [5, 9, 3])
    assert (found.verdict, found.conditions) == ("arithmetic", ())
    name = "model.layers.1.self_attn.o_proj.weight"
    wrong = {**weights, name: weights[name].flip(0)}
    found = compare_logits(hf, bridge(tmp_path / "wrong", wrong, front=front), [5, 9, 3])
    assert found.verdict == "weights-or-config"
    assert found.first is not None
    assert found.first.reads == (name,)


def test_logits_of_a_folder_of_nemo_are_computed(
    weights: dict[str, Tensor], hf: Path, tmp_path: Path
) -> None:
    stated = BRIDGE.split(f"{PROVIDER}\n")[1].split("train:")[0]
    found = compare_logits(hf, nemo(tmp_path / "nemo", weights, f"{NEMO}{stated}"), [5, 9, 3])
    assert (found.verdict, found.conditions) == ("arithmetic", ())
