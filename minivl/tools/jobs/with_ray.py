"""Captions of a folder by two workers of Ray, each with a model of its own; an example to start from.

    pip install 'minivl[jobs]'
    python -m minivl.tools.jobs.with_ray tutorials/pictures

Workers are processes, on this machine or on others: what they are sent is a Captioner's few words, and then batches.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ...batch import Captioner


def main(folder: str) -> None:
    """Print `name: caption` for each picture, in the order of their names."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        pictures = ray.data.read_binary_files(folder, include_paths=True, override_num_blocks=4)
        captioner = Captioner("demo", pictures="bytes")
        captions = pictures.map_batches(captioner, batch_size=4, concurrency=2).drop_columns(["bytes"])
        for row in sorted(captions.take_all(), key=lambda row: row["path"]):
            print(f"{Path(row['path']).name}: {row['error'] or row['caption']}")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
