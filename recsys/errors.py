"""Errors that a person reads: one line that names the place, the value and the fix.

The command line prints the message without a traceback and leaves with status 2.
"""

import difflib
from collections.abc import Iterable

_MOST = 1000  # characters of names in a message


class RecsysError(ValueError):
    """Base of every error that the user can mend."""


class InputError(RecsysError):
    """A file or table that was given cannot be used (missing, empty, unparsable, wrong column)."""


class ConfigError(RecsysError):
    """A configuration value is unknown, out of range or at odds with another."""


class SchemaError(RecsysError):
    """Data and model disagree on columns, ids or cardinalities."""


class RunError(RecsysError):
    """A run directory or checkpoint is incomplete or belongs to something else."""


class TrainingError(RecsysError):
    """Training cannot go on (for instance a loss that is not finite)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to `name`, else the list of names."""
    names = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""


def missing_column(source: object, column: str, present: Iterable[str]) -> InputError:
    """The error for a column that `source` lacks; lists the columns that are there."""
    names = list(present)
    hint = nearest(column, names) if difflib.get_close_matches(column, names, n=1, cutoff=0.6) else ""
    # Bytes that are no table have columns too: those must not reach a terminal.
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names)
    shown = shown if len(shown) <= _MOST else f"{shown[:_MOST]}..."
    return InputError(f"{source}: column '{column}' is missing{hint}; columns: {shown}")


def one_line(error: object) -> str:
    """What another library says, short and without line breaks, to stand inside a message of ours."""
    return " ".join(str(error).split())[:200]
