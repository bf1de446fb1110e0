"""The tiny model under training, as the trainer's own tests have it."""

import gc

import pytest

from tests.training.conftest import build, examples, options, rows

__all__ = ["build", "examples", "options", "rows"]


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Every trainer collects garbage when it begins; what was imported before is left out of that."""
    gc.freeze()
    yield
    gc.unfreeze()
