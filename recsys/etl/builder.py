"""`Etl`: the `etl` section of a configuration, written in Python.

Every call returns a new `Etl`, so that a common beginning can be shared; `config` gives the `EtlConfig` that the same
lines of YAML give. There is no second implementation.

    >>> from recsys.etl import Etl, Workflow
    >>> config = (
    ...     Etl()
    ...     .categorical("item_id", min_count=2)
    ...     .categorical("cat", top_k=100, hash_buckets=4, optional=True)
    ...     .interval()
    ...     .time("hour", "weekday", zone="Europe/Berlin")
    ...     .continuous("price", log1p=True)
    ...     .bucketise("price", quantiles=2)
    ...     .newest(200)
    ...     .config()
    ... )
    >>> config.bucketise["price"].quantiles, config.newest, config.optional
    (2, 200, ['user_id', 'cat'])
    >>> import polars as pl
    >>> events = pl.DataFrame(
    ...     {
    ...         "session_id": ["s", "s", "s", "t"],
    ...         "item_id": ["Copy", "Paste", "Copy", "Paste"],
    ...         "timestamp": ["2024-01-01 23:30", "2024-01-01 23:31", "2024-01-02 08:00", "2024-01-05 12:00"],
    ...         "price": [1.0, 2.0, 3.0, 4.0],
    ...     }
    ... )
    >>> sequences = Workflow(config).fit_transform(events)
    >>> sequences.select("session_id", "item_id", "hour", "price_bucket").rows()
    [('s', [3, 4, 3], [3, 3, 12], [3, 3, 4]), ('t', [4], [16], [4])]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from recsys.config import EtlConfig, TimeFeature, parse
from recsys.errors import ConfigError
from recsys.etl.plan import check_config
from recsys.schema import INTERVAL, USER_ID


def _empty() -> dict[str, Any]:
    return {"categorical": {}, "continuous": {}, "bucketise": {}, "text": [], "optional": [USER_ID]}


@dataclass(frozen=True)
class Etl:
    """Columns and transforms, none at first; the fields are those of `EtlConfig` and its parts.

    A column that is named again replaces what was said of it before.
    """

    values: dict[str, Any] = field(default_factory=_empty)  # as in YAML

    @classmethod
    def of(cls, config: EtlConfig) -> Self:
        """Go on from a configuration, such as the default ``EtlConfig()``."""
        values = config.model_dump(mode="json")
        return cls({name: value for name, value in values.items() if value is not None})

    def categorical(
        self,
        name: str,
        *,
        min_count: int = 1,
        top_k: int | None = None,
        hash_buckets: int = 0,
        vocabulary: str | None = None,
        vocabulary_column: str | None = None,
        multi_valued: bool = False,
        delimiter: str | None = None,
        optional: bool = False,
    ) -> Self:
        """A column of ids.

        Args:
            min_count: values seen less often in train have no id of their own.
            top_k: at most so many values have one, the most frequent.
            hash_buckets: ids shared by the values without one; 0: they all get id 2. Not for item_id.
            vocabulary: file of the values in id order, instead of fitting; `vocabulary_column` of a table.
            multi_valued: a row holds a list of values; `delimiter` divides one that is written as text.
            optional: the column may be missing.
        """
        column = {
            "min_count": min_count,
            "top_k": top_k,
            "hash_buckets": hash_buckets,
            "vocabulary": vocabulary,
            "vocabulary_column": vocabulary_column,
            "multi_valued": multi_valued,
            "delimiter": delimiter,
        }
        return self._with("categorical", name, column, optional)

    def continuous(self, name: str, *, log1p: bool = False, zscore: bool = True, optional: bool = False) -> Self:
        """A column of numbers, scaled by log1p, z-score, both (in this order) or neither."""
        transforms = ["log1p"] * log1p + ["zscore"] * zscore
        return self._with("continuous", name, {"transforms": transforms}, optional)

    def interval(self, *, log1p: bool = True, zscore: bool = True) -> Self:
        """`timestamp_interval`: seconds since the session's previous event, 0 for its first."""
        return self.continuous(INTERVAL, log1p=log1p, zscore=zscore)

    def time(self, *features: TimeFeature, zone: str | None = None) -> Self:
        """Columns `hour` and `weekday` (classes, in `zone`, UTC unless said) and `log_gap` (a number)."""
        before = self.values.get("time", {})
        named = list(dict.fromkeys([*before.get("features", []), *features]))
        return self._set("time", {"features": named, "zone": zone or before.get("zone", "UTC")})

    def bucketise(
        self,
        name: str,
        *,
        boundaries: Sequence[float] | None = None,
        quantiles: int | None = None,
        optional: bool = False,
    ) -> Self:
        """Column `<name>_bucket`: the interval of the numbers `name`, between boundaries or quantiles of train."""
        edges = None if boundaries is None else list(boundaries)
        return self._with("bucketise", name, {"boundaries": edges, "quantiles": quantiles}, optional)

    def text(self, *names: str, optional: bool = False) -> Self:
        """Columns passed on as they are: of the items where the commands have them, else of the events."""
        made = self._set("text", list(dict.fromkeys([*self.values.get("text", []), *names])))
        return made._optional(names) if optional else made

    def context(self, *names: str) -> Self:
        """Columns, named before or after this, that have one value a sequence."""
        return self._set("context", list(dict.fromkeys([*self.values.get("context", []), *names])))

    def newest(self, events: int) -> Self:
        """Keep so many events at the end of a training sequence."""
        return self._set("newest", events)

    def min_length(self, events: int) -> Self:
        """Leave out training sequences of fewer events."""
        return self._set("min_length", events)

    def chunk(self, min_items: int, max_items: int) -> Self:
        """Cut training sessions into chunks of U(min_items, max_items) events; a short tail joins the last one."""
        return self._set("chunk", {"min_items": min_items, "max_items": max_items})

    def config(self) -> EtlConfig:
        """The configuration. ConfigError names what cannot be fitted, in one line."""
        config = parse(EtlConfig, self.values, "Etl")
        check_config(config)
        return config

    def _set(self, key: str, value: object) -> Self:
        return type(self)({**self.values, key: value})

    def _with(self, section: str, name: str, column: Mapping[str, object], optional: bool) -> Self:
        if not isinstance(name, str):
            raise ConfigError(f"Etl.{section}: a column's name is text, not {name!r}")
        made = self._set(section, {**self.values.get(section, {}), name: column})
        return made._optional([name]) if optional else made

    def _optional(self, names: Sequence[str]) -> Self:
        return self._set("optional", list(dict.fromkeys([*self.values.get("optional", []), *names])))
