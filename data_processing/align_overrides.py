"""What a person decided about labels, over what alignment found."""

from collections.abc import Mapping
from pathlib import Path

from recsys.cleaning import dictionary
from recsys.cleaning.dictionary import LABEL, MESSAGE, Given
from recsys.cleaning.small_tables import read_rows
from recsys.errors import InputError


def read_overrides(path: Path, known: set[str]) -> dict[str, Given]:
    """Read a CSV file ``message,label`` (more columns may stand there): the message goes by that label.

    A name that no event has may become a label where a row gives it to itself (``New,New``).

    Raises:
        InputError: no such file, a column is missing, a blank cell, two labels for one message, or a message or label
            that is not in the events (names file, row and the nearest name).
    """
    given = dictionary.labels_of(read_rows(path, (MESSAGE, LABEL)), path)
    new = {message for message, label in given.items() if message == label.label}
    for message, label in given.items():
        if message not in known and message not in new:
            hint = dictionary.nearest_message(message, known)
            raise InputError(
                f"{path}: row {label.row}: message '{message}' is not in the events{hint}; correct it or delete the row"
            )
    fix = "correct it, or add a row that gives this name to itself, which makes it a new one"
    dictionary.require_known(given, known | new, path, fix)
    return given


def final_labels(found: Mapping[str, str], given: Mapping[str, Given], path: Path) -> dict[str, str]:
    """The label of each message when overrides win over what was found.

    Labels are followed to the message that stands for itself. So an override of a label takes its whole group along,
    and one that names a member of its own group only renames the group.

    Args:
        found: label of each message, as alignment found it; a label stands for itself.
        given: overrides of `read_overrides`, from `path`.

    Raises:
        InputError: overrides lead in a circle.
    """
    labels: dict[str, str] = {}
    for message in dict.fromkeys([*found, *given]):
        passed: dict[str, None] = {}
        at = message
        while at not in labels and at not in passed:
            passed[at] = None
            at = given[at].label if at in given else found[at]
        if at not in labels:
            labels[at] = _end(at, list(passed), given, path)
        labels.update(dict.fromkeys(passed, labels[at]))
    return labels


def _end(start: str, passed: list[str], given: Mapping[str, Given], path: Path) -> str:
    """Where the circle that was reached at `start` ends; a message that is its own label is the smallest circle."""
    ring = passed[passed.index(start) :]
    if len(ring) == 1:
        return start
    followed = [name for name in ring if name not in given]
    if len(followed) == 1:
        # An override chose this member of a group whose label it overrides: what a person wrote wins.
        return followed[0]
    raise dictionary.circle([name for name in ring if name in given], given, path)
