"""What a hostile file may make the commands print: names escaped, one paragraph, no bugs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from ckptdiff.cli.main import main
from tests.support.hostile import entry, safetensors, single_safetensors
from tests.support.hostile_system import ARGS, megatron, rank_file
from tests.support.hostile_torch import BOMBS, fragment, hf_bin, mapping, program, tensor, torch_zip
from tests.support.hostile_weapons import call
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mostly_slow(one_in=4)
NAMES = {
    "colour": "\x1b[31mred",
    "title of the window": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "return": "weight\rsame",
    "new line": "weight\nsame 1 of 1",
    "tab": "a\tb",
    "null": "a\0b",
    "delete": "a\x7f\x08b",
    "eight-bit escape": "\x9b31mred",
    "right to left": "a\u202ethgiew",
    "nothing seen": "a\u200b\u2060b",
    "line separator": "a\u2028b",
    "markup of rich": "[red]a[/red][link=http://x]y[/link]",
    "markup that is broken": "a[/]b[",
    "markup of the web": "<script>alert(1)</script>",
    "table of Markdown": "a | b ` c",
    "combining": "a" + "\u0301" * 50,
    "long": "a" * 5000,
}


def safe(status: int, out: str, err: str) -> tuple[int, str, str]:
    """Check that what a command printed is fit for a terminal."""
    assert "Traceback" not in err, err[-2000:]
    assert status in (0, 1, 2), err[-2000:]
    for text in (out, err):
        assert {c for c in text if not c.isprintable()} <= {"\n"}
    assert len(err) < 3000
    assert err.count("\n") <= 1
    return status, out, err


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ckptdiff(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command here; gives exit status, output and errors."""

    def run(*args: object) -> tuple[int, str, str]:
        status = main([str(arg) for arg in args])
        return safe(status, *capsys.readouterr())

    return run


# The command in a process that may take 2 GB and 20 seconds of the processor.
MAIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from ckptdiff.cli.main import main
sys.exit(main())
"""


def alone(*args: object) -> tuple[int, str, str]:
    """Run the command in a process of its own, with bounds."""
    command = [sys.executable, "-c", MAIN, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return safe(done.returncode, done.stdout, done.stderr)


def hf_named(names: list[str]) -> Callable[[Path], Path]:
    header = {name: entry(offsets=[8 * i, 8 * i + 8]) for i, name in enumerate(names)}
    return single_safetensors(safetensors(header, bytes(8 * len(names))))


def rank_of_arguments(names: list[str]) -> Callable[[Path], Path]:
    values = {name: fragment(name) for name in names}
    calls = {f"call {i}": call(b"cos\nsystem\n", fragment(n)) for i, n in enumerate(names)}
    return megatron(rank_file(args=values | calls))


KINDS: dict[str, Callable[[list[str]], Callable[[Path], Path]]] = {
    "safetensors": hf_named,
    "torch": lambda names: hf_bin(torch_zip(program(mapping(dict.fromkeys(names, tensor()))))),
    "rank": lambda names: megatron(rank_file({"model": mapping(dict.fromkeys(names, tensor()))})),
    "entry": lambda names: megatron(rank_file({name: fragment(name) for name in names})),
    "argument": rank_of_arguments,
}


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize("kind", KINDS)
def test_names_reach_the_terminal_escaped(kind: str, tmp_path: Path, ckptdiff: Command) -> None:
    path = KINDS[kind](list(NAMES.values()))(tmp_path)
    for options in ((), ("--json",), ("--raw",), ("--raw", "--json")):
        status, out, _ = ckptdiff("ls", path, *options)
        assert status == 0
        if "--json" in options and kind in ("safetensors", "torch", "rank"):
            assert [name for name in NAMES.values() if json.dumps(name)[1:-1] not in out] == []
    status, _, err = ckptdiff("diff", path, path)
    assert status in (0, 1, 2), err
    status, out, _ = ckptdiff("diff", path, path, "--json", "-")
    json.loads(out)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_in_an_error_is_escaped(name: str, tmp_path: Path, ckptdiff: Command) -> None:
    bad = {
        "shape": safetensors({name: entry([3])}),
        "dtype": safetensors({"a": entry(dtype=name)}),
        "twice": safetensors({name: entry(), "b": entry()}),
        "in": safetensors({"a": entry({name: 1})}),
    }
    for key, content in bad.items():
        folder = tmp_path / key
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        status, _, err = ckptdiff("ls", folder)
        assert status == 2
        assert str(folder) in err
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: name, "b": name + "x"}}))
    status, _, err = ckptdiff("ls", tmp_path)
    assert status == 2
    assert str(tmp_path) in err


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("null", "long", "markup of the web")]
)
def test_a_file_of_this_name_is_reported_escaped(
    name: str, tmp_path: Path, ckptdiff: Command
) -> None:
    name = NAMES[name].replace("/", "_")
    folder = tmp_path / name
    folder.mkdir()
    file = folder / f"{name}.safetensors"
    file.write_bytes(b"cut")
    assert ckptdiff("ls", folder)[0] == 2
    config = {"architectures": [name], "model_type": name, "torch_dtype": name}
    (folder / "config.json").write_text(json.dumps(config))
    file.write_bytes(safetensors({"a": entry()}))
    for options in ((), ("--json",), ("--raw",)):
        assert ckptdiff("ls", folder, *options)[0] == 0
    assert ckptdiff("diff", folder, folder)[0] == 0
    assert ckptdiff("diff", folder, tmp_path / f"no{name}")[0] == 2


BODIES = {name: bomb[2:-1] for name, bomb in BOMBS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_a_bomb_among_the_arguments_is_listed_or_refused(name: str, tmp_path: Path) -> None:
    made = megatron(rank_file({"rng_state": BODIES[name]}, args={"bomb": BODIES[name]}))(tmp_path)
    for option in ((), ("--json",)):
        status, out, _ = alone("ls", made, *option)
        assert status in (0, 2)
        assert len(out) < 100_000_000


@pytest.mark.mostly_slow(one_in=8)
@pytest.mark.parametrize("name", BODIES)
def test_a_bomb_for_a_model_is_listed_or_refused(name: str, tmp_path: Path) -> None:
    model = mapping({"a": tensor(), "bomb": BODIES[name]})
    assert alone("ls", megatron(rank_file({"model": model}))(tmp_path))[0] in (0, 2)


LIES = {
    "zero": 0,
    "minus one": -1,
    "one": 1,
    "a billion": 10**9,
    "a trillion": 10**12,
    "two to the 80th": 2**80,
    "half": 2.5,
    "text": "8",
    "true": True,
    "null": None,
    "list": [4],
    "object": {"x": 4},
    "infinite": float("inf"),
    "not a number": float("nan"),
}

# Open and compare both, inline, with each lie; say which did not end in a result or an error.
COMPARE = """
import json, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from pathlib import Path
from ckptdiff.assembly.assemble import assemble_pair
from ckptdiff.comparison.run import diff
from ckptdiff.errors import CkptDiffError
from ckptdiff.executor import InlineExecutor
from ckptdiff.formats import open_checkpoint
from ckptdiff.comparison.verdict import summarise

class Late(BaseException):
    pass

def late(*_):
    raise Late("took longer than 5 s")

signal.signal(signal.SIGPROF, late)
wrong = {}
for name, a, b in json.load(sys.stdin):
    signal.setitimer(signal.ITIMER_PROF, 5)  # of the processor
    try:
        pair = assemble_pair(open_checkpoint(Path(a)), open_checkpoint(Path(b)))
        summarise(list(diff(*pair, InlineExecutor())), *pair)
    except CkptDiffError:
        pass
    except BaseException as error:
        wrong[name] = f"{type(error).__name__}: {error}"[:200]
    signal.setitimer(signal.ITIMER_PROF, 0)
print(json.dumps(wrong))
"""


def compare(cases: list[tuple[str, Path, Path]]) -> dict[str, str]:
    given = json.dumps([[name, str(a), str(b)] for name, a, b in cases])
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wrong: dict[str, str] = json.loads(done.stdout)
    return wrong


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 2,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "rope_parameters": {"rope_theta": 10000.0},
    "text_config": {},
}


def hf_of_config(folder: Path, config: object) -> Path:
    folder.mkdir()
    header = {"model.embed_tokens.weight": entry([2, 4], "F32", [0, 32])}
    (folder / "model.safetensors").write_bytes(safetensors(header, bytes(32)))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.mostly_slow(one_in=21)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_config_ends_in_a_result_or_an_error(lie: str, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    honest = megatron(rank_file())(tmp_path / "b")
    cases = []
    for key in CONFIG:
        folder = hf_of_config(tmp_path / key, CONFIG | {key: LIES[lie]})
        cases.append((key, folder, honest))
    assert compare(cases) == {}


MORE_ARGS = (
    "virtual_pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "num_experts",
    "rotary_base",
    "add_qkv_bias",
)


@pytest.mark.mostly_slow(one_in=21)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_arguments_ends_in_a_result_or_an_error(lie: str, tmp_path: Path) -> None:
    honest = hf_of_config(tmp_path / "a", CONFIG)
    cases = []
    for key in (*ARGS, *MORE_ARGS):
        folder = tmp_path / key
        folder.mkdir()
        value = fragment(LIES[lie])
        args = (
            {"num_experts": fragment(4), key: value} if key.startswith("expert") else {key: value}
        )
        cases.append((key, honest, megatron(rank_file(args=args))(folder)))
        if key in ("hidden_size", "num_query_groups"):
            cases.append((f"{key} alone", cases[-1][2], cases[-1][2]))
    assert compare(cases) == {}


NO_CONFIG = {
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "half": b"{",
    "deep": b'{"a":' * 10**5,
    "not UTF-8": b"\xff",
    "text": b'"x"',
    "number of many digits": b"1" * 10**5,
}


@pytest.mark.parametrize("name", NO_CONFIG)
def test_a_config_that_is_no_object_is_an_error_that_names_it(
    name: str, tmp_path: Path, ckptdiff: Command
) -> None:
    folder = hf_of_config(tmp_path / "a", {})
    (folder / "config.json").write_bytes(NO_CONFIG[name])
    status, _, err = ckptdiff("ls", folder)
    assert status == 2
    assert str(folder / "config.json") in err


NUMBERS = {
    "huge": "9" * 18,
    "of five thousand digits": "9" * 5000,
    "negative": "-1",
    "of another script": "\u0663",
    "padded": "00000000000000000000001",
}


@pytest.mark.mostly_slow(one_in=5)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_strange_number_in_a_name_ends_in_a_result_or_an_error(
    number: str, tmp_path: Path
) -> None:
    digits = NUMBERS[number]
    config = json.dumps(CONFIG).encode()
    names = [
        f"model.layers.{digits}.input_layernorm.weight",
        f"model.layers.0.mlp.experts.{digits}.w1.weight",
        digits,
    ]
    header = {name: entry([2], "F32", [8 * i, 8 * i + 8]) for i, name in enumerate(names)}
    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "model.safetensors").write_bytes(safetensors(header, bytes(24)))
    (hf / "config.json").write_bytes(config)
    cases = [("hf", hf, hf)]
    native = [
        f"decoder.layers.{digits}.input_layernorm.weight",
        f"decoder.layers.0.mlp.experts.linear_fc1.weight{digits}",
        f"language_model.encoder.layers.{digits}.input_norm.weight",
        "module." * 150_000 + "decoder.final_layernorm.weight",
    ]
    models = {name: {"model": mapping({name: tensor()})} for name in native}
    models["chunk"] = {f"model{digits}": mapping({native[0]: tensor()})}
    for i, (name, top) in enumerate(models.items()):
        folder = tmp_path / str(i)
        folder.mkdir()
        made = megatron(rank_file(top))(folder)
        cases += [(f"{name[:80]} alone", made, made), (f"{name[:80]} against hf", hf, made)]
    assert compare(cases) == {}
