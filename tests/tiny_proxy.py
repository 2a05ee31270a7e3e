"""The reverse proxy of deployment/nginx for tests: the real nginx on a free port, and stand-ins for what is behind."""

import getpass
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from deployment.nginx_config import main
from tests.tiny_server import PATIENCE, Reply, wait_for
from tests.tiny_tls import Certificate

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
needs_nginx = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None,
    reason="needs nginx and openssl (Debian, Ubuntu: apt-get install nginx openssl)",
)
TOKENS = {"alice": "A" * 20 + "bcDE.+~/-_" + "f" * 20 + "==", "bob": "0123456789abcdef" * 4}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def write_tokens(file: Path, tokens: Mapping[str, str]) -> Path:
    file.write_text("# who may ask\n" + "".join(f"{name} {secret}\n" for name, secret in tokens.items()))
    file.chmod(0o600)
    return file


@dataclass
class Proxied:
    """An nginx that runs."""

    port: int
    folder: Path
    certificate: Path
    command: list[str]
    process: subprocess.Popen[bytes]

    def context(self, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificate))
        for name, version in versions.items():
            setattr(context, name, version)
        return context

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request over TLS; the path is sent as it is."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.context())
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def say(self, text: bytes, secure: bool = True) -> bytes:
        """What comes back for some bytes until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as plain:
            place = self.context().wrap_socket(plain, server_hostname="127.0.0.1") if secure else plain
            place.sendall(text)
            found = b""
            while piece := place.recv(65536):
                found += piece
            return found


def config(folder: Path, files: Certificate, tokens: Path, port: int, *more: str) -> list[str]:
    """Write a configuration as a person does; the command that starts nginx with it."""
    who = ["--user", getpass.getuser()] if os.geteuid() == 0 else []
    given = ["--out", str(folder), "--server-name", "localhost", "--server-name", "127.0.0.1", *who]
    given += ["--certificate", str(files.certificate), "--key", str(files.key), "--tokens", str(tokens)]
    assert main([*given, "--listen", f"127.0.0.1:{port}", *more]) == 0
    return [str(NGINX), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


@contextmanager
def proxying(folder: Path, files: Certificate, *more: str) -> Iterator[Proxied]:
    """Run nginx while the block runs; its tokens stand in FOLDER.tokens."""
    port, tokens = free_port(), write_tokens(folder.with_suffix(".tokens"), TOKENS)
    command = config(folder, files, tokens, port, *more)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, subprocess.run([*command, "-t"], capture_output=True, text=True).stderr
        yield Proxied(port, folder, files.certificate, command, process)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def answers(port: int) -> bool:
    with socket.socket() as place:
        return place.connect_ex(("127.0.0.1", port)) == 0


def call(proxy: Proxied, method: str, message: bytes = b"m", token: str | None = "alice", **options: Any) -> bytes:
    """The answer of a method of gRPC through the proxy; grpc.RpcError where there is none."""
    trusted = grpc.ssl_channel_credentials(proxy.certificate.read_bytes())
    given = [("authorization", f"Bearer {TOKENS.get(token, token)}")] if token else []
    given += options.pop("metadata", [])
    place = f"127.0.0.1:{proxy.port}"
    with grpc.secure_channel(place, trusted, options=[("grpc.enable_http_proxy", 0)], **options) as channel:
        answer: bytes = channel.unary_unary(method)(message, timeout=PATIENCE, metadata=given)
        return answer


@dataclass
class Recorder:
    """A stand-in for the endpoint: keeps what reaches it, and answers what the test says."""

    port: int
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[], tuple[int, bytes]] = lambda: (200, b"{}")


@contextmanager
def recording() -> Iterator[Recorder]:
    recorder = Recorder(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorder.requests.append((self.command, self.path, headers, body))
            status, answer = recorder.answer()
            with suppress(BrokenPipeError):  # who asked did not wait
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        do_POST = do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join(PATIENCE)
