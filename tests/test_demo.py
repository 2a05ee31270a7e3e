"""`scripts/demo` from end to end, as a person runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    *("data_processing.simulate", "data_processing.reconstruct", "data_processing.filter"),
    *("recsys preprocess", "recsys train", "recsys evaluate", "recsys report"),
)


def run_demo(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.demo", *(str(f) for f in flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run_demo("--quick", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr

    # Every stage is a command that is printed before it runs.
    commands = [line for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert len(commands) == len(STAGES)
    assert all(stage in line for stage, line in zip(STAGES, commands, strict=True))

    table, _, examples = done.stdout.partition("Five test histories")
    for label in ("model", "popularity", "Markov-1", "Markov-2", "last item"):
        assert re.search(rf"^  {label}  .*\d\.\d{{4}}", table, flags=re.MULTILINE), label
    assert len(re.findall(r"^session \S+, after [\d,]+ events: ", examples, flags=re.MULTILINE)) == 5
    assert len(re.findall(r"^    next: \S", examples, flags=re.MULTILINE)) == 5
    assert re.findall(r"^  [* ] (\d)\. +[\d.]+%  \S", examples, flags=re.MULTILINE) == list("12345") * 5

    report = out / "run" / "report.html"
    assert f"Report:  {report}" in examples
    assert report.stat().st_size > 10_000
    positions = json.loads((out / "run" / "metrics.json").read_text())["splits"]["test"]["positions"]
    # 60 users are few, but what is planted in the logs must be learned better than how often commands occur.
    assert positions["all"]["model"]["recall@10"] > positions["all"]["popularity"]["recall@10"]
    assert sorted(path.name for path in out.iterdir()) == ["dataset", "events", "reconstructed", "run", "simulated"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_on_a_log_of_ones_own(tmp_path: Path) -> None:
    """Visual Studio rows in one gzip file; the stages of an earlier demo in the same folder are replaced."""
    import polars as pl

    rows = []
    for user in range(1, 13):
        for session in range(4):
            for event in range(12):
                minute, second = divmod(event * 7, 60)
                time = f"2014-02-{10 + session} 09:{minute:02d}:{second:02d}"
                rows.append((user, time, f"Edit.Step{(event + user + session) % 7}"))
    log = tmp_path / "log.csv"
    pl.DataFrame(rows, schema=["developer_id", "timestamp", "message"], orient="row").write_csv(log)
    subprocess.run(["gzip", str(log)], check=True)
    config = tmp_path / "small.yaml"
    text = (ROOT / "configs" / "visual_studio.yaml").read_text()
    config.write_text(re.sub(r"epochs: \d+", "epochs: 3", text))
    out = tmp_path / "out"
    (out / "simulated").mkdir(parents=True)
    flags = ("--logs", tmp_path / "log.csv.gz", "--profile", "visual_studio", "--config", config, "--out", out)
    done = run_demo(*flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "data_processing.simulate" not in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["dataset", "events", "reconstructed", "run"]
    assert "report.html" in done.stdout
