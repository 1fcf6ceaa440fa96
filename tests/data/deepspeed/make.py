"""Make `checkpoints.tar.xz` beside this file anew, by DeepSpeed itself, on CPUs.

    DS_ACCELERATOR=cpu python tests/data/deepspeed/make.py FOLDER

Needs torch, transformers and deepspeed 0.19 (`DS_BUILD_OPS=0 pip install --no-build-isolation
deepspeed`). Each run trains a tiny model for two steps on two gloo ranks and saves it. What is true
of it is written beside: the weights that DeepSpeed's own `zero_to_fp32` gives (`RUN.fp32`), those
that the model itself has after training (`RUN.trained`), and its optimizer state by name, as
DeepSpeed's own functions return it (`RUN.state`).
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

WORLD = 2
# Of each run: the stage, the dtype of the weights, and what is odd about it.
RUNS = {
    "zero1": {"stage": 1, "dtype": "bf16"},
    "zero1-fp32": {"stage": 1, "dtype": "fp32"},
    "zero2": {"stage": 2, "dtype": "bf16", "frozen": True},
    "zero2-tied": {"stage": 2, "dtype": "bf16", "tied": True, "groups": True},
    "zero3": {"stage": 3, "dtype": "bf16", "frozen": True, "sub_group_size": 50},
    "zero3-tied": {"stage": 3, "dtype": "bf16", "tied": True, "groups": True},
    "zero0": {"stage": 0, "dtype": "fp32"},
    "bf16": {"stage": 1, "dtype": "bf16", "data_types": {"grad_accum_dtype": "fp32"}},
    "moe": {"stage": 2, "dtype": "bf16", "moe": True},
}
UNIVERSAL = ("zero1", "zero3")  # runs that ds_to_universal converts


def make_model(run):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    # Odd sizes, so that partitions of ranks end inside of tensors and rows, and are padded.
    config = LlamaConfig(
        hidden_size=9, intermediate_size=5, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=1, head_dim=2, vocab_size=11, max_position_embeddings=16,
        tie_word_embeddings=bool(run.get("tied")),
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # A buffer that is saved, as some models have.
    model.model.register_buffer("steps_seen", torch.tensor([3, 4], dtype=torch.int64))
    if run.get("frozen"):
        for name, parameter in model.named_parameters():
            if "mlp" in name or "embed" in name:
                parameter.requires_grad_(False)
    return model


def make_moe():
    import torch
    from deepspeed.moe.layer import MoE

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(11, 4)
            expert = torch.nn.Linear(4, 4)
            self.moe = MoE(4, expert, num_experts=4, ep_size=WORLD, k=1)

        def forward(self, ids):
            return self.moe(self.embed(ids))[0].float().square().sum()

    torch.manual_seed(5)
    return Model()


def train(name: str, folder: Path) -> None:
    import deepspeed
    import torch
    from safetensors.torch import save_file

    run = RUNS[name]
    if run.get("moe"):
        deepspeed.init_distributed()
    model = make_moe() if run.get("moe") else make_model(run)
    trained = [p for p in model.parameters() if p.requires_grad]
    if run.get("groups"):
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0},
        ]
    else:
        groups = [{"params": trained}]
    if run.get("moe"):
        from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

        groups = split_params_into_different_moe_groups_for_optimizer(
            {"params": trained, "name": "all"}
        )
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    zero = {"stage": run["stage"], "sub_group_size": run.get("sub_group_size", 10**9)}
    if run["stage"] == 3:
        zero |= {"stage3_param_persistence_threshold": 0}
    dtype = {
        "bf16": {"bf16": {"enabled": True}},
        "fp32": {},
    }[run["dtype"]]
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **dtype,
        **({"data_types": run["data_types"]} if "data_types" in run else {}),
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    rank = int(os.environ["RANK"])
    for step in range(2):
        ids = torch.tensor([[(rank + step + i) % 11 for i in range(6)]])
        loss = engine(ids) if run.get("moe") else engine(input_ids=ids, labels=ids).loss
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(str(folder))
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        held = {n: t.detach().clone().contiguous() for n, t in model.state_dict().items()}
    # DeepSpeed itself fails to name the state of two groups in ZeRO-2.
    unnamed = run.get("moe") or run.get("groups") or not run["stage"]
    state = {} if unnamed else state_by_name(model)
    beside = f"{folder}.trained.safetensors"
    if run.get("moe"):
        beside = f"{folder}.trained-{rank}.safetensors"
    if rank == 0 or run.get("moe"):
        save_file(held, beside)
    if rank == 0 and state:
        save_file(state, f"{folder}.state.safetensors")
    if rank == 0 and not run.get("moe"):
        model.config.save_pretrained(folder)


def state_by_name(model):
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        found[f"fp32_param.{name}"] = safe_get_full_fp32_param(parameter)
        for kind in ("exp_avg", "exp_avg_sq"):
            found[f"{kind}.{name}"] = safe_get_full_optimizer_state(parameter, kind)
    return {name: t.detach().clone().contiguous() for name, t in found.items() if t is not None}


def launch(name: str, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(WORLD):
        settings = {
            **os.environ,
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, __file__, "--rank", name, str(folder)]
        ranks.append(subprocess.Popen(command, env=settings))
    if any(process.wait() for process in ranks):
        raise SystemExit(f"{name}: a rank failed")


def write_truth(folder: Path, stage: int) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    from safetensors.torch import save_file

    if stage:
        state = get_fp32_state_dict_from_zero_checkpoint(str(folder))
        held = {n: t.clone().contiguous() for n, t in state.items()}
        save_file(held, f"{folder}.fp32.safetensors")


def convert(folder: Path, target: Path) -> None:
    tag = (folder / "latest").read_text().strip()
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    options = ["--input_folder", str(folder / tag), "--output_folder", str(target / tag)]
    workers = ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    subprocess.run([*command, *options, *workers], check=True)
    shutil.copy(folder / "config.json", target)
    for kind in ("fp32", "trained", "state"):
        shutil.copy(f"{folder}.{kind}.safetensors", f"{target}.{kind}.safetensors")


def main() -> None:
    if sys.argv[1] == "--rank":
        train(sys.argv[2], Path(sys.argv[3]))
        return
    target = Path(sys.argv[1])
    for name, run in RUNS.items():
        folder = target / name
        if (folder / "latest").exists():  # of a call before this one
            continue
        folder.mkdir(parents=True, exist_ok=True)
        launch(name, folder)
        # DeepSpeed's function refuses what its optimizer for bf16 saves.
        if not run.get("moe") and "data_types" not in run:
            write_truth(folder, run["stage"])
    for name in UNIVERSAL:
        convert(target / name, target / f"{name}-universal")
    # DeepSpeed copies its scripts beside what it saves.
    files = sorted(p for p in target.rglob("*") if p.is_file() and p.suffix != ".py")
    with tarfile.open(Path(__file__).with_name("checkpoints.tar.xz"), "w:xz", preset=9) as packed:
        for file in files:
            packed.add(file, file.relative_to(target), filter=plain)


def plain(member):
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
