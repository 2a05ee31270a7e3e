"""`recsys serve` as a process: what it prints, what it refuses to start with, how it stops."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import server
from recsys.cli import main
from recsys.client import Client
from recsys.errors import ConfigError
from recsys.serving.bundle import Bundle
from recsys.serving.integrity import MANIFEST, seal, sha256_of
from recsys.serving.verify import GOLDEN, read_golden

PRINTS_HEAVY = """
import sys
from recsys.cli import main
status = main(sys.argv[1:])
print([m for m in ("torch", "polars", "pyarrow", "transformers", "onnx") if m in sys.modules])
sys.exit(status)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_answers_and_stops(folder: Path, bundle: Bundle, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PRINTS_HEAVY, "serve", "--bundle", str(folder), "--port", "0", "--name", "next"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"recsys-local: (http://127\.0\.0\.1:\d+)/v2/models/next \(\d+ items\); .*\n", line)
            assert found is not None, line
            requests, _, k = read_golden(folder)
            with Client(found.group(1), model="next") as client:
                assert client.ready()
                right = bundle.recommend([requests[0]["columns"]], k)[0].items
                assert client.recommend(requests[0]["columns"], k).items == right
                process.send_signal(number)
                rest = process.communicate(timeout=30)[0]
                assert not client.ready()
        finally:
            process.kill()
    assert rest == "recsys-local: stopped\n[]\n" and process.returncode == 0


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_a_bundle_with_one_byte_changed_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = bytearray((copy / "weights.data").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "weights.data").write_bytes(weights)
    assert "weights.data" in refusal(capsys, "--bundle", str(copy), "--port", "0")


def test_a_bundle_that_answers_otherwise_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    golden = json.loads((copy / GOLDEN).read_text())
    golden["answers"][1]["scores"][0] += 0.5
    (copy / GOLDEN).write_text(json.dumps(golden))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][GOLDEN] = {"sha256": sha256_of(copy / GOLDEN), "bytes": (copy / GOLDEN).stat().st_size}
    (copy / MANIFEST).write_text(seal(manifest))
    assert "golden request 2: place 1 has score" in refusal(capsys, "--bundle", str(copy), "--port", "0")


def test_flags_that_do_not_fit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = ["--bundle", str(folder)]
    assert "no such folder" in refusal(capsys, "--bundle", str(tmp_path / "none"))
    assert "limit 'kay' is unknown" in refusal(capsys, *bundle, "--limit", "kay=3")
    assert "expected letters, digits, - or _" in refusal(capsys, *bundle, "--name", "a/b")
    assert "1 or more" in refusal(capsys, *bundle, "--workers", "0")
    assert "threads 0; expected" in refusal(capsys, *bundle, "--threads", "0")
    assert "choose another --host or --port" in refusal(capsys, *bundle, "--port", "70000")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(ConfigError, match="needs uvicorn, which is not installed: pip install 'recsys.serve.'"):
        server.require_server()


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x", False)]
)
def test_which_addresses_are_this_machine_only(host: str, loopback: bool) -> None:
    assert server._is_loopback(host) is loopback
