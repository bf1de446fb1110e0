"""What a repair will cost, said before it starts, and how long it may take, said once a step has been timed.

Knows: counts of steps, prompts and examples, seconds. Does not know: what a step does.
"""

import logging
from collections.abc import Callable
from typing import Any

from holdfast.restoration.bench import Bench
from holdfast.restoration.tuning import most_checks
from holdfast.restoration.verdict import free_sentence

log = logging.getLogger(__name__)


class Cost:
    """Tells the user what there is, steps, examples and prompts at once; ``say`` defaults to the log."""

    def __init__(
        self, method: str, settings: dict[str, Any], bench: Bench, say: Callable[[str], None] | None
    ) -> None:
        self.method, self.say, self.check_seconds = method, say or log.info, bench.choose.seconds
        linear = method == "curvature"
        self.most = settings["outer"] if linear else settings["steps"]
        self.checks = most_checks(method, self.most, settings["check_every"])
        self.say(free_sentence(bench.free, bench.lost))
        choose, decide = bench.material.parts
        what = (
            f"{self.most} linearisations on {len(bench.material.task_fit)} task examples"
            if linear
            else f"{self.most} steps of {3 * settings['batch_size']} examples"
        )
        name = f"distil from scale {settings['start']:g}" if method == "distil" else method
        self.say(
            f"{name}: at most {what}; up to {self.checks} checks, each {len(choose.harmful)} "
            f"harmful and {len(choose.benign)} harmless prompts and {len(choose.task)} task examples; "
            f"{len(decide.harmful)} + {len(decide.benign)} prompts and {len(decide.task)} examples decide"
        )

    def a_step_took(self, seconds: float) -> None:
        """The most the rest can take."""
        whole = self.most * seconds + (self.checks + 1) * self.check_seconds
        self.say(
            f"{self.method}: a step takes {seconds:.1f} s, a check {self.check_seconds:.1f} s: "
            f"at most {whole / 60:.1f} min in all, less if it is done earlier"
        )
