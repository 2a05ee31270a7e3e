"""Full ranking over the catalogue under one protocol, with counting baselines beside every model."""

from recsys.evaluation.evaluate import evaluate, evaluate_events
from recsys.evaluation.ranking import Positions, Ranked, rank_baseline, rank_model
from recsys.evaluation.result import Evaluation

__all__ = ["Evaluation", "Positions", "Ranked", "evaluate", "evaluate_events", "rank_baseline", "rank_model"]
