"""The main job, end to end: raw logs, cleaning, sequences, training, evaluation, recommendation, report.

Every stage is one of the project's own commands, printed before it runs, so that each can be repeated alone.
"""

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recsys.cleaning.profile import load_profile
from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.config import load_config
from recsys.errors import InputError
from recsys.runtime import command_line, gigabytes

ROOT = Path(__file__).resolve().parent.parent
# What a demo writes: a folder a step, and in each a file by which it is known.
MARKERS = {
    "simulated": "simulation.json",
    "cleaned": "run.json",
    "reconstructed": "report.json",  # this and the next: of earlier versions
    "events": "report.json",
    "dataset": "schema.json",
    "run": "config.yaml",
}
USERS, QUICK_USERS = 300, 60


@command_line
def main(arguments: Sequence[str]) -> None:
    """Parse the flags and run all stages."""
    options = _parser().parse_args(arguments)
    began = time.perf_counter()
    out: Path = options.out
    config = _check_inputs(options)
    _clear(out, options.logs)
    settings = _quick_settings(options.logs is None) if options.quick else []
    logs = _clean(options, out, config)
    events = out / "cleaned" / "filter"
    _recsys("preprocess", "--events", events, "--config", config, "--out", out / "dataset", *settings)
    _recsys("train", "--data", out / "dataset", "--config", config, "--out", out / "run", *settings)
    _recsys("evaluate", "--run", out / "run", "--data", out / "dataset")
    _show_examples(out)
    lists = out / "run" / "recommendations.csv"
    _recsys("recommend", "--run", out / "run", "--input", logs, "--k", 5, "--out", lists, *_cap(options))
    _recsys("report", "--run", out / "run")
    print(f"\nFigures: {out / 'run' / 'metrics.json'}\nReport:  {out / 'run' / 'report.html'}")
    print(f"Next five commands of every session: {lists}")
    print(f"For new logs: .venv/bin/recsys recommend --run {out / 'run'} --input LOG --k 5")
    print(f"Done in {time.perf_counter() - began:.0f} s.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/demo.sh",
        description=__doc__,
        epilog="example:\n  bash scripts/demo.sh --logs vs_commands.tar.xz --profile visual_studio --out out/vs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--logs", type=Path, help="file, folder or archive of logs (default: generated ones)")
    parser.add_argument("--profile", help="cleaning profile (default: that of --config, else vectorworks)")
    parser.add_argument("--config", type=Path, help="run configuration in place of configs/PROFILE.yaml")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write (default out/demo)")
    parser.add_argument(
        "--max-gigabytes",
        dest="max_bytes",
        type=gigabytes,
        metavar="N",
        help=f"cap on the decompressed size of --logs (default {DEFAULT_MAX_BYTES / 1e9:g})",
    )
    parser.add_argument("--quick", action="store_true", help="fewer generated users; two epochs on logs of your own")
    return parser


def _check_inputs(options: argparse.Namespace) -> Path:
    """The run's configuration; bad flags are found before an earlier demo is removed."""
    if options.logs and not options.logs.exists():
        raise InputError(f"--logs {options.logs}: no such file or folder")
    if options.profile is None:
        options.profile = (load_config(options.config).profile if options.config else None) or "vectorworks"
    config: Path = options.config or ROOT / "configs" / f"{options.profile}.yaml"
    if options.config is None and not config.is_file():
        known = ", ".join(sorted(p.stem for p in (ROOT / "configs" / "profiles").glob("*.yaml")))
        raise InputError(f"--profile {options.profile}: no {config}; profiles: {known}; or pass --config FILE")
    load_config(config)
    load_profile(options.profile)
    return config


def _quick_settings(is_generated: bool) -> list[str]:
    """Few generated events want many small steps; of a real log two epochs must do."""
    chosen = ["training.epochs=24", "training.batch_events=1024"] if is_generated else ["training.epochs=2"]
    return [part for setting in chosen for part in ("--set", setting)]


def _clear(out: Path, logs: Path | None) -> None:
    """Remove an earlier demo's stages from `out`; refuse a folder that holds anything else, or the logs themselves."""
    if out.is_file():
        raise InputError(f"--out {out}: is a file; name a folder")
    if logs is not None and logs.resolve().is_relative_to(out.resolve()):
        raise InputError(f"--logs {logs}: lies inside --out {out}, which is cleared first; choose another --out")
    found = sorted(out.iterdir()) if out.is_dir() else []
    for path in found:
        stage = path.name.removeprefix(".").partition(".")[0] if path.name.startswith(".") else path.name
        marker = path / MARKERS.get(stage, "")
        if stage not in MARKERS or (path.name == stage and any(path.iterdir()) and not marker.is_file()):
            raise InputError(f"--out {out}: holds '{path.name}', which no demo wrote; choose another folder")
    for path in found:
        shutil.rmtree(path)
    out.mkdir(parents=True, exist_ok=True)


def _clean(options: argparse.Namespace, out: Path, config: Path) -> Path:
    """Generate logs where none are given, and clean them; returns where the logs are."""
    from data_processing import run, simulate

    logs: Path | None = options.logs
    if logs is None:
        users = QUICK_USERS if options.quick else USERS
        flags = ["--out", out / "simulated", "--users", users, "--seed", 0]
        _run("python -m data_processing.simulate", simulate.main, *flags)
        logs = out / "simulated" / "logs"
    flags = ["--logs", logs, "--profile", options.profile, "--config", config, "--out", out / "cleaned"]
    # Without workflows a figure says how often one command is foretold, not a whole sequence of them.
    _run("python -m data_processing.run", run.main, *flags, "--skip", "workflows", *_cap(options))
    return logs


def _cap(options: argparse.Namespace) -> list[object]:
    """The flag for the commands that read raw logs, where it was given."""
    return [] if options.max_bytes is None else ["--max-gigabytes", options.max_bytes / 1e9]


def _recsys(command: str, *flags: object) -> None:
    from recsys.cli import main as recsys_main

    _run("recsys", recsys_main, command, *flags)


def _run(name: str, entry: Callable[[list[str]], int], *flags: object) -> None:
    """Print the command, run it here, and stop the demo with its status where it fails."""
    arguments = [str(flag) for flag in flags]
    print(f"\n$ {name} {shlex.join(arguments)}", flush=True)
    began = time.perf_counter()
    status = entry(arguments)
    if status:
        sys.exit(status)
    print(f"  ({time.perf_counter() - began:.1f} s)", flush=True)


def _show_examples(out: Path) -> None:
    from recsys.inference import examples

    print("\nFive test histories, what came next (*) and the model's five most likely commands:")
    for example in examples(out / "run", out / "dataset", n=5, k=5, seed=0):
        print(f"\n{example}")


if __name__ == "__main__":
    sys.exit(main())
