"""Tasks by their names and files, as far as they are known without lm-evaluation-harness.

A task's file of a user is data: what could run code, or reach the network, is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument
from ckptdiff.formats.plain_yaml import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Builders of the library `datasets` that read plain data.
BUILDERS = ("json", "csv", "text", "parquet", "arrow")
# What a builder may be given: where the files are, and how a table or a text is cut.
_OPTIONS = {
    *("data_files", "field", "delimiter", "sep", "quotechar", "header", "names", "column_names"),
    *("encoding", "sample_by", "keep_linebreaks", "columns"),
}
_CODE = {
    "class": "names a class of Python",
    "custom_dataset": "names a function of Python",
    "use_prompt": "takes a prompt from another library",
    "unsafe_code": "runs code",
    "doc_to_image": "shows pictures",
    "doc_to_audio": "plays sounds",
}
_MOST_FILES = 10_000  # of a folder of tasks
GENERATES = "generate_until"


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Which tasks are asked, and how much of them."""

    names: tuple[str, ...]  # of lm-eval's tasks and groups, patterns, files or folders of YAML
    limit: float | None = None  # of documents of each task; below 1 a fraction of them
    fewshot: int | None = None  # examples before each question; None: as many as the task says


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's config says about how it is fed."""

    tokenizer: Path  # its file
    max_length: int | None = None  # positions; None: the config tells none
    bos: int | None = None
    eos: int | None = None
    family: str = ""  # `model_type` of config.json


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set by the names under which the library `datasets` finds it."""

    path: str
    name: str | None = None

    def __str__(self) -> str:
        return self.path if self.name is None else f"{self.path}/{self.name}"


def is_file_name(name: str) -> bool:
    """Return whether a task is given as a file, or a folder, and not by its name."""
    return name.endswith((".yaml", ".yml")) or "/" in name or name in (".", "..")


def read_task_files(
    name: str, own: Callable[[Path], dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """Return the configs of tasks and groups that a YAML file holds, or a folder of them.

    `own` reads a file that lies in lm-eval's package, and returns None for any other. Raises
    BadArgument for what is not found, or is no task, and CorruptFile for a file that is no YAML.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*.yaml")) if file.is_file()][:_MOST_FILES]
        configs = [_config(file, own) for file in files]
        found = [one for one in configs if one is not None and _named(one)]
        if not found:
            raise BadArgument(f"{path}: no YAML file there has a task")
        return found
    if not path.is_file():
        raise BadArgument(f"{path}: there is no such file or folder of tasks")
    config = _config(path, own)
    if config is None or not _named(config):
        raise BadArgument(
            f"{path}: is no task: it needs `task:`, and what lm-eval's guide asks for"
        )
    return [config]


def top_of(configs: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names to be run of configs of one folder: groups, and tasks that are in none."""
    configs = list(configs)
    inside = {member for one in configs for member in members_of(one)}
    tops = [name for one in configs if (name := name_of(one)) not in inside]
    return tuple(dict.fromkeys(tops))


def name_of(config: dict[str, Any]) -> str:
    """Return the name of a task's or a group's config."""
    return str(config["group"] if "group" in config else config["task"])


def members_of(config: dict[str, Any]) -> Iterator[str]:
    """Yield the names of a group's direct members."""
    if "group" not in config or not isinstance(config.get("task"), list):
        return
    for one in config["task"]:
        if isinstance(one, dict):
            yield str(one.get("group", one.get("task")))
        else:
            yield str(one)


def _named(config: dict[str, Any]) -> bool:
    named = config.get("group", config.get("task"))
    return isinstance(named, str) and bool(named)


def _config(
    file: Path, own: Callable[[Path], dict[str, Any] | None], seen: tuple[Path, ...] = ()
) -> dict[str, Any] | None:
    """Return a file's config, what it includes in it; None if it holds something else."""
    file = file.resolve()
    if file in seen:
        raise BadArgument(f"{file}: includes itself")
    if (theirs := own(file)) is not None:
        return theirs
    config = read_yaml(file, may_tag=False)
    if not isinstance(config, dict):
        return None
    config = _checked(config, file)
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for one in includes if isinstance(includes, list) else [includes]:
        inner = _config(file.parent / str(one), own, (*seen, file))
        if inner is None:
            raise BadArgument(f"{file}: includes {one}, which is no config of a task")
        merged.update({key: value for key, value in inner.items() if key != "task_list"})
    return {**merged, **config}


def _checked(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return a config whose paths do not depend on the current folder. Raises BadArgument."""
    for key, what in _CODE.items():
        if config.get(key):
            raise BadArgument(f"{file}: `{key}` {what}, which a task's file may not do here")
    if "<<" in config:
        raise BadArgument(f"{file}: `<<` is not read: write out what it stands for")
    for metric in _dicts(config.get("metric_list")):
        if metric.get("hf_evaluate"):
            raise BadArgument(
                f"{file}: the metric {metric.get('metric')} is fetched and run as code "
                "(`hf_evaluate`), which a task's file may not do here"
            )
    config = {**config, **_data(config, file)}
    if isinstance(config.get("task"), list):
        config["task"] = [
            _checked(one, file) if isinstance(one, dict) else one for one in config["task"]
        ]
    return config


def _data(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the settings of a config's data set, with the files it names. Raises BadArgument."""
    path = config.get("dataset_path")
    options = config.get("dataset_kwargs") or {}
    if not isinstance(options, dict):
        raise BadArgument(f"{file}: `dataset_kwargs` is no mapping")
    if "trust_remote_code" in options:
        raise BadArgument(
            f"{file}: `trust_remote_code` is never done: take it out of `dataset_kwargs`"
        )
    changed: dict[str, Any] = {}
    if path is not None:
        path = str(path)
        if path not in BUILDERS and (
            path.endswith(".py") or "://" in path or (file.parent / path).exists()
        ):
            raise BadArgument(
                f"{file}: data of one's own is given as files: `dataset_path: json` (or "
                f"{', '.join(BUILDERS[1:])}) and `dataset_kwargs: {{data_files: FILE}}`, "
                f"not as {path}"
            )
        if "/" not in path and path not in BUILDERS and path in _other_builders():
            raise BadArgument(
                f"{file}: `dataset_path: {path}` is not read: it may hold code. Give "
                f"{', '.join(BUILDERS[:-1])} or {BUILDERS[-1]}"
            )
    if options:
        if beyond := sorted(str(one) for one in set(options) - _OPTIONS):
            raise BadArgument(f"{file}: `dataset_kwargs` may not hold {beyond[0]} here")
        changed["dataset_kwargs"] = dict(options)
        if "data_files" in options:
            changed["dataset_kwargs"]["data_files"] = _absolute(options["data_files"], file)
    return changed


def _absolute(files: Any, file: Path) -> Any:
    """Return names of data files, relative to the config's folder, as absolute ones."""
    if isinstance(files, dict):
        return {str(split): _absolute(one, file) for split, one in files.items()}
    if isinstance(files, list):
        return [_absolute(one, file) for one in files]
    name = str(files)
    if ":" in name:
        raise BadArgument(f"{file}: data is read from local files alone, not from {name}")
    path = (file.parent / Path(name).expanduser()).resolve()
    if not glob(str(path)):  # noqa: PTH207 -- the name may be absolute and a pattern
        raise BadArgument(f"{file}: its data is not there: {path}")
    return str(path)


def _other_builders() -> tuple[str, ...]:
    """Return the builders of `datasets` that read neither text nor a table."""
    return (
        *("pandas", "webdataset", "sql", "spark", "generator", "cache", "hdf5", "xml", "eval"),
        *("imagefolder", "audiofolder", "videofolder", "pdffolder", "niftifolder", "meshfolder"),
        *("lance", "vortex", "iceberg", "harbor", "conll", "tsfile", "fasta", "fastq", "genbank"),
        *("mmcif", "pdb"),
    )


def _dicts(found: Any) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def unknown_task(name: str, known: Iterable[str]) -> BadArgument:
    """Return the error for a name that no task has."""
    near = get_close_matches(name, list(known), 3, 0.7)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return BadArgument(
        f"lm-evaluation-harness has no task {name}: {meant}"
        "`lm-eval ls tasks` lists all of them; a file of your own is given as FILE.yaml"
    )


def refuse_generation(names: Iterable[str]) -> None:
    """Raise BadArgument if there are tasks whose answers are generated."""
    if found := sorted(set(names)):
        is_one = len(found) == 1
        raise BadArgument(
            f"{listed(found)} {'lets' if is_one else 'let'} the model write its answer, which is "
            "not computed here: scores are of answers that are given, by their log-likelihood. "
            f"Leave {'it' if is_one else 'them'} out"
        )


def missing_data(missing: Iterable[DataSet]) -> BadArgument:
    """Return the error for data sets that are not on this machine."""
    sets = sorted(set(missing), key=str)
    is_one = len(sets) == 1
    parts: dict[str, list[str]] = {}
    for one in sets:
        parts.setdefault(one.path, []).extend([one.name] if one.name is not None else [])
    calls = "; ".join(_fetching(path, names) for path, names in parts.items())
    return BadArgument(
        f"the data {'set' if is_one else 'sets'} {', '.join(map(str, sets))} "
        f"{'is' if is_one else 'are'} not on this machine, and nothing is fetched here. Where "
        f'there is a network: python -c "from datasets import load_dataset; {calls}"'
    )


def _fetching(path: str, names: list[str]) -> str:
    """Return the statement that fetches parts of a data set, or the whole."""
    if not names[1:]:
        return f"load_dataset({', '.join(map(repr, (path, *names)))})"
    return f"[load_dataset({path!r}, part) for part in {' '.join(names)!r}.split()]"


def listed(names: list[str], most: int = 8) -> str:
    """Return names as a text of at most so many."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
