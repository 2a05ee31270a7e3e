"""Sequence datasets in memory: batches, windows, samplers."""
