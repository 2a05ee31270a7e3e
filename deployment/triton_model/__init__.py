"""What runs inside Triton: `model.py`, which `deployment.export_triton` copies into the model repository.

It imports only numpy, onnxruntime and the files that lie beside it there, and nothing of `recsys`.
"""
