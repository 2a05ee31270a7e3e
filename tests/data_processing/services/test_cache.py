"""The cache: nothing is lost when a process is killed, nothing is mixed up."""

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_processing.services.cache import FILE_NAME, Cache, key
from recsys.errors import InputError

parts = st.lists(st.none() | st.text(max_size=6), max_size=4)


def test_answers_outlive_the_object(tmp_path):
    with Cache(tmp_path / "new" / "folder") as cache:
        cache.put({key("s", str(i)): str(i).encode() for i in range(2000)})
        cache.put({key("s", "0"): b"replaced"})
    assert (tmp_path / "new" / "folder" / FILE_NAME).is_file()
    with Cache(tmp_path / "new" / "folder") as cache:
        wanted = [key("s", str(i)) for i in range(0, 3000)]
        found = cache.get(wanted)
        assert len(cache) == len(found) == 2000
        assert found[wanted[1999]] == b"1999" and found[wanted[0]] == b"replaced" and wanted[2000] not in found


def test_a_file_may_be_named(tmp_path):
    with Cache(tmp_path / "my.sqlite") as cache:
        assert cache.path == tmp_path / "my.sqlite" and len(cache) == 0


@given(parts, parts)
def test_keys_differ_where_the_question_does(one, other):
    assert (key("s", *one) == key("s", *other)) == (one == other)
    assert key("s", *one) != key("t", *one)


def test_a_killed_process_leaves_whole_answers(tmp_path):
    """Killed in the middle of writing without an end: what it reported as written is there, and in whole batches."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from data_processing.services.cache import Cache, key\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "for batch in range(10**9):\n"
        "    cache.put({key('s', str(batch), str(i)): bytes(2000) for i in range(50)})\n"
        "    print(batch, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = -1
    while reported < 20:
        reported = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    reported = int(rest[-1]) if rest else reported
    with Cache(tmp_path) as cache:
        assert cache._run("PRAGMA integrity_check", ()) == [("ok",)]
        for batch in range(reported + 2):
            found = cache.get([key("s", str(batch), str(i)) for i in range(50)])
            assert len(found) == 50 or (batch == reported + 1 and not found)


def test_a_failed_or_interrupted_put_leaves_nothing(tmp_path):
    def interrupted():
        yield key("s", "0"), b"x"
        raise KeyboardInterrupt

    with Cache(tmp_path) as cache:
        with pytest.raises(KeyboardInterrupt):
            cache.put(SimpleNamespace(items=interrupted))
        assert len(cache) == 0
        cache._database.execute("PRAGMA query_only = 1")
        with pytest.raises(InputError, match=rf"{FILE_NAME}: the cache .* failed \(attempt to write"):
            cache.put({key("s", "0"): b"x"})
        cache._database.execute("PRAGMA query_only = 0")
        cache.put({key("s", "0"): b"x"})
        assert len(cache) == 1


def test_several_make_and_fill_a_cache_at_the_same_time(tmp_path):
    failures = []

    def write(folder, name, together):
        together.wait()
        try:
            with Cache(folder) as cache:
                for number in range(5):
                    cache.put({key(name, str(number)): b"x"})
        except InputError as error:
            failures.append(error)

    for attempt in range(40):
        together = threading.Barrier(4)
        folder = tmp_path / str(attempt)
        threads = [threading.Thread(target=write, args=(folder, name, together)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with Cache(folder) as cache:
            assert not failures and len(cache) == 20


@pytest.mark.parametrize("content", [b"this is no database " * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_file_that_is_something_else(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InputError, match=rf"{FILE_NAME}: not a usable cache .*delete it"):
        Cache(tmp_path)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a usable cache"):
        Cache(tmp_path / "file")
