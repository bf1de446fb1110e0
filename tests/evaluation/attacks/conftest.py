"""The aligned built-in model, loaded once, and judges that say what they are told."""

from collections.abc import Callable

import pytest

from holdfast.evaluation.judges import Verdict
from holdfast.models import Subject, load
from holdfast.organism import proxy_prompts
from holdfast.pipeline.inputs import model_source


@pytest.fixture(scope="session")
def organism() -> Subject:
    return load(model_source("organism:aligned"), device="cpu")


@pytest.fixture(scope="session")
def requests() -> list[str]:
    """Eight requests that the aligned model refuses."""
    return proxy_prompts("evaluate", "overt", 4) + proxy_prompts("evaluate", "subtle", 4)


class Scripted:
    """Takes its labels from a function of (prompt, response, how often this prompt was seen before)."""

    def __init__(self, script: Callable[[str, str, int], str]):
        self.script, self.seen = script, []

    def __call__(self, prompt, response):
        times = sum(prompt == earlier for earlier, _ in self.seen)
        self.seen.append((prompt, response))
        return Verdict(self.script(prompt, response, times), "scripted")


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def refusing():
    return Scripted(lambda *_: "refused")
