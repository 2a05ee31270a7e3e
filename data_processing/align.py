"""Stage 2 of the data processing: the names that one command has in many languages become one label.

Reads the events of `data_processing.reconstruct`, of all groups: names are aligned, no statistic of sequences is
fitted. Messages with a common command id are one command. What has no id is translated, embedded and clustered within
its category, where the profile names services for that (`data_processing.align_cluster` says how). The result,
``command_dictionary.csv``, is for a person to review: a file of overrides wins over what was found.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_processing import services
from data_processing.align_cluster import Points, cluster, name_features, unit_rows
from data_processing.align_names import ENGLISH, Message, read_messages, set_languages, several_names, unused_patterns
from data_processing.align_overrides import final_labels, read_overrides
from data_processing.parts import REPORT_FILE, EventsFolder, default_cache, stage_parser, write_json
from data_processing.services.protocols import Embedder, Translator, Vectors
from recsys.cleaning.dictionary import DICTIONARY_FILE
from recsys.cleaning.fitting import AlignConfig
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.small_tables import write_rows
from recsys.errors import ConfigError
from recsys.runtime import atomic_folder, command_line, note

COLUMNS = ("message", "count", "command_id", "category", "language", "translation", "cluster", "label", "source")
LISTED = 200  # failures, ids in a report
SERVICES_FILE = "services.json"


def align(
    events: Path,
    profile: Profile,
    out: Path,
    *,
    overrides: Path | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``command_dictionary.csv`` and ``report.json`` into the folder `out` (appears by rename).

    The table has a row an item_id, by count: ``message, count, command_id`` (empty where it has none that is trusted),
    ``category, language, translation, cluster`` (number of its group), ``label`` (an item_id of its group) and
    ``source``, which says what put it into its group: ``id``, ``name`` (equal names), ``translation`` (equal
    translations), ``cluster`` (similar names), ``override``, or ``self`` for a message that stands alone.

    A group's label is its most frequent English name; where it has none, the name nearest to the mean of their
    embeddings, or without an embedder the most frequent one. Equal counts go by text.

    Args:
        events: folder of `data_processing.reconstruct`.
        profile: its section ``align`` says what is done.
        overrides: CSV ``message,label``; see `data_processing.align_overrides.read_overrides`.
        cache: folder in which answers of services are kept, so that an interrupted run continues.
        overwrite: replace `out` where it exists.

    Returns:
        The report.

    Raises:
        InputError: `events` or `overrides` cannot be used.
        ConfigError: the profile has no section ``align``, or an optional library is missing.
    """
    if profile.align is None:
        raise ConfigError(f"profile '{profile.name}' has no section 'align'; add one, or leave this stage out")
    folder = EventsFolder(events, profile)
    folder.require_unfiltered()
    with atomic_folder(out, replace=overwrite, markers=(DICTIONARY_FILE, REPORT_FILE)) as work:
        run = _Alignment(read_messages(folder.parts, profile.align), profile.align, cache)
        given = read_overrides(overrides, {m.text for m in run.messages}) if overrides else {}
        run.ask_services(folder.parts)
        run.join_groups()
        run.label()
        labels = final_labels(run.labels, given, overrides) if overrides else run.labels
        rows = run.rows(labels, set(given))
        write_rows(work / DICTIONARY_FILE, COLUMNS, rows)
        report = {"source": str(events), "profile": profile.name, **run.report(rows)}
        report["notes"] = unused_patterns(run.messages, profile.align)
        report["ids_of_several_names"] = several_names(run.messages, folder.parts)[:LISTED]
        write_json(work / REPORT_FILE, report)
        write_json(work / SERVICES_FILE, run.service_report())
    for line in report["notes"]:
        note(line)
    for doubt in report["ids_of_several_names"][:3]:
        names = ", ".join(f"'{name}'" for name in doubt["names"])
        note(
            f"id {doubt['id']} has several names in {doubt['several']} of {doubt['sessions']} sessions: {names}; "
            "if these are different commands, add it to align.untrusted_ids of the profile"
        )
    return report


@dataclass
class _Group:
    """Messages that are one command."""

    members: list[Message]
    command_id: str | None = None
    sources: dict[str, str] = field(default_factory=dict)  # of members: what put them here


class _Alignment:
    """The messages of one log, and what is found out about them."""

    def __init__(self, messages: list[Message], config: AlignConfig, cache: Path | None) -> None:
        self.messages, self.config = messages, config
        language, embedder, translator = config.language, config.embedder, config.translator
        self.identifier = services.make_language_identifier(language) if language else None
        self.embedder: Embedder | None = services.make_embedder(embedder, cache) if embedder else None
        self.translator: Translator | None = (
            services.make_translator(translator, cache, self.identifier) if translator else None
        )
        self.groups: list[_Group] = []
        self.labels: dict[str, str] = {}
        self.ambiguous = 0  # names without an id that several ids have

    def ask_services(self, parts: Sequence[Path]) -> None:
        """Languages and translations of the messages."""
        if self.identifier:
            set_languages(self.messages, parts, self.identifier)
        if self.translator:
            foreign = [m for m in self.messages if m.language != ENGLISH]
            answers = self.translator.translate([m.name for m in foreign], [m.language for m in foreign])
            for message, answer in zip(foreign, answers, strict=True):
                message.translation = answer

    def join_groups(self) -> None:
        """Groups: by id; what has none by equal names, then by similar ones, where an embedder is there."""
        by_id: dict[str, _Group] = {}
        alone: list[Message] = []
        for message in self.messages:
            if message.command_id is None:
                alone.append(message)
                continue
            group = by_id.setdefault(message.command_id, _Group([], message.command_id))
            group.members.append(message)
            group.sources[message.text] = "id"
        settled = list(by_id.values())
        if self.embedder is None and self.translator is None:
            self.groups = settled + [_Group([message]) for message in alone]
            return
        self.groups = settled + self._by_name(settled, alone)
        if self.embedder:
            self._by_similarity(self.embedder)

    def _by_name(self, settled: list[_Group], alone: list[Message]) -> list[_Group]:
        """Messages without an id join the one group that has their name, or each other."""
        owners: dict[tuple[str | None, str], list[_Group]] = defaultdict(list)
        for group in settled:
            for place in {(m.category, m.compared) for m in group.members}:
                owners[place].append(group)
        fresh: dict[tuple[str | None, str], _Group] = {}
        for message in alone:
            place = (message.category, message.compared)
            named = owners.get(place, [])
            self.ambiguous += len(named) > 1
            group = named[0] if len(named) == 1 else fresh.setdefault(place, _Group([]))
            group.members.append(message)
            group.sources[message.text] = "translation" if message.translation else "name"
        return list(fresh.values())

    def _by_similarity(self, embedder: Embedder) -> None:
        by_category: dict[str | None, list[_Group]] = defaultdict(list)
        for group in self.groups:
            by_category[group.members[0].category].append(group)
        self.groups = []
        for groups in by_category.values():
            # What ids settle needs no embedding.
            if len(groups) < 2 or all(group.command_id for group in groups):
                self.groups += groups
                continue
            points = Points(
                _means(groups, embedder),
                [frozenset(m.language for m in group.members) for group in groups],
                np.array([group.command_id is not None for group in groups]),
            )
            joined: dict[int, _Group] = {}
            for number, group in zip(cluster(points, self.config.min_similarity).tolist(), groups, strict=True):
                into = joined.setdefault(number, group)
                if into is not group:
                    _merge(into, group)
            self.groups += joined.values()

    def label(self) -> None:
        """Choose the label of each group, and order groups by the place of theirs."""
        order = {message.text: place for place, message in enumerate(self.messages)}
        without_english = []
        chosen: dict[int, Message] = {}
        for number, group in enumerate(self.groups):
            group.members.sort(key=lambda m: order[m.text])
            english = [m for m in group.members if m.language == ENGLISH]
            chosen[number] = (english or group.members)[0]
            if not english and len(group.members) > 1:
                without_english.append(number)
        if self.embedder and without_english:
            for number, message in _central(self.groups, without_english, self.embedder):
                chosen[number] = message
        for number, group in enumerate(self.groups):
            self.labels.update((m.text, chosen[number].text) for m in group.members)

    def rows(self, labels: dict[str, str], overridden: set[str]) -> list[tuple[object, ...]]:
        """The table, by count; names that overrides bring in come last."""
        sources = {text: source for group in self.groups for text, source in group.sources.items()}
        moved = {m.text for m in self.messages if labels[m.text] != self.labels[m.text]}
        sizes = Counter(labels.values())
        numbers: dict[str, int] = {}
        rows: list[tuple[object, ...]] = []
        for m in self.messages:
            label = labels[m.text]
            source = sources.get(m.text, "self") if sizes[label] > 1 else "self"
            if m.text in moved or m.text in overridden:
                source = "override"
            number = numbers.setdefault(label, len(numbers))
            language = "" if m.language == services.UNKNOWN_LANGUAGE else m.language
            rows.append((m.text, m.count, m.command_id, m.category, language, m.translation, number, label, source))
        for name in sorted(set(labels) - self.labels.keys()):
            number = numbers.setdefault(labels[name], len(numbers))
            rows.append((name, 0, None, None, "", None, number, labels[name], "override"))
        return rows

    def report(self, rows: list[tuple[object, ...]]) -> dict[str, Any]:
        """What was found, in counts."""
        table = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        languages: dict[str, dict[str, int]] = {}
        for m in self.messages:
            found = languages.setdefault(m.language, {"messages": 0, "events": 0})
            found["messages"] += 1
            found["events"] += m.count
        failures = self.translator.failures if self.translator else {}
        return {
            "messages": len(self.messages),
            "events": sum(m.count for m in self.messages),
            "labels": len({row["label"] for row in table}),
            "merged": sum(row["label"] != row["message"] for row in table),
            "merged_events": sum(
                m.count for m, row in zip(self.messages, table, strict=False) if row["label"] != m.text
            ),
            "with_id": sum(m.command_id is not None for m in self.messages),
            "ambiguous": self.ambiguous,
            "sources": dict(sorted(Counter(str(row["source"]) for row in table).items())),
            "languages": dict(sorted(languages.items(), key=lambda entry: (-entry[1]["messages"], entry[0]))),
            "failures": len(failures),
            "failure_reasons": dict(sorted(failures.items())[:LISTED]),
        }

    def service_report(self) -> dict[str, Any]:
        """What the services were asked. Not in the report: a run that was taken up again has asked less."""
        asked = {"language": self.identifier, "translator": self.translator, "embedder": self.embedder}
        return {role: {"name": s.name, **s.stats.to_dict()} for role, s in asked.items() if s is not None}


def _merge(into: _Group, group: _Group) -> None:
    for message in (*into.members, *group.members):
        into.sources[message.text] = "id" if message.command_id else "cluster"
    into.members += group.members
    into.command_id = into.command_id or group.command_id


def _vectors(messages: Iterable[Message], embedder: Embedder) -> dict[str, Vectors]:
    names = sorted({m.compared for m in messages})
    return dict(zip(names, name_features(names, embedder), strict=True))


def _means(groups: list[_Group], embedder: Embedder) -> Vectors:
    """[groups, d]: mean of each group's different names, of norm 1."""
    vectors = _vectors((m for group in groups for m in group.members), embedder)
    return unit_rows(np.stack([_mean(group, vectors) for group in groups]))


def _mean(group: _Group, vectors: dict[str, Vectors]) -> Vectors:
    names = sorted({m.compared for m in group.members})
    return np.asarray(np.mean([vectors[name] for name in names], axis=0), dtype=np.float32)


def _central(groups: list[_Group], numbers: list[int], embedder: Embedder) -> list[tuple[int, Message]]:
    """For each of the groups `numbers`, the member nearest to their mean; the most frequent one of equals."""
    vectors = _vectors((m for number in numbers for m in groups[number].members), embedder)
    found = []
    for number in numbers:
        members = groups[number].members
        mean = _mean(groups[number], vectors)
        likeness = [round(float(vectors[m.compared] @ mean), 5) for m in members]
        found.append((number, members[likeness.index(max(likeness))]))
    return found


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.align``."""
    parser = stage_parser(
        "align",
        "Find the messages that are one command, whatever language they are in.",
        "--events out/reconstruct --out out/align",
    )
    parser.add_argument("--events", type=Path, required=True, help="folder of data_processing.reconstruct")
    parser.add_argument("--profile", help="cleaning rules: built-in name or YAML file (default: those of --events)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--overrides", type=Path, help="CSV message,label: wins over what is found")
    parser.add_argument(
        "--cache", type=Path, help="folder where answers of services are kept (default: cache, beside --out)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    given = parser.parse_args(arguments)
    profile = load_profile(given.profile) if given.profile else EventsFolder(given.events).profile
    report = align(
        given.events,
        profile,
        given.out,
        overrides=given.overrides,
        cache=given.cache or default_cache(given.out),
        overwrite=given.overwrite,
    )
    found = ", ".join(f"{count:,} by {source}" for source, count in report["sources"].items())
    file = given.out / DICTIONARY_FILE
    print(f"{file}: {report['messages']:,} messages, {report['labels']:,} commands ({found})")


if __name__ == "__main__":
    raise SystemExit(main())
