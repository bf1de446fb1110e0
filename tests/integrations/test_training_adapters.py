"""One callback in other people's trainers: the same weights as under our own, their interfaces as we read them.

The doubles below have the names and the signatures of axolotl 0.19.0 (``integrations/base.py``) and LLaMA-Factory
0.9.5 (``train/tuner.py``); neither is installed here.
"""

import inspect
import random
import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments
from trl.trainer.sft_trainer import SFTTrainer

from holdfast import load, organism
from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import encode_rows
from holdfast.evaluation import Reference, sample_reference
from holdfast.integrations.hold import HoldCallback, HoldSettings, _check_supported
from holdfast.models import Subject, add_lora
from holdfast.pipeline.defended import defences_of, held_prompts
from holdfast.training import DriftMonitor, GuardedTrainer, RefusalProbe, dataset_from_examples
from holdfast.training.guards import Guards
from tests.training.conftest import WORDS, build, examples, options, rows
from tests.training.weights import largest_difference, weights

__all__ = ["build", "examples", "options", "rows"]


class BasePlugin:
    """Of axolotl: those of its methods that we override."""

    def get_input_args(self) -> str | None: ...

    def add_callbacks_pre_trainer(self, cfg, model) -> list:
        return []


def pretend(monkeypatch, name, **found):
    """A package that is not installed here, with these names in its last module."""
    parts = name.split(".")
    for k in range(len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[: k + 1]), ModuleType(parts[k]))
    vars(sys.modules[name]).update(found)


@pytest.fixture
def plugin(monkeypatch):
    pretend(monkeypatch, "axolotl.integrations.base", BasePlugin=BasePlugin)
    monkeypatch.delitem(sys.modules, "holdfast.integrations.axolotl", raising=False)
    from holdfast.integrations import axolotl

    yield axolotl.HoldfastPlugin()
    sys.modules.pop("holdfast.integrations.axolotl")


@pytest.fixture
def settings(tmp_path):
    rng = random.Random(1)
    for side in ("harmful", "benign"):
        lines = [" ".join(rng.choices(WORDS, k=7)) for _ in range(48)]
        (tmp_path / f"{side}.txt").write_text("\n".join(lines))
    lists = {side: str(tmp_path / f"{side}.txt") for side in ("harmful", "benign")}
    return {**lists, "every": 2, "prompts": 4, "max_new_tokens": 6, "weight": 0.5}


def ours(subject, data, args, settings):
    """The same defence and monitor in our own trainer."""
    spec, skill = settings.spec(), settings.skill()
    held = held_prompts(skill, (), spec.monitor.prompts)
    answers = sample_reference(subject, held.watched, spec.max_new_tokens, derive_seed(spec.seed, "estimate"))
    reference = Reference.on(subject, answers, source="adapter_off")
    probe = RefusalProbe.of(skill, spec.monitor.prompts, max_new_tokens=spec.max_new_tokens)
    monitor = DriftMonitor(reference, spec.monitor.every, probe=probe)
    GuardedTrainer(subject, args, data, callbacks=[monitor], defences=defences_of(spec, reference, held)).train()
    return monitor.trace


def theirs(subject, data, args, callback, resume=None):
    trainer = SFTTrainer(
        subject.model, args, train_dataset=dataset_from_examples(data), processing_class=subject.tokenizer,
        callbacks=[callback],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_axolotls_plugin_gives_the_weights_of_our_own_trainer(
    plugin, build, options, examples, settings, tmp_path
):
    for name in ("get_input_args", "add_callbacks_pre_trainer"):
        mine, read = (inspect.signature(getattr(kind, name)) for kind in (type(plugin), BasePlugin))
        assert list(mine.parameters) == list(read.parameters)
    module, _, name = plugin.get_input_args().rpartition(".")
    cfg = {"holdfast": getattr(sys.modules[module], name)(holdfast=settings).model_dump()["holdfast"]}
    subject, reference = build(lora=True), build(lora=True)
    kept = {"save_strategy": "steps", "save_steps": 2}
    (callback,) = plugin.add_callbacks_pre_trainer(cfg, subject.model)
    trainer = theirs(subject, examples, options(**kept), callback)
    trace = ours(reference, examples, options(output_dir=str(tmp_path / "ours")), HoldSettings.read(settings))
    assert largest_difference(weights(subject), weights(reference)) == 0.0
    assert callback.monitor.trace == trace and [row["step"] for row in trace] == [0, 2, 4]
    assert trace[-1]["kl_nats"] > 0 == trace[0]["kl_nats"]
    logged = [record for record in trainer.state.log_history if "drift/kl_nats" in record]
    assert logged and all("anchor/weight" in record for record in trainer.state.log_history if "loss" in record)
    # Half of it again, from a checkpoint: what the defence must remember lies there.
    again = build(lora=True)
    (callback,) = plugin.add_callbacks_pre_trainer(cfg, again.model)
    theirs(again, examples, options(**kept), callback, str(tmp_path / "out" / "checkpoint-2"))
    assert largest_difference(weights(again), weights(subject)) == 0.0
    with pytest.raises(UserError, match="when it is made"):
        HoldCallback(settings).on_train_begin(None, SimpleNamespace(global_step=2), None)


def run_exp(args: dict | None = None, callbacks: list | None = None) -> None:
    """Of LLaMA-Factory: its trainer is a Seq2SeqTrainer that is handed ``callbacks``."""
    args = args or {}
    subject = load(organism.shipped("aligned"))
    model = add_lora(subject.model, 8, 16, "all-linear", seed=0)
    found = organism.task_rows("lessons", "train", 64, 0)
    data = dataset_from_examples(encode_rows(found, subject.tokenizer)).remove_columns("id")
    settings = Seq2SeqTrainingArguments(
        args["output_dir"], max_steps=args["max_steps"], learning_rate=args["learning_rate"], report_to="none",
        per_device_train_batch_size=8, use_cpu=True, save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    Seq2SeqTrainer(
        model, settings, DataCollatorForSeq2Seq(subject.tokenizer), data, processing_class=subject.tokenizer,
        callbacks=callbacks,
    ).train()  # fmt: skip


def test_llamafactory_trains_the_built_in_model_under_guard(monkeypatch, tmp_path, capsys):
    from holdfast.integrations import llamafactory

    pretend(monkeypatch, "llamafactory.train.tuner", run_exp=run_exp)
    for side, kind in (("harmful", "overt"), ("benign", "lookalike")):
        (tmp_path / f"{side}.txt").write_text("\n".join(organism.proxy_prompts("estimate", kind, 48, 0)))
    lists = "".join(f"  {side}: {tmp_path / side}.txt\n" for side in ("harmful", "benign"))
    lists += "  every: 6\n  prompts: 8\n  max_new_tokens: 12\n"
    file = tmp_path / "train.yaml"
    base = f"output_dir: {tmp_path / 'out'}\nmax_steps: 12\nlearning_rate: 0.01\nholdfast:\n{lists}"
    drift = {}
    for defence in ("none", "anchor"):
        file.write_text(f"{base}  defence: {defence}\n" + "  weight: 20\n" * (defence == "anchor"))
        trace = llamafactory.train(file).monitor.trace
        assert [row["step"] for row in trace] == [0, 6, 12] and trace[0]["kl_nats"] == 0.0
        drift[defence] = trace[-1]["kl_nats"]
    assert drift["anchor"] < drift["none"] / 2, drift
    file.write_text(f"{base}  budget: {{max_kl_nats: 0.001}}\n  defence: none\n")
    callback = llamafactory.train(file)
    assert callback.monitor.stopped.step == 6 and callback.monitor.stopped.restored_step == 0
    for wrong, said in (("defense: anchor", "holdfast.defense"), ("every: 0", "holdfast.every")):
        file.write_text(f"{base}  {wrong}\n")
        assert llamafactory.main([str(file)]) == 2 and said in capsys.readouterr().err
    assert llamafactory.main([]) == 2 and "settings file" in capsys.readouterr().err


def test_what_a_callback_cannot_do_is_refused(tiny_subject, settings):
    one = SimpleNamespace(world_size=1, fp16=False, deepspeed=None, fsdp=None)
    looking = Guards(
        defences_of(HoldSettings(defence="token-wise").spec(), None, held_prompts(None, WORDS, 4)), one
    )
    with pytest.raises(UserError, match="looks at rows"):
        _check_supported(looking, one)
    guards = Guards(defences_of(HoldSettings().spec(), None, held_prompts(None, WORDS, 4)), one)
    _check_supported(guards, one)
    for wrong in ({"world_size": 2}, {"fp16": True}, {"deepspeed": "ds.json"}, {"fsdp": ["full_shard"]}):
        with pytest.raises(UserError, match="not supported by the callback"):
            _check_supported(guards, SimpleNamespace(**{**vars(one), **wrong}))
    with pytest.raises(UserError, match="come together"):
        HoldCallback({"harmful": settings["harmful"]})
    with pytest.raises(UserError, match="limit on refusals"):
        HoldCallback({"budget": {"min_refusal": 0.5}})
    for wrong, said in (
        ({"defence": "none", "weight": 1.0}, "no defence"),
        ({"defence": "anker"}, "none of that name"),
    ):
        with pytest.raises(UserError, match=said):
            HoldSettings.read(wrong)
    with pytest.raises(UserError, match="no tokenizer"):
        HoldCallback(settings)._begin(one, Subject(tiny_subject.model, None))


def test_a_missing_package_is_named_with_what_mends_it(tmp_path, capsys):
    from holdfast.integrations import llamafactory
    from holdfast.integrations.packages import needed

    file = tmp_path / "train.yaml"
    file.write_text("max_steps: 1\n")
    assert llamafactory.main([str(file)]) == 2
    assert "llamafactory is not installed; run `pip install llamafactory`" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"axolotl is not installed; run `pip install axolotl`"):
        needed("axolotl.integrations.base", "axolotl")
