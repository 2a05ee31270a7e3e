"""Raw logs to clean events: sources, parser, undo stack and what applies a profile to rows, in batch and live."""
