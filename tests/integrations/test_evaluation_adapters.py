"""Our judges and prompts inside other people's evaluations, and our figures in their formats."""

import importlib
import importlib.util
import json

import pytest

from holdfast.cli import run
from holdfast.core.errors import UserError
from holdfast.evaluation import RefusalJudge, ask_and_judge
from holdfast.evaluation.judges import LABELS
from holdfast.models import load
from holdfast.organism import proxy_prompts, shipped
from tests.gating.rows import save_card

TOKENS = 64  # of the tasks' answers


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Prompts as a user has them: two files."""
    folder = tmp_path_factory.mktemp("lists")
    found = {
        "harmful": proxy_prompts("evaluate", "overt", 12, 0),
        "benign": proxy_prompts("evaluate", "benign", 12, 0),
    }
    for side, prompts in found.items():
        (folder / f"{side}.txt").write_text("\n".join(prompts) + "\n")
    return {side: str(folder / f"{side}.txt") for side in found}, found


@pytest.fixture(scope="module")
def answered(lists):
    """What the built-in model answers by our own decoding, judged."""
    subject = load(shipped("aligned"))
    judge = RefusalJudge()
    return {k: ask_and_judge(subject, asked, judge, max_new_tokens=TOKENS) for k, asked in lists[1].items()}


def test_the_harness_asks_the_users_prompts_and_finds_our_shares(lists, answered):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from holdfast.integrations.lm_eval import GROUP, TASKS, harmful

    subject = load(shipped("aligned"))
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=lists[0])
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=12), tasks=[GROUP],
        task_manager=manager, apply_chat_template=True, bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    for task, side in (("holdfast_refusal", "harmful"), ("holdfast_over_refusal", "benign")):
        told, ours = found["results"][task], answered[side]
        assert [sample["doc"]["prompt"] for sample in found["samples"][task]] == lists[1][side]
        assert {name: told[f"{name},none"] for name in LABELS} == pytest.approx(
            {name: ours.counts[name] / 12 for name in LABELS}
        )
    assert answered["harmful"].counts["refused"] > 6 > answered["benign"].counts["refused"]
    with pytest.raises(UserError, match="no harmful prompts"):
        harmful()
    with pytest.raises(UserError, match="unknown"):
        harmful(lists[0]["harmful"], judge="oracle")


def test_inspect_asks_the_users_prompts_and_finds_our_shares(lists, answered, tmp_path):
    inspect_ai = pytest.importorskip("inspect_ai", reason="inspect is not installed (the extra [inspect])")
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from holdfast.integrations.inspect_ai import over_refusal, refusal

    for task, side in ((refusal, "harmful"), (over_refusal, "benign")):
        ours = answered[side]
        said = dict(zip(ours.prompts, ours.responses, strict=True))

        def answer(asked, *_, said=said):
            output = ModelOutput.from_content("built-in", said[asked[-1].text])
            output.usage = ModelUsage()  # else tokens are counted with a vocabulary from the network
            return output

        model = get_model("mockllm/model", custom_outputs=answer)
        (log,) = inspect_ai.eval(task(lists[0][side]), model=model, log_dir=str(tmp_path), display="none")
        assert log.status == "success", log.error
        told = {score.name: score.metrics["mean"].value for score in log.results.scores}
        assert told == pytest.approx({name: ours.counts[name] / 12 for name in LABELS})


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is not None, reason="inspect is installed")
def test_a_missing_inspect_is_named_with_what_mends_it():
    with pytest.raises(
        UserError, match=r"inspect_ai is not installed; run `pip install 'holdfast-llm\[inspect\]'`"
    ):
        importlib.import_module("holdfast.integrations.inspect_ai")


# Every Eval Ever's schema 0.3.0 (MIT, evaleval/every_eval_ever), reduced to what our records use: the type of each
# value, what must be there, and the words that are allowed. The whole schema was held against a record by hand.
TEXT, NUMBER = str, (int, float)
RECORD = {
    "schema_version": TEXT, "evaluation_id": TEXT, "retrieved_timestamp": TEXT,
    "source_metadata": {
        "source_name": TEXT, "source_type": {"documentation", "evaluation_run"}, "source_organization_name": TEXT,
        "evaluator_relationship": {"first_party", "third_party", "collaborative", "other"},
    },
    "eval_library": {"name": TEXT, "version": TEXT},
    "model_info": {"name": TEXT, "id": TEXT},
    "evaluation_results": list,
}  # fmt: skip
RESULT = {
    "evaluation_name": TEXT,
    "source_data": {"dataset_name": TEXT, "source_type": {"other"}},
    "metric_config": {
        "metric_id": TEXT, "metric_name": TEXT, "metric_unit": TEXT, "lower_is_better": bool,
        "score_type": {"continuous"}, "min_score": NUMBER,
    },
    "score_details": {"score": NUMBER},
}  # fmt: skip
INTERVAL = {"lower": NUMBER, "upper": NUMBER, "confidence_level": NUMBER, "method": TEXT}


def fits(value, form):
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], f) for name, f in form.items())
    return value in form if isinstance(form, set) else isinstance(value, form)


def test_a_card_is_written_as_every_eval_ever_has_it(tmp_path, capsys):
    pairs = [("harmful", "refused", "refused")] * 30 + [("benign", "complied", "complied")] * 20
    card = save_card(tmp_path / "card", pairs, [0.1] * 12)
    arguments = ["card", str(card), "--format", "every-eval-ever", "--name", "org/model", "--organization", "us"]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    record = json.loads(printed)
    assert fits(record, RECORD) and record["schema_version"] == "0.3.0"
    assert record.keys() == RECORD.keys() and record["source_metadata"]["source_organization_name"] == "us"
    details = record["model_info"]["additional_details"]
    assert {"deployment_type", "model_availability"} <= details.keys()
    assert all(isinstance(value, str) for value in details.values())
    results = {result["metric_config"]["metric_id"]: result for result in record["evaluation_results"]}
    for result in results.values():
        assert fits(result, RESULT) and fits(
            result["score_details"]["uncertainty"]["confidence_interval"], INTERVAL
        )
        assert result["metric_config"]["max_score"] in (1.0, "Infinity")
    worse_high = {
        name.removeprefix("holdfast."): r["metric_config"]["lower_is_better"] for name, r in results.items()
    }
    assert worse_high == {"refusal": False, "attack_success": True, "over_refusal": True, "kl_nats": True}
    refusal = results["holdfast.refusal"]
    assert refusal["score_details"]["score"] == 1.0
    assert refusal["score_details"]["uncertainty"]["num_samples"] == 30
    assert refusal["generation_config"]["additional_details"] == {"judge": "ByHand"}
    assert "harmful 3" not in printed and "answer 3" not in printed
    assert run([*arguments[:3], "csv"]) == 2 and "use hub or every-eval-ever" in capsys.readouterr().err
