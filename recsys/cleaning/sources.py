"""Raw logs of any shape to frames with the columns of `RAW_COLUMNS`, whole files never in memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from recsys.cleaning.parser import CLOCK, MESSAGE, parse_times
from recsys.cleaning.profile import MetadataConfig, Profile
from recsys.cleaning.streams import DEFAULT_MAX_BYTES, Budget, Patterns, Role, Table, list_files, open_tables
from recsys.cleaning.tables import read_frames, require
from recsys.errors import InputError, missing_column
from recsys.schema import CATEGORY, CLASSIFICATION, DESCRIPTION, ITEM_ID, SESSION_ID, TARGET, TIMESTAMP, USER_ID

# Present where the profile has them; message and timestamp always are.
RAW_COLUMNS = {
    SESSION_ID: pl.String,
    USER_ID: pl.String,
    CATEGORY: pl.String,
    MESSAGE: pl.String,
    TIMESTAMP: pl.Int64,
    CLOCK: pl.Int64,
}
METADATA_COLUMNS = (CLASSIFICATION, TARGET, DESCRIPTION)


class LogReader:
    """Reads one input. After `frames` is exhausted, `metadata`, `files` and `skipped` are filled.

    Args:
        path: a file, a folder or an archive (csv, json lines, Parquet; plain, gz, xz, zst; tar of those).
        profile: names of columns and files, forms of time.
        max_bytes: cap on the decompressed size of all of it.
        metadata: file with what is known about commands; None: the profile's, inside `path`, else beside it.
        files: read only these of `list_files`, a share of a folder; None: all.
    """

    def __init__(
        self,
        path: Path,
        profile: Profile,
        max_bytes: int = DEFAULT_MAX_BYTES,
        metadata: Path | None = None,
        files: Sequence[tuple[Path, Role]] | None = None,
    ) -> None:
        self.path, self.profile, self._metadata_path, self._chosen = path, profile, metadata, files
        self.budget = Budget(max_bytes)
        self.files: dict[str, int] = {}  # name -> rows
        self.skipped: list[str] = []
        self.metadata: pl.DataFrame | None = None
        self.columns: set[str] = set()  # of `RAW_COLUMNS`, those that any file had

    def size(self) -> int:
        """Bytes of the input on disk."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(p.stat().st_size for p in files if p.is_file())

    def list_files(self) -> list[tuple[Path, Role]]:
        """The files under the path and their parts; fills `skipped` with those that are not read."""
        return list_files(self.path, self._patterns(), self.skipped)

    def _patterns(self) -> Patterns:
        return Patterns(self.profile.files.logs, self.profile.metadata.files, self.profile.files.skip)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Frames in the order of the input, with the columns of `RAW_COLUMNS` that the log has.

        Raises:
            InputError: anything in the input that cannot be read, in one line.
        """
        files = self.list_files() if self._chosen is None else self._chosen
        for table in open_tables(files, self._patterns(), self.budget, self.skipped):
            if table.role == "metadata":
                if self._metadata_path is None:
                    self._keep_metadata(table)
            else:
                yield from self._log(table)
        if self.metadata is None and self._chosen is None:
            self.read_metadata_beside()

    @property
    def reads_metadata_beside(self) -> bool:
        """Whether a file was named that wins over those inside the input."""
        return self._metadata_path is not None

    def read_metadata_beside(self) -> None:
        """Read what is known about commands from the file that was named, else from those beside the path."""
        patterns = Patterns(["*"], self.profile.metadata.files, [])
        for path in [self._metadata_path] if self._metadata_path else self.metadata_beside():
            for table in open_tables([(path, "log")], patterns, self.budget, []):
                self._keep_metadata(table)

    def metadata_beside(self) -> list[Path]:
        """The files beside the path that the profile takes for tables of commands."""
        patterns = Patterns(["*"], self.profile.metadata.files, [])
        near = sorted(p for p in self.path.absolute().parent.iterdir() if p.is_file())
        return [p for p in near if patterns.role(p.name) == "metadata" and p.name != self.path.name]

    def _log(self, table: Table) -> Iterator[pl.DataFrame]:
        found: dict[str, str] = {}

        def choose(present: Sequence[str]) -> list[str]:
            found.update(choose_columns(self.profile, present, table.name))
            return list(dict.fromkeys(found.values()))

        rows = 0
        for frame in read_frames(table, choose, self.budget, self.profile.files.encoding):
            out = raw_frame(frame, found, self.profile, table.name, rows)
            rows += frame.height
            self.columns.update(out.columns)
            yield out
        self.files[table.name] = rows

    def _keep_metadata(self, table: Table) -> None:
        config = self.profile.metadata

        def choose(present: Sequence[str]) -> list[str]:
            names = [config.item, config.classification, config.target, config.description]
            return list(dict.fromkeys(require([n], present, table.name) for n in names if n))

        frame = pl.concat(read_frames(table, choose, self.budget, self.profile.files.encoding))
        found = _metadata_table(frame, config, table.name)
        self.metadata = found if self.metadata is None else pl.concat([self.metadata, found], how="diagonal")


def choose_columns(
    profile: Profile, present: Sequence[str], source: object, known: Mapping[str, str] | None = None, more: bool = True
) -> dict[str, str]:
    """Which column of a log is which of `RAW_COLUMNS`, or is kept under its own name.

    Args:
        profile: names the alternatives.
        present: columns of the log.
        source: what errors call it.
        known: what was found before and stays.
        more: whether columns that a log may lack, user and category, are looked for.

    Raises:
        InputError: a column is missing.
    """
    columns = profile.columns
    wanted = {TIMESTAMP: columns.time, MESSAGE: columns.message}
    wanted |= {SESSION_ID: columns.session} if columns.session else {USER_ID: columns.user}
    if profile.categories is not None:
        wanted[CATEGORY] = columns.category
    wanted |= {column: [column] for column in columns.keep}
    found = dict(known or {})
    for name, alternatives in wanted.items():
        if name not in found:
            there = [column for column in alternatives if column in present]
            if not there:
                missing = missing_column(source, alternatives[0], present)
                raise InputError(f"{missing}; is it a log, and profile '{profile.name}' the one for it?")
            found[name] = there[0]
    for name, alternatives in ((USER_ID, columns.user), (CATEGORY, columns.category)) if more else ():
        there = [column for column in alternatives if column in present]
        if name not in found and there:
            found[name] = there[0]
    return found


def raw_frame(
    frame: pl.DataFrame, found: Mapping[str, str], profile: Profile, source: object, first_row: int = 0
) -> pl.DataFrame:
    """Rows with the columns of `RAW_COLUMNS`; `found`: what `choose_columns` said, `first_row`: rows before these.

    Raises:
        InputError: a time that cannot be read.
    """
    times, clock = parse_times(frame[found[TIMESTAMP]], profile.times, source, first_row)
    texts = [pl.col(column).cast(pl.String).alias(name) for name, column in found.items() if name != TIMESTAMP]
    out = frame.select(texts).with_columns(times)
    return out if clock is None else out.with_columns(clock)


def _metadata_table(frame: pl.DataFrame, config: MetadataConfig, source: str) -> pl.DataFrame:
    """Columns item_id and those of classification, target, description that are configured."""
    sources = {CLASSIFICATION: config.classification, TARGET: config.target, DESCRIPTION: config.description}
    columns = [pl.col(config.item).cast(pl.String).alias(ITEM_ID)]
    for name, column in sources.items():
        if column is not None:
            text = pl.col(column).cast(pl.String)
            unknown = text.is_in([*config.nulls, ""])
            columns.append(pl.when(unknown).then(None).otherwise(text).alias(name))
    table = frame.select(columns).drop_nulls(ITEM_ID).unique(maintain_order=True)
    twice = table.filter(pl.col(ITEM_ID).is_duplicated())
    if twice.height:
        raise InputError(f"{source}: command {twice[ITEM_ID][0]!r} stands twice with different values; keep one row")
    return table


def attributes(items: pl.DataFrame, metadata: pl.DataFrame | None, config: MetadataConfig) -> pl.DataFrame:
    """Add what is known about the commands of `items` (column item_id): classification, target, description."""
    if metadata is not None:
        items = items.join(metadata, on=ITEM_ID, how="left", maintain_order="left")
    if config.target_before is not None:
        head = pl.col(ITEM_ID).str.split(config.target_before).list.first()
        has_one = pl.col(ITEM_ID).str.contains(config.target_before, literal=True)
        items = items.with_columns(pl.when(has_one).then(head).otherwise(None).alias(TARGET))
    return items
