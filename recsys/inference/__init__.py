"""What a finished run is used for: loading it, naming the most likely next items, showing examples."""

from recsys.inference.examples import Example, Examples, examples
from recsys.inference.recommend import recommend
from recsys.inference.run import LoadedRun, load

__all__ = ["Example", "Examples", "LoadedRun", "examples", "load", "recommend"]
