"""Configurations of the reverse proxy: the real nginx takes them, and nothing gets into them that does not belong."""

import subprocess
from pathlib import Path

import pytest

from deployment.nginx_config import main
from tests.tiny_proxy import TOKENS, config, free_port, needs_nginx, write_tokens
from tests.tiny_tls import Certificate, make_certificate

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_nginx_finds_nothing_to_say(files: Certificate, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens", TOKENS)
    more = ["--grpc-upstream", "[::1]:8001", "--live-upstream", "localhost:8800", "--model", "fused", "--model", "a.b"]
    more += ["--server-name", "::1", "--server-name", "recsys.example.com", "--listen", f"[::]:{free_port()}"]
    least = config(tmp_path / "least", files, tokens, free_port())
    most = config(tmp_path / "with all there is", files, tokens, free_port(), *more)
    for command in (least, most):
        done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 2 and lines[0].endswith("syntax is ok") and lines[1].endswith("test is successful")


BAD = [
    ("--server-name", "a b", "expected a host name"),
    ("--server-name", "a;", "expected a host name"),
    ("--server-name", "*.example.com", "expected a host name"),
    ("--server-name", "~^.*$", "expected a host name"),
    ("--server-name", "_", "expected a host name"),
    ("--server-name", "a\n", "expected a host name"),
    ("--server-name", "ä.example", "expected a host name"),
    ("--server-name", "fe80::1%eth0;", "expected a host name"),
    ("--upstream", "127.0.0.1", "expected HOST:PORT"),
    ("--upstream", "127.0.0.1:0", "expected HOST:PORT"),
    ("--upstream", "127.0.0.1:65536", "expected HOST:PORT"),
    ("--upstream", "127.0.0.1:8000;} server {", "expected HOST:PORT"),
    ("--upstream", "unix:/var/run/x:8000", "expected HOST:PORT"),
    ("--upstream", "http://127.0.0.1:8000", "expected HOST:PORT"),
    ("--upstream", "::1:8000", "expected HOST:PORT"),
    ("--upstream", "a:8000 backup", "expected HOST:PORT"),
    ("--upstream", "a:٨٠", "expected HOST:PORT"),
    ("--grpc-upstream", "$host:1", "expected HOST:PORT"),
    ("--live-upstream", "a:1\n", "expected HOST:PORT"),
    ("--model", "a/b", "expected letters"),
    ("--model", "..", "expected letters"),
    ("--model", "a..b", "expected letters"),
    ("--model", "a{", "expected letters"),
    ("--model", "a\n", "expected letters"),
    ("--listen", "443 ssl", "expected"),
    ("--listen", "example.com:443", "expected a port, or an IP address"),
    ("--listen", "0", "expected"),
    ("--state", 'a";b', "a path may hold"),
    ("--state", "a$b", "a path may hold"),
    ("--state", "a\nb", "a path may hold"),
    ("--state", "a\\", "a path may hold"),
    ("--out", "a{b", "a path may hold"),
    ("--user", "nobody;", "no such account"),
    ("--user", "no-such-account-here", "no such account"),
    ("--rate", "0", "from 1 to"),
    ("--connections", "-1", "from 1 to"),
    ("--body-bytes", "0", "from 1 to"),
    ("--body-seconds", "99999", "from 1 to"),
    ("--certificate", "none.pem", "no such file"),
    ("--key", "none.pem", "no such file"),
    ("--tokens", "none.txt", "No such file"),
]


@pytest.mark.parametrize(("flag", "value", "reason"), BAD)
def test_values_that_would_not_stay_in_their_place_are_refused(
    flag: str, value: str, reason: str, files: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "--out": str(tmp_path / "out"),
        "--server-name": "localhost",
        "--certificate": str(files.certificate),
        "--key": str(files.key),
        "--tokens": str(write_tokens(tmp_path / "tokens", TOKENS)),
        "--user": "root",
    } | {flag: str(tmp_path / value) if flag in ("--out", "--state", "--certificate", "--key") else value}
    assert main([f"{name}={value}" for name, value in values.items()]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and reason in told
    assert [p.name for p in tmp_path.iterdir()] == ["tokens"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 tokens"),
        ("# nothing\n\n", "0 tokens"),
        ("alice", "line 1: a token has 32"),
        (f"alice {'a' * 31}", "line 1: a token has 32"),
        (f"alice {'a' * 513}", "line 1: a token has 32"),
        (f"alice {'a' * 40} more", "line 1: expected NAME TOKEN"),
        (f'al"ice {"a" * 40}', "line 1: expected NAME TOKEN"),
        (f"alice {'a' * 40};", "line 1: a token has"),
        (f'alice {"a" * 40}"', "line 1: a token has"),
        (f"alice {'a' * 40}.*", "line 1: a token has"),
        (f"alice {'ä' * 40}", "line 1: a token has"),
        (f"alice {'a' * 40}\nbob {'a' * 40}", "line 2: this token is that of 'alice' too"),
    ],
)
def test_token_files_that_cannot_be_read(
    text: str, reason: str, files: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(text)
    tokens.chmod(0o600)
    given = ["--out", str(tmp_path / "out"), "--server-name", "localhost", "--user", "root"]
    given += ["--certificate", str(files.certificate), "--key", str(files.key), "--tokens", str(tokens)]
    assert main(given) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1 and "a" * 20 not in told


def test_secrets_that_all_may_read_and_keys_of_another_are_refused(
    files: Certificate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = write_tokens(tmp_path / "tokens", TOKENS)
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    given = ["--out", str(tmp_path / "out"), "--server-name", "localhost", "--user", "root", "--tokens", str(tokens)]
    assert main([*given, "--certificate", str(files.certificate), "--key", str(other.key)]) == 2
    assert "not a certificate and its key" in capsys.readouterr().err
    for file in (tokens, other.key):
        file.chmod(0o644)
        assert main([*given, "--certificate", str(other.certificate), "--key", str(other.key)]) == 2
        assert f"chmod 600 {file}" in capsys.readouterr().err
        file.chmod(0o600)
    assert not (tmp_path / "out").exists()
