"""Training arguments that work where TRL's defaults do not, and any further argument, checked by name and type.

Knows: SFTConfig, which of its keys a run decides itself. Does not know: models, data.
"""

import dataclasses
import difflib
import tempfile
import typing
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig

_TOKENISED = "rows reach the trainer templated, tokenised and masked, so that what is scored is what is trained"
_CHECKPOINTS = "set checkpoint_every (--checkpoint-every); a stopped run continues from its checkpoints"
# What a run decides itself, with the reason that a user is given.
OWNED: Mapping[str, str] = {
    "output_dir": "the run's own folder is used",
    "per_device_train_batch_size": "set pool and micro_batch (--pool, --micro-batch)",
    "gradient_accumulation_steps": "set pool and micro_batch (--pool, --micro-batch)",
    "auto_find_batch_size": "set micro_batch (--micro-batch)",
    "seed": "set seed (--seed)",
    "max_length": "set task.max_length (--max-length)",
    **dict.fromkeys(
        ("packing", "packing_strategy", "padding_free", "eval_packing"), "samples are judged one by one"
    ),
    **dict.fromkeys(
        ("dataset_text_field", "dataset_kwargs", "dataset_num_proc", "eos_token", "pad_token", "truncation_mode",
         "chat_template_path", "completion_only_loss", "assistant_only_loss", "shuffle_dataset"),
        _TOKENISED,
    ),
    "remove_unused_columns": "a row's number travels with it",
    **dict.fromkeys(
        ("save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint",
         "ignore_data_skip", "restore_callback_states_from_checkpoint"),
        _CHECKPOINTS,
    ),
    "model_init_kwargs": "the model is loaded already: see model.* (--dtype, --device, --revision)",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push",
         "hub_revision"),
        "a run uploads nothing; what it wrote can be uploaded afterwards",
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "this trains"),
}  # fmt: skip


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


def checked_trl(values: Mapping[str, Any], where: str = "training.trl") -> dict[str, Any]:
    """Arguments of ``SFTConfig`` by name, of the right type (``"2e-4"`` becomes a number, as YAML should have it).

    Raises:
        UserError: an unknown name (with the nearest known one), one that the run decides itself, a wrong type.
    """
    if not values:
        return {}
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from trl.trainer.sft_config import SFTConfig

    known = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    hints = typing.get_type_hints(SFTConfig)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name in OWNED:
            raise UserError(f"{where}.{name}: not yours to set here: {OWNED[name]}")
        if name not in known:
            near = difflib.get_close_matches(str(name), sorted(known | OWNED.keys()), n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see the arguments of TRL's SFTConfig"
            raise UserError(f"{where}.{name}: SFTConfig has no such argument; {hint}")
        kind = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True))
        if isinstance(value, (float, str)) and str(value).strip().lower().lstrip(".+-") in (
            "nan",
            "inf",
            "infinity",
        ):
            raise UserError(f"{where}.{name}: input should be a finite number, got {value!r}")
        try:
            checked[name] = value if value is None else kind.validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"{where}.{name}: {reason[0].lower()}{reason[1:]}, got {value!r}") from None
    return checked
