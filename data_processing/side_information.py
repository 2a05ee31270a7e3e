"""Stage 6 of the data processing: what documentation says of each command, as a summary and two labels.

Documentation is chunked, embedded and stored in Chroma; for each command the nearest chunks are found, and either a
language model answers one question about them or, without one, the summary is made of their sentences and the labels go
by words and by embedding. What ``commands.parquet`` knows already is kept, and only its gaps are filled, unless
``side_information.replace`` is set. Rare commands, which have no id in the model, are not asked for.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from data_processing import services
from data_processing.documents import DEFAULT_MAX_BYTES, Documents, read_documents
from data_processing.parts import (
    COMMANDS_FILE,
    REPORT_FILE,
    EventsFolder,
    default_cache,
    link_or_copy,
    read_table,
    stage_parser,
    write_json,
)
from data_processing.services.protocols import Embedder
from data_processing.side_information_chat import answer_model, ask, question
from data_processing.side_information_index import DocumentIndex, Found, words_of
from data_processing.side_information_labels import Labeller, summaries
from data_processing.side_information_table import (
    ANSWERED,
    COSTS_FILE,
    EXTRACTED,
    FAILED,
    FIELDS,
    KNOWN,
    NOT_ASKED,
    RARE,
    SUMMARY,
    TABLE_FILE,
    Row,
    apply_overrides,
    enriched,
    names_of,
    review_table,
)
from recsys.cleaning.fitting import SideInformationConfig
from recsys.errors import ConfigError, InputError
from recsys.runtime import atomic_folder, command_line, gigabytes, progress
from recsys.schema import CLASSIFICATION, DESCRIPTION, ITEM_ID, TARGET

CHROMA_FOLDER = "chroma"  # in the cache
_FAILURES_SHOWN = 20


@dataclass
class _Costs:
    """What this run asked of services; what a cache answered cost nothing."""

    chunks_embedded: int = 0
    questions: int = 0
    question_characters: int = 0  # of the questions, documentation included
    corrected: int = 0  # questions asked a second time, with what was wrong
    embedder: dict[str, int] = field(default_factory=dict)
    chat: dict[str, int] = field(default_factory=dict)


def add_side_information(
    events: Path,
    docs: Path,
    out: Path,
    *,
    config: SideInformationConfig | None = None,
    cache: Path | None = None,
    overrides: Path | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> dict[str, Any]:
    """Enrich the commands of an events folder; returns its report.

    Writes a complete events folder (parts are linked where the file system can): ``commands.parquet`` with
    classification, target and description, ``side_information.csv`` for review, ``side_information_costs.json`` with
    what this run was charged, ``report.json`` with the section ``side_information``.

    Args:
        events: folder of data_processing.filter or data_processing.workflows.
        docs: documentation: a folder, a tar archive or a file, see `data_processing.documents`.
        out: the folder to write; it appears when all went well.
        config: what is asked and how; None: `side_information` of the folder's profile.
        cache: folder that keeps vectors and answers for later runs and after an interruption; None: nothing is kept.
        overrides: CSV ``item_id[,summary][,classification][,target]`` of a person, which wins over everything.
        overwrite: replace `out` where it exists.
        limit: only so many commands are asked for, the most frequent first.
        max_bytes: cap on the decompressed size of `docs`.

    Raises:
        InputError, ConfigError: one line that names the file, the row and the fix.
        ServiceDown: a service does not answer any more; what it answered is in `cache`.
    """
    folder = EventsFolder(events)
    config = config or folder.profile.side_information
    if config is None:
        raise ConfigError(f"{events}: its profile has no section side_information; give it one, or pass a config")
    if limit is not None and limit < 0:
        raise ConfigError(f"limit: {limit}: expected a number of commands, 0 or more")
    run = _Run(folder, _read_commands(events), config, limit)
    if overrides is not None:
        apply_overrides(run.rows, overrides, config)
    with atomic_folder(out, replace=overwrite, markers=(REPORT_FILE,)) as work, ExitStack() as stack:
        if run.wanted:
            documents = read_documents(docs, config.chunk_length, max_bytes)
            kept = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="side_information.")))
            run.answer(documents, kept)
            if overrides is not None:
                apply_overrides(run.rows, overrides, config)
        return run.write(work)


def _read_commands(events: Path) -> pl.DataFrame:
    path = events / COMMANDS_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; run data_processing.filter first")
    commands = read_table(path)
    lacking = [name for name in (CLASSIFICATION, TARGET, DESCRIPTION) if name not in commands.columns]
    return commands.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)


def _copy(events: Path, work: Path, parts: Sequence[Path]) -> None:
    """Everything of a folder but what this stage writes itself; event parts are linked."""
    own = (COMMANDS_FILE, REPORT_FILE, TABLE_FILE, COSTS_FILE)
    for source in sorted(events.iterdir()):
        if source.name == "events":
            (work / "events").mkdir()
            for part in parts:
                link_or_copy(part, work / "events" / part.name)
        elif source.is_dir():
            shutil.copytree(source, work / source.name)
        elif source.name not in own:
            shutil.copyfile(source, work / source.name)


class _Run:
    """The rows of one run, one for each command, and what it counted."""

    def __init__(
        self, folder: EventsFolder, commands: pl.DataFrame, config: SideInformationConfig, limit: int | None
    ) -> None:
        self.folder, self.commands, self.config = folder, commands, config
        self.documents: Documents | None = None
        self.collection: str | None = None
        self.costs = _Costs()
        names = names_of(commands[ITEM_ID].to_list(), folder)
        self.rows: list[Row] = []
        for name, known in zip(names, commands.iter_rows(named=True), strict=True):
            row = Row(known[ITEM_ID], name)
            full = all(known[of] is not None for of in (CLASSIFICATION, TARGET, DESCRIPTION))
            if full and not config.replace:
                row.status = KNOWN
            elif known.get("kept") is False:
                row.status = RARE
            else:
                row.status = ""
            self.rows.append(row)
        counts = commands["count"].to_list() if "count" in commands.columns else [0] * commands.height
        order = sorted((at for at, row in enumerate(self.rows) if not row.status), key=lambda at: (-counts[at], at))
        for at in order[limit:] if limit is not None else []:
            self.rows[at].status = NOT_ASKED

    @property
    def wanted(self) -> list[Row]:
        """Commands that still have no status: those to be asked for."""
        return [row for row in self.rows if not row.status]

    def answer(self, documents: Documents, cache: Path) -> None:
        """Find the chunks of each wanted command, and fill in its row."""
        rows, self.documents = self.wanted, documents
        embedder = services.make_embedder(self.config.embedder, cache, "query")
        of_documents = services.make_embedder(self.config.embedder, None, "document")
        with DocumentIndex(cache / CHROMA_FOLDER, documents.chunks, of_documents) as index:
            self.costs.chunks_embedded, self.collection = index.embedded, index.collection
            names = [words_of(row.name) for row in rows]
            found = index.search(names, embedder.embed(names), self.config.chunks)
        if self.config.chat is not None:
            self.ask(rows, found, cache)
        else:
            self.extract(rows, found, embedder)
        self.costs.embedder = embedder.stats.to_dict()

    def ask(self, rows: list[Row], found: list[list[Found]], cache: Path) -> None:
        assert self.config.chat is not None
        chat = services.make_chat(self.config.chat, cache)
        labels = {CLASSIFICATION: self.config.classification, TARGET: self.config.target}
        model = answer_model(list(self.config.classification), list(self.config.target))
        for row, chunks in progress(list(zip(rows, found, strict=True)), "ask", unit="command"):
            reply = ask(chat, question(row.item, row.name, chunks, labels), model)
            self.costs.questions += 1
            self.costs.question_characters += reply.characters
            self.costs.corrected += reply.corrected
            row.sources = [one.chunk.source for one in chunks]
            row.status, row.reason = ANSWERED if reply.answer else FAILED, reply.reason
            if reply.answer:
                row.values = reply.answer.model_dump()
        self.costs.chat = chat.stats.to_dict()

    def extract(self, rows: list[Row], found: list[list[Found]], embedder: Embedder) -> None:
        names = [words_of(row.name) for row in rows]
        told = summaries(names, found, embedder, self.config.min_similarity)
        texts = [summary for summary, _ in told]
        items = [row.item for row in rows]
        classes = Labeller(self.config.classification, embedder, last=False).give(items, names, texts)
        targets = Labeller(self.config.target, embedder, last=True).give(items, names, texts)
        for at, row in enumerate(rows):
            summary, chunks = told[at]
            row.values = {SUMMARY: summary, CLASSIFICATION: classes[at], TARGET: targets[at]}
            row.sources = [one.chunk.source for one in chunks]
            row.status = EXTRACTED
            if summary is None:
                best = max((one.similarity for one in found[at]), default=0.0)
                row.reason = f"no sentence near enough (nearest passage {best:.2f})"

    def write(self, work: Path) -> dict[str, Any]:
        """Write the enriched folder; returns its report."""
        _copy(self.folder.path, work, self.folder.parts)
        commands = enriched(self.commands, self.rows, self.config.replace)
        commands.write_parquet(work / COMMANDS_FILE)
        review_table(self.rows, commands).write_csv(work / TABLE_FILE)
        write_json(work / COSTS_FILE, asdict(self.costs))
        report = {**self.folder.report(), "side_information": self.report()}
        write_json(work / REPORT_FILE, report)
        return report

    def report(self) -> dict[str, Any]:
        failures = [row for row in self.rows if row.status == FAILED]
        chat = self.config.chat
        return {
            "commands": len(self.rows),
            "status": dict(sorted(Counter(row.status for row in self.rows).items())),
            "given": {name: sum(row.values.get(name) is not None for row in self.rows) for name in FIELDS},
            "documents": self.documents.report() if self.documents else None,
            "collection": self.collection,
            "embedder": self.config.embedder.model or self.config.embedder.kind,
            "chat": (chat.model or chat.kind) if chat else None,
            "failures": [{ITEM_ID: row.item, "reason": row.reason} for row in failures[:_FAILURES_SHOWN]],
        }


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.side_information``."""
    parser = stage_parser(
        "side_information",
        "Add a summary, a class and a target to each command, out of documentation.",
        "--events out/filter --docs manual --out out/side_information",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.filter or .workflows")
    parser.add_argument("--docs", type=Path, required=True, help="folder, tar archive or file (.md, .rst, .html)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--cache", type=Path, help="folder for vectors and answers (default: cache, beside --out)")
    parser.add_argument("--overrides", type=Path, help="CSV item_id,summary,classification,target that wins")
    parser.add_argument("--limit", type=int, help="ask for so many commands only, the most frequent first")
    parser.add_argument("--max-gigabytes", type=gigabytes, default=DEFAULT_MAX_BYTES, help="cap on the size of --docs")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    given = parser.parse_args(arguments)
    report = add_side_information(
        given.events,
        given.docs,
        given.out,
        cache=given.cache or default_cache(given.out),
        overrides=given.overrides,
        overwrite=given.overwrite,
        limit=given.limit,
        max_bytes=given.max_gigabytes,
    )["side_information"]
    counts = ", ".join(f"{name} {count}" for name, count in report["status"].items())
    print(f"{given.out}: {report['commands']:,} commands ({counts}); look at {given.out / TABLE_FILE}")


if __name__ == "__main__":
    raise SystemExit(main())
