"""Small tasks of lm-eval's kinds, in YAML files with their data beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WORDS = (
    *("The", "capital", "of", "France", "is", "Paris", "and", "of", "Spain", "it", "is", "Madrid"),
    *(";", "rivers", "flow", "to", "the", "sea", "."),
)
_HEAD = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: items.jsonl
    train: examples.jsonl
test_split: test
fewshot_split: train
metadata:
  version: 1.5
"""
_CHOICES = """output_type: multiple_choice
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
KINDS = {
    "letters": _CHOICES
    + """doc_to_text: "{{question}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nAnswer:"
doc_to_choice: ["A", "B"]
doc_to_target: answer
""",
    "cloze": _CHOICES
    + """doc_to_text: "Question: {{question}} "
target_delimiter: ""
doc_to_choice: choices
doc_to_target: answer
""",
    "unconditional": """output_type: multiple_choice
metric_list:
  - metric: acc
  - metric: acc_mutual_info
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: "{{choices[answer]}}"
""",
    "blanks": _CHOICES
    + """doc_to_text: answer
doc_to_choice: "{{[question + choices[0], question + choices[1]]}}"
doc_to_target: short
""",
    "last_word": """output_type: loglikelihood
doc_to_text: question
doc_to_target: " {{choices[0]}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
""",
    "nothing_before": """output_type: loglikelihood
doc_to_text: ""
doc_to_target: "{{short}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
""",
}


def make_tasks(folder: Path, *, prefix: str = "", long: int = 60) -> Path:
    """Write a task of each kind, and return the folder. Some texts have `long` words."""
    folder.mkdir(exist_ok=True)
    for file, first in (("items.jsonl", 0), ("examples.jsonl", 50)):
        (folder / file).write_text(
            "".join(json.dumps(_item(first + n, prefix, long)) + "\n" for n in range(7))
        )
    for kind, text in KINDS.items():
        (folder / f"{kind}.yaml").write_text(_HEAD.format(name=kind) + text)
    return folder


def _item(number: int, prefix: str, long: int) -> dict[str, object]:
    words = [WORDS[(number * 5 + n * n) % len(WORDS)] for n in range(long if number == 3 else 6)]
    text = prefix + " ".join(words)
    return {
        "question": text,
        "short": prefix + " ".join(words[:6]),
        "choices": [" ".join(WORDS[number % 9 : number % 9 + 2]), WORDS[-1 - number % 5]],
        "answer": number % 2,
        "text": f"{text}\n{text} é <unk> " if number != 5 else text,
    }
