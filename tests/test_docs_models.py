"""docs/models.md: its tables agree with the code, and its settings are the defaults."""

import re
from typing import get_args

import pytest
import yaml

from recsys.config import BackboneConfig, InputsConfig, MaskedConfig, ModelConfig, parse
from recsys.nn.masking import RULES, fitting, reads
from tests.backbones.cases import make
from tests.readme import ROOT, blocks

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
KINDS = {"causal": "causal", "bidirectional": "bidirectional", "two_stream": "two streams"}
BACKBONES = [n for n in get_args(BackboneConfig.model_fields["name"].annotation) if n != "auto"]


def table(head: str) -> dict[str, list[str]]:
    """Rows of the table whose head starts with `head`, by what stands in backticks in the first column."""
    (text,) = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_table_of_fusions_names_them_all() -> None:
    names = set(get_args(InputsConfig.model_fields["fusion"].annotation))
    assert {name.split("`")[0] for name in table("fusion | matrix products a timestep")} == names


def test_the_table_of_maskings_is_the_rules() -> None:
    expected = {n: [rule.predicts, rule.hides, ", ".join(KINDS[k] for k in rule.fits)] for n, rule in RULES.items()}
    assert table("masking | predicts") == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_of_backbones_says_how_each_reads(name: str) -> None:
    kind = reads(make(name))
    assert table("backbone | reads")[name] == [KINDS[kind], ", ".join(f"`{masking}`" for masking in fitting(kind))]
    assert len(table("backbone | reads")) == len(BACKBONES)


def test_the_settings_shown_are_the_defaults() -> None:
    shown = [yaml.safe_load(text)["model"] for text in blocks(PAGE, "yaml")]
    (settings,) = [values for values in shown if "masked" in values]
    assert parse(ModelConfig, settings, "page").masked == MaskedConfig()
    assert set(settings["masked"]) == set(MaskedConfig.model_fields)
