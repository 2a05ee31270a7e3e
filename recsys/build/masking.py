"""Names of maskings to functions."""

from recsys.data.collate import Positions
from recsys.errors import ConfigError, nearest
from recsys.nn import masking


def build_masking(name: str) -> Positions:
    """The masking function that training labels positions with."""
    match name:
        case "causal":
            return lambda ids, lengths: masking.causal(ids, lengths)[:2]
        case "causal_last":
            return lambda ids, lengths: masking.causal_last(ids, lengths)[:2]
        case _:
            raise ConfigError(f"model.masking: unknown '{name}'{nearest(name, ['causal', 'causal_last'])}")
