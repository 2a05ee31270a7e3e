"""Raw logs to aligned events: fits the rules of cleaning and holds its command lines; never imports torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_processing.cleaning import CleanResult, clean

__all__ = ["CleanResult", "clean"]


def __getattr__(name: str) -> object:
    """Import on first use: ``python -m data_processing.<stage>`` must not find its module imported already."""
    if name not in __all__:
        raise AttributeError(f"module 'data_processing' has no attribute '{name}'")
    from data_processing import cleaning

    return getattr(cleaning, name)
