"""`scripts/demo` from end to end, as a person runs it."""

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import polars as pl
import pytest
import yaml

from scripts import demo

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    *("data_processing.simulate", "data_processing.run"),
    *("recsys preprocess", "recsys train", "recsys evaluate", "recsys recommend", "recsys report"),
)


def smaller_config(folder: Path) -> Path:
    """configs/vectorworks.yaml with a model that trains in seconds."""
    values = yaml.safe_load((ROOT / "configs" / "vectorworks.yaml").read_text(encoding="utf-8"))
    values["model"]["inputs"] |= {"embedding_size": 16, "fusion_size": 32, "fusion_heads": 2}
    values["model"]["backbone"] |= {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64}
    (folder / "vectorworks.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "vectorworks.yaml"


def run_demo(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.demo", *(str(f) for f in flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run_demo("--quick", "--config", smaller_config(tmp_path), "--out", out)
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
    assert sorted(path.name for path in out.iterdir()) == ["cleaned", "dataset", "run", "simulated"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_on_logs_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tar of Visual Studio tables and a list of commands; an earlier demo in the same folder is replaced."""
    logs = tmp_path / "logs"
    logs.mkdir()
    commands = [f"{'Edit' if n % 2 else 'Build'}.Step{n}" for n in range(7)]
    for user in range(1, 16):
        rows = ["developer_id,timestamp,message"]
        for session in range(4):
            for event in range(12):
                time = f"2014-02-{10 + session} 09:{event:02d}:{user:02d}"
                rows += [f"{user},{time},{commands[(event + user + session) % 7]}"] * (1 + event % 2)
        (logs / f"user{user}.csv").write_text("\n".join(rows) + "\n")
    rows = ["message,category", *(f"{name},{name.partition('.')[0].lower()}" for name in commands)]
    (logs / "MessageList.csv").write_text("\n".join(rows) + "\n")
    archive = tmp_path / "logs.tar.xz"
    with tarfile.open(archive, "w:xz") as packed:
        packed.add(logs, arcname=".")
    out = tmp_path / "out"
    (out / "simulated").mkdir(parents=True)

    # In this process: that a person can start it in one of its own is the test above.
    assert demo.main(["--quick", "--logs", str(archive), "--profile", "visual_studio", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "data_processing.simulate" not in printed
    assert sorted(path.name for path in out.iterdir()) == ["cleaned", "dataset", "run"]
    assert f"Report:  {out / 'run' / 'report.html'}" in printed
    report = json.loads((out / "cleaned" / "filter" / "report.json").read_text())
    assert report["stages"][0]["rows_in"] == 15 * 4 * 18
    assert report["result"]["events"] == 15 * 4 * 12  # repeats collapsed
    counts = json.loads((out / "run" / "metrics.json").read_text())["protocol"]["counts"]["test"]
    assert counts["groups"] == 3  # users 1, 6 and 11 of the numerically sorted ids
    groups = pl.read_parquet(out / "run" / "predictions.parquet")["group"]
    assert set(groups) == {"1", "6", "11"}


def test_demo_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for flag in ("--logs", "--profile", "--out", "--quick"):
        assert flag in done.stdout
    assert "bash scripts/demo.sh --logs" in done.stdout


def test_demo_refuses_a_folder_that_holds_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "thesis.txt").write_text("all of it")
    assert demo.main(["--quick", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out {tmp_path}: holds 'thesis.txt'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "thesis.txt"]
    assert (tmp_path / "run" / "config.yaml").exists()
    assert demo.main(["--quick", "--out", str(tmp_path / "thesis.txt")]) == 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--logs", "gone.tar.xz"], "--logs gone.tar.xz: no such file or folder"),
        (["--profile", "visual_stdio"], "vectorworks, visual_studio; or pass --config FILE"),
        (["--config", "gone.yaml"], "gone.yaml: no such file"),
    ],
)
def test_demo_keeps_an_earlier_demo_where_its_flags_are_wrong(
    flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    assert demo.main([*flags, "--out", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert expected in line
    assert (tmp_path / "run").is_dir()


def test_demo_hands_its_cap_to_the_commands_that_read_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = tmp_path / "log.jsonl"
    logs.write_text("{}\n")
    ran: list[list[object]] = []
    monkeypatch.setattr(demo, "_run", lambda name, entry, *flags: ran.append([name, *flags]))
    monkeypatch.setattr(demo, "_show_examples", lambda out: None)
    common = ["--logs", str(logs), "--out", str(tmp_path / "out")]
    assert demo.main([*common, "--max-gigabytes", "2.5"]) == 0
    capped = [command[:2] for command in ran if command[-2:] == ["--max-gigabytes", 2.5]]
    assert capped == [["python -m data_processing.run", "--logs"], ["recsys", "recommend"]]
    ran.clear()
    assert demo.main(common) == 0
    assert len(ran) == 6 and not any("--max-gigabytes" in command for command in ran)
