"""Counters of the local server in the text form that Prometheus reads."""

from bisect import bisect_left
from collections import Counter

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets, in seconds."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts inference requests. Not for several threads: the server calls it from its event loop."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        self.sessions = 0
        self.seconds = 0.0
        self.running = 0
        self._buckets = [0] * (len(BOUNDS) + 1)

    def add(self, status: int, seconds: float, sessions: int) -> None:
        """Count one inference request that was answered."""
        self.answers[status] += 1
        self.sessions += sessions
        self.seconds += seconds
        self._buckets[bisect_left(BOUNDS, seconds)] += 1

    def text(self) -> str:
        """All of them."""
        codes = [f'{{code="{code}"}} {count}' for code, count in sorted(self.answers.items())]
        lines = _family("recsys_requests_total", "counter", "Inference requests by status.", codes)
        lines += _family("recsys_sessions_total", "counter", "Sessions answered.", [f" {self.sessions}"])
        lines += _family("recsys_requests_running", "gauge", "Inference requests under way.", [f" {self.running}"])
        lines += _family("recsys_request_seconds", "histogram", "Time from a request's head to its answer.", [])
        total = 0
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            lines.append(f'recsys_request_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"recsys_request_seconds_sum {self.seconds:.6f}", f"recsys_request_seconds_count {total}"]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, what: str, samples: list[str]) -> list[str]:
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *(f"{name}{sample}" for sample in samples)]
