"""A run as a bundle: ONNX graphs, item tables, vocabularies and golden requests, all hashed.

::

    BUNDLE/manifest.json          hashes of all other files, signatures of the graphs, versions
    BUNDLE/embed.onnx, rank.onnx  events to vectors, vectors to the best items
    BUNDLE/fused.onnx             both as one graph
    BUNDLE/weights.data           the graphs' weights, each once
    BUNDLE/tables/*.npy           what the graphs read of the items
    BUNDLE/transform.json         how raw events become the graphs' inputs
    BUNDLE/vocabularies/*.json    values of each column of ids, in id order
    BUNDLE/items.json             texts of the items (descriptions), one an id
    BUNDLE/schema.json            columns of the run
    BUNDLE/golden.json            requests, and what the run answers offline
    BUNDLE/cleaning/profile.yaml  and the rules beside it: how raw logs are cleaned, where the run was trained on such
"""

from recsys.export.bundle import Exported, export

__all__ = ["Exported", "export"]
