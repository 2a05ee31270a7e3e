"""What a bundle's transform must know of a run's workflow (`recsys.serving.transform` reads it)."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from recsys.etl import Workflow
from recsys.export.graphs import EventColumn
from recsys.inference import LoadedRun
from recsys.schema import INTERVAL, LOG_GAP, TIMESTAMP, Column, Scope

FIRST_YEAR, LAST_YEAR = 1970, 2100
"""Between them a zone's changes are written down; before and after, the nearest offset holds."""


def facts_of(run: LoadedRun, columns: list[EventColumn]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """transform.json without its `vocabularies`, and the values of each column of ids in id order.

    Args:
        run: the run.
        columns: what its model reads of the events.
    """
    workflow, schema = run.workflow, run.schema
    found = [_column(workflow, schema[c.name], run.model.inputs.gaps) for c in columns]
    clocks = any(c["kind"] == "clock" for c in found)
    facts = {
        "item": schema.item().name,
        "max_length": run.max_length,
        "needs_times": bool(getattr(run.model.backbone, "needs_times", False)),
        "interval": INTERVAL,
        "zone": zone_changes(workflow.config.time.zone if clocks else "UTC"),
        "columns": found,
    }
    ids = [c["name"] for c in found if c["kind"] == "ids"]
    return facts, {name: workflow.vocabulary(name).values.to_list() for name in ids}


def _column(workflow: Workflow, column: Column, gaps: Any) -> dict[str, Any]:
    plan, fitted, name = workflow.plan, workflow.fitted, column.name
    facts: dict[str, Any] = {"name": name, "once": column.scope is Scope.SEQUENCE}
    if name in plan.event_categorical:
        settings = workflow.config.categorical[name]
        facts |= {"kind": "ids", "source": name, "first_id": column.first_id, "hash_buckets": column.hash_buckets}
        return facts | {"lists": name in plan.multi_valued, "delimiter": settings.delimiter}
    if name in plan.time:
        return facts | {"kind": "clock", "source": TIMESTAMP, "first_id": column.first_id}
    if column.boundaries is not None:
        return facts | {
            "kind": "bucket",
            "source": column.source,
            "first_id": column.first_id,
            "boundaries": column.boundaries,
        }
    scaling = fitted.scalings[name]
    return facts | {
        "kind": "number",
        "source": INTERVAL if name == LOG_GAP else name,
        "log1p": "log1p" in scaling.transforms,
        "zscore": "zscore" in scaling.transforms,
        "mean": scaling.mean,
        "std": scaling.std,
        "constant": scaling.is_constant,
        "least": 0.0 if name in gaps else None,
    }


def zone_changes(name: str) -> dict[str, list[int]]:
    """When a zone's offset from UTC changes (`starts`, microseconds since 1970), and the `offsets` in seconds.

    There is one offset more than starts: the first holds before all of them.
    """
    zone, day = ZoneInfo(name), timedelta(days=1)
    moment, end = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(LAST_YEAR, 1, 1, tzinfo=UTC)
    starts: list[int] = []
    offsets = [_offset(moment, zone)]
    while moment < end:
        following = moment + day
        if _offset(following, zone) != offsets[-1]:
            low, high = moment, following
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
                low, high = (middle, high) if _offset(middle, zone) == offsets[-1] else (low, middle)
            starts.append(int(high.timestamp()) * 1_000_000)
            offsets.append(_offset(following, zone))
        moment = following
    return {"starts": starts, "offsets": offsets}


def _offset(moment: datetime, zone: ZoneInfo) -> int:
    """Seconds east of UTC."""
    offset = moment.astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
