"""Buckets are stable and keep a session's rows together; whoever runs the tasks, results and errors are the same."""

import os
import signal
import time
from pathlib import Path
from zlib import crc32

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.buckets import LOOP, Workers, bucket_column, bucket_of
from recsys.errors import ConfigError, InputError
from tests.local_ray import ray  # noqa: F401  (a fixture)


@given(st.lists(st.text(), max_size=30), st.integers(1, 9))
def test_every_row_gets_the_bucket_of_its_key(keys, buckets):
    column = bucket_column(pl.Series(keys, dtype=pl.String), buckets)
    assert column.to_list() == [crc32(k.encode()) % buckets for k in keys]


def test_the_hash_never_changes():
    assert [bucket_of(k, 1000) for k in ("", "a", "session 1", "größe")] == [0, 907, 611, 153]


def test_numbers_and_nulls_have_buckets_too():
    one, nothing = bucket_of("1", 50), bucket_of("", 50)
    assert bucket_column(pl.Series([1, None, 1]), 50).to_list() == [one, nothing, one]


# Tasks. Other processes find them by name, so they stand at the top level of this module.


def slow_first(number: int) -> tuple[int, int]:
    """The earlier a task, the longer it takes: results come in the wrong order unless someone sees to it."""
    time.sleep(max(0, 4 - number) * 0.05)
    return number, os.getpid()


def fail_at_two(number: int) -> int:
    if number == 2:
        raise InputError("log.csv: row 7: time 'soon' in column 'ts'; expected '2025-01-01'")
    return number


def divide(number: int) -> float:
    return 1 / number


def die_once(mark: Path) -> int:
    """Killed from outside in mid-task, the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return len(mark.name)


def die(mark: Path) -> int:
    if mark.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return len(mark.name)


ENGINES = ["loop", "processes", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture(params=ENGINES)
def workers(request) -> Workers:
    if request.param == "ray":
        request.getfixturevalue("ray")
    return Workers(request.param, 2)


def test_results_come_in_the_order_of_the_tasks(workers):
    found = list(workers.run(slow_first, range(11)))
    assert [number for number, _ in found] == list(range(11))
    others = {process for _, process in found}
    assert (others == {os.getpid()}) == (workers.engine == "loop")
    assert len(others) <= 2


def test_an_error_of_a_task_arrives_as_it_was_raised(workers):
    results = workers.run(fail_at_two, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError) as caught:
        next(results)
    assert type(caught.value) is InputError
    assert str(caught.value) == "log.csv: row 7: time 'soon' in column 'ts'; expected '2025-01-01'"


def test_an_error_that_is_none_of_ours_arrives_too(workers):
    with pytest.raises(ZeroDivisionError) as caught:
        list(workers.run(divide, [1, 0, 2]))
    assert str(caught.value) == "division by zero"


def test_one_task_needs_no_other_process(workers):
    assert list(workers.run(slow_first, [9])) == [(9, os.getpid())]
    assert list(workers.run(slow_first, [])) == []


def test_threads_of_the_processes_are_shared_out_and_nothing_stays_behind(monkeypatch):
    monkeypatch.delenv("POLARS_MAX_THREADS", raising=False)
    results = Workers("processes", 2).run(os.getenv, ["POLARS_MAX_THREADS", "POLARS_MAX_THREADS", "NO_SUCH"])
    expected = str(max(1, (os.cpu_count() or 1) // 2))
    assert list(results) == [expected, expected, None]
    assert "POLARS_MAX_THREADS" not in os.environ


def test_a_process_that_is_killed_is_one_line(tmp_path):
    tasks = [tmp_path / name for name in ("a", "dies", "b", "c")]
    with pytest.raises(ConfigError, match="worker was killed from outside.*fewer --workers") as caught:
        list(Workers("processes", 2).run(die, tasks))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_ray_worker_that_is_killed_is_replaced_and_its_task_run_again(tmp_path):
    tasks = [tmp_path / ("x" * n) for n in range(1, 6)]
    assert list(Workers("ray", 2).run(die_once, tasks)) == [1, 2, 3, 4, 5]
    assert all(task.exists() for task in tasks)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_ray_task_that_kills_every_worker_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="worker was killed from outside") as caught:
        list(Workers("ray", 2).run(die, [tmp_path / "a", tmp_path / "dies"]))
    assert "\n" not in str(caught.value)


def test_a_loop_takes_up_a_task_only_when_its_result_is_wanted():
    taken = []
    results = LOOP.run(taken.append, [1, 2, 3])
    next(results)
    assert taken == [1]
