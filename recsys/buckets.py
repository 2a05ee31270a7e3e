"""Session-hash buckets: rows of one session meet in one bucket, so memory is bounded by a bucket.

The hash is stable over processes, machines and versions of Polars (it is ours, not the library's). The buckets are
independent tasks: a loop, threads, a pool of processes or Ray runs the same function over them.
"""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar
from zlib import crc32

import numpy as np
import polars as pl

from recsys.errors import ConfigError

Task = TypeVar("Task")
Result = TypeVar("Result")
Engine = Literal["loop", "threads", "processes", "ray"]
_DIED = "a worker was killed from outside, perhaps for want of memory; run again with fewer --workers"
_AHEAD = 2  # tasks handed out per worker: enough that none waits, few enough that results do not pile up


def bucket_of(key: str, buckets: int) -> int:
    """The bucket of one key: CRC-32 of its UTF-8 bytes, modulo `buckets`."""
    return crc32(key.encode()) % buckets


def bucket_column(keys: pl.Series, buckets: int) -> pl.Series:
    """The bucket of every row; each distinct key is hashed once. Null counts as the empty string."""
    text = keys.cast(pl.String).fill_null("")
    distinct = text.unique()
    numbers = np.fromiter((bucket_of(k, buckets) for k in distinct), dtype=np.uint32, count=len(distinct))
    return text.replace_strict(distinct, pl.Series(numbers), return_dtype=pl.UInt32).alias("bucket")


@dataclass(frozen=True)
class Workers:
    """Who runs independent tasks.

    loop: this process, one after the other; threads: of this process, for tasks that leave the interpreter's lock
    alone; processes: a pool on this machine; ray: a Ray cluster (the one that
    ``RAY_ADDRESS`` names, else a local one of `count` workers), whose machines must share the folders.
    """

    engine: Engine = "loop"
    count: int = 2  # of threads or processes, or of CPUs of a local Ray

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Results in the order of `tasks`, whatever the order in which they finish.

        A task must give the same when it is run again: Ray does so when a worker dies.

        Args:
            function: at the top level of a module, so that other processes find it; or `functools.partial` of one with
                what all tasks share.
            tasks: picklable descriptions (paths and settings), not data.
        """
        if self.engine == "loop" or len(tasks) <= 1:
            return map(function, tasks)
        if self.engine == "threads":
            return _in_threads(function, tasks, self.count)
        if self.engine == "processes":
            return _in_processes(function, tasks, self.count)
        return _on_ray(function, tasks, self.count)


LOOP = Workers()


def _in_threads(function: Callable[[Task], Result], tasks: Sequence[Task], count: int) -> Iterator[Result]:
    with ThreadPoolExecutor(count) as pool:
        yield from _in_order(pool, function, tasks, count)


def _in_order(
    pool: Executor, function: Callable[[Task], Result], tasks: Sequence[Task], count: int
) -> Iterator[Result]:
    """Results in the order of `tasks`, a few of which are handed out ahead."""
    waiting = iter(tasks)
    running = deque(pool.submit(function, task) for task in islice(waiting, count * _AHEAD))
    try:
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(function, task) for task in islice(waiting, 1))
            yield result
    finally:
        for future in running:
            future.cancel()


def _in_processes(function: Callable[[Task], Result], tasks: Sequence[Task], count: int) -> Iterator[Result]:
    # Not forked: the threads of Polars do not survive a fork.
    context = multiprocessing.get_context("spawn")
    threads = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = threads or str(max(1, (os.cpu_count() or 1) // count))
    try:
        with ProcessPoolExecutor(min(count, len(tasks)), mp_context=context) as pool:
            try:
                yield from _in_order(pool, function, tasks, count)
            except BrokenProcessPool as error:
                raise ConfigError(_DIED) from error
    finally:
        if threads is None:
            del os.environ["POLARS_MAX_THREADS"]


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task], count: int) -> Iterator[Result]:
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        # Workers find the code where this process does; processes that Ray starts do not inherit sys.path.
        paths = os.pathsep.join(p for p in sys.path if p)
        cluster = None if os.environ.get("RAY_ADDRESS") else count
        ray.init(
            num_cpus=cluster,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
    try:
        # What all tasks share goes to the cluster once.
        plain, shared = (function.func, function.args) if isinstance(function, partial) else (function, ())
        references = [ray.put(value) for value in shared]
        remote = ray.remote(num_cpus=1, max_retries=3)(plain)
        workers = max(count, int(ray.cluster_resources().get("CPU", 0)))
        waiting = iter(tasks)
        running = deque(remote.remote(*references, task) for task in islice(waiting, workers * _AHEAD))
        while running:
            result = ray.get(running.popleft())
            running.extend(remote.remote(*references, task) for task in islice(waiting, 1))
            yield result
    except ray.exceptions.RayTaskError as error:  # whose text is a traceback; the cause is what the task raised
        raise error.cause from error
    except ray.exceptions.WorkerCrashedError as error:
        raise ConfigError(_DIED) from error
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    # Ray tells its makers how it is used unless told not to; nobody expects that of a tool for private logs.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine 'ray' needs Ray: pip install 'recsys[ray]', or choose 'processes'") from error
    return ray
