"""What is fitted of one column, as sums that merge, and what it does to new rows, as an expression.

| module | operators |
|---|---|
| vocabulary, vocabulary_file | ids of values: minimum count, top-k, hashed tail, a given order |
| scaling | log1p and z-score |
| bucketise | intervals between given boundaries or quantiles |
| time | seconds since the previous event, hour, weekday |
"""

from recsys.etl.operators.bucketise import (
    Buckets,
    count_labels,
    count_numbers,
    label_counts,
    merge_numbers,
    quantile_boundaries,
)
from recsys.etl.operators.scaling import Moments, Scaling, before_scaling
from recsys.etl.operators.time import MICROSECONDS, TIME_VALUES, interval, time_id
from recsys.etl.operators.vocabulary import COUNT, Vocabulary, count_values, merge_counts
from recsys.etl.operators.vocabulary_file import read_vocabulary

__all__ = [
    "COUNT",
    "MICROSECONDS",
    "TIME_VALUES",
    "Buckets",
    "Moments",
    "Scaling",
    "Vocabulary",
    "before_scaling",
    "count_labels",
    "count_numbers",
    "count_values",
    "interval",
    "label_counts",
    "merge_counts",
    "merge_numbers",
    "quantile_boundaries",
    "read_vocabulary",
    "time_id",
]
