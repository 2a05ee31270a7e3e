"""What answers requests from a bundle that `recsys export` wrote; neither PyTorch nor Polars is needed.

| module | needs | does |
|---|---|---|
| `transform` | numpy | raw events to the graphs' inputs, ids to names |
| `graphs` | numpy, onnxruntime | runs the ONNX graphs with the item tables bound |
| `wire` | numpy | sessions and answers to KServe v2 tensors and back |
| `kserve` | numpy, `wire` | those tensors as JSON and binary bodies |
| `kserve_grpc` | numpy, `kserve` | those tensors as messages over gRPC |
| `integrity` | nothing | hashes, paths, what must and must not be in a bundle |
| `bundle` | all of these | a whole bundle in memory |
| `verify` | all of these | `recsys verify`: hashes, then the golden requests |

`transform`, `graphs`, `wire` and `integrity` import nothing of `recsys`: they can be copied elsewhere as single files.
"""

from importlib.util import find_spec

from recsys.errors import ConfigError


def require_onnxruntime() -> None:
    """Raise ConfigError unless onnxruntime, of the extra `serve`, is installed."""
    if find_spec("onnxruntime") is None:
        raise ConfigError("a bundle needs onnxruntime, which is not installed: pip install 'recsys[serve]'")
