"""A run as one self-contained HTML file: figures, curves, errors, cleaning and facts; no script, no network."""

from recsys.report.page import report

__all__ = ["report"]
