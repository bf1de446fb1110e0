"""Drift and a budget in TRL's own trainer: the two lines marked below are all that is added.

Run it as it stands, on the built-in model: ``python examples/trl_two_lines.py``. With yours, change the model, the
rows and the prompts.
"""

from datasets import Dataset
from peft import LoraConfig
from trl.trainer.sft_trainer import SFTTrainer

import holdfast
from holdfast.evaluation import Reference

subject = holdfast.load("organism:aligned")
rows = holdfast.organism.task_rows("lessons", "train", 64, seed=0)
prompts = holdfast.organism.proxy_prompts("estimate", "overt", 16, seed=0)

reference = Reference.of(subject, prompts)  # 1: how the aligned model answers, before training

trainer = SFTTrainer(
    model=subject.model,
    args=holdfast.cpu_safe_args(max_steps=20, learning_rate=2e-3, per_device_train_batch_size=8),
    train_dataset=Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows]),
    processing_class=subject.tokenizer,
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[holdfast.DriftMonitor(reference, every=10, budget=holdfast.DriftBudget(max_kl_nats=2.0))],  # 2
)
trainer.train()

for record in trainer.state.log_history:
    if "drift/kl_nats" in record:
        print(f"step {record['step']}: drift {record['drift/kl_nats']:.3f} nats a sequence")
