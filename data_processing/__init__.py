"""Raw logs to aligned events: fits the rules of cleaning and holds its command lines; never imports torch."""

from data_processing.cleaning import CleanResult, clean

__all__ = ["CleanResult", "clean"]
