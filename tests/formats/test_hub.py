"""Models in the hub's cache, which the hub's own library writes here from a server of our own."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

from ckptdiff.errors import CkptDiffError, MissingShard, NotACheckpoint, UnreadableFile
from ckptdiff.formats import open_checkpoint
from ckptdiff.formats.hub import lookup
from ckptdiff.formats.hub.links import leads_out
from tests.support.conversions import converted
from tests.support.fake_hub import serving, use
from tests.support.oracle_hf import make_hf
from tests.support.pairs import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.fake_hub import FakeHub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub that has `org/many` in four files, and `one` in one file."""
    root = tmp_path_factory.mktemp("hub")
    for name, single in (("many", False), ("one", True)):
        folder = root / name
        make_hf(folder, single=single, shards=3)
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
        (folder / "README.md").write_text(name)
    with serving({"org/many": root / "many", "one": root / "one"}) as served:
        yield served


def fetched(hub: FakeHub, cache: Path, model: str, **options: object) -> Path:
    """Fetch a model by the hub's own library; return its snapshot."""
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, cache, hub)
        found: str = snapshot_download(model, **options)  # type: ignore[call-overload]
    return cache / found


@pytest.fixture(scope="module")
def written(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with both models, which tests copy before they change it."""
    cache = tmp_path_factory.mktemp("written") / "hub"
    for model in hub.models:
        fetched(hub, cache, model)
    return cache


@pytest.fixture
def cache(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the library looks; it reaches no hub."""
    folder = tmp_path / "hub"
    shutil.copytree(written, folder, symlinks=True)
    use(monkeypatch, folder)
    return folder


def snapshot(cache: Path, model: str = "org/many") -> Path:
    (found,) = (cache / f"models--{model.replace('/', '--')}" / "snapshots").iterdir()
    return found


def share(cache: Path, model: str) -> None:
    """Move a model's blobs into the folder for all models, as the library does with those of Xet.

    Xet itself needs a server that is not at hand.
    """
    blobs = cache / f"models--{model.replace('/', '--')}" / "blobs"
    for number, blob in enumerate(sorted(blobs.iterdir())):
        assert publish_blob_to_shared_store(
            blob_path=str(blob),
            xet_hash=f"{number + 1:064x}",
            cache_dir=cache,
            expected_size=blob.stat().st_size,
        )
        assert blob.is_symlink()


def refusal(path: Path) -> str:
    with pytest.raises(CkptDiffError) as caught:
        open_checkpoint(path)
    return str(caught.value)


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_found_by_its_id(
    hub: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    type_of = type(tmp_path)
    commit = hub.commit("org/many")
    hub.asked.clear()
    for text in ("org/many", "org/many@main", f"org/many@{commit}"):
        checkpoint = open_checkpoint(type_of(text))
        assert checkpoint.root == snapshot(cache)
        assert checkpoint.hub is not None
        assert (checkpoint.hub.id, checkpoint.hub.commit) == ("org/many", commit)
        assert checkpoint.notes == (f"org/many of the hub, commit {commit}",)
    assert open_checkpoint(type_of("one")).root == snapshot(cache, "one")
    assert hub.asked == []


def test_what_was_looked_for_is_not_named_as_what_is_there(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reference = cache / "models--org--many" / "refs" / "main"
    commit = reference.read_text()
    reference.write_text(f"{commit}\n")  # by hand: for the library this is another commit
    said = refusal(type(tmp_path)("org/many"))
    assert said.endswith(f"holds org/many not at main, but at {commit}")


def test_a_path_that_exists_goes_before_a_model_s_id(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_hf(tmp_path / "org" / "many", single=True)
    checkpoint = open_checkpoint(type(tmp_path)("org/many"))
    assert checkpoint.hub is None
    assert len(checkpoint.files) == 1


def test_what_is_neither_says_what_was_looked_for_and_where(
    hub: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)
    none = "there is no such file or folder"
    assert refusal(path("org/four")) == (
        f"org/four: {none}, and no model of this id is in the hub's cache in {cache}"
    )
    assert refusal(path("org/many@v2")) == (
        f"org/many@v2: {none}, and the hub's cache in {cache} holds org/many not at v2, but at main"
    )
    (cache / "models--one" / "refs" / "main").unlink()
    assert refusal(path("one")).endswith(f"holds one not at main, but at {hub.commit('one')}")
    for text in ("/org/many", "org/many/model.safetensors", "a b", "../org", "model.bin"):
        assert refusal(path(text)) == f"{text}: {none}"


def test_without_the_library_an_id_says_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "why_not", lambda extra: f"needs ckptdiff[{extra}]")
    path = type(cache)
    assert refusal(path("org/x")) == "org/x: there is no such file or folder; needs ckptdiff[hub]"
    assert refusal(path("x")) == "x: there is no such file or folder"


# ── folders of the cache ─────────────────────────────────────────────────────────────────────────


def test_the_folder_of_a_model_is_what_main_names(hub: FakeHub, cache: Path) -> None:
    home = cache / "models--org--many"
    other = home / "snapshots" / ("0" * 40)
    shutil.copytree(snapshot(cache), other, symlinks=True)
    commit = hub.commit("org/many")
    for path in (home, home / "snapshots"):
        assert open_checkpoint(path).root == home / "snapshots" / commit
    assert open_checkpoint(other).root == other
    (home / "refs" / "main").unlink()
    (home / "refs" / "v1").write_text("0" * 40)
    assert refusal(home) == (
        f"{home}: holds 2 snapshots and no refs/main: "
        + ", ".join(sorted((f"{'0' * 40} (v1)", commit)))
        + ". Give one of the folders in snapshots"
    )
    shutil.rmtree(other)
    assert open_checkpoint(home).root == home / "snapshots" / commit


def test_main_of_which_nothing_was_fetched_is_no_other_snapshot(cache: Path) -> None:
    home = cache / "models--one"
    (home / "refs" / "main").write_text("f" * 40)
    with pytest.raises(MissingShard, match=f"refs/main names {'f' * 40}, of which no file") as told:
        open_checkpoint(home)
    assert snapshot(cache, "one").name in str(told.value)


def test_the_cache_itself_names_its_models(cache: Path) -> None:
    words = "is the hub's cache, which holds 2 models: one, org/many. Give the id of one"
    assert words in refusal(cache)
    assert words in refusal(cache.parent)  # HF_HOME
    (cache / "datasets--a--b" / "snapshots").mkdir(parents=True)
    assert refusal(cache / "datasets--a--b").endswith(
        "is a data set in the hub's cache, and no model"
    )
    (cache / "models--a--b" / "blobs").mkdir(parents=True)
    assert "holds no snapshot: no file of a/b was fetched" in refusal(cache / "models--a--b")


def test_a_link_to_a_snapshot_is_that_snapshot(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(snapshot(cache))
    checkpoint = open_checkpoint(tmp_path / "mine")
    assert checkpoint.hub is not None
    assert checkpoint.root == tmp_path / "mine"
    one_file = open_checkpoint(snapshot(cache, "one") / "model.safetensors")
    assert one_file.hub is not None
    assert one_file.hub.id == "one"


# ── what was not fetched ─────────────────────────────────────────────────────────────────────────


def test_weights_that_were_not_fetched_are_named(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetched(hub, tmp_path / "hub", "org/many", allow_patterns=["*.json"])
    said = f"{folder}: org/many at this commit was not fetched whole: "
    names = ", ".join(f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4))
    assert refusal(folder) == f"{said}4 files are missing: {names}"
    # An older library does not note which files there are: the index tells.
    shutil.rmtree(folder.parent.parent / "trees")
    assert refusal(folder) == f"{said}4 files are missing: {names}"
    (folder / "model.safetensors.index.json").unlink()
    assert refusal(folder) == (
        f"{said}it holds config.json, tokenizer.json, tokenizer_config.json and no weights"
    )
    (folder.parent.parent / "blobs" / "1f.ab.incomplete").touch()
    assert refusal(folder).endswith("and no weights; 1 download of it did not finish")


def test_a_blob_that_is_damaged_says_how_to_be_rid_of_it(cache: Path) -> None:
    folder = snapshot(cache)
    file = next(folder.glob("*.safetensors"))
    os.truncate(file, file.stat().st_size // 2)
    assert refusal(folder).endswith(
        "; hf cache rm model/org/many removes the model, to be fetched again"
    )


def test_a_blob_that_is_gone_is_named_with_its_file(cache: Path) -> None:
    folder = snapshot(cache)
    (folder / "model-00002-of-00004.safetensors").resolve().unlink()
    assert refusal(folder).endswith(
        "was not fetched whole: 1 file is missing: model-00002-of-00004.safetensors"
    )
    whole = folder.parent / ("0" * 40)
    shutil.copytree(folder, whole, symlinks=True)
    shutil.copy(snapshot(cache, "one") / "model.safetensors", whole)
    assert refusal(folder).endswith(f"; {'0' * 40} beside it is whole")


def test_a_megatron_checkpoint_on_the_hub_is_one(
    tiny_megatron: Callable[..., Path], tmp_path: Path
) -> None:
    source = tiny_megatron(tp=2)
    with serving({"org/run": source}) as hub:
        whole = fetched(hub, tmp_path / "hub", "org/run")
        folder = fetched(hub, tmp_path / "part", "org/run", ignore_patterns=["*mp_rank_01*"])
    assert compare(source, whole).summary.verdict == "same"
    (lacking,) = (str(f.relative_to(source)) for f in source.rglob("mp_rank_01*/*.pt"))
    assert refusal(folder).endswith(f"was not fetched whole: 1 file is missing: {lacking}")


def test_what_else_was_not_fetched_is_noted(hub: FakeHub, tmp_path: Path) -> None:
    patterns = ["model*", "config.json"]
    folder = fetched(hub, tmp_path / "hub", "org/many", allow_patterns=patterns)
    assert (
        "not fetched of this commit: tokenizer.json, tokenizer_config.json"
        in open_checkpoint(folder).notes
    )


# ── links ────────────────────────────────────────────────────────────────────────────────────────


def test_blobs_that_several_models_share_are_read_and_copied(cache: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(snapshot(cache), plain)
    share(cache, "org/many")
    folder = snapshot(cache)
    real = (folder / "tokenizer.json").resolve()
    assert real.is_relative_to(cache / "blobs")
    assert compare(plain, folder).summary.verdict == "same"
    assert open_checkpoint(folder).hub is not None
    assert not leads_out(folder / "tokenizer.json")
    plan, _ = converted(folder, tmp_path / "out", "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert not (tmp_path / "out" / name).is_symlink()
        assert (tmp_path / "out" / name).read_bytes() == (plain / name).read_bytes()
    assert not any("not copied" in note for note in plan.notes)
    # Only as the library lays it: a name that is a hash, in a folder that it marked.
    link = folder / "tokenizer.json"
    link.unlink()
    for target in (real.with_name(f"{real.name[:2]}secret"), real.with_name("f" * 64)):
        target.write_text("{}")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert leads_out(link)
    link.unlink()
    link.symlink_to(real)
    assert not leads_out(link)
    (cache / "blobs" / ".huggingface-shared-blobs").unlink()
    assert leads_out(link)


def test_a_snapshot_is_converted_with_its_tokenizer_and_without_stray_links(
    cache: Path, tmp_path: Path
) -> None:
    folder = snapshot(cache)
    (tmp_path / "secret").write_text("{}")
    (folder / "vocab.json").symlink_to(tmp_path / "secret")
    (folder / "merges.txt").symlink_to("../../../models--one/blobs/none")
    (folder / "added_tokens.json").symlink_to(snapshot(cache, "one") / "config.json")
    plan, _ = converted(folder, tmp_path / "out", "hf")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"version": "1.0"}'
    said = "; ".join(plan.notes)
    assert f"links out of {folder}: added_tokens.json, vocab.json" in said
    assert "links to nothing: merges.txt" in said
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        assert not (tmp_path / "out" / name).exists()


def test_a_conversion_of_a_snapshot_is_proposed_outside_of_the_cache(cache: Path) -> None:
    from ckptdiff.checkpoint import Parallelism
    from ckptdiff.conversion.destination import proposed_out
    from ckptdiff.conversion.plan import Target

    opened = open_checkpoint(snapshot(cache))
    assert str(proposed_out(opened, Target("megatron", Parallelism(2)))) == "many-tp2"


def test_what_a_folder_links_to_is_not_overwritten(tmp_path: Path) -> None:
    make_hf(tmp_path / "store", single=True)
    (tmp_path / "links").mkdir()
    for file in (tmp_path / "store").iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    with pytest.raises(CkptDiffError, match=r"model\.safetensors is a link into it"):
        converted(tmp_path / "links", tmp_path / "store", "hf", overwrite=True)
    assert compare(tmp_path / "links", tmp_path / "store").summary.verdict == "same"


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("model.safetensors", "../gone", "is a link to ../gone, which is not there"),
        ("config.json", "../gone", "is a link to ../gone, which is not there"),
        ("model.safetensors", "model.safetensors", "is a link that leads to itself"),
        ("config.json", "config.json", "is a link that leads to itself"),
        ("model.safetensors", "/", "is not a regular file but a folder, /"),
        ("model.safetensors", "/dev/zero", "is not a regular file but a device, /dev/zero"),
    ],
)
def test_a_link_that_is_refused_says_why(name: str, target: str, said: str, tmp_path: Path) -> None:
    make_hf(tmp_path / "hf", single=True)
    file = tmp_path / "hf" / name
    file.unlink()
    file.symlink_to(target)
    assert refusal(tmp_path / "hf").startswith(f"{file}: {said}")


def test_a_path_that_is_a_link_to_nothing_is_no_id(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(NotACheckpoint, match="is a link to b, which is not there"):
        open_checkpoint(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.pt").symlink_to("b")
    assert "holds links to what is not there: model.pt" in refusal(tmp_path / "folder")


# ── what others wrote into the cache ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "junk",
    [b"", b"\xff\x00", b"[]", b'{"files": 1}', b'{"files": {"../../x": 1, "": []}}', b"{" * 9],
)
def test_a_damaged_list_or_reference_is_not_believed(cache: Path, junk: bytes) -> None:
    home = cache / "models--one"
    for file in (*(home / "trees").iterdir(), home / "refs" / "main", home / "refs" / "v1"):
        file.write_bytes(junk)
    assert open_checkpoint(home).root == snapshot(cache, "one")
    (snapshot(cache, "one") / "model.safetensors").unlink()
    assert refusal(home).endswith("tokenizer_config.json and no weights")


def test_references_lead_nowhere_else(cache: Path, tmp_path: Path) -> None:
    home = cache / "models--one"
    make_hf(tmp_path / "other", single=True)
    (home / "refs" / "main").write_text("../../../other")
    assert open_checkpoint(home).root == snapshot(cache, "one")
    index = snapshot(cache) / "model.safetensors.index.json"
    index.unlink()
    index.write_text('{"weight_map": {"a": "../../x", "b": 1, "c": "gone-1.safetensors"}}')
    assert "leads out" in refusal(snapshot(cache)) or "names" in refusal(snapshot(cache))
    assert "x" not in refusal(snapshot(cache)).split("missing: ")[-1].split(", ")


def test_a_cache_that_may_not_be_read_is_not_taken_for_one_without_the_model(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = cache / "models--one" / "refs" / "main"
    main.unlink()
    main.mkdir()  # which no file may be: whoever runs the tests may read every file
    with pytest.raises(UnreadableFile, match=f"{main}: cannot be read"):
        open_checkpoint(type(cache)("one"))
