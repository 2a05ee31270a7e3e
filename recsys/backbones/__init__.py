"""Sequence models between fused inputs and heads: ``(vectors [B, T, H], lengths [B]) -> hidden [B, T, H]``."""
