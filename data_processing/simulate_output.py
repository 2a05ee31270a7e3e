"""Writers of the log generator: log files in both formats, the truth, and the metadata of the commands."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_processing.simulate_catalogue import LANGUAGES, MENU, TOOL, Catalogue
from data_processing.simulate_messages import MessageTable
from data_processing.simulate_rows import Chunk
from recsys import schema

CANONICAL_ID = "canonical_id"
# Minutes east of Greenwich, per language.
_ZONE_MINUTES = np.array([0, 60, 60, 540, 60])
_SYSTEMS = (("WIN", "WinNT 10.0.19045  (SP 0.0, Win64) "), ("MAC", "macOS 14.5.0"))


@dataclass(frozen=True)
class SessionFacts:
    """Per session of a chunk: ids, language, start (microseconds UTC) and second counter at the start."""

    session_id: list[str]
    user_id: list[str]
    language: np.ndarray
    start: np.ndarray
    uptime: np.ndarray


class LogWriter:
    """Writes rows in time order to ``part-00000`` and so on; a session may go on in the next part."""

    def __init__(
        self,
        folder: Path,
        table: MessageTable,
        log_format: str,
        file_format: str,
        rows_per_file: int,
        with_user: bool,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.table, self.rows_per_file, self.with_user = folder, table, rows_per_file, with_user
        self.live, self.file_format = log_format == "live", file_format
        self.files: list[str] = []
        self.by_category: Counter[str] = Counter()
        self._room = 0
        self._text: BinaryIO | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._json = _json_tails(table) if self.live and file_format == "jsonl" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write(self, chunk: Chunk, sessions: SessionFacts) -> None:
        """Write one chunk's rows, sorted by time; rows of equal time keep their order."""
        time = sessions.start[chunk.session] + chunk.elapsed
        order = np.argsort(time, kind="stable")
        counts = self.table.texts["cat"].gather(chunk.code).value_counts()
        self.by_category.update(dict(counts.iter_rows()))
        for begin in range(0, len(order), 200_000):
            piece = order[begin : begin + 200_000]
            render = self._live if self.live else self._batch
            self._append(render(chunk.code[piece], time[piece], chunk.session[piece], sessions))

    def _batch(self, code: np.ndarray, time: np.ndarray, session: np.ndarray, facts: SessionFacts) -> pl.DataFrame:
        columns = {
            "session_anonymized": pl.Series(facts.session_id).gather(session),
            "ts": _format_time(time, "%Y-%m-%d %H:%M:%S%.6f"),
            "cat": self.table.texts["cat"].gather(code),
            "message": self.table.texts["message"].gather(code),
        }
        if self.with_user:
            columns["user_anonymized"] = pl.Series(facts.user_id).gather(session)
        return pl.DataFrame(columns)

    def _live(self, code: np.ndarray, time: np.ndarray, session: np.ndarray, facts: SessionFacts) -> pl.DataFrame:
        ts = _live_time(time, session, facts)
        heads = _session_columns(facts)
        if self._json is None:
            texts = self.table.texts[code]
            last = [texts[name] for name in ("cat", "label", "message", "reason", "source")]
            columns = [ts, texts["log_lvl"], *heads[session].get_columns(), *last]
            return pl.DataFrame(columns).with_columns(type=pl.lit("INFO"))
        bare = [json.dumps(row, ensure_ascii=False, separators=(",", ":"))[1:-1] for row in heads.to_dicts()]
        levels, tails = self._json
        parts = {
            "ts": ts,
            "level": levels.gather(code),
            "head": pl.Series(bare).gather(session),
            "tail": tails.gather(code),
        }
        line = pl.concat_str(pl.lit('{"ts":"'), "ts", pl.lit('",'), "level", pl.lit(","), "head", "tail")
        return pl.DataFrame(parts).select(line.alias("line"))

    def _append(self, frame: pl.DataFrame) -> None:
        while len(frame):
            if self._room == 0:
                self._open(frame)
            part, frame = frame[: self._room], frame[self._room :]
            self._room -= len(part)
            if self._parquet is not None:
                self._parquet.write_table(part.to_arrow(compat_level=pl.CompatLevel.oldest()))
            elif self._text is not None:
                self._write_text(part, self._text)

    def _write_text(self, part: pl.DataFrame, file: BinaryIO) -> None:
        if self._json is not None:
            file.write(("\n".join(part["line"].to_list()) + "\n").encode())
        elif self.file_format == "csv":
            part.write_csv(file, include_header=False)
        else:
            part.write_ndjson(file)

    def _open(self, frame: pl.DataFrame) -> None:
        self._close()
        path = self.folder / f"part-{len(self.files):05d}.{self.file_format}"
        self.files.append(path.name)
        self._room = self.rows_per_file
        if self.file_format == "parquet":
            arrow = frame[:0].to_arrow(compat_level=pl.CompatLevel.oldest()).schema
            self._parquet = pq.ParquetWriter(path, arrow, compression="zstd")
            return
        self._text = path.open("wb")
        if self.file_format == "csv":
            frame[:0].write_csv(self._text)

    def _close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if self._text is not None:
            self._text.close()
        self._parquet = self._text = None


def _format_time(microseconds: np.ndarray, form: str) -> pl.Series:
    return pl.Series(microseconds).cast(pl.Datetime("us")).dt.to_string(form)


def _live_time(time: np.ndarray, session: np.ndarray, facts: SessionFacts) -> pl.Series:
    """``MM/DD/YYYY HH:MM:SS <seconds.micro> +ZZZZ``: local wall clock, second counter, zone."""
    minutes = _ZONE_MINUTES[facts.language]
    uptime = facts.uptime[session] + (time - facts.start[session])
    clock = pl.DataFrame(
        {
            "wall": _format_time(time + minutes[session] * 60_000_000, "%m/%d/%Y %H:%M:%S "),
            "seconds": uptime // 1_000_000,
            "micros": uptime % 1_000_000,
            "zone": pl.Series([f" +{m // 60:02d}{m % 60:02d}" for m in minutes]).gather(session),
        }
    )
    micros = pl.col("micros").cast(pl.String).str.zfill(6)
    stamp = pl.concat_str("wall", pl.col("seconds").cast(pl.String), pl.lit("."), micros, "zone")
    return clock.select(stamp.alias("ts"))["ts"]


def _session_columns(facts: SessionFacts) -> pl.DataFrame:
    system = [_SYSTEMS[int(user[-1], 16) % 3 == 0] for user in facts.user_id]
    return pl.DataFrame(
        {
            "sn": facts.user_id,
            "session": facts.session_id,
            "vw_ver": ["29.0.4(750359)"] * len(system),
            "platform": [platform for platform, _ in system],
            "os_ver": [version for _, version in system],
        }
    )


def _json_tails(table: MessageTable) -> tuple[pl.Series, pl.Series]:
    """For every text: the level, and all after the session's fields; absent fields are left out."""
    levels, tails = [], []
    for row in table.texts.iter_rows(named=True):
        values = {
            "cat": row["cat"],
            "label": row["label"],
            "message": row["message"],
            "reason": row["reason"],
            "source": row["source"],
            "type": "INFO",
        }
        present = {name: value for name, value in values.items() if value is not None}
        levels.append(f'"log_lvl":{row["log_lvl"]}')
        tails.append("," + json.dumps(present, ensure_ascii=False, separators=(",", ":"))[1:])
    return pl.Series(levels), pl.Series(tails)


def clean_items(catalogue: Catalogue) -> pl.DataFrame:
    """Item, canonical id and category, at row ``language * number of commands + command``."""
    rows = [
        (
            command.item_id(language),
            command.canonical_id,
            {TOOL: "Tool", MENU: "Menu"}.get(command.kind, "UNDO"),
        )
        for language in LANGUAGES
        for command in catalogue.commands
    ]
    return pl.DataFrame(rows, schema=[schema.ITEM_ID, CANONICAL_ID, schema.CATEGORY], orient="row")


class TruthWriter:
    """Writes the clean sequence, chunk by chunk, in the order of sessions."""

    def __init__(self, path: Path, items: pl.DataFrame) -> None:
        self.items, self.commands = items, len(items) // len(LANGUAGES)
        self._writer = pq.ParquetWriter(
            path,
            pa.schema(
                [
                    (schema.SESSION_ID, pa.string()),
                    (schema.USER_ID, pa.string()),
                    ("position", pa.int64()),
                    (schema.ITEM_ID, pa.string()),
                    (schema.TIMESTAMP, pa.int64()),
                    (schema.CATEGORY, pa.string()),
                    (schema.MERGE_COUNT, pa.int64()),
                    (CANONICAL_ID, pa.string()),
                ]
            ),
            compression="zstd",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, chunk: Chunk, sessions: SessionFacts) -> None:
        """Append the truth of one chunk."""
        row = chunk.clean_row
        session = chunk.session[row]
        begins = np.flatnonzero(np.diff(session, prepend=-1))
        position = np.arange(len(row)) - np.repeat(begins, np.diff(np.append(begins, len(row))))
        items = self.items[sessions.language[session] * self.commands + chunk.clean_command]
        frame = pl.DataFrame(
            {
                schema.SESSION_ID: pl.Series(sessions.session_id).gather(session),
                schema.USER_ID: pl.Series(sessions.user_id).gather(session),
                "position": position,
                schema.ITEM_ID: items[schema.ITEM_ID],
                schema.TIMESTAMP: sessions.start[session] + chunk.elapsed[row],
                schema.CATEGORY: items[schema.CATEGORY],
                schema.MERGE_COUNT: chunk.merge_count,
                CANONICAL_ID: items[CANONICAL_ID],
            }
        )
        self._writer.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._writer.schema))


def commands_table(catalogue: Catalogue) -> pl.DataFrame:
    """Metadata, one row per language variant: class, target, description, language, canonical id."""
    rows = {
        command.item_id(language): (
            command.classification,
            command.target,
            command.description,
            language,
            command.canonical_id,
        )
        for language in reversed(LANGUAGES)  # where two languages share a name, the row names the first of them
        for command in catalogue.commands
        if not command.noise
    }
    columns = [
        schema.ITEM_ID,
        schema.CLASSIFICATION,
        schema.TARGET,
        schema.DESCRIPTION,
        "language",
        CANONICAL_ID,
    ]
    return pl.DataFrame([(key, *value) for key, value in rows.items()], schema=columns, orient="row").sort(
        schema.ITEM_ID
    )
