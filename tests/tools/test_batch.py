"""minivl.batch.Captioner: a function of batches that can be sent to other processes."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minivl import batch
from minivl.batch import Captioner
from minivl.errors import ImageError, InputError, MinivlError

PICTURES = sorted(Path("tutorials/pictures").glob("*.png"))
NAMES = ["red_circle.png", "black_ring.png", "two_teal_rings.png"]
SAID = ["a small red circle", "a small black ring", "two teal rings"]
PATHS = [f"tutorials/pictures/{name}" for name in NAMES]


def column(*things):
    made = np.empty(len(things), object)
    made[:] = things
    return made


def array(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    "pictures",
    [
        lambda: np.array(PATHS),
        lambda: column(*PATHS),
        lambda: list(map(Path, PATHS)),
        lambda: column(*[Path(path).read_bytes() for path in PATHS]),
        lambda: [memoryview(Path(path).read_bytes()) for path in PATHS],
        lambda: np.stack([array(path) for path in PATHS]),
        lambda: column(PATHS[0], Path(PATHS[1]).read_bytes(), array(PATHS[2])),
    ],
    ids=["paths", "objects", "Paths", "bytes", "memoryviews", "array", "mixed"],
)
def test_pictures_of_every_kind_get_their_captions(pictures):
    given = {"image": pictures(), "id": np.arange(3)}
    before = dict(given)
    found = Captioner()(given)
    assert list(found["caption"]) == SAID and list(found["error"]) == [""] * 3
    assert found["id"] is given["id"] and found["image"] is given["image"] and given.keys() == before.keys()
    assert all(isinstance(found[name], np.ndarray) and found[name].shape == (3,) for name in ("caption", "error"))


def test_arguments_reach_the_model():
    assert list(Captioner(prompt="a photo of", max_new_tokens=2)({"image": PATHS})["caption"]) != SAID
    assert Captioner(stop="circle")({"image": PATHS[:1]})["caption"][0] == "a small red"
    assert Captioner(pictures="file", loading={"dtype": "float32"})({"file": PATHS})["caption"][2] == SAID[2]
    with pytest.raises(MinivlError, match="sideways"):
        Captioner(loading={"backend": "sideways"})({"image": PATHS})
    with pytest.raises(InputError, match="'image'.*'picture'"):
        Captioner()({"picture": PATHS})


def test_an_empty_batch_stays_empty():
    found = Captioner()({"image": np.array([], object)})
    assert found["caption"].shape == found["error"].shape == (0,)


def test_a_bad_picture_has_an_error_and_its_neighbours_have_captions():
    found = Captioner()({"image": [PATHS[0], "missing.png", b"no picture", None, PATHS[1]]})
    assert list(found["caption"]) == [SAID[0], "", "", "", SAID[1]]
    for place, word in (1, "missing.png"), (2, "picture 2 of the batch"), (3, "NoneType"):
        assert word in found["error"][place]
    assert found["error"][0] == found["error"][4] == ""


def test_a_caption_does_not_depend_on_the_batch():
    how = dict(do_sample=True, temperature=3.0, seed=4)
    together = Captioner(**how)({"image": PICTURES})["caption"]
    assert list(together) == [Captioner(**how)({"image": [path]})["caption"][0] for path in PICTURES]


def test_spark_is_given_a_function_of_one_column():
    predict = Captioner(pictures="unused").for_spark()
    assert list(predict(column(*PATHS))) == SAID
    with pytest.raises(ImageError, match="picture 1 of the batch"):
        predict(column(PATHS[0], b"no picture"))


def test_it_is_pickled_without_its_model_and_the_model_is_loaded_once(monkeypatch):
    loaded = []
    real = batch.ImageToText
    monkeypatch.setattr(batch, "ImageToText", lambda *a, **how: loaded.append(a) or real(*a, **how))
    batch._loaded.cache_clear()
    captioner = Captioner(max_new_tokens=30)
    captioner({"image": PATHS[:1]})
    sent = pickle.dumps(captioner)
    assert len(sent) < 1000
    for _ in range(3):
        assert list(pickle.loads(sent)({"image": PATHS})["caption"]) == SAID
    assert loaded == [("demo",)]


def caption_here(captioner, batch):
    return os.getpid(), captioner(batch)


def test_processes_that_start_from_nothing_share_the_work():
    batches = [(Captioner(), {"image": np.array(PATHS[i : i + 1])}) for i in range(3)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(caption_here, batches, chunksize=1)
    assert [found["caption"][0] for _, found in results] == SAID
    assert os.getpid() not in {process for process, _ in results}


def test_a_job_of_ray_with_two_workers():
    """Runs where ray is installed: pip install 'minivl[jobs]'."""
    pytest.importorskip("ray.data")
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "minivl.tools.jobs.with_ray", "tutorials/pictures"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    found = dict(line.split(": ") for line in result.stdout.splitlines() if line.count(": ") == 1)
    assert len(found) == len(PICTURES)
    assert [found[name] for name in NAMES] == SAID
