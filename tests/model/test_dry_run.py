"""The plan of memory on the command line: what it says of a card, that its advice holds, that nothing is written."""

import re
import tempfile
import textwrap
from pathlib import Path

import pytest

from model import dry_run, train_eval_full_models
from peft_ext.memory import Memory
from recsys.config import RunConfig, load_config
from recsys.etl import preprocess
from recsys.training.memory_plan import Planner
from tests.tiny_run import make_commands, make_config, make_events

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry") / "data"
    preprocess(make_events(), make_config(), folder, commands=make_commands())
    return folder


def two_layers(data: Path, *more: str) -> list[str]:
    """The 7B recipe with 2 of its 32 layers, which is planned the faster."""
    base = ["--data", str(data), "--config", str(CONFIGS / "llama_lora.yaml"), "--dry-run"]
    return [*base, "--set", "model.backbone.architecture.num_hidden_layers=2", *more]


def bytes_of(text: str) -> float:
    number, unit = text.replace(",", "").split()
    return float(number) * SIZES[unit]


def parts(printed: str) -> dict[str, float]:
    found = re.findall(r"^(\w+) +([\d,.]+ (?:[KMG]i)?B)   ", printed, re.MULTILINE)
    return {name: bytes_of(size) for name, size in found}


def test_a_plan_is_printed_and_nothing_written(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(data.rglob("*"))
    assert train_eval_full_models.main(two_layers(data, "--out", "run", "--card", "24GiB")) == 0
    printed = capsys.readouterr().out
    found = parts(printed)
    assert list(found) == ["weights", "gradients", "optimizer", "activations", "working", "total"]
    assert sum(size for name, size in found.items() if name != "total") == pytest.approx(found["total"], rel=0.01)
    assert "qlora of rank 16 on nf4; 8 sequences of 110 events in bfloat16 on a GPU" in printed
    linear = 2 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert found["weights"] > linear * 4.127 / 8
    # r (d + k) summed over the targets, and what is ours
    adapters = 2 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    trained = int(re.search(r"([\d,]+) of them are trained", printed).group(1).replace(",", ""))  # type: ignore[union-attr]
    planned = Planner(data, config := load_config(CONFIGS / "llama_lora.yaml", two_layers(data)[-1:])).build(config)
    ours = sum(p.numel() for n, p in planned.model.named_parameters() if not n.startswith("backbone."))
    assert trained == adapters + ours
    assert "fits on 24GiB (24.00 GiB, of which 92% are counted on): " in printed and "to spare" in printed
    assert sorted(data.rglob("*")) == before and list(tmp_path.iterdir()) == []


def test_without_data_a_catalogue_is_assumed(tmp_path: Path, capsys, monkeypatch) -> None:
    """The issue's own command: nothing but a configuration."""
    monkeypatch.chdir(tmp_path)
    kept = sorted(Path(tempfile.gettempdir()).glob("plan.*"))
    without = two_layers(Path("unused"))[2:]
    assert train_eval_full_models.main(without) == 0
    printed = capsys.readouterr().out
    assert "no --data: 4,000 items assumed" in printed
    trained = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) of them are trained", printed)]
    assert train_eval_full_models.main([*without, "--items", "9000", "--card", "24GiB"]) == 0
    larger = capsys.readouterr().out
    assert "no --data: 9,000 items assumed" in larger and "fits on 24GiB" in larger
    trained += [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) of them are trained", larger)]
    # An item has a vector at the input and, tied or not, the output's: 5,000 more of width 1,024 and a bias each.
    config = load_config(CONFIGS / "llama_lora.yaml", [])
    each = config.model.inputs.embedding_size + (0 if config.model.tied else 4096) + config.model.bias
    assert trained[1] - trained[0] == 5000 * each
    assert list(tmp_path.iterdir()) == [] and sorted(Path(tempfile.gettempdir()).glob("plan.*")) == kept


def test_an_assumed_catalogue_has_what_the_configuration_reads(tmp_path: Path, capsys) -> None:
    text = """
        etl:
          categorical: {item_id: {min_count: 9}, machine: {}, tags: {multi_valued: true}, release: {}}
          continuous: {timestamp_interval: {}, pages: {}}
          context: [release]
          text: [note]
          optional: [user_id]
          min_length: 50
        model: {max_length: 8, backbone: {hidden_size: 16, num_layers: 1, num_heads: 2}}
    """
    file = tmp_path / "own.yaml"
    file.write_text(textwrap.dedent(text))
    parameters = []
    for items in (30, 40):
        assert train_eval_full_models.main(["--config", str(file), "--dry-run", f"--items={items}"]) == 0
        printed = capsys.readouterr().out
        assert f"no --data: {items} items assumed" in printed
        parameters += re.findall(r"^parameters +([\d,]+)", printed, re.MULTILINE)
    assert parameters[0] != parameters[1]  # none of them is too rare
    given = ["--config", str(file), "--dry-run", "--set", "etl.categorical.release.vocabulary=nowhere.txt"]
    assert train_eval_full_models.main(given) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: no --data: ") and error.endswith("give --data DIR") and "\n" not in error


def test_advice_holds_when_it_is_taken(data: Path, capsys) -> None:
    base = ["--data", str(data), "--config", str(CONFIGS / "llama_lora_small.yaml"), "--dry-run", "--card", "48MiB"]
    sizes = {"hidden_size": 576, "num_layers": 1, "num_heads": 9, "num_kv_heads": 3, "intermediate_size": 1536}
    base += [flag for name, size in sizes.items() for flag in ("--set", f"model.backbone.{name}={size}")]
    assert train_eval_full_models.main(base) == 0
    printed = capsys.readouterr().out
    assert re.search(r"does not fit on 48MiB \(48.00 MiB.*\): [\d.]+ MiB too much", printed)
    advice = re.findall(r"^  (.+): ([\d.]+ .iB)$", printed, re.MULTILINE)
    assert advice, printed
    settings, promised = advice[-1]
    taken = [flag for setting in settings.split() for flag in ("--set", setting)]
    assert train_eval_full_models.main([*base, *taken]) == 0
    again = capsys.readouterr().out
    assert "\nfits on 48MiB" in again and parts(again)["total"] == bytes_of(promised)


class Straight:
    """Stands in for a planner: 100 bytes, 10 a sequence, halved by checkpointing, 40 less with nf4."""

    def plan(self, config: RunConfig, gpu: bool) -> Memory:
        peft, each = config.model.peft, 10 * config.training.batch_size
        weights = 100 - 40 * (peft.quantization == "nf4") - 20 * (config.training.optimizer == "adamw_8bit")
        return Memory(1, 1, {"float32": weights}, activations=each // 2 if peft.gradient_checkpointing else each)


def advise(room: int, **settings: str) -> list[str]:
    keys = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    config, planner = load_config(None, [*keys, "training.batch_size=16", "training.accumulation=2"]), Straight()
    card = dry_run.Card("card", -(-room * 100 // 92))
    found = dry_run.advice(planner, config, planner.plan(config, True), card)  # type: ignore[arg-type]
    return [line.strip() for line in found]


def test_each_change_alone_and_the_largest_batch() -> None:
    assert advise(200, model__peft__method="lora") == [
        "what would make it fit (--set):",
        "model.peft.gradient_checkpointing=true: 180 B",
        "model.peft.gradient_checkpointing=true model.peft.method=qlora model.peft.quantization=nf4: 140 B",
        "training.batch_size=8 training.accumulation=4: 180 B",  # ten would fit, but do not divide 32
    ]
    assert advise(240)[1:] == [
        "training.optimizer=adamw_8bit: 240 B",
        "training.batch_size=8 training.accumulation=4: 180 B",
    ]


def test_where_nothing_alone_is_enough_all_is_taken_together() -> None:
    both = "model.peft.gradient_checkpointing=true model.peft.method=qlora model.peft.quantization=nf4"
    assert advise(75, model__peft__method="lora")[1:] == [
        f"{both} training.batch_size=2 training.accumulation=16: 70 B"
    ]
    assert advise(60, model__peft__method="lora") == [
        "no setting makes it fit: one sequence alone takes 65 B; take a larger card or a smaller backbone"
    ]


def test_mistakes_are_one_line(data: Path, tmp_path: Path, capsys) -> None:
    for card in ("0", "0GiB", "H10", "-4"):
        assert train_eval_full_models.main([*two_layers(data), f"--card={card}"]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"error: --card {card}: ") and "A100-80GB" in error and "\n" not in error
    assert train_eval_full_models.main(two_layers(tmp_path / "none")) == 2
    assert "none" in capsys.readouterr().err
    arguments = two_layers(data)
    for wrong, said in (
        (arguments[:-3], "required: --out"),
        ([*arguments[:-3], "--out", "x", "--card", "24"], "--card goes with --dry-run"),
        ([*arguments[2:-3], "--out", "x"], "required: --data"),
        ([*arguments, "--items", "9"], "--items goes with --dry-run without --data"),
        ([*arguments[2:-3], "--out", "x", "--items", "9"], "--items goes with --dry-run without --data"),
        ([*arguments[2:], "--items", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit):
            train_eval_full_models.main(wrong)
        assert said in capsys.readouterr().err
    refused = [*arguments, "--set", "model.peft.target_modules=[qq]"]
    assert train_eval_full_models.main(refused) == 2
    assert "target_modules: no layer 'qq'" in capsys.readouterr().err


def test_without_a_card_there_is_no_verdict(data: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    small = ["--data", str(data), "--dry-run", "--set", "model.backbone.hidden_size=16"]
    assert train_eval_full_models.main(small) == 0
    printed = capsys.readouterr().out
    assert "no card given" in printed and "fits" not in printed.replace("whether it fits", "")
    assert "(100.00%)" in printed


def test_pretrained_takes_the_place_of_the_shape(data: Path, tmp_path: Path, capsys) -> None:
    from tests.peft_ext.cases import save_model

    save_model("llama", tmp_path / "base")
    config = ["--data", str(data), "--config", str(CONFIGS / "llama_lora_small.yaml"), "--dry-run"]
    assert train_eval_full_models.main([*config, "--pretrained", str(tmp_path / "base")]) == 0
    assert "llama, 2 layers, width 64, lora of rank 16" in capsys.readouterr().out
    config[3] = str(CONFIGS / "visual_studio.yaml")  # which states sizes of its own
    assert train_eval_full_models.main([*config, "--pretrained", str(tmp_path / "base")]) == 0
    assert "llama, 2 layers, width 64; " in capsys.readouterr().out
