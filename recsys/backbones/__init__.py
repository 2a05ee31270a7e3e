"""Sequence models between fused inputs and heads: ``(vectors [B, T, H], lengths [B]) -> hidden [B, T, H]``.

Every one derives from `recsys.backbones.base.Backbone`. `hf`, `mixtral`, `t5` and `xlnet` are models of
`transformers`, fed with vectors instead of ids; `sasrec`, `ligr`, `hstu` and `gru` are our own.
"""
