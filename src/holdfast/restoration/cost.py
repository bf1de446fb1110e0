"""What a repair will cost, said before it starts, and how long it may take, said once a step has been timed.

Knows: counts of steps, prompts and examples, seconds. Does not know: what a step does.
"""

import logging
import time
from collections.abc import Callable

from holdfast.restoration.material import Material
from holdfast.restoration.tuning import CHECK_EVERY

log = logging.getLogger(__name__)


class Cost:
    """Tells the user steps, examples and prompts at once; ``say`` defaults to the log."""

    def __init__(
        self, method: str, most_steps: int, batch_size: int, material: Material, say: Callable[[str], None] | None
    ) -> None:
        self.method, self.most, self.material, self.say = method, most_steps, material, say or log.info
        self.examples_a_step = 3 * batch_size
        self.checks = most_steps if method == "ggn-cg" else most_steps // CHECK_EVERY
        self.started, self.check_seconds = time.monotonic(), 0.0
        self._announce()

    def _announce(self) -> None:
        choose, decide = self.material.parts
        what = (
            f"{self.most} linearisations on {len(self.material.task_fit)} task examples"
            if self.method == "ggn-cg"
            else f"{self.most} steps of {self.examples_a_step} examples"
        )
        self.say(
            f"{self.method}: at most {what}; up to {self.checks} checks, each {len(choose.harmful)} harmful and "
            f"{len(choose.benign)} harmless prompts and {len(choose.task)} task examples; "
            f"{len(decide.harmful)} + {len(decide.benign)} prompts and {len(decide.task)} examples decide"
        )

    def checks_took(self, checks: int) -> None:
        """So many were made since the start."""
        self.check_seconds = (time.monotonic() - self.started) / checks

    def a_step_took(self, seconds: float) -> None:
        """The most the rest can take."""
        whole = self.most * seconds + (self.checks + 1) * self.check_seconds
        self.say(
            f"{self.method}: a step takes {seconds:.1f} s, a check {self.check_seconds:.1f} s: "
            f"at most {whole / 60:.1f} min in all, less if it is done earlier"
        )
