"""A run as one self-contained HTML file: figures, curves, errors, cleaning and facts; no script, no network."""

from recsys.report.page import Shown, report, show

__all__ = ["Shown", "report", "show"]
