"""What people use instead: the script everybody writes, `torch.equal`, sft-cli, transformers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .harness import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

NAIVE = """
import sys, torch
from safetensors import safe_open
largest = 0.0
with safe_open(sys.argv[1], "pt") as f, safe_open(sys.argv[2], "pt") as g:
    for name in f.keys():
        a, b = f.get_tensor(name).float(), g.get_tensor(name).float()
        d = (a - b).abs()
        cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
        largest = max(largest, d.max().item())
        mean, relative = d.mean().item(), ((a - b).norm() / a.norm()).item()
print(largest)
"""

LOAD_AND_EQUAL = """
import sys, torch
from safetensors.torch import load_file
a, b = load_file(sys.argv[1]), load_file(sys.argv[2])
print(all(torch.equal(a[name], b[name]) for name in a))
"""

CONVERT = """
import sys, os, torch
from safetensors.torch import load_file
source, out, tp, head = load_file(sys.argv[1]), sys.argv[2], 2, 64
layers = 1 + max(int(n.split(".")[2]) for n in source if n.startswith("model.layers."))
models = [{} for _ in range(tp)]
def put(name, parts):
    for model, part in zip(models, parts):
        model[name] = part.clone()
put("embedding.word_embeddings.weight", source["model.embed_tokens.weight"].chunk(tp))
for i in range(layers):
    a, b = f"model.layers.{i}.", f"decoder.layers.{i}."
    q, k, v = (source[f"{a}self_attn.{x}_proj.weight"] for x in "qkv")
    groups = k.shape[0] // head
    rows = [w.view(groups, -1, w.shape[1]) for w in (q, k, v)]
    qkv = torch.cat(rows, 1).reshape(-1, q.shape[1])
    put(b + "self_attention.linear_qkv.weight", qkv.chunk(tp))
    put(b + "self_attention.linear_proj.weight", source[a + "self_attn.o_proj.weight"].chunk(tp, 1))
    gate, up = (source[f"{a}mlp.{x}_proj.weight"].chunk(tp) for x in ("gate", "up"))
    put(b + "mlp.linear_fc1.weight", [torch.cat(pair) for pair in zip(gate, up)])
    put(b + "mlp.linear_fc2.weight", source[a + "mlp.down_proj.weight"].chunk(tp, 1))
    for x, y in (("input", "self_attention.linear_qkv"), ("post_attention", "mlp.linear_fc1")):
        put(b + y + ".layer_norm_weight", [source[f"{a}{x}_layernorm.weight"]] * tp)
put("decoder.final_layernorm.weight", [source["model.norm.weight"]] * tp)
put("output_layer.weight", source["lm_head.weight"].chunk(tp))
for rank, model in enumerate(models):
    os.makedirs(f"{out}/iter_0000001/mp_rank_{rank:02d}")
    torch.save({"model": model}, f"{out}/iter_0000001/mp_rank_{rank:02d}/model_optim_rng.pt")
"""

RUN_TWO_MODELS = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM
ids = torch.arange(1, int(sys.argv[2]) + 1)[None]
settings = {"dtype": torch.float32, "attn_implementation": "eager"}
models = [AutoModelForCausalLM.from_pretrained(sys.argv[1], **settings).eval() for _ in "ab"]
started, used = time.perf_counter(), time.process_time()
with torch.inference_mode():
    logits = [model(ids).logits for model in models]
seconds, processor = time.perf_counter() - started, time.process_time() - used
print(json.dumps({"seconds": seconds, "processor": processor}))
"""

# Runs the tasks once for each batch size, with one model and one thread.
SCORE_WITH_LM_EVAL = """
import json, os, sys, time, torch
import lm_eval.evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
torch.set_num_threads(1)
model, sizes, folder, *names = sys.argv[1:]
os.chdir(folder)
taken = {}
class Timed(HFLM):
    def timed(self, answer, requests, options):
        started, used = time.perf_counter(), time.process_time()
        found = answer(requests, **options)
        taken["seconds"] += time.perf_counter() - started
        taken["processor"] += time.process_time() - used
        taken["requests"] += len(requests)
        return found
    def loglikelihood(self, requests, **options):
        return self.timed(super().loglikelihood, requests, options)
    def loglikelihood_rolling(self, requests, **options):
        return self.timed(super().loglikelihood_rolling, requests, options)
lm = Timed(pretrained=model, device="cpu", dtype="float32")
told = []
for size in map(int, sizes.split(",")):
    taken.update(size=size, seconds=0, processor=0, requests=0)
    lm.batch_size_per_gpu = size
    started, used = time.perf_counter(), time.process_time()
    found = lm_eval.evaluator.simple_evaluate(
        lm, tasks=names, bootstrap_iters=2, task_manager=TaskManager(include_defaults=False)
    )
    taken.update(
        all_seconds=time.perf_counter() - started, all_processor=time.process_time() - used
    )
    told.append(dict(taken))
print(json.dumps(told))
"""


def naive(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Do what the naive script does, on tensors in memory."""
    import torch

    for one, other in pairs:
        a, b = one.float(), other.float()
        d = (a - b).abs()
        torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
        d.max().item()
        d.mean().item()
        ((a - b).norm() / a.norm()).item()


def sft(given: str | None) -> str | None:
    """Return the command of sft-cli, if there is one."""
    beside = Path(sys.executable).with_name("sft")
    return given or (str(beside) if beside.exists() else shutil.which("sft"))


def oracle(given: Path | None) -> Path | None:
    """Return a Python that has transformers: the one that is given, or the tests' own."""
    usual = REPOSITORY / ".venv-oracle/bin/python"
    return given or (usual if usual.exists() else None)
