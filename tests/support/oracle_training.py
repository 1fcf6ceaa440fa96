"""Have accelerate and transformers' Trainer save a training run. Run by `oracle_server`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def compare(*, meeting: str, rank: int, folder: str) -> dict[str, Any]:
    """Train a tiny model with both, and save what each saves; return the names of the folders.

    `NAME` is the folder of a run, `NAME-model` that of the same model as save_pretrained writes it.
    """
    out = Path(folder)
    for safe in (True, False):
        _accelerate(out / f"accelerate-{'safe' if safe else 'bin'}", safe=safe)
    _trainer(out / "trainer")
    return {"folders": sorted(child.name for child in out.iterdir())}


def _model() -> Any:
    transformers = import_module("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


def _accelerate(folder: Path, *, safe: bool) -> None:
    torch = import_module("torch")
    accelerator = import_module("accelerate").Accelerator(cpu=True)
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    ids = torch.arange(6).reshape(1, 6)
    accelerator.backward(model(input_ids=ids, labels=ids).loss)
    optimizer.step()
    scheduler.step()
    accelerator.save_state(str(folder), safe_serialization=safe)
    accelerator.save_model(model, str(folder.with_name(f"{folder.name}-saved")), "1GB", safe)
    model.save_pretrained(folder.with_name(f"{folder.name}-model"))


def _trainer(folder: Path) -> None:
    transformers = import_module("transformers")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder.with_name("trainer-run")), max_steps=2, save_steps=2, use_cpu=True,
        per_device_train_batch_size=1, report_to=[], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    row = {"input_ids": list(range(6)), "labels": list(range(6))}
    model = _model()
    transformers.Trainer(model=model, args=arguments, train_dataset=[row] * 4).train()
    folder.with_name("trainer-run").joinpath("checkpoint-2").rename(folder)
    model.save_pretrained(folder.with_name("trainer-model"))
