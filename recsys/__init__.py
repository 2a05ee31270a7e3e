"""Sequence models on usage logs: from raw logs to a trained, measured and served model of what comes next.

The main job in Python::

    from data_processing import clean
    import recsys

    config = recsys.load_config("configs/vectorworks.yaml")
    events = clean("out/simulated/logs", profile=config.profile, out="out/events", split=config.split)
    dataset = recsys.preprocess(events.path, config, out="out/dataset")
    run = recsys.train(dataset.path, config, out="out/run")
    print(recsys.evaluate(run.path, dataset.path))
    recsys.recommend(run.path, "out/events", k=5)

Names are imported on first use, so that ``import recsys`` and ``recsys --help`` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.build import build_model as build_model
    from recsys.config import RunConfig as RunConfig
    from recsys.config import load_config as load_config
    from recsys.data.dataset import SequenceDataset as SequenceDataset
    from recsys.etl import Workflow as Workflow
    from recsys.etl import preprocess as preprocess
    from recsys.evaluation import Evaluation as Evaluation
    from recsys.evaluation import evaluate as evaluate
    from recsys.evaluation import evaluate_events as evaluate_events
    from recsys.inference import examples as examples
    from recsys.inference import load as load
    from recsys.inference import recommend as recommend
    from recsys.recommender import Recommender as Recommender
    from recsys.schema import Schema as Schema
    from recsys.training import train as train

_HOME = {
    "build_model": "recsys.build",
    "RunConfig": "recsys.config",
    "load_config": "recsys.config",
    "SequenceDataset": "recsys.data.dataset",
    "Workflow": "recsys.etl",
    "preprocess": "recsys.etl",
    "Evaluation": "recsys.evaluation",
    "evaluate": "recsys.evaluation",
    "evaluate_events": "recsys.evaluation",
    "examples": "recsys.inference",
    "load": "recsys.inference",
    "recommend": "recsys.inference",
    "Recommender": "recsys.recommender",
    "Schema": "recsys.schema",
    "train": "recsys.training",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recsys' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
