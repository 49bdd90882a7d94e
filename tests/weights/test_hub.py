"""Ids on the Hub: looked up in the local cache, downloaded if they are not there. Nothing here reaches a network."""

import json
import shutil
import types
from pathlib import Path

import pytest

import minivl
from minivl.errors import WeightsError
from minivl.weights import hub, places

ID = "someone/tiny-blip2"
COMMIT, NEWER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, named as the environment names it, and no network."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


@pytest.fixture
def client(monkeypatch):
    """huggingface_hub as far as it is used, with a repository of our making; `asked` is what it was asked for."""
    fake = types.SimpleNamespace(repository=[], asked=[], error=None)

    class Api:
        def list_repo_files(self, name, revision):
            if fake.error:
                raise fake.error
            return fake.repository

    def snapshot_download(name, *, revision, cache_dir, allow_patterns):
        fake.asked.append((name, revision, Path(cache_dir), allow_patterns))
        return fill(Path(cache_dir))

    module = types.SimpleNamespace(HfApi=Api, snapshot_download=snapshot_download)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", module)
    return fake


def fill(cache, commit=COMMIT, revision="main", name=ID, without=()):
    """The embedded model in a cache, laid out as the Hub's client lays it out: links to blobs."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (snapshot, home / "blobs", (home / "refs" / revision).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    for number, file in enumerate(sorted(places.find("demo").iterdir())):
        if file.name not in without:
            blob = home / "blobs" / f"{number:064x}"
            shutil.copyfile(file, blob)
            (snapshot / file.name).unlink(missing_ok=True)
            (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def refused(*words, **how):
    with pytest.raises(WeightsError) as raised:
        places.find(how.pop("name", ID), **how)
    message = str(raised.value)
    assert "\n" not in message and all(str(word) in message for word in words), message


# ---- what is in the cache --------------------------------------------------------------------------------------------
def test_an_id_is_found_in_the_cache_and_loads(cache):
    fill(cache)
    model = minivl.Blip2ForConditionalGeneration.from_pretrained(ID)
    processor = minivl.Blip2Processor.from_pretrained(ID)
    inputs = processor(images="tutorials/pictures/red_circle.png", return_tensors="np")
    assert "red circle" in processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0]
    assert minivl.Blip2Config.from_pretrained(ID) == model.config


@pytest.mark.parametrize(
    "variables, place",
    [({"HF_HUB_CACHE": "x", "HF_HOME": "y"}, "x"), ({"HUGGINGFACE_HUB_CACHE": "x"}, "x"), ({"HF_HOME": "y"}, "y/hub"),
     ({"HF_HOME": "", "XDG_CACHE_HOME": "z"}, "z/huggingface/hub")],
)  # fmt: skip
def test_where_the_cache_is(cache, tmp_path, monkeypatch, variables, place):
    for name, folder in variables.items():
        monkeypatch.setenv(name, folder and str(tmp_path / folder))
    assert hub.default_cache() == tmp_path / place
    snapshot = fill(tmp_path / "own")
    assert places.find(ID, cache_dir=tmp_path / "own") == snapshot


def test_without_any_variable_it_is_in_the_home_folder(cache, monkeypatch):
    monkeypatch.delenv("HF_HOME")
    assert hub.default_cache() == Path("~/.cache/huggingface/hub").expanduser()


def test_revisions(cache):
    old, new = fill(cache), fill(cache, NEWER, "experiments/two")
    assert places.find(ID) == old == places.find(ID, revision="main") == places.find(ID, revision=COMMIT)
    assert places.find(ID, revision="experiments/two") == new == places.find(ID, revision=NEWER)


def test_a_folder_of_that_name_comes_first(cache, tmp_path, monkeypatch):
    fill(cache)
    monkeypatch.chdir(tmp_path)
    Path(ID).mkdir(parents=True)
    assert places.find(ID) == Path(ID)


@pytest.mark.parametrize("ref", ["../../../etc", "x" * 40, "", "A" * 40])
def test_a_ref_that_is_no_commit(cache, ref):
    fill(cache)
    (cache / "models--someone--tiny-blip2" / "refs" / "main").write_text(ref)
    refused("40 hex digits", "refs")


@pytest.mark.parametrize("revision", ["../main", "a b", "", "x\n", 3])
def test_odd_revisions_lead_nowhere(cache, revision, client):
    fill(cache)
    if revision:
        refused("revision", revision=revision)
    else:
        assert places.find(ID, revision=revision) == places.find(ID)


@pytest.mark.parametrize("name", ["../x", "a/../b", "a/b/c", "/abs/olute", "a--b/c", "a/b\n", "-a/b", "a//b"])
def test_what_is_no_id_is_not_looked_up(cache, client, name):
    refused("no such folder", name=name)
    assert not client.asked


# ---- what is not -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("switch", ["1", "true", "ON", "yes"])
def test_offline_one_line_says_where_it_was_looked_for(cache, client, monkeypatch, switch):
    monkeypatch.setenv("HF_HUB_OFFLINE", switch)
    refused(cache, "HF_HUB_OFFLINE", f"hf download {ID}")
    assert not client.asked


def test_the_older_switch_counts_where_the_newer_is_unset(cache, client, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    refused(cache, "TRANSFORMERS_OFFLINE is set")
    assert not client.asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    client.repository = ["config.json", "model.safetensors"]
    places.find(ID)
    assert client.asked


def test_a_cache_is_named_as_a_shell_would_name_it(cache, tmp_path, monkeypatch):
    """With ~ and $VARIABLES; of somebody who does not exist, ~ stays as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    monkeypatch.setenv("HF_HUB_CACHE", "$DISK/hub")
    assert hub.default_cache() == tmp_path / "disk" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", "~nobody-at-all/hub")
    assert hub.default_cache() == Path("~nobody-at-all/hub")
    snapshot = fill(tmp_path / "own")
    assert places.find(ID, cache_dir="~/own") == snapshot


@pytest.mark.parametrize("name", ["x" * 5000, "a/" + "x" * 5000, ""], ids=["long", "long id", "empty"])
def test_names_that_no_folder_can_have(cache, name):
    refused("checkpoint", name=name, local_files_only=True)


def test_local_files_only(cache, client):
    refused(cache, "local_files_only", local_files_only=True)
    fill(cache, without=["model.safetensors"])
    refused("only part of it", local_files_only=True)
    assert places.find(ID, local_files_only=True, need=hub.TEXTS)


def test_a_configuration_needs_no_tokenizer(cache, client):
    fill(cache, without=["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
    assert minivl.Blip2Config.from_pretrained(ID) == minivl.Blip2Config.from_pretrained("demo") and not client.asked
    refused("only part of it", local_files_only=True, need=hub.TEXTS)


def test_a_shard_that_is_missing_is_fetched(cache, client):
    snapshot = fill(cache, without=["model.safetensors"])
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-1.safetensors"}}))
    refused("only part of it", local_files_only=True)
    (snapshot / "model-1.safetensors").write_text("")
    assert places.find(ID, local_files_only=True) == snapshot


SMALL = list(hub.SMALL)


@pytest.mark.parametrize(
    "repository, wanted",
    [(["model.safetensors", "pytorch_model.bin", "x/model.bin"], "model*.safetensors"),
     (["model-00001-of-00002.safetensors", "pytorch_model-00001-of-00002.bin"], "model*.safetensors"),
     (["pytorch_model-00001-of-00002.bin", "flax_model.msgpack", "x/model.safetensors"], "pytorch_model*.bin")],
)  # fmt: skip
def test_a_download_takes_safetensors_or_pickles_and_never_both(cache, client, repository, wanted):
    client.repository = ["config.json", *repository]
    snapshot = places.find(ID, revision="v1")
    assert client.asked == [(ID, "v1", cache, [*SMALL, wanted])] and (snapshot / "config.json").exists()
    assert places.find(ID) == snapshot and len(client.asked) == 1


def test_a_processor_downloads_no_weights(cache, client):
    minivl.Blip2Processor.from_pretrained(ID)
    assert client.asked == [(ID, "main", cache, SMALL)]


def test_a_repository_without_weights(cache, client):
    client.repository = ["config.json"]
    refused("found neither")


def test_a_download_that_fails_is_one_line(cache, client):
    client.error = ConnectionError("no route\nto host")
    refused(ID, cache, "no route", f"hf download {ID}")


def test_a_link_out_of_the_cache_is_refused(cache, tmp_path):
    snapshot = fill(cache)
    (tmp_path / "secret").write_bytes(b"x")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(WeightsError, match="a link to"):
        minivl.Blip2ForConditionalGeneration.from_pretrained(ID)
