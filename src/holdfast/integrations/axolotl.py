"""An axolotl plugin: the settings under ``holdfast:`` in axolotl's own file, held and watched by a callback.

Knows: axolotl's plugin interface (read in 0.19.0). Does not know: what the callback does.

    plugins:
      - holdfast.integrations.axolotl.HoldfastPlugin
    holdfast:
      harmful: harmful.txt
      benign: benign.txt
      budget: {max_kl_nats: 2.0}
"""

from typing import Any

from pydantic import BaseModel

from holdfast.integrations.hold import HoldCallback, HoldSettings
from holdfast.integrations.packages import needed

_BasePlugin: Any = needed("axolotl.integrations.base", "axolotl").BasePlugin


class HoldfastArgs(BaseModel):
    """What axolotl adds to its own settings."""

    holdfast: HoldSettings = HoldSettings()


class HoldfastPlugin(_BasePlugin):
    """Named in axolotl's ``plugins``."""

    def get_input_args(self) -> str:
        """Where axolotl finds the class of the settings."""
        return f"{__name__}.{HoldfastArgs.__name__}"

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[HoldCallback]:
        """Before the trainer is made, so that the callback sees the model that is handed in."""
        values = cfg.get("holdfast") or {}
        return [HoldCallback(values if isinstance(values, HoldSettings) else dict(values))]
