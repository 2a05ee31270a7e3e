"""Fusion of the streams of one timestep into one vector; a class a file, each with "when to use".

| fusion | matrix products a timestep, beside those a distinct value | streams meet |
|---|---|---|
| `sum` | none | not at all |
| `concatenation` | none | in one linear map |
| `item_product` | none | item with each other stream |
| `gated` | none | in the weights of the streams |
| `cross_attention` | one of D x D | item with each other stream |
| `self_attention` (the document's) | one of D x D | each with each |
"""

from recsys.nn.fusion.base import Fusion, Stream, gather
from recsys.nn.fusion.concatenation import ConcatenationFusion
from recsys.nn.fusion.cross_attention import CrossAttentionFusion
from recsys.nn.fusion.gated import GatedFusion
from recsys.nn.fusion.item_product import ItemProductFusion
from recsys.nn.fusion.self_attention import SelfAttentionFusion
from recsys.nn.fusion.sum import SumFusion

__all__ = [
    "ConcatenationFusion",
    "CrossAttentionFusion",
    "Fusion",
    "GatedFusion",
    "ItemProductFusion",
    "SelfAttentionFusion",
    "Stream",
    "SumFusion",
    "gather",
]
