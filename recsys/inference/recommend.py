"""The most likely next items of every session."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.data.dataset import Array, SequenceDataset
from recsys.errors import ConfigError
from recsys.inference.run import LoadedRun, load
from recsys.inference.scoring import (
    Seen,
    device_of,
    hidden_states,
    input_tables,
    score_blocks,
    seen_items,
    top_k,
    window_histories,
)
from recsys.inference.sequences import read_sequences
from recsys.runtime import progress
from recsys.schema import ITEM_ID, SESSION_ID

_SCHEMA = {
    SESSION_ID: pl.String,
    "rank": pl.Int32,
    ITEM_ID: pl.String,
    "score": pl.Float32,
    "probability": pl.Float32,
}


def recommend(
    run: LoadedRun | Path | str,
    events: Path | str | pl.DataFrame,
    k: int = 5,
    seen: Seen = "keep",
    batch_size: int = 256,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> pl.DataFrame:
    """Name the k most likely next items of every session in `events`, from its newest events.

    Sessions of a raw log that cleaning leaves without an event get no list; one line on standard error counts them.

    Args:
        run: a loaded run or its directory.
        events: cleaned events (folder, table or frame with session_id, item_id, timestamp) or a raw log, which goes
            through the cleaning of the run's training data.
        k: length of the lists; shorter where the catalogue has fewer items.
        seen: `remove` leaves out the items that the session holds already.
        batch_size: sessions scored at a time.
        max_bytes: cap on the decompressed size of a raw log.

    Returns:
        session_id, rank (from 1), item_id (its name), score (logit), probability (of being the next item, over the
        whole catalogue). Equal scores are listed by lowest id.
    """
    loaded = run if isinstance(run, LoadedRun) else load(run)
    if k < 1:
        raise ConfigError(f"k ({k}) must be at least 1")
    dataset = read_sequences(loaded, events, max_bytes).dataset
    ids, scores, probabilities = next_items(loaded, dataset, dataset.offsets[1:], k, seen=seen, batch_size=batch_size)
    names = loaded.item_names
    rows, places = np.nonzero(ids >= 0)
    return pl.DataFrame(
        {
            SESSION_ID: dataset.keys.take(rows),
            "rank": places + 1,
            ITEM_ID: [names[i] for i in ids[rows, places]],
            "score": scores[rows, places],
            "probability": probabilities[rows, places],
        },
        schema=_SCHEMA,
    )


@torch.inference_mode()
def next_items(
    run: LoadedRun,
    dataset: SequenceDataset,
    stop: Array,
    k: int,
    *,
    row: Array | None = None,
    seen: Seen = "keep",
    batch_size: int = 256,
) -> tuple[Array, Array, Array]:
    """Top k after the events of a sequence before a flat index, from the newest `max_length` of them.

    Args:
        run: a loaded run.
        dataset: sequences.
        stop: ``[P]`` flat index after each history's last event.
        k: length of the lists.
        row: ``[P]`` the sequence of each history; None: all sequences in order.
        seen: whether items of the history stay.
        batch_size: histories scored at a time.

    Returns:
        ids ``[P, k]`` (-1 where there is no further candidate), logits and probabilities ``[P, k]`` float32.
    """
    row = np.arange(len(dataset)) if row is None else row
    start = np.maximum(dataset.offsets[row], stop - run.max_length)
    ids = np.full((len(row), k), -1, dtype=np.int64)
    scores = np.zeros((2, len(row), k), dtype=np.float32)
    order = np.argsort(start - stop, kind="stable")  # longest first
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    tables = input_tables(run.model, dataset)
    for batch in progress(batches, "Recommend", unit="batch"):
        length = stop[batch] - start[batch]
        hidden = hidden_states(run.model, dataset, start[batch], length, tables)  # [B, T, H]
        last = torch.arange(len(batch)) * hidden.shape[1] + torch.from_numpy(length - 1)  # [B]
        last = last.to(hidden.device)
        history = window_histories(run.model, dataset, start[batch], length, last)
        for part, block in score_blocks(run.model, hidden.flatten(0, 1)[last], history):
            chosen = batch[part]
            excluded = None
            if seen == "remove":
                mask = torch.from_numpy(seen_items(dataset, row[chosen], stop[chosen]))
                excluded = mask.to(device_of(run.model))
            best = top_k(block, k, excluded)  # [n, k]
            at = best.clamp(min=0)
            ids[chosen] = best.cpu().numpy()
            scores[0, chosen] = block.gather(1, at).float().cpu().numpy()
            scores[1, chosen] = block.float().softmax(dim=1).gather(1, at).cpu().numpy()
    return ids, scores[0], scores[1]
