"""The tiny model under training, as the trainer's own tests have it."""

from tests.training.conftest import build, examples, options, rows

__all__ = ["build", "examples", "options", "rows"]
