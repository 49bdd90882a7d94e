"""A download that is killed at any moment, from a Hub on this machine: the cache holds a whole model or none.

The server speaks as much of the Hub's language as its client asks for, and sends slowly.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minivl import Blip2ForConditionalGeneration
from minivl.errors import WeightsError
from minivl.weights import places

pytest.importorskip("huggingface_hub")
ID, COMMIT = "someone/tiny", "c" * 40
FILES = {path.name: path.read_bytes() for path in sorted(places.find("demo").iterdir())}


class Hub(BaseHTTPRequestHandler):
    """A repository with the files of the tiny model."""

    protocol_version = "HTTP/1.1"
    pause = 0.0  # seconds after each piece of a file

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{ID}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": sha256(data).hexdigest()[:40]}
                for name, data in FILES.items()
            ]
            self.answer(json.dumps(entries).encode(), "application/json", body)
        elif path.startswith(f"/api/models/{ID}"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": ID, "sha": COMMIT, "siblings": siblings}).encode(), "application/json", body)
        elif path.startswith(f"/{ID}/resolve/") and path.rpartition("/")[2] in FILES:
            self.answer(FILES[path.rpartition("/")[2]], "application/octet-stream", body)
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, data, kind, body):
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        for start in range(begin, len(data) if body else begin, 2**16):
            try:
                self.wfile.write(data[start : start + 2**16])
            except OSError:  # the client has been killed
                return
            time.sleep(self.pause)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


CHILD = f"""
import sys
import huggingface_hub
from minivl import Blip2ForConditionalGeneration
print("begin", flush=True)
Blip2ForConditionalGeneration.from_pretrained({ID!r}, cache_dir=sys.argv[1])
print("done", flush=True)
"""


def start(endpoint, cache):
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        environment.pop(variable, None)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", CHILD, str(cache)], env=environment, **pipes)


def in_cache(cache):
    """The model of the cache, or None where it is refused as incomplete."""
    try:
        return Blip2ForConditionalGeneration.from_pretrained(ID, cache_dir=cache, local_files_only=True)
    except WeightsError as error:
        assert "local_files_only is set" in str(error), error
        return None


def is_the_demo(model):
    demo = Blip2ForConditionalGeneration.from_pretrained("demo")
    return all(np.array_equal(a, b) for a, b in zip(model.parameters(), demo.parameters(), strict=True))


@pytest.mark.skipif(os.name != "posix", reason="processes are killed as on POSIX")
def test_a_download_that_is_killed_leaves_a_whole_model_or_none(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "pause", 0.005)
    dice, refused = random.Random(0), 0
    for _ in range(3):
        process = start(hub, tmp_path)
        assert process.stdout.readline() == "begin\n"
        time.sleep(dice.uniform(0.02, 0.35))
        process.kill()
        process.communicate()
        model = in_cache(tmp_path)
        refused += model is None
        assert model is None or is_the_demo(model)
    assert refused  # else nothing was interrupted
    monkeypatch.setattr(Hub, "pause", 0.0)
    process = start(hub, tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "begin\ndone\n"), err
    assert is_the_demo(in_cache(tmp_path))


def test_two_processes_that_download_into_one_cache(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "pause", 0.001)
    both = [start(hub, tmp_path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "begin\ndone\n"), err
    assert is_the_demo(in_cache(tmp_path))
