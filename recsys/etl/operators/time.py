"""Columns made of each event's time: seconds since the previous event, hour of the day, day of the week."""

import polars as pl

from recsys.errors import ConfigError
from recsys.schema import FIRST_ID, HOUR, INTERVAL, SESSION_ID, TIMESTAMP, WEEKDAY

MICROSECONDS = 1_000_000  # in a second
TIME_VALUES = {
    HOUR: [f"{hour:02d}" for hour in range(24)],
    WEEKDAY: ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
}


def interval() -> pl.Expr:
    """Seconds since the session's previous event, 0 for its first; rows sorted by session and time."""
    goes_on = pl.col(SESSION_ID) == pl.col(SESSION_ID).shift(1)
    gap = pl.when(goes_on).then(pl.col(TIMESTAMP).diff()).otherwise(0)
    return (gap / MICROSECONDS).alias(INTERVAL)


def time_id(feature: str, zone: str) -> pl.Expr:
    """Ids (Int32) of the feature `hour` or `weekday` of each event, in `zone`: 3 is hour 0 or Monday."""
    moment = pl.from_epoch(pl.col(TIMESTAMP), time_unit="us").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    match feature:
        case "hour":
            number = moment.dt.hour().cast(pl.Int32)
        case "weekday":
            number = moment.dt.weekday().cast(pl.Int32) - 1
        case _:
            raise ConfigError(f"etl.time.features: no classes are made of '{feature}'; hour and weekday have some")
    return (number + FIRST_ID).alias(feature)
