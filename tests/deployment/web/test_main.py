"""The command line, mistakes first; then all of it, from a raw log to a page, before the real local server."""

import os
import socket

import pytest

from deployment.web.__main__ import main
from recsys.cleaning.profile import load_profile
from recsys.cleaning.rules import NO_RULES
from recsys.export import export
from tests.tiny_live import Process, log_line, shown
from tests.tiny_run import make_config, make_log_run, make_run, write_log
from tests.tiny_server import serving


@pytest.fixture
def run(tmp_path):
    """What of a run is read when nothing is computed."""
    folder = tmp_path / "run" / "cleaning"
    folder.mkdir(parents=True)
    (folder / "profile.yaml").write_text(load_profile("vectorworks").model_dump_json())
    NO_RULES.save(folder)
    return tmp_path / "run"


def refused(capsys, *arguments):
    """The one line that a command is refused with."""
    assert main([str(a) for a in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said
    return said.err.removeprefix("error: ").strip()


def test_mistakes_are_one_line_that_names_what_to_do(capsys, run, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(log_line("Wall", 0))
    logs = ("--logs", log)
    assert refused(capsys, "--run", run).startswith("give either --logs FILE_OR_FOLDER to follow, or --replay LOG")
    assert refused(capsys, *logs, "--replay", log, "--run", run).startswith("give either --logs")
    assert refused(capsys, *logs).startswith("give --bundle BUNDLE")
    assert "no such file or folder; name the folder" in refused(capsys, "--logs", tmp_path / "none", "--run", run)
    assert "no such file" in refused(capsys, "--replay", tmp_path / "none", "--run", run)
    assert "none: no such folder; give a run" in refused(capsys, *logs, "--run", tmp_path / "none")
    assert "cleaning/profile.yaml" in refused(capsys, *logs, "--run", tmp_path)
    assert "expected http" in refused(capsys, *logs, "--run", run, "--endpoint", "127.0.0.1:8000")
    assert "--port 70000" in refused(capsys, *logs, "--run", run, "--port", "70000")
    assert "--speed 0.0: expected a number above 0" in refused(capsys, *logs, "--run", run, "--speed", "0")
    assert "--deadline nan" in refused(capsys, *logs, "--run", run, "--deadline", "nan")
    assert "no manifest.json in it, so it is no bundle" in refused(capsys, *logs, "--run", run, "--bundle", run)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "column 'ts' is missing" in refused(capsys, "--logs", tmp_path / "other.csv", "--run", run)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(capsys, *logs, "--run", run, "--port", port)
        assert f"cannot listen on 127.0.0.1 port {port}" in line and line.endswith("choose another --host or --port")


def test_help_names_every_option_and_gives_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "python -m deployment.web --logs" in text
    for flag in ("--replay", "--speed", "--run", "--bundle", "--endpoint", "--host", "--port", "--allow-host"):
        assert flag in text


def test_from_a_raw_log_to_a_page_the_lists_are_those_of_recommend(tmp_path, capsys):
    small = make_config(backbone={"name": "sasrec", "hidden_size": 8, "num_layers": 1, "num_heads": 2})
    run = make_log_run(make_run(tmp_path / "made", config=small)[1], tmp_path / "run", dropped=["command 03"])
    bundle = export(run, tmp_path / "bundle").path
    capsys.readouterr()
    names = [f"command {n:02d}" for n in (1, 1, 2, 3, 5, 8, 13, 1, 4)]
    log = tmp_path / "log.csv"
    write_log(log, {"a": names, "b": names[::-1][:4]})
    rest = log.read_bytes()[-31:]
    os.truncate(log, log.stat().st_size - 31)
    with (bundle / "items.json").open("a") as items:
        items.write(" ")
    assert "items.json: has " in refused(capsys, "--logs", log, "--run", run, "--bundle", bundle)
    os.truncate(bundle / "items.json", (bundle / "items.json").stat().st_size - 1)
    with serving(bundle) as served:
        app = Process("--logs", log, "--run", run, "--bundle", bundle, "--endpoint", served.url)
        with app.page() as page:
            with log.open("ab") as file:
                file.write(rest)
            for session in shown(page, run, log, {"a": 7, "b": 4}).values():
                assert session["latency_ms"]["last"] > 0
        status, out, err = app.stop()
    assert (status, out, err) == (0, "live: stopped\n", "")
