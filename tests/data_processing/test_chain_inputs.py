"""What stands for an input changes with it, and only with it."""

import os
from dataclasses import replace
from functools import partial

import pytest

from data_processing.chain import Settings
from data_processing.chain_inputs import content, listing, service_files
from data_processing.reconstruct import reconstruct
from data_processing.run import run
from recsys.cleaning.fitting import AlignConfig, ServiceConfig
from recsys.errors import InputError
from tests.data_processing.small_chain import small_logs, small_profile


def test_a_listing_follows_names_sizes_and_times(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.csv", "a.csv"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, ns=(5, 7))
    assert listing(tmp_path) == [["a.csv", 1, 7], ["b/1.csv", 1, 7]]
    (tmp_path / "a.csv").write_text("xy")
    os.utime(tmp_path / "a.csv", ns=(5, 8))
    assert listing(tmp_path / "a.csv") == [[".", 2, 8]]
    with pytest.raises(InputError, match="none: no such file or folder"):
        listing(tmp_path / "none")


def test_content_is_a_hash_of_the_bytes(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert content(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content(None) is None
    for wrong, why in ((tmp_path, "is a folder; name a file"), (tmp_path / "none", "no such file")):
        with pytest.raises(InputError, match=f"{wrong}: {why}$"):
            content(wrong)


def test_files_that_services_read(tmp_path):
    file = tmp_path / "words.csv"
    file.write_text("text,translation\n")
    here, gone = (ServiceConfig(kind="dictionary", path=str(path)) for path in (file, tmp_path / "none"))
    assert service_files(AlignConfig(translator=here)) == {str(file): listing(file)}
    assert service_files(AlignConfig(translator=gone)) == service_files(None) == {}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return small_logs(tmp_path_factory.mktemp("logs"), users=4)


@pytest.mark.parametrize(
    ("flag", "text", "match"),
    [
        ("dictionary_overrides", "high,low,decision\n", "column 'message' is missing"),
        ("dictionary_overrides", "message,label\na,a\na,b\n", "row 2: message 'a' has the label 'b' here"),
        ("redundancy_overrides", "message,label\n", "column 'high' is missing"),
        ("redundancy_overrides", "high,low,decision\nA,B,dorp\n", "row 1: decision 'dorp' is not known"),
        ("workflows", "name,commands\n", "cannot be read"),
        ("side_information_overrides", "item_id\n", "has none of the columns summary, classification, target"),
    ],
)
def test_a_mistake_in_what_a_person_decided_shows_before_the_first_stage(logs, tmp_path, flag, text, match):
    given = tmp_path / "given"
    given.write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        run(replace(Settings(logs, small_profile()), **{flag: given}), tmp_path / "out")
    assert str(given) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_given_for_a_stage_that_does_not_run_is_noted(logs, tmp_path, capsys):
    docs, pairs = tmp_path / "docs", tmp_path / "pairs.csv"
    docs.mkdir()
    pairs.write_text("high,low,decision\n")
    settings = Settings(logs, small_profile(), docs=docs, redundancy_overrides=pairs, until="redundancy")
    run(settings, tmp_path / "out")
    assert capsys.readouterr().err == "note: --docs has no effect: side_information is not run\n"
    run(replace(settings, docs=None, skip=("redundancy",)), tmp_path / "out")
    assert capsys.readouterr().err == "note: --redundancy-overrides has no effect: redundancy is not run\n"


@pytest.mark.parametrize("place", [".", "out", "deep/out"])
def test_logs_are_not_written_among(logs, place):
    before = sorted(logs.rglob("*"))
    for write in (partial(run, Settings(logs, small_profile())), partial(reconstruct, logs, small_profile())):
        with pytest.raises(InputError, match=r"lies in .*, whose files are read as logs; choose another --out$"):
            write(logs / place)
    assert sorted(logs.rglob("*")) == before
