"""What a log row says: its time, its command, what part it plays in undo, and whether it is noise.

Messages are parsed once per distinct text. The Vectorworks grammar (both log formats)::

    Tool: name (id)                 Menu: name - label (id) (n)          End Event: name (id)
    Undo Event: name (id)           Redo Event: name (id)                Undo and Remove Action: name (id)

with an optional ``(MAX-n)`` and optional quotes around names. A command is named by its canonical text: prefix,
quotes and the counter ``(n)`` of a menu removed, runs of blanks squeezed; anything else in a name is kept as it is.
"""

import re
from enum import IntEnum

import polars as pl

from recsys.cleaning.profile import Epoch, Profile, TimeFormat, UndoConfig
from recsys.errors import InputError
from recsys.schema import ARGUMENTS, ITEM_ID, TIMESTAMP

MESSAGE = "message"
CLOCK = "clock"  # microseconds of a process clock
KIND = "kind"
_NUMBER = "number"
REASON = "reason"  # why a row is noise; null: it is not


class Kind(IntEnum):
    """The part of a row in the undo stack."""

    PLAIN = 0  # neither begins an event nor can be undone
    HIDDEN = 1  # noise that may begin the event that follows: goes as far as the stack, is no row of any result
    STARTER = 2  # Tool or Menu: may begin the event that follows
    EVENT = 3  # can be undone
    UNDO = 4
    REDO = 5
    REMOVE = 6  # an undo that cannot be redone


_KINDS = {
    "Tool": Kind.STARTER,
    "Menu": Kind.STARTER,
    "End Event": Kind.EVENT,
    "Undo Event": Kind.UNDO,
    "Redo Event": Kind.REDO,
    "Undo and Remove Action": Kind.REMOVE,
}
_GRAMMAR = r"(?s)^(" + "|".join(_KINDS) + r"): *(.*)$"
OUTSIDE = "not in the grammar"
NO_COMMAND = "no command in it"


def parse_messages(messages: pl.Series, profile: Profile) -> pl.DataFrame:
    """One row a distinct message: message, item_id, kind (of `Kind`), reason (null unless it is noise, hidden or not).

    Grammar shell adds arguments: what follows the first word (null: nothing).
    """
    table = messages.unique(maintain_order=True).alias(MESSAGE).to_frame()
    if profile.grammar == "vectorworks":
        table = _parse_vectorworks(table, profile.undo)
    else:
        is_shell = profile.grammar == "shell"
        table = _split_arguments(table) if is_shell else table.with_columns(pl.col(MESSAGE).alias(ITEM_ID))
        table = table.with_columns(_plain_kind(profile.undo).alias(KIND))
    if profile.noise.ids or profile.hidden_starters:
        table = table.with_columns(_number().alias(_NUMBER))
    table = table.with_columns(_noise_reason(profile).alias(REASON), pl.col(KIND).cast(pl.UInt8))
    if profile.hidden_starters:
        of_stack = (pl.col(KIND) == Kind.STARTER.value) & pl.col(_NUMBER).is_in(profile.hidden_starters)
        hides = of_stack & pl.col(REASON).is_not_null()
        table = table.with_columns(pl.when(hides).then(pl.lit(Kind.HIDDEN.value, pl.UInt8)).otherwise(KIND).alias(KIND))
    return table.select(c for c in (MESSAGE, ITEM_ID, KIND, REASON, ARGUMENTS) if c in table.columns)


class MessageParser:
    """`parse_messages` that remembers: a live log says the same things over and over, often one line at a time."""

    def __init__(self, profile: Profile, most: int = 20_000) -> None:
        """`most`: messages that are remembered; past it all are forgotten."""
        self._profile, self._most = profile, most
        self._rows: dict[str, tuple[object, ...]] = {}
        self._schema = parse_messages(pl.Series(MESSAGE, [], dtype=pl.String), profile).schema

    def __call__(self, messages: pl.Series) -> pl.DataFrame:
        """What `parse_messages` gives; no message is null."""
        texts: list[str] = list(dict.fromkeys(messages.to_list()))
        new = [text for text in texts if text not in self._rows]
        if len(self._rows) + len(new) > self._most:
            self._rows, new = {}, texts
        if new:
            parsed = parse_messages(pl.Series(MESSAGE, new, dtype=pl.String), self._profile)
            self._rows.update((row[0], row) for row in parsed.iter_rows())
        if not texts:
            return pl.DataFrame(schema=self._schema)
        return pl.DataFrame([self._rows[text] for text in texts], schema=self._schema, orient="row")


def _split_arguments(table: pl.DataFrame) -> pl.DataFrame:
    words = pl.col(MESSAGE).str.strip_chars().str.extract_groups(r"(?s)^(\S*)\s*(.*)$")
    rest = words.struct[1]
    return table.with_columns(words.struct[0].alias(ITEM_ID), pl.when(rest != "").then(rest).alias(ARGUMENTS))


def _plain_kind(undo: UndoConfig) -> pl.Expr:
    undoable = _starts_with(undo.undoable_prefixes) if undo.undoable_prefixes else pl.lit(True)
    return (
        pl.when(pl.col(MESSAGE).is_in(undo.undo_messages))
        .then(pl.lit(Kind.UNDO.value))
        .when(pl.col(MESSAGE).is_in(undo.redo_messages))
        .then(pl.lit(Kind.REDO.value))
        .when(undoable & ~_starts_with(undo.not_undoable))
        .then(pl.lit(Kind.EVENT.value))
        .otherwise(pl.lit(Kind.PLAIN.value))
    )


def _starts_with(prefixes: list[str], column: str = MESSAGE) -> pl.Expr:
    found = [pl.col(column).str.starts_with(prefix) for prefix in prefixes]
    return pl.any_horizontal(found) if found else pl.lit(False)


def _parse_vectorworks(table: pl.DataFrame, undo: UndoConfig) -> pl.DataFrame:
    # (MAX-n) stands before or after the kind
    text = (
        pl.col(MESSAGE)
        .str.replace(r"^\s*\(MAX-\d+\)\s*", "")
        .str.replace(r"^([A-Za-z ]+:)\s*\(MAX-\d+\)\s*", "${1} ")
        .str.replace_all(r"[ \t\u{a0}]+", " ")
        .str.strip_chars()
    )
    parts = text.str.extract_groups(_GRAMMAR)
    table = table.with_columns(text.alias("text"), parts.struct[0].alias("prefix"), parts.struct[1].alias("rest"))
    is_menu = pl.col("prefix") == "Menu"
    # a menu's counter is the second of two numbers at its end
    rest = pl.when(is_menu).then(pl.col("rest").str.replace(r"(\(-?\d+\)) ?\(\d+\)$", "${1}")).otherwise("rest")
    table = table.with_columns(rest.alias("rest"))
    table = table.with_columns(_unquoted(pl.col("rest")).alias("rest"))
    kind = pl.col("prefix").replace_strict({k: v.value for k, v in _KINDS.items()}, default=None, return_dtype=pl.UInt8)
    item = pl.when(pl.col("prefix").is_null()).then("text").otherwise(pl.format("{}: {}", "prefix", "rest"))
    table = table.select(MESSAGE, item.alias(ITEM_ID), kind.alias(KIND))
    begins_nothing = (pl.col(KIND) == Kind.STARTER.value) & _starts_with(undo.not_starters, ITEM_ID)
    plain = pl.lit(Kind.PLAIN.value, pl.UInt8)
    return table.with_columns(pl.when(begins_nothing).then(plain).otherwise(KIND).alias(KIND))


def _unquoted(rest: pl.Expr) -> pl.Expr:
    """``'Drag' (75)`` to ``Drag (75)`` and ``'File' - 'Save' (12)`` to ``File - Save (12)``; other quotes stay."""
    groups = rest.str.extract_groups(r"(?s)^'(.*)'((?: ?\(-?\d+\))?)$")
    # 'a' - 'b': the parts of a menu are quoted one by one
    return (
        pl.when(groups.struct[0].is_not_null())
        .then(pl.concat_str(groups.struct[0].str.replace_all("' - '", " - ", literal=True), groups.struct[1]))
        .otherwise(rest)
    )


def _noise_reason(profile: Profile) -> pl.Expr:
    noise = profile.noise
    reasons = [pl.when(pl.col(MESSAGE).is_in(noise.messages)).then(pl.format("message {}", MESSAGE))]
    for prefix in noise.prefixes:
        reasons.append(pl.when(pl.col(ITEM_ID).str.starts_with(prefix)).then(pl.lit(f"prefix {prefix}")))
    if noise.ids:
        is_listed = pl.col(_NUMBER).is_in(noise.ids)
        reasons.append(pl.when(is_listed).then(pl.format("id ({})", pl.col(_NUMBER))))
    reasons.append(pl.when(pl.col(KIND).is_null()).then(pl.lit(OUTSIDE)))
    reasons.append(pl.when(pl.col(ITEM_ID) == "").then(pl.lit(NO_COMMAND)))
    return pl.coalesce(reasons)


def _number() -> pl.Expr:
    """The number in brackets at the end; null for a Menu, whose numbers are others."""
    number = pl.col(ITEM_ID).str.extract(r"\((-?\d+)\) ?\.?$").cast(pl.Int64, strict=False)
    return pl.when(~pl.col(ITEM_ID).str.starts_with("Menu:")).then(number)


def parse_times(
    values: pl.Series, formats: list[TimeFormat], source: object, first_row: int = 0
) -> tuple[pl.Series, pl.Series | None]:
    """Time of each row as Int64 microseconds UTC, and the process clock where the format has one.

    The first format that reads a value decides; a file may mix them.

    Raises:
        InputError: a value that no format reads: source, row (from `first_row` + 1), value, expected form.
    """
    if isinstance(values.dtype, pl.Datetime):
        moments = values if values.dtype.time_zone else values.dt.replace_time_zone(formats[0].zone)
        parsed: pl.Series = moments.dt.epoch("us").alias(TIMESTAMP)
        _refuse_unparsed(parsed, values, formats, source, first_row)
        return parsed, None
    text = values.cast(pl.String).str.strip_chars()
    frame = pl.DataFrame({"text": text})
    out = pl.Series(TIMESTAMP, [None], dtype=pl.Int64).new_from_index(0, len(text))
    clock: pl.Series | None = None
    for form in sorted(formats, key=lambda f: not _reads_first(f, frame)) if len(formats) > 1 else formats:
        if not out.null_count():
            break
        read = frame.select(_read_time(form).alias(TIMESTAMP), _read_clock(form).alias(CLOCK))
        if clock is None and form.pattern is not None and "clock" in form.pattern:
            clock = read[CLOCK]
        out = out.zip_with(out.is_not_null(), read[TIMESTAMP])
    _refuse_unparsed(out, values, formats, source, first_row)
    return out, clock


def _reads_first(form: TimeFormat, frame: pl.DataFrame) -> bool:
    first = frame.head(1).select(_read_time(form))
    return first.height == 1 and first.item() is not None


def _read_time(form: TimeFormat) -> pl.Expr:
    text = pl.col("text")
    if form.format in Epoch:
        number = text.cast(pl.Float64, strict=False) * Epoch[form.format]
        rounded = number.round().cast(pl.Int64, strict=False)
        return text.cast(pl.Int64, strict=False).mul(Epoch[form.format]).fill_null(rounded)
    has_zone = re.search(r"%(:{0,3}z|#z|Z|\+)", form.format) is not None
    if form.pattern is not None:
        groups = text.str.extract_groups(form.pattern)
        time = groups.struct.field("time")
        text = pl.concat_str(time, groups.struct.field("zone"), separator=" ") if "<zone>" in form.pattern else time
    if has_zone:
        return text.str.to_datetime(form.format, strict=False, time_unit="us", time_zone="UTC").dt.epoch("us")
    moment = text.str.to_datetime(form.format, strict=False, time_unit="us", exact=True)
    if form.zone != "UTC":
        moment = moment.dt.replace_time_zone(form.zone, ambiguous="earliest", non_existent="null")
    return moment.dt.epoch("us")


def _read_clock(form: TimeFormat) -> pl.Expr:
    if form.pattern is None or "<clock>" not in form.pattern:
        return pl.lit(None, dtype=pl.Int64)
    seconds = pl.col("text").str.extract_groups(form.pattern).struct.field("clock")
    return (seconds.cast(pl.Float64, strict=False) * 1_000_000).round().cast(pl.Int64, strict=False)


def _refuse_unparsed(
    parsed: pl.Series, values: pl.Series, formats: list[TimeFormat], source: object, first_row: int
) -> None:
    if not parsed.null_count():
        return
    at = int(parsed.is_null().arg_max() or 0)
    expected = " or ".join(f"'{f.example}'" for f in formats)
    shown = "no time" if values[at] is None else f"time {str(values[at])!r}"
    raise InputError(f"{source}: row {first_row + at + 1}: {shown} in column '{values.name}'; expected {expected}")
