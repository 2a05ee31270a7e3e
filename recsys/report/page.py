"""Sections to one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recsys.errors import ConfigError, nearest
from recsys.report.blocks import Section
from recsys.report.compare import compare_section
from recsys.report.contents import Contents, read_contents
from recsys.report.facts import facts_section, funnel_section, split_section, training_section
from recsys.report.memory import memory_section
from recsys.report.quality import (
    confusion_section,
    frequency_section,
    headline,
    length_section,
    positions_of,
    recall_section,
)
from recsys.runtime import atomic_file


def report(run: Path | str, out: Path | str | None = None, compare: Sequence[Path] = ()) -> Path:
    """Write what is known of a run as one HTML file that needs no network and no script.

    Args:
        run: a run directory. Only its config.yaml must be there; a section whose file is missing says so.
        out: where to; None: ``RUN/report.html``. Replaced if there.
        compare: further runs, evaluated on the same positions, to set beside this one.

    Returns:
        The path of the file.

    Raises:
        RunError, InputError: no run directory, or a file of it that cannot be read; one line that names it.
    """
    contents = read_contents(Path(run))
    path = Path(run) / "report.html" if out is None else Path(out)
    parts = sections(contents)
    if compare:
        parts.insert(1, compare_section(contents, compare))
    text = render(contents.name, parts)
    with atomic_file(path) as work:
        work.write_text(text, encoding="utf-8")
    return path


@dataclass(frozen=True, repr=False)
class Shown:
    """Sections of a report, drawn in a notebook where an object is shown."""

    page: str
    height: int

    def __repr__(self) -> str:
        return f"Shown({len(self.page):,} characters of HTML, which a notebook draws)"

    def _repr_html_(self) -> str:
        # A frame of its own keeps the page's style and the notebook's apart; the sandbox lets nothing run.
        frame = '<iframe sandbox srcdoc="{}" style="width:100%;height:{}px;border:0"></iframe>'
        return str(Markup(frame).format(self.page, self.height))


def show(run: Path | str, *keys: str, height: int = 640) -> Shown:
    """Sections of a run's report for a notebook cell.

    Args:
        run: as in `report`.
        keys: figures, recall, frequency, length, confusions, training, cleaning, splits, memory,
            facts; none: all of them.
        height: of the frame, in pixels.

    Raises:
        ConfigError: no such section.
        RunError, InputError: as in `report`.
    """
    contents = read_contents(Path(run))
    found = {part.key: part for part in sections(contents)}
    for key in keys:
        if key not in found:
            raise ConfigError(f"report: no section '{key}'{nearest(key, found)}")
    return Shown(render(contents.name, [found[key] for key in keys or found], bare=True), height)


def sections(contents: Contents) -> list[Section]:
    """Every section of the report, in order."""
    positions = positions_of(contents)
    return [
        headline(contents, positions),
        recall_section(contents, positions),
        frequency_section(contents, positions),
        length_section(contents, positions),
        confusion_section(contents, positions),
        training_section(contents),
        funnel_section(contents),
        split_section(contents),
        memory_section(contents),
        facts_section(contents),
    ]


def render(name: str, parts: list[Section], bare: bool = False) -> str:
    """The page of a run called `name`, with or (`bare`) without its head; every text is escaped."""
    loader = PackageLoader("recsys.report", package_path=".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(name=name, sections=parts, style=style, bare=bare)
