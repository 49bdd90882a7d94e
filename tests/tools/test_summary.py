"""`minivl inspect`: the parts and their sizes, the memory that it foretells, and that nothing is read for it."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from oracle import GOLDEN

from minivl import Blip2Config, Blip2ForConditionalGeneration, BridgeTowerForMaskedLM
from minivl.cli import main
from minivl.errors import ConfigError, WeightsError
from minivl.tools import summary
from minivl.weights import files, places

MODES = {
    "float32": {},
    "bfloat16": dict(dtype="bfloat16"),
    "weight-only": dict(load_in_8bit="weight-only"),
    "int8": dict(load_in_8bit=True, torch_dtype="float16"),
}
NEAR = 1.25  # the estimate is within this factor of what is measured


@pytest.mark.parametrize("name", ["demo", GOLDEN / "t5_flan", GOLDEN / "t5_tied", GOLDEN / "base"])
def test_parts_of_blip2(name):
    found = summary.inspect(str(name))
    model = Blip2ForConditionalGeneration.from_pretrained(name)
    assert list(found["parts"]) == list(model.params) == ["queries", "vision", "qformer", "projection", "language"]
    parameters = sum(part["parameters"] for part in found["parts"].values())
    assert parameters == sum(w.size for w in model.parameters())
    assert found["parts"]["queries"]["parameters"] == model.params["queries"].size
    size, dtype = (2, "F16") if name == "demo" else (4, "F32")
    assert all(part["bytes"] == {dtype: size * part["parameters"]} for part in found["parts"].values())
    assert (found["model_type"], found["language"]) == ("blip-2", "t5" if "t5" in str(name) else "opt")


def test_parts_of_bridgetower(tmp_path):
    parts = summary.inspect("demo-bridgetower")["parts"]
    assert list(parts) == ["text", "vision", "cross-modal layers", "head mlm", "head itm", "head itc"]
    tensors = files.read(places.find("demo-bridgetower"))
    assert sum(part["parameters"] for part in parts.values()) == sum(t.array.size for t in tensors.values())
    BridgeTowerForMaskedLM.from_pretrained("demo-bridgetower").save_pretrained(tmp_path, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # heads that a file has not are no surprise here
        parts = summary.inspect(str(tmp_path))["parts"]
    assert list(parts) == ["text", "vision", "cross-modal layers", "head mlm"]
    assert {dtype for part in parts.values() for dtype in part["bytes"]} == {"BF16"}


def test_no_weight_is_read(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a weight was read")

    for reader in ("float32", "rows", "check_finite"):
        monkeypatch.setattr(files.Stored, reader, refuse)
    summary.inspect("demo")
    summary.inspect("demo-bridgetower")
    with pytest.raises(AssertionError):
        Blip2ForConditionalGeneration.from_pretrained("demo")


@pytest.mark.parametrize("name", ["demo", str(GOLDEN / "t5_tied")])
def test_a_checkpoint_of_which_only_the_small_files_are_there(name, tmp_path, monkeypatch):
    commit = "0" * 40
    home = tmp_path / "models--some--model"
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    shutil.copy(places.find(name) / "config.json", folder)
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, whole = summary.inspect("some/model"), summary.inspect(name)
    assert found["peak"] == whole["peak"]
    assert all(part["bytes"] == {} for part in found["parts"].values())
    shutil.copy(places.find(name) / "model.safetensors", folder)
    assert summary.inspect("some/model")["parts"] == whole["parts"]


def test_what_is_no_checkpoint(tmp_path):
    shutil.copytree(places.find("demo"), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    values["vision_config"]["hidden_size"] *= 2
    config.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="of the wrong shape"):
        summary.inspect(str(tmp_path / "model"))
    config.write_text(json.dumps(values | {"model_type": "clip"}))
    with pytest.raises(ConfigError, match="wanted \"blip-2\", found 'clip'"):
        summary.inspect(str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    config.write_text((places.find("demo") / "config.json").read_text())
    with pytest.raises(WeightsError, match="wanted model.safetensors"):
        summary.inspect(str(tmp_path / "model"))


# ---- the command -----------------------------------------------------------------------------------------------------
def test_the_command(capsys):
    assert main(["inspect", "demo"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert err == "" and ["queries", "1,024", "parameters", "2.05", "kB", "of", "F16"] in lines
    assert ["together", "2,301,440", "parameters"] in lines
    assert [line[0] for line in lines[-4:]] == list(MODES)


def test_the_command_in_json(capsys):
    assert main(["inspect", "demo-bridgetower", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == summary.inspect("demo-bridgetower")


def test_the_command_for_a_folder_that_is_not_there(capsys):
    assert main(["inspect", "nowhere"]) == 1
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith("minivl: checkpoint nowhere: wanted an existing folder") and err.count("\n") == 1
    )


# ---- measured --------------------------------------------------------------------------------------------------------
CAPTION = """
import sys
import numpy as np
from minivl.api.blip2 import Blip2ForConditionalGeneration
from minivl.processors.blip2 import Blip2Processor
Blip2Processor.from_pretrained("demo")
model = Blip2ForConditionalGeneration.from_pretrained(sys.argv[1], **{how})
size = model.config.vision_config.image_size
model.generate(np.zeros((1, 3, size, size), np.float32), max_new_tokens=3)
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def large(request, tmp_path_factory):
    """A model of 46 million parameters."""
    layers = dict(hidden_size=512, num_attention_heads=8, num_hidden_layers=4)
    config = Blip2Config(
        vision_config=dict(**layers, intermediate_size=2048, image_size=112, patch_size=14),
        qformer_config=dict(**layers, intermediate_size=1024, encoder_hidden_size=512),
        text_config=dict(**layers, model_type="opt", ffn_dim=2048, word_embed_proj_dim=512, vocab_size=16000),
    )
    folder = tmp_path_factory.mktemp("large")
    Blip2ForConditionalGeneration(config).save_pretrained(folder, dtype=request.param)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("mode", MODES)
def test_the_peak_is_near_the_estimate(large, mode):
    code = CAPTION.replace("{how}", repr(MODES[mode]))
    run = subprocess.run([sys.executable, "-c", code, str(large)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    measured, estimate = int(run.stdout), summary.inspect(str(large))["peak"][mode]
    print(f"{mode}: measured {measured / 1e6:.0f} MB, estimated {estimate / 1e6:.0f} MB")
    assert estimate / NEAR < measured < estimate * NEAR, f"{measured / 1e6:.0f} MB against {estimate / 1e6:.0f} MB"


def test_the_estimate_counts_what_it_says():
    """By hand, for a picture of 10 tokens and a text of 64 in float32."""
    found = summary.inspect(str(GOLDEN / "base"))
    T, C, inner, H, L, V = 64, 16, 16, 2, 2, 40
    text = 4 * (2 * T * C + max(6 * T * C + 3 * H * T * T, 3 * T * inner)) + 8 * L * T * C + 16 * V
    weights = 4 * sum(part["parameters"] for part in found["parts"].values())
    assert found["peak"]["float32"] == summary.BASE + weights + text
    assert np.all(np.diff([found["peak"][mode] for mode in ("float32", "bfloat16", "weight-only")]) < 0)
