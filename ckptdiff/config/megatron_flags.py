"""Megatron-LM's flags: a table of facts, made from what each release's argument parser holds.

Source: `add_megatron_arguments` of megatron/training/arguments.py in the branches core_r0.14.0,
core_r0.16.0 and core_r0.19.0, called with an `argparse.ArgumentParser` whose actions were listed.
Only the flags are here that the tool can print.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptdiff.config.fixes import FlagFix
    from ckptdiff.config.programs import Version


# switch: without a value; ints: `127,0`; layers: a number or a list such as `[0,1,1]`; words:
# several words.
Kind = Literal["switch", "int", "float", "str", "ints", "layers", "words"]
RELEASES: tuple[Version, ...] = ("0.14", "0.16", "0.19")  # of Megatron-LM, the oldest first


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of Megatron-LM, as its releases parse it."""

    name: str  # with its dashes
    kind: Kind
    releases: tuple[Version, ...]  # that know it
    of_field: bool  # since 0.16 the parser makes it from a field of TransformerConfig
    choices: dict[str, tuple[Version, ...]]  # the releases that take each; empty: anything is taken

    def takes(self, value: str, version: Version) -> bool:
        """Return whether that release parses the text as a value of the flag."""
        if version not in self.releases:
            return False
        if self.choices:
            return version in self.choices.get(value, ())
        return _PARSES[self.kind].fullmatch(value) is not None


# Flag, kind, releases, whether it is made of a field, and the choices. `0.16-` is 0.16 and later,
# `yarn@0.19` a choice since 0.19. Choices that no checkpoint needs are left out.
_TABLE = """\
--activation-func-clamp-value           float  0.16-     field
--add-qkv-bias                          switch 0.14-     field
--apply-layernorm-1p                    switch 0.14-     field
--apply-query-key-layer-scaling         switch 0.14-     field
--attention-dropout                     float  0.14-     field
--attention-output-gate                 switch 0.16-     field
--bf16                                  switch 0.14-     field
--ckpt-format                           str    0.14-     -     torch|torch_dist
--decoder-first-pipeline-num-layers     int    0.14-     -
--decoder-last-pipeline-num-layers      int    0.14-     -
--disable-bias-linear                   switch 0.14-     field
--eval-iters                            int    0.14-     -
--experimental-attention-variant        str    0.16-     field gated_delta_net|dsa
--expert-model-parallel-size            int    0.14-     field
--expert-tensor-parallel-size           int    0.14-     field
--ffn-hidden-size                       int    0.14-     field
--finetune                              switch 0.14-     -
--fp16                                  switch 0.14-     field
--glu-linear-offset                     float  0.16-     field
--group-query-attention                 switch 0.14-     -
--hidden-size                           int    0.14-     field
--hybrid-layer-pattern                  str    0.19-     -
--hybrid-override-pattern               str    0.14-     -
--is-hybrid-model                       switch 0.14-     field
--kv-channels                           int    0.14-     field
--kv-lora-rank                          int    0.14-     -
--linear-attention-freq                 layers 0.16-     -
--linear-conv-kernel-dim                int    0.16-     field
--linear-key-head-dim                   int    0.16-     field
--linear-num-key-heads                  int    0.16-     field
--linear-num-value-heads                int    0.16-     field
--linear-value-head-dim                 int    0.16-     field
--load                                  str    0.14-     -
--lr                                    float  0.14-     -
--make-vocab-size-divisible-by          int    0.14-     -
--mamba-head-dim                        int    0.14-     field
--mamba-num-groups                      int    0.14-     field
--mamba-num-heads                       int    0.14-     field
--mamba-state-dim                       int    0.14-     field
--max-position-embeddings               int    0.14-     -
--micro-batch-size                      int    0.14-     -
--min-lr                                float  0.14-     -
--mock-data                             switch 0.14-     -
--moe-ffn-hidden-size                   int    0.14-     field
--moe-grouped-gemm                      switch 0.14-     field
--moe-latent-size                       int    0.16-     field
--moe-layer-freq                        layers 0.14-     -
--moe-router-enable-expert-bias         switch 0.14-     field
--moe-router-group-topk                 int    0.14-     field
--moe-router-num-groups                 int    0.14-     field
--moe-router-pre-softmax                switch 0.14-     field
--moe-router-score-function             str    0.14-     field softmax|sigmoid|sqrtsoftplus@0.19
--moe-router-topk                       int    0.14-     field
--moe-router-topk-scaling-factor        float  0.14-     field
--moe-shared-expert-gate                switch 0.16-     field
--moe-shared-expert-intermediate-size   int    0.14-     field
--mscale                                float  0.14-     -
--mscale-all-dim                        float  0.14-     -
--mtp-num-layers                        int    0.14-     field
--multi-latent-attention                switch 0.14-     field
--no-bias-gelu-fusion                   switch 0.14-     -
--no-gradient-accumulation-fusion        switch 0.14-     -
--no-load-optim                         switch 0.14-     -
--no-load-rng                           switch 0.14-     -
--no-persist-layer-norm                 switch 0.14-     -
--no-rope-freq                          layers 0.14-     -
--no-rope-fusion                        switch 0.14-     -
--no-yarn-correction-range-round-to-int switch 0.19-     -
--norm-epsilon                          float  0.14-     field
--normalization                         str    0.14-     field LayerNorm|RMSNorm
--num-attention-heads                   int    0.14-     field
--num-experts                           int    0.14-     -
--num-layers                            int    0.14-     field
--num-layers-per-virtual-pipeline-stage int    0.14-     -
--num-query-groups                      int    0.14-     field
--num-virtual-stages-per-pipeline-rank  int    0.14-     -
--openai-gelu                           switch 0.14-     -
--padded-vocab-size                     int    0.14-     -
--pipeline-model-parallel-layout        str    0.14-     -
--pipeline-model-parallel-size          int    0.14-     field
--position-embedding-type               str    0.14-     -     learned_absolute|rope|none|yarn@0.19
--q-lora-rank                           int    0.14-     -
--qk-head-dim                           int    0.14-     -
--qk-layernorm                          switch 0.14-     field
--qk-pos-emb-head-dim                   int    0.14-     -
--quick-geglu                           switch 0.16-     -
--rope-scaling-factor                   float  0.14-     -
--rope-type                             str    0.14-     -     rope|yarn
--rotary-base                           int    0.14-     -
--rotary-interleaved                    switch 0.14-     field
--rotary-percent                        float  0.14-     -
--rotary-scaling-factor                 float  0.14-     -
--rotary-seq-len-interpolation-factor   int    0.14-     -
--seq-length                            int    0.14-     -
--sequence-parallel                     switch 0.14-     field
--softmax-type                          str    0.16-     field vanilla|off-by-one|learnable
--spec                                  words  0.14-     -
--squared-relu                          switch 0.14-     -
--swiglu                                switch 0.14-     -
--tensor-model-parallel-size            int    0.14-     field
--tokenizer-model                       str    0.14-     -
--tokenizer-type                        str    0.14-     -     HuggingFaceTokenizer|NullTokenizer
--train-iters                           int    0.14-     -
--transformer-impl                      str    0.14-     field local|transformer_engine
--untie-embeddings-and-output-weights   switch 0.14-     -
--use-checkpoint-args                   switch 0.14-     -
--use-legacy-models                     switch 0.14-0.16 -
--use-rope-scaling                      switch 0.14-     -
--v-head-dim                            int    0.14-     -
--vocab-size                            int    0.14-     -
--window-attn-skip-freq                 layers 0.16-     -
--window-size                           ints   0.16-     -
--yarn-beta-fast                        float  0.19-     -
--yarn-beta-slow                        float  0.19-     -
--yarn-correction-range-round-to-int    switch 0.19-     -
--yarn-original-max-position-embeddings int    0.19-     -
"""
# Flags that are parsed, and that what builds core models (gpt_builders.py, since 0.19
# gpt_config_from_args) never reads.
UNUSED: dict[str, tuple[Version, ...]] = {
    "--rope-scaling-factor": RELEASES,
    "--rotary-seq-len-interpolation-factor": ("0.14", "0.16"),
    "--openai-gelu": RELEASES,
}
_INT = r"[-+]?\d+"
_PARSES = {
    "switch": re.compile(""),
    "int": re.compile(_INT),
    "float": re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"),
    "str": re.compile(r"(?s).*"),
    "words": re.compile(r"(?s).*"),
    "ints": re.compile(rf"{_INT}(,{_INT})*"),
    "layers": re.compile(r"\d+|\[[01](,[01])*\]"),
}


def _span(text: str) -> tuple[Version, ...]:
    first, _, last = text.partition("-")
    return tuple(release for release in RELEASES if first <= release <= (last or RELEASES[-1]))


def _read(line: str) -> Flag:
    name, kind, span, field, *choices = line.split()
    releases = _span(span)
    taken = {}
    for choice in choices[0].split("|") if choices else ():
        word, _, since = choice.partition("@")
        taken[word] = tuple(r for r in releases if r >= since)
    assert kind in get_args(Kind)
    return Flag(name, kind, releases, field == "field", taken)  # type: ignore[arg-type]


FLAGS: dict[str, Flag] = {flag.name: flag for flag in map(_read, _TABLE.splitlines())}
# Args whose flag switches them off, or has another name.
_NAMES = {
    "add_bias_linear": "--disable-bias-linear",
    "bias_gelu_fusion": "--no-bias-gelu-fusion",
    "yarn_correction_range_round_to_int": "--no-yarn-correction-range-round-to-int",
}


def flag_of(arg: str) -> str:
    """Return how an arg's flag is called, whether or not any release knows it."""
    return _NAMES.get(arg, "--" + arg.replace("_", "-"))


def is_off_switch(arg: str) -> bool:
    """Return whether an arg is on unless its flag is given."""
    return arg in _NAMES


def why_not(words: Sequence[str], version: Version) -> str | None:
    """Return why a release does not do what a flag and its value say; None if it does.

    The reason follows on the program's name: "has no flag --window-size".
    """
    name, value = words[0], " ".join(words[1:])
    flag = FLAGS.get(name)
    if flag is None or version not in flag.releases:
        return f"has no flag {name}"
    if not flag.takes(value, version):
        needs = {"int": "whole numbers", "ints": "whole numbers"}.get(flag.kind)
        if flag.choices:
            needs = ", ".join(word for word, taken in flag.choices.items() if version in taken)
        return f"takes only {needs or flag.kind} for {name}"
    if version in UNUSED.get(name, ()):
        return f"parses {name} and never uses it"
    return None


def releases_of(fix: FlagFix) -> tuple[Version, ...]:
    """Return the releases that know the flags of a fix, and do what they say."""
    return tuple(
        release
        for release in RELEASES
        if all(name in FLAGS and release in FLAGS[name].releases for name in fix.left_out)
        and all(why_not(words, release) is None for words in fix.given)
    )
