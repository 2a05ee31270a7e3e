import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from data_processing.simulate import main, simulate
from recsys.errors import ConfigError


def _generate(out: Path, users: int = 1, overwrite: bool = False) -> None:
    simulate(out, users, 2, seed=1, overwrite=overwrite)


def _truth(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "truth" / "clean.parquet")


def test_an_earlier_simulation_is_replaced_only_when_asked(tmp_path):
    _generate(tmp_path / "a", users=1)
    with pytest.raises(ConfigError, match="--overwrite"):
        _generate(tmp_path / "a", users=1)
    _generate(tmp_path / "a", users=2, overwrite=True)
    assert _truth(tmp_path / "a")["user_id"].n_unique() == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep.txt").write_text("x")
    with pytest.raises(ConfigError, match="not an earlier simulation"):
        _generate(tmp_path / "mine", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "mine"]


def test_command_line(tmp_path, capsys):
    out = tmp_path / "a"
    assert (
        main(
            [
                "--out",
                str(out),
                "--users",
                "3",
                "--sessions",
                "2",
                "--format",
                "live",
                "--noise",
                "cts_share=0",
            ]
        )
        == 0
    )
    assert (out / "logs" / "part-00000.jsonl").is_file()
    assert _truth(out)["session_id"].n_unique() == 6
    assert json.loads((out / "simulation.json").read_text())["rows_by_category"].get("CTS", 0) == 0
    assert "6 sessions of 3 users" in capsys.readouterr().out
    for wrong, said in (
        (["--noise", "cts_shore=1"], "did you mean 'cts_share'"),
        (["--noise", "cts_share=1"], "must lie in 0 to 0.95"),
        (["--noise", "cts_share=x"], "'x' is not a number"),
        (["--users", "0"], "users (0) must be at least 1"),
    ):
        assert main(["--out", str(tmp_path / "b"), *wrong]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
        assert not (tmp_path / "b").exists()


def test_importing_the_generator_does_not_import_torch():
    code = "import sys, data_processing.simulate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
