"""The builder gives what YAML gives, and its example runs."""

import doctest

import pytest
import yaml

from recsys.config import EtlConfig
from recsys.errors import ConfigError
from recsys.etl import Etl, builder

YAML = """
categorical:
  item_id: {min_count: 3}
  cat: {top_k: 100, hash_buckets: 16}
  colour: {vocabulary: colours.csv, vocabulary_column: name}
continuous:
  timestamp_interval: {transforms: [log1p, zscore]}
  price: {transforms: [log1p]}
time: {features: [hour, weekday, log_gap], zone: Europe/Berlin}
bucketise:
  price: {quantiles: 10}
  size: {boundaries: [1, 10.5]}
text: [description, note]
optional: [user_id, cat, size, note]
newest: 200
min_length: 2
chunk: {min_items: 5, max_items: 9}
"""


def test_python_and_yaml_say_the_same():
    made = (
        Etl()
        .categorical("item_id", min_count=3)
        .categorical("cat", top_k=100, hash_buckets=16, optional=True)
        .categorical("colour", vocabulary="colours.csv", vocabulary_column="name")
        .interval()
        .continuous("price", log1p=True, zscore=False)
        .time("hour", zone="Europe/Berlin")
        .time("weekday", "log_gap", "hour")
        .bucketise("price", quantiles=10)
        .bucketise("size", boundaries=(1, 10.5), optional=True)
        .text("description")
        .text("note", optional=True)
        .newest(200)
        .min_length(2)
        .chunk(5, 9)
        .config()
    )
    assert made == EtlConfig.model_validate(yaml.safe_load(YAML))


def test_steps_do_not_change_what_they_start_from():
    start = Etl().categorical("item_id")
    more = start.continuous("price").newest(5)
    assert list(start.config().continuous) == [] and start.config().newest is None
    assert list(more.config().continuous) == ["price"]
    assert more.continuous("price", zscore=False).config().continuous["price"].transforms == []
    assert start.config() == Etl().categorical("item_id").config()


def test_going_on_from_a_configuration():
    assert Etl.of(EtlConfig()).config() == EtlConfig()
    longer = Etl.of(EtlConfig()).time("hour").config()
    assert longer == EtlConfig.model_validate({"time": {"features": ["hour"]}})


@pytest.mark.parametrize(
    ("etl", "message"),
    [
        (Etl(), "item_id is missing"),
        (Etl().categorical("item_id", hash_buckets=4), "a recommended bucket would have no name"),
        (Etl().categorical("item_id", min_count=0), r"Etl: categorical.item_id.min_count: 0: .* greater than"),
        (Etl().categorical("item_id").time("hours"), "Etl: time.features.0: 'hours': Input should be 'hour'"),
        (Etl().categorical("item_id").time("hour", zone="Mars"), "'Mars': no such time zone"),
        (Etl().categorical("item_id").bucketise("x"), "bucketise.x: give either boundaries or quantiles"),
        (Etl().categorical("item_id").categorical("hour").time("hour"), "both categorical and a time feature"),
        (Etl().categorical("item_id", vocabulary="v", top_k=3), "a given vocabulary is used whole"),
    ],
)
def test_mistakes_are_one_line(etl, message):
    with pytest.raises(ConfigError, match=message) as error:
        etl.config()
    assert "\n" not in str(error.value)


def test_a_name_that_is_no_text():
    with pytest.raises(ConfigError, match=r"Etl.categorical: a column's name is text, not \['a', 'b'\]"):
        Etl().categorical(["a", "b"])


def test_the_example_in_the_docstring():
    result = doctest.testmod(builder)
    assert result.attempted >= 6 and result.failed == 0
