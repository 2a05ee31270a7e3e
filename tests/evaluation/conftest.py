"""One tiny run for all tests of evaluation."""

from tests.tiny_run import dataset, folders, run

__all__ = ["dataset", "folders", "run"]
