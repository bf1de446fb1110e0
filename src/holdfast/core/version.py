"""Which holdfast this is. The one place that says so; packaging reads it from here.

Knows: our own version and the name of our distribution. Does not know: other libraries, but how to ask for theirs.
"""

import importlib.metadata
from collections.abc import Iterable

VERSION = "0.1.0"
DISTRIBUTION = "holdfast-llm"  # on the package index "holdfast" is another project


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Version of each library by name; ``holdfast`` is ours, whatever is installed under that name."""
    return {name: VERSION if name == "holdfast" else importlib.metadata.version(name) for name in libraries}
