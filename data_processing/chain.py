"""What `data_processing.run` runs: every stage with what its bytes depend on, and what of it is finished already."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_processing.align import align
from data_processing.chain_inputs import content, listing, require_readable, service_files
from data_processing.filter import filter_events
from data_processing.parts import refuse_inside, write_json
from data_processing.reconstruct import reconstruct
from data_processing.redundancy import mine_redundancy
from data_processing.split import write_splits
from data_processing.workflows import learn_workflows
from recsys.buckets import LOOP, Workers
from recsys.cleaning.profile import Profile
from recsys.cleaning.sources import LogReader
from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.config import SplitConfig, save_config
from recsys.errors import ConfigError, InputError, nearest
from recsys.runtime import atomic_file, read_json, sha256_file

STATE_FILE = "run.json"
STAGES = ("reconstruct", "split", "align", "redundancy", "filter", "workflows", "side_information")
OPTIONAL = ("align", "redundancy", "workflows", "side_information")
_USED_BY = {
    "dictionary_overrides": "align",
    "redundancy_overrides": "redundancy",
    "workflows": "workflows",
    "docs": "side_information",
    "side_information_overrides": "side_information",
}
_DAMAGED = "pass --overwrite to run all stages anew"
_AFTER_FILTER = {"workflows", "side_information"}  # sections that filter only hands on
_FITTED = {"align", "redundancy", "workflows", "side_information", "rare", "min_length"}  # not for reconstruct


@dataclass(frozen=True)
class Settings:
    """What one run is given.

    Attributes:
        logs: file, folder or archive of raw logs.
        profile: the rules; a stage whose section it lacks is left out.
        split: how groups are assigned.
        metadata: table of commands; None: the profile's, in or beside `logs`.
        docs: documentation for side information; None leaves that stage out.
        dictionary_overrides: CSV that wins over the dictionary that is found.
        redundancy_overrides: CSV that wins over the pairs that are found.
        workflows: a ``workflows.json``, edited perhaps, that is applied instead of learning one.
        side_information_overrides: CSV that wins over what documentation says.
        cache: folder of what services answered; None: ``OUT/cache``.
        skip: stages to leave out.
        until: the last stage to run.
        max_bytes: cap on the decompressed size of `logs`.
        workers: who runs independent parts.
    """

    logs: Path
    profile: Profile
    split: SplitConfig = field(default_factory=SplitConfig)
    metadata: Path | None = None
    docs: Path | None = None
    dictionary_overrides: Path | None = None
    redundancy_overrides: Path | None = None
    workflows: Path | None = None
    side_information_overrides: Path | None = None
    cache: Path | None = None
    skip: tuple[str, ...] = ()
    until: str = STAGES[-1]
    max_bytes: int = DEFAULT_MAX_BYTES
    workers: Workers = LOOP


@dataclass(frozen=True)
class Stage:
    """`settings` is what the stage depends on, beside the stages `after`; `product`: what a person may edit in it."""

    name: str
    make: Callable[[Path], object]
    settings: dict[str, Any]
    after: tuple[str, ...] = ()
    product: str | None = None


class Chain:
    """The stages of one run and what is known of them."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.given, self.out = settings, out
        self.keys: dict[str, str] = {}  # of finished stages, as saved
        self.made: dict[str, str] = {}  # of stages with a table that a person may edit: its hash when it was made
        self.now: dict[str, str] = {}  # of stages of this run
        self.products: dict[str, Path] = {}
        if settings.until not in STAGES:
            raise ConfigError(f"--until {settings.until}: no such stage{nearest(settings.until, STAGES)}")
        for name in settings.skip:
            if name not in OPTIONAL:
                raise ConfigError(f"--skip {name}: only {', '.join(OPTIONAL)} can be left out")
        for flag, stage in _USED_BY.items():
            if getattr(settings, flag) is not None and getattr(settings.profile, stage) is None:
                missing = f"profile {settings.profile.name}: has no section '{stage}'"
                raise ConfigError(f"{missing}, so --{flag.replace('_', '-')} is of no use")
        refuse_inside(out, settings.logs)

    def open(self, anew: bool = False) -> None:
        """Make the folder, or take up an earlier run's; remove what a killed stage left half-written.

        `anew`: no stage counts as finished.
        """
        state = self.out / STATE_FILE
        found = sorted(self.out.iterdir()) if self.out.is_dir() else []
        # A run that was killed as it began has left no more than the state that it was about to write.
        if self.out.is_file() or (not state.is_file() and any(not _is_half_written(path) for path in found)):
            raise InputError(f"{self.out}: has no {STATE_FILE}, so no earlier run made it; choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        if state.is_file() and not anew:
            self.keys, self.made = _read_state(state)
        else:
            self._save()
        for path in filter(_is_half_written, found):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _save(self) -> None:
        with atomic_file(self.out / STATE_FILE) as path:
            kept = {"stages": self.keys, "tables": self.made}
            write_json(path, {what: {n: of[n] for n in STAGES if n in of} for what, of in kept.items()})

    def key(self, stage: Stage) -> str:
        """Hash of all that the stage's bytes depend on."""
        before = {name: [self.now[name], content(self.products.get(name))] for name in stage.after}
        text = json.dumps([version("recsys"), stage.name, stage.settings, before], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def is_finished(self, stage: Stage, key: str) -> bool:
        """Whether the stage's folder is what it would become."""
        finished = self.keys.get(stage.name) == key and (self.out / stage.name / (stage.product or "")).exists()
        if finished:
            self._know(stage, key)
            self._refresh(self.out / stage.name / "cleaning" / "profile.yaml")
        return finished

    def _refresh(self, saved: Path) -> None:
        """Bring the profile that a folder hands on up to date: its events do not depend on every section."""
        if not saved.is_file():
            return
        work = self.out / f".{STATE_FILE}.profile"
        save_config(self.given.profile, work)
        if work.read_bytes() == saved.read_bytes():
            work.unlink()
        else:
            work.replace(saved)

    def unused(self) -> list[str]:
        """What was given for a stage that is not of this run."""
        return [
            f"--{flag.replace('_', '-')} has no effect: {stage} is not run"
            for flag, stage in _USED_BY.items()
            if getattr(self.given, flag) is not None and not self._wanted(stage)
        ]

    def left_over(self) -> list[str]:
        """Stages that are not of this run, but of which an earlier one has left the folder."""
        return [name for name in STAGES if name not in self.now and (self.out / name).is_dir()]

    def begin(self, stage: Stage) -> None:
        """Note that the stage's folder is about to change: killed on the way, it is no longer what its key says.

        Raises:
            InputError: a person has edited the table in it, and would lose that.
        """
        table = self.out / stage.name / (stage.product or "")
        if stage.name in self.made and table.is_file() and sha256_file(table) != self.made[stage.name]:
            raise InputError(
                f"{table}: was edited, and what it was made from has changed, so it would be made anew; move it away "
                "and give your rows as overrides"
            )
        self.made.pop(stage.name, None)
        if self.keys.pop(stage.name, None) is not None:
            self._save()
            folder = self.out / stage.name
            if stage.product is not None and folder.is_dir() and not (folder / stage.product).exists():
                shutil.rmtree(folder)  # nothing that a person edited is left in it

    def finish(self, stage: Stage, key: str) -> None:
        """Note that the stage's folder is complete."""
        self.keys[stage.name] = key
        self._know(stage, key)
        if stage.name in self.products:
            self.made[stage.name] = sha256_file(self.products[stage.name])
        self._save()

    def _know(self, stage: Stage, key: str) -> None:
        self.now[stage.name] = key
        if stage.product is not None:
            self.products[stage.name] = self.out / stage.name / stage.product

    def _wanted(self, name: str) -> bool:
        given, profile = self.given, self.given.profile
        has_section = name not in OPTIONAL or getattr(profile, name) is not None
        has_docs = name != "side_information" or given.docs is not None
        return has_section and has_docs and name not in given.skip and STAGES.index(name) <= STAGES.index(given.until)

    @property
    def result(self) -> Path:
        """The last folder of events."""
        made = [n for n in ("side_information", "workflows", "filter", "reconstruct") if n in self.now]
        return self.out / made[0]

    def stages(self) -> list[Stage]:
        """Those of this run, in order; looks at what was given before anything is made."""
        own = {flag: getattr(self.given, flag) for flag in _USED_BY if flag != "docs"}
        require_readable(self.given.profile, **own)
        names = [name for name in STAGES if self._wanted(name)]
        makers = {
            "reconstruct": self._reconstruct,
            "split": self._split,
            "align": self._align,
            "redundancy": self._redundancy,
            "filter": self._filter,
            "workflows": self._workflows,
            "side_information": self._side_information,
        }
        return [makers[name](names) for name in names]

    def _reconstruct(self, names: list[str]) -> Stage:
        given = self.given
        reader = LogReader(given.logs, given.profile)
        settings = {
            "logs": listing(given.logs),
            "metadata": content(given.metadata),
            "beside": [] if given.metadata else [listing(path) for path in reader.metadata_beside()],
            "profile": given.profile.model_dump(mode="json", exclude=_FITTED),
        }

        def make(out: Path) -> object:
            return reconstruct(
                given.logs,
                given.profile,
                out,
                overwrite=True,
                max_bytes=given.max_bytes,
                metadata=given.metadata,
                workers=given.workers,
            )

        return Stage("reconstruct", make, settings)

    def _split(self, names: list[str]) -> Stage:
        raw, given = self.out / "reconstruct", self.given
        align = given.profile.align
        ids = [align.id_pattern, align.untrusted_ids] if align else None
        settings = {"split": given.split.model_dump(mode="json"), "length": given.profile.min_length, "ids": ids}
        return Stage(
            "split",
            lambda out: write_splits(raw, out, given.split, profile=given.profile, overwrite=True),
            settings,
            ("reconstruct",),
        )

    def _align(self, names: list[str]) -> Stage:
        given = self.given
        settings = {
            "align": _section(given.profile, "align"),
            "files": service_files(given.profile.align),
            "overrides": content(given.dictionary_overrides),
        }

        def make(out: Path) -> object:
            return align(
                self.out / "reconstruct",
                given.profile,
                out,
                overrides=given.dictionary_overrides,
                cache=self._cache(),
                overwrite=True,
            )

        return Stage("align", make, settings, ("reconstruct",), "command_dictionary.csv")

    def _redundancy(self, names: list[str]) -> Stage:
        given = self.given
        dictionary = self._product("align", "command_dictionary.csv", names)
        settings = {
            "redundancy": _section(given.profile, "redundancy"),
            "overrides": content(given.redundancy_overrides),
        }

        def make(out: Path) -> object:
            return mine_redundancy(
                self.out / "reconstruct",
                self.out / "split",
                given.profile,
                out,
                dictionary=dictionary,
                overrides=given.redundancy_overrides,
                overwrite=True,
            )

        after = ("reconstruct", "split", *(["align"] if dictionary else []))
        return Stage("redundancy", make, settings, after, "redundancy.csv")

    def _filter(self, names: list[str]) -> Stage:
        given = self.given
        dictionary = self._product("align", "command_dictionary.csv", names)
        pairs = self._product("redundancy", "redundancy.csv", names)
        settings = {"profile": given.profile.model_dump(mode="json", exclude=_AFTER_FILTER)}

        def make(out: Path) -> object:
            return filter_events(
                self.out / "reconstruct",
                out,
                splits=self.out / "split",
                dictionary=dictionary,
                redundancy=pairs,
                profile=given.profile,
                overwrite=True,
                workers=given.workers,
            )

        after = ("reconstruct", "split", *(name for name in ("align", "redundancy") if name in names))
        return Stage("filter", make, settings, after)

    def _workflows(self, names: list[str]) -> Stage:
        given = self.given
        settings = {"workflows": _section(given.profile, "workflows"), "given": content(given.workflows)}

        def make(out: Path) -> object:
            return learn_workflows(
                self.out / "filter",
                out,
                config=given.profile.workflows,
                workflows=given.workflows,
                overwrite=True,
                workers=given.workers,
            )

        return Stage("workflows", make, settings, ("filter",))

    def _side_information(self, names: list[str]) -> Stage:
        given = self.given
        before = "workflows" if "workflows" in names else "filter"
        settings = {
            "side_information": _section(given.profile, "side_information"),
            "files": service_files(given.profile.side_information),
            "docs": listing(given.docs) if given.docs else None,
            "overrides": content(given.side_information_overrides),
        }

        def make(out: Path) -> object:
            # Imported here: it needs the extra 'rag'.
            from data_processing.side_information import add_side_information

            if given.docs is None:
                raise ConfigError("side_information needs --docs")
            return add_side_information(
                self.out / before,
                given.docs,
                out,
                config=given.profile.side_information,
                cache=self._cache(),
                overrides=given.side_information_overrides,
                overwrite=True,
            )

        return Stage("side_information", make, settings, (before,))

    def _cache(self) -> Path:
        return self.given.cache or self.out / "cache"

    def _product(self, stage: str, name: str, names: list[str]) -> Path | None:
        return self.out / stage / name if stage in names else None


def _is_half_written(path: Path) -> bool:
    """Whether a stage, or the writing of the state, would have renamed it in the end."""
    return path.name.startswith((*(f".{name}." for name in STAGES), f".{STATE_FILE}."))


def _read_state(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    values = read_json(path, fix=_DAMAGED)
    found = [values.get("stages"), values.get("tables", {})]
    for part in found:
        if not isinstance(part, dict) or not all(isinstance(key, str) for key in part.values()):
            raise InputError(f"{path}: damaged (no keys of stages in it); {_DAMAGED}")
    return found[0], found[1]


def _section(profile: Profile, name: str) -> dict[str, Any]:
    section = getattr(profile, name)
    values: dict[str, Any] = section.model_dump(mode="json")
    return values
