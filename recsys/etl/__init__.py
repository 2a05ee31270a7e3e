"""From events to sequences of ids and scaled numbers, fitted on the training split only."""

from recsys.etl.builder import Etl
from recsys.etl.events import open_events
from recsys.etl.incremental import Extension
from recsys.etl.polars_engine import Preprocessed, preprocess
from recsys.etl.split import SplitResult, assign_splits, load_splits
from recsys.etl.workflow import Workflow

__all__ = [
    "Etl",
    "Extension",
    "Preprocessed",
    "SplitResult",
    "Workflow",
    "assign_splits",
    "load_splits",
    "open_events",
    "preprocess",
]
