"""Shows that each checker of test_layers.py finds a planted violation and lets the allowed case pass."""

import pytest

from tests.test_layers import (
    cycles,
    find_imports,
    forbidden_imports,
    heavy_at_start,
    layer_violations,
    length_violations,
    unsafe_calls,
)

TREE = {"recsys": "", "recsys.nn": "", "recsys.nn.fusion": "", "recsys.losses": "", "recsys.losses.focal": "",
        "recsys.inputs": "", "recsys.errors": "", "recsys.cli": ""}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("recsys.nn.fusion", "import recsys.inputs"),
        ("recsys.nn.fusion", "from recsys import inputs"),
        ("recsys.nn.fusion", "from ..inputs import Fused"),
        ("recsys.nn", "from ..inputs import Fused"),
        ("recsys.nn.fusion", "def f():\n    from recsys.inputs import Fused"),
        ("recsys.nn.fusion", "import importlib\nm = importlib.import_module('recsys.inputs')"),
        ("recsys.nn.fusion", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import recsys.inputs"),
        ("recsys.nn.fusion", "from recsys.losses import focal"),
        ("recsys.errors", "from recsys import load"),
        ("recsys.nn.fusion", "from recsys.nowhere import thing"),
        ("recsys.stray", "x = 1"),
    ],
)
def test_layer_violation_is_found(module: str, source: str) -> None:
    assert len(layer_violations(TREE | {module: source})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("recsys.inputs", "from recsys.nn import fusion\nfrom recsys.errors import DataError"),
        ("recsys.nn.fusion", "from . import attention\nfrom .attention import Attention"),
        ("recsys.cli", "def run():\n    from recsys.inputs import Fused"),
        ("recsys.nn.fusion", "import recsystem.training"),
    ],
)
def test_downward_import_passes(module: str, source: str) -> None:
    assert layer_violations(TREE | {module: source}) == []


def test_relative_imports_are_resolved() -> None:
    tree = TREE | {"recsys.nn.fusion": "from ..losses import focal\nfrom . import mask", "recsys.nn.mask": ""}
    names = [i.name for i in find_imports("recsys.nn.fusion", tree)]
    assert names == ["recsys.losses.focal", "recsys.nn.mask"]


def test_cycle_is_found() -> None:
    lazy = "def f():\n    import recsys.c"
    tree = {"recsys.a": "import recsys.b", "recsys.b": lazy, "recsys.c": "import recsys.a"}
    assert len(cycles(tree)) == 3
    assert cycles(tree | {"recsys.c": ""}) == []


def test_forbidden_import_is_found() -> None:
    tree = {"recsys.build": "from peft_ext import adapt", "recsys.cad": "def f():\n    import peft_ext.merge",
            "peft_ext.adapt": "", "peft_ext.merge": ""}  # fmt: skip
    bridge = frozenset({("recsys.build", "peft_ext.adapt")})
    assert forbidden_imports(tree, {"peft_ext"}, allow=bridge) == ["recsys.cad:2 imports peft_ext.merge"]
    assert len(forbidden_imports(tree, {"peft_ext"}, allow=bridge, lazy_too=False)) == 0
    eager = {"d.x": "import torch.nn"}
    assert forbidden_imports(eager, {"torch"}, lazy_too=False) == ["d.x:1 imports torch.nn"]
    assert forbidden_imports({"d.x": "def f():\n    import torch"}, {"torch"}, lazy_too=False) == []
    assert forbidden_imports({"d.x": "import torchless"}, {"torch"}) == []


def test_heavy_import_is_found_through_other_modules() -> None:
    tree = TREE | {"recsys.cli": "from recsys.nn.fusion import x", "recsys.nn": "import torch"}
    assert heavy_at_start("recsys.cli", tree) == ["recsys.nn:1 imports torch when recsys.cli is imported"]
    assert heavy_at_start("recsys.cli", tree | {"recsys.cli": "def f():\n    import recsys.nn.fusion"}) == []


def test_length_leaves_docstrings_out() -> None:
    body = "    x = 1\n"
    docstring = '    """One\n' + "    more\n" * 30 + '    """\n'
    assert length_violations("m", "def f():\n" + docstring + body * 48) == []
    assert length_violations("m", "def f():\n" + docstring + body * 49) != []
    assert length_violations("m", "x = 1\n" * 399) == []
    assert length_violations("m", "x = 1\n" * 400) == ["m has 400 lines"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from joblib.externals import cloudpickle",
        "eval('1')",
        "exec('1')",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "frame.to_pickle(path)",
    ],
)
def test_unsafe_call_is_found(source: str) -> None:
    assert len(list(unsafe_calls("m", source))) == 1


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "yaml.safe_load(text)", "torch.load(path, weights_only=True)", "np.load(path)"],
)
def test_safe_call_passes(source: str) -> None:
    assert list(unsafe_calls("m", source)) == []
