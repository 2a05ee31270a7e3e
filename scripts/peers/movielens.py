"""MovieLens-100K for `bench_train.py --data ml-100k`, out of the wheel of RecBole, which ships it as an example.

GroupLens lets the data be used for research and not be passed on, so it is fetched by pip into the peers' environment
and never into the repository.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import InputError
from recsys.runtime import atomic_file

WHEEL = "recbole==1.2.1"
MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"
COLUMNS = {"user_id:token": "user", "item_id:token": "item", "timestamp:float": "time"}


def fetch(folder: Path) -> Path:
    """The ratings' file under `folder`, downloaded unless it is there.

    Raises:
        InputError: pip cannot download the wheel.
    """
    path = folder / "data" / Path(MEMBER).name
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, WHEEL]
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            reason = " ".join(done.stderr.split())[-300:]
            raise InputError(f"--data ml-100k: {WHEEL} cannot be downloaded: {reason}; see pip's settings")
        with zipfile.ZipFile(wheels[0]) as wheel, atomic_file(path) as target:
            target.write_bytes(wheel.read(MEMBER))
    return path


def read(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """(offsets ``[users + 1]``, item of each event from 0 on, number of items); a user's events in order of time.

    Equal times stay in the file's order. Every rating is an event; users and items are all kept.
    """
    table = pl.read_csv(path, separator="\t", columns=list(COLUMNS)).rename(COLUMNS)
    table = table.sort("user", "time", maintain_order=True)
    items = table.get_column("item").unique().sort()
    ids = table.get_column("item").to_numpy()
    counts = table.group_by("user", maintain_order=True).len().get_column("len").to_numpy()
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return offsets, np.searchsorted(items.to_numpy(), ids).astype(np.int32), len(items)
