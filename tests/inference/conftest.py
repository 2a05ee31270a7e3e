"""One tiny run for all tests of inference."""

from tests.tiny_run import dataset, folders, run

__all__ = ["dataset", "folders", "run"]
