"""Training arguments that work where TRL's defaults do not: on a machine without a GPU.

Knows: SFTConfig. Does not know: models, data.
"""

import tempfile
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig


def cpu_safe_args(**overrides: Any) -> "SFTConfig":
    """An ``SFTConfig`` that starts on any machine, quietly.

    Without a GPU (or with ``use_cpu=True``): float32, no gradient checkpointing, no pinned memory. TRL's own
    defaults (bf16, checkpointing) raise there. With a GPU they stay as TRL has them. On both: no checkpoints, no
    reporting services, no progress bars (logs are in ``trainer.state.log_history``), and, unless ``output_dir``
    is given, a temporary folder for what the trainer writes.

    Args:
        overrides: any argument of ``SFTConfig``; they win.
    """
    import torch
    from trl.trainer.sft_config import SFTConfig

    options: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 10,
    }
    if overrides.get("use_cpu") or not torch.cuda.is_available():
        options |= {
            "use_cpu": True,
            "bf16": False,
            "fp16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
        }
    options |= overrides
    if options.get("output_dir") is None:
        options["output_dir"] = tempfile.mkdtemp(prefix="holdfast-")
    with warnings.catch_warnings():
        # transformers renames gradient_checkpointing; TRL and we still mean both spellings, and it acts the same
        warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
        return SFTConfig(**options)
