"""Memory of graphics cards, and sizes as people write them."""

import difflib
import math
import re

GIB = 2**30
CARDS = {
    "T4": 16,
    "RTX3090": 24,
    "RTX4090": 24,
    "RTX5090": 32,
    "V100-16GB": 16,
    "V100-32GB": 32,
    "A10": 24,
    "L4": 24,
    "A40": 48,
    "L40S": 48,
    "A100-40GB": 40,
    "A100-80GB": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
"""Memory by name, in the gigabytes of the makers' data sheets, which are taken for GiB up to 80 and for 10^9 bytes
above, as the cards report them."""
DECIMAL_FROM = 100
UNITS = {"": GIB, "gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6, "tib": 2**40, "tb": 10**12}


def card_bytes(text: str) -> int:
    """Bytes of a card: a name of `CARDS`, or a size as 24GiB, 24GB or 24 (GiB).

    Raises:
        ValueError: neither, or not above 0; lists the names.
    """
    for name, gigabytes in CARDS.items():
        if _plain(name) == _plain(text):
            return gigabytes * (GIB if gigabytes < DECIMAL_FROM else 10**9)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found.group(2) not in UNITS:
        near = difflib.get_close_matches(_plain(text), [_plain(name) for name in CARDS], 1)
        guess = f" (did you mean {next(n for n in CARDS if _plain(n) == near[0])}?)" if near else ""
        raise ValueError(f"--card {text}: no card of that name{guess}; give a size as 24GiB, or {', '.join(CARDS)}")
    size = float(found.group(1)) * UNITS[found.group(2)]
    if not (math.isfinite(size) and size >= 1):
        raise ValueError(f"--card {text}: a card has more than 0 bytes; give a size as 24GiB, or {', '.join(CARDS)}")
    return round(size)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]|nvidia|geforce", "", name.lower())


def size_text(size: float) -> str:
    """Bytes for people, in the binary unit that fits: 3.27 GiB."""
    for unit, factor in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(size) >= factor:
            return f"{size / factor:,.2f} {unit}"
    return f"{size:,.0f} B"
