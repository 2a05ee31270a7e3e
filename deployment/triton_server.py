"""One process of the real Triton server, and whether it answers as the bundle does."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployment.triton_environment import Environment
from recsys.errors import InputError, RunError
from recsys.serving import integrity, kserve, wire
from recsys.serving.bundle import Answer
from recsys.serving.transform import Transform
from recsys.serving.verify import difference, read_golden

MODELS = ("ensemble", "fused")
ADMIN_KEY = "recsys-admin"
"""Header whose value opens the restricted APIs over HTTP (over gRPC: ``triton-grpc-protocol-recsys-admin``)."""
RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
_STUB = "triton_python_backend_stub"
_MOST_ANSWER = 16 << 20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """Where the server listens."""

    host: str = "127.0.0.1"
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass
class Server:
    """The server's process.

    Attributes:
        environment: what it runs in.
        repository: what `deployment.export_triton` wrote.
        place: where it listens.
        log: file for what it prints; None: this process's standard error.
        admin: value of the header `ADMIN_KEY` that opens the restricted APIs.
    """

    environment: Environment
    repository: Path
    place: Place
    log: Path | None
    admin: str = field(repr=False)
    process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line of the server."""
        root, place = self.environment.server, self.place
        return [
            str(root / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            f"--backend-directory={root / 'backends'}",
            f"--cache-directory={root / 'caches'}",
            f"--http-address={place.host}",
            f"--http-port={place.http}",
            f"--grpc-address={place.host}",
            f"--grpc-port={place.grpc}",
            f"--metrics-address={place.host}",
            f"--metrics-port={place.metrics}",
            "--allow-gpu-metrics=false",
            "--exit-on-error=true",
            "--strict-readiness=true",
            "--disable-auto-complete-config",
            "--model-control-mode=none",
            "--exit-timeout-secs=10",
            f"--http-restricted-api={RESTRICTED}:{ADMIN_KEY}={self.admin}",
            f"--grpc-restricted-protocol={RESTRICTED}:{ADMIN_KEY}={self.admin}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory()}",
        ]

    def start(self) -> None:
        """Start the process; it is ready later.

        Raises:
            RunError: something else listens where it would; that must not be taken for it.
        """
        for port in (self.place.http, self.place.grpc, self.place.metrics):
            _require_free(self.place.host, port)
        output = self.log.open("ab") if self.log else None
        try:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment.variables(),
                stdin=subprocess.DEVNULL,
                stdout=output or 2,
                stderr=output or 2,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            if output:
                output.close()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def stubs(self) -> frozenset[int]:
        """Processes of the models that run now; those that ended or were stopped do not."""
        found = set()
        for place in Path("/proc").iterdir():
            try:
                # "pid (name) state parent ..."; a name may hold blanks and parentheses, what follows it may not.
                head, _, rest = (place / "stat").read_text().rpartition(")") if place.name.isdigit() else ("", "", "")
            except (OSError, UnicodeDecodeError):
                continue
            state, parent = [*rest.split(), "", ""][:2]
            if self.process and parent == str(self.process.pid) and state not in "ZXTt" and _STUB[:15] in head:
                found.add(int(place.name))
        return frozenset(found)

    def stop(self, seconds: float = 15.0) -> None:
        """End the process: politely, then not; what it left in shared memory is removed."""
        if self.process is None:
            return
        if self.alive():
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the stubs too, which a killed server leaves behind
        self.process.wait()
        self.process = None
        for left in Path("/dev/shm").glob(f"{self._shared_memory()}*"):
            left.unlink(missing_ok=True)

    def _shared_memory(self) -> str:
        return f"recsys_triton_{os.getpid()}_{self.place.http}_"


@dataclass(frozen=True)
class Trouble:
    """What a canary met; not `certain` where there was no answer, which a server that is only busy gives too."""

    reason: str
    certain: bool


class Canary:
    """Sends golden requests of the repository's bundle and compares the answers."""

    def __init__(self, repository: Path, place: Place) -> None:
        self.address = f"http://{place.host}:{place.http}"
        folder = bundle_of(repository)
        manifest = integrity.read_manifest(folder)
        transform = Transform.load(folder)
        self.fields = wire.fields_of(transform.raw, {c.source for c in transform.columns if c.once})
        self.requests, self.answers, self.k = read_golden(folder)
        self.tolerance = float(manifest["tolerance"])
        self._next = 0

    def check(self, seconds: float) -> Trouble | None:
        """Ask each model one golden request, the next at every call; what is not well, or None.

        Args:
            seconds: for the answers of all models together.
        """
        self._next = (self._next + 1) % len(self.requests)
        until = time.monotonic() + seconds
        for model in MODELS:
            trouble = self.ask(model, self._next, max(0.01, until - time.monotonic()))
            if trouble is not None:
                return Trouble(f"{model}: {trouble.reason}", trouble.certain)
        return None

    def ask(self, model: str, number: int, seconds: float) -> Trouble | None:
        """What is not right with the model's answer to one golden request, or None."""
        golden = self.requests[number]
        tensors = wire.to_tensors(self.fields, [golden["columns"]], self.k, golden["remove_seen"])
        try:
            found = wire.read_answers(self._infer(model, tensors, seconds), 1)[0]
        except urllib.error.HTTPError as error:
            return Trouble(f"status {error.code}", True)
        except OSError as error:
            return Trouble(f"no answer: {error}", False)
        except (wire.WireError, http.client.HTTPException) as error:
            return Trouble(f"no answer that can be read: {error}", True)
        reason = difference(Answer(*found), self.answers[number], self.tolerance)
        return Trouble(reason, True) if reason else None

    def _infer(self, model: str, tensors: dict[str, Any], seconds: float) -> dict[str, Any]:
        body, header = kserve.dump("inputs", tensors, True, {"parameters": {"binary_data_output": True}})
        headers = {"Content-Type": "application/octet-stream", kserve.HEADER: str(header)}
        request = urllib.request.Request(f"{self.address}/v2/models/{model}/infer", body, headers)
        # No proxy of the environment stands between this process and a server on the same machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=seconds) as answer:
            return kserve.load("outputs", answer.read(_MOST_ANSWER), answer.headers.get(kserve.HEADER)).tensors


def check_repository(repository: Path) -> dict[str, Any]:
    """The manifest of a repository of which nothing is changed, missing or added.

    Raises:
        InputError: what differs.
    """
    try:
        return integrity.check(repository)
    except integrity.BundleError as error:
        raise InputError(str(error)) from error


def bundle_of(repository: Path) -> Path:
    """The part of the bundle that the newest `fused` holds, golden requests included."""
    versions = [p for p in (repository / "fused").glob("*") if p.name.isdigit()]
    if not versions:
        raise RunError(f"{repository}: has no model 'fused'; `python -m deployment.export_triton` writes a repository")
    return max(versions, key=lambda p: int(p.name)) / "bundle"


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((host, port))
        except OSError as error:
            raise RunError(f"{host}:{port}: cannot be listened on ({error.strerror}); choose another port") from None


def _die_with_parent() -> None:
    """Have the kernel end the server when this process is gone, however that happened."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
