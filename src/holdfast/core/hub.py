"""Whether the hub answers, asked once: its client retries for a minute and prints every try.

Knows: the hub client's session and settings. Does not know: models, data sets.
"""

import contextlib
import logging
from collections.abc import Iterator

SECONDS = 5.0


def hub_reachable() -> bool:
    """One request, no retries. False where the environment says that the hub is off (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # the transport's errors; whatever they are, nobody answered
        return False
    return True


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Inside the block the hub client does not report its retries; what fails raises all the same."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
