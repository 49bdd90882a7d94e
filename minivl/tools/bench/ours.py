"""Our side of a whole process: load a folder, run it, tell what it took.   python -m minivl.tools.bench.ours JSON"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

start = time.perf_counter()
import numpy as np  # noqa: E402

from minivl.api.blip2 import Blip2ForConditionalGeneration  # noqa: E402
from minivl.tools.bench.status import memory  # noqa: E402


def main() -> None:
    given = json.loads(sys.argv[1])
    pixels, ids = np.load(given["pixels"]), np.array([given["ids"]])
    imported = time.perf_counter()
    model: Any = Blip2ForConditionalGeneration.from_pretrained(given["folder"], **given["how"])
    marks = [start, imported, time.perf_counter()]
    if given["task"] == "forward":
        output = model(pixels, ids).logits[:, -1]
        marks.append(time.perf_counter())
    else:
        for count in (1, 1, 1 + given["new"]):
            output = model.generate(pixels, max_new_tokens=count, min_new_tokens=count)
            marks.append(time.perf_counter())
    np.save(given["output"], output)
    weights = sum(weight.nbytes for weight in model.parameters())
    print(json.dumps({"marks": marks, "weights": weights, **memory()}))


if __name__ == "__main__":
    main()
