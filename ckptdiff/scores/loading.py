"""Load tasks by names and files: their data first, so that one error names all that is missing."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.errors import BadArgument, CkptDiffError
from ckptdiff.scores.tasks import (
    BUILDERS,
    GENERATES,
    DataSet,
    is_file_name,
    listed,
    members_of,
    missing_data,
    name_of,
    read_task_files,
    refuse_generation,
    top_of,
    unknown_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptdiff.scores.tasks import TaskSpec


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A task by name, and its config as far as it is known before it is loaded."""

    name: str
    config: dict[str, Any]


def load_tasks(
    library: Any, managers: Callable[..., Any], spec: TaskSpec, notes: list[str]
) -> dict[str, Any]:
    """Return the tasks and groups of a spec, loaded by lm-eval.

    `library` is lm-eval, and `managers` returns its loader of tasks, with its own or without.
    Raises BadArgument for names that no task has, and for tasks that cannot be done.
    """
    if not spec.names:
        raise BadArgument("no task is named")
    configs = {
        name: read_task_files(name, _reader_of(library))
        for name in spec.names
        if is_file_name(name)
    }
    own = {name_of(one): _entry(library, one) for some in configs.values() for one in some}
    manager = managers(has_own=_needs_more(spec, configs, own))
    index = manager.task_index
    names: list[str] = []
    for name in spec.names:
        if name in configs:
            names += top_of(configs[name])
        elif any(sign in name for sign in "*?["):
            names += _like(name, manager, notes)
        else:
            names.append(name)
    notes += [f"{name} is that of your file, not lm-eval's own" for name in own if name in index]
    index = {**index, **own}
    for name in names:
        if name not in index:
            raise unknown_task(name, index)
    leaves = [leaf for name in dict.fromkeys(names) for leaf in _leaves(name, {}, index)]
    refuse_generation(
        leaf.name
        for leaf in leaves
        if "class" not in leaf.config and leaf.config.get("output_type", GENERATES) == GENERATES
    )
    _check_metrics(library, leaves)
    with _from_cache(library, leaves):
        loaded = _load(manager, own, list(dict.fromkeys(names)))
    refuse_generation(n for n, task in loaded["tasks"].items() if task.OUTPUT_TYPE == GENERATES)
    if unfit := [n for n, task in loaded["tasks"].items() if getattr(task, "MULTIMODAL", False)]:
        raise BadArgument(f"{listed(unfit)}: pictures and sounds are not fed to the model here")
    if unfit := [n for n, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]:
        raise BadArgument(
            f"{listed(unfit)}: runs code that the model writes, which is not done here"
        )
    return loaded


def _needs_more(
    spec: TaskSpec, configs: dict[str, list[dict[str, Any]]], own: dict[str, Any]
) -> bool:
    """Return whether a spec needs tasks beside those of the user's files."""
    members = (name for some in configs.values() for one in some for name in members_of(one))
    return any(name not in configs for name in spec.names) or any(m not in own for m in members)


def _like(pattern: str, manager: Any, notes: list[str]) -> list[str]:
    """Return the tasks whose names fit a pattern, but for those that are generated."""
    index = manager.task_index
    kinds = ("TASK", "PY_TASK")
    found = [n for n in sorted(index) if fnmatchcase(n, pattern) and index[n].kind.name in kinds]
    asked = [one for one in found if (index[one].cfg or {}).get("output_type") != GENERATES]
    if not asked:
        refuse_generation(found)
        raise BadArgument(f"lm-evaluation-harness has no task like {pattern}")
    if left_out := [one for one in found if one not in asked]:
        notes.append(
            f"of {pattern}, tasks that let the model write are left out: {listed(left_out)}"
        )
    return asked


def _load(manager: Any, own: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Have lm-eval load tasks, with those of the user's files among its own."""
    index = manager.task_index
    before = dict(index)
    index.update(own)
    try:
        loaded: dict[str, Any] = manager.load(names)
    except (CkptDiffError, MemoryError, ModuleNotFoundError, _Missing):
        raise
    except Exception as error:
        if "Duplicate task" in str(error):
            raise BadArgument(f"{error}: name one of them") from error
        raise BadArgument(
            f"{listed(names)}: lm-evaluation-harness cannot load it: {reason_of(error)}"
        ) from error
    finally:
        index.clear()
        index.update(before)
    return loaded


def _reader_of(library: Any) -> Any:
    """Return what reads a config that lies in lm-eval's own package, whose code may run."""
    package = Path(library.__file__).resolve().parent

    def read(file: Path) -> dict[str, Any] | None:
        if not file.is_relative_to(package):
            return None
        config: dict[str, Any] = library.tasks._yaml_loader.load_yaml(file)
        return config

    return read


def _entry(library: Any, config: dict[str, Any]) -> Any:
    """Return lm-eval's index entry of a config that was read by us."""
    kinds = library.tasks._index.Kind
    kind = kinds.GROUP if "group" in config else kinds.TASK
    return library.tasks._index.Entry(name_of(config), kind, None, cfg=config)


def _leaves(
    name: str, overrides: dict[str, Any], index: dict[str, Any], within: tuple[str, ...] = ()
) -> Iterator[_Leaf]:
    """Yield the tasks that a task, a tag or a group stands for."""
    entry = index[name]
    if name in within:
        raise BadArgument(f"the group {name} is a part of itself")
    within = (*within, name)
    kind = entry.kind.name
    if kind == "TAG":
        for one in sorted(entry.tags):
            if one in index:
                yield from _leaves(one, overrides, index, within)
    elif kind == "GROUP":
        yield from _members(entry.cfg or {}, overrides, index, within)
    else:
        yield _Leaf(name, {**(entry.cfg or {}), **overrides})


def _members(
    group: dict[str, Any], overrides: dict[str, Any], index: dict[str, Any], within: tuple[str, ...]
) -> Iterator[_Leaf]:
    structure = ("group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag")
    shared = {**{k: v for k, v in group.items() if k not in structure}, **overrides}
    members = group.get("task")
    for one in members if isinstance(members, list) else []:
        given = {"task": one} if isinstance(one, str) else dict(one)
        name = str(given.get("group", given.get("task")))
        more = {k: v for k, v in given.items() if k not in ("group", "task")}
        if name in index:
            yield from _leaves(name, {**shared, **more}, index, within)
        elif "group" in given:
            yield from _members(given, shared, index, within)
        elif "dataset_path" not in {**shared, **more}:
            raise unknown_task(name, index)
        else:
            yield _Leaf(name, {**shared, **more})


def _check_metrics(library: Any, leaves: list[_Leaf]) -> None:
    """Raise BadArgument for a metric that lm-eval has not itself: it would fetch and run it."""
    known = library.api.registry.metric_registry
    package = str(Path(library.__file__).parent / "tasks")
    for leaf in leaves:
        if leaf.config.get("process_results"):
            continue  # it makes the metrics
        for metric in leaf.config.get("metric_list") or []:
            given = metric if isinstance(metric, dict) else {"metric": metric}
            name = given.get("metric")
            text = str(name)
            # A function of lm-eval's own stands as its file and name in what is not yet loaded.
            is_theirs = callable(name) or (text.startswith(package) and ".." not in text)
            if given.get("hf_evaluate") or not (is_theirs or text in known):
                raise BadArgument(
                    f"{leaf.name}: its metric {text} is none of lm-eval's own, and would be "
                    "fetched and run as code: leave the task out"
                )


@contextmanager
def _from_cache(library: Any, leaves: list[_Leaf]) -> Iterator[None]:
    """Load the data of all tasks, and have lm-eval use it.

    Raises BadArgument that names all that is not on this machine.
    """
    datasets = library.api.task.datasets
    theirs = datasets.load_dataset
    found: dict[str, Any] = {}

    def load(path: Any = None, name: Any = None, **options: Any) -> Any:
        options.pop("trust_remote_code", None)
        key = repr((path, name, sorted(options.items(), key=str)))
        if key not in found:
            found[key] = _data_of(theirs, path, name, options)
        return found[key]

    missing: list[DataSet] = []
    for leaf in leaves:
        config = leaf.config
        if not isinstance(config.get("dataset_path"), str) or config.get("custom_dataset"):
            continue
        try:
            load(
                config["dataset_path"],
                config.get("dataset_name"),
                **(config.get("dataset_kwargs") or {}),
            )
        except _Missing as error:
            missing.append(error.data)
        except Exception as error:
            raise BadArgument(f"{leaf.name}: its data cannot be read, {_whys(error)}") from error
    if missing:
        raise missing_data(missing)
    datasets.load_dataset = load
    try:
        yield
    except _Missing as error:
        raise missing_data([error.data]) from error
    finally:
        datasets.load_dataset = theirs


def reason_of(error: BaseException) -> str:
    """Return what an error of a library says, in a line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _whys(error: BaseException) -> str:
    """Return what an error says, and the first of its causes."""
    if type(error).__name__ == "StopIteration" or not str(error):
        return "or there is none in it"
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return reason_of(error) if root is error else f"{reason_of(error)}: {reason_of(root)}"


class _Missing(Exception):
    """A data set is not on this machine."""

    def __init__(self, data: DataSet) -> None:
        super().__init__(str(data))
        self.data = data


def _data_of(load: Any, path: Any, name: Any, options: dict[str, Any]) -> Any:
    """Return a data set by the library's own function. Raises _Missing."""
    if path not in BUILDERS and Path(str(path)).exists():
        raise BadArgument(
            f"the folder {path} here would be taken for the data set {path}: start from another one"
        )
    more = "".join(f", {key}={value!r}" for key, value in options.items())
    try:
        return load(path=path, name=name, **options)
    except (ConnectionError, FileNotFoundError) as error:
        if path in BUILDERS:
            raise
        raise _Missing(DataSet(str(path), name, more)) from error
    except ValueError as error:
        # The data set is cached, this part of it is not.
        if "Couldn't find cache for" in str(error):
            raise _Missing(DataSet(str(path), name, more)) from error
        raise
