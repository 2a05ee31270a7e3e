"""Cutting long training sessions into chunks, and keeping the newest events.

Chunk lengths are drawn by a hash of (seed, session, number of the chunk), so that a session is cut alike
wherever and in whatever order it is read.
"""

from hashlib import blake2b

import numpy as np
import polars as pl

from recsys.config import ChunkConfig


def session_seeds(sessions: list[str], seed: int | str) -> np.ndarray:
    """One 64-bit number a session (or group), from its name and the seed."""
    digests = (blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in sessions)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def chunk_lengths(lengths: np.ndarray, seeds: np.ndarray, config: ChunkConfig) -> list[np.ndarray]:
    """Cut sessions of `lengths` events into chunks of U(min_items, max_items), both ends possible.

    A tail shorter than `min_items` joins the chunk before it, so only a session that is itself shorter has a
    chunk below `min_items`, and none has more than ``max_items + min_items - 1``.

    Args:
        lengths: [S] events of each session, at least 1.
        seeds: [S] from `session_seeds`.

    Returns:
        [S] arrays of chunk lengths that sum to the session's length.
    """
    left = lengths.astype(np.int64)
    drawn: list[np.ndarray] = []  # [S] per chunk number, 0 where the session has no such chunk
    spread = np.uint64(config.max_items - config.min_items + 1)
    golden, all_bits = 0x9E3779B97F4A7C15, (1 << 64) - 1
    while (left > 0).any():
        chance = mix64(seeds + np.uint64((len(drawn) + 1) * golden & all_bits))
        size = np.minimum(config.min_items + (chance % spread).astype(np.int64), left)
        size = np.where(left - size < config.min_items, left, size)
        drawn.append(size)
        left = left - size
    table = np.stack(drawn, axis=1) if drawn else np.zeros((len(lengths), 0), dtype=np.int64)
    return [row[row > 0] for row in table]


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): 64 well-mixed bits from 64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def chunk_column(sessions: pl.Series, config: ChunkConfig, seed: int) -> pl.Series:
    """Number of the chunk (Int32, from 0) of every row; rows of one session must be contiguous."""
    runs = sessions.rle().struct.unnest()
    lengths = runs["len"].to_numpy()
    chunks = chunk_lengths(lengths, session_seeds(runs["value"].to_list(), seed), config)
    numbers = [np.repeat(np.arange(len(c), dtype=np.int32), c) for c in chunks]
    flat = np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int32)
    return pl.Series("chunk", flat, dtype=pl.Int32)


def newest(keys: list[str], count: int) -> pl.Expr:
    """True for the last `count` rows of each sequence (rows that share `keys`), in the order they stand."""
    place = pl.int_range(pl.len()).over(keys)
    return place >= pl.len().cast(pl.Int64).over(keys) - count  # signed: a short sequence goes below 0
