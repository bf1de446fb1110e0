"""Our likelihoods, accuracies and perplexities against lm-evaluation-harness itself, item by item.

Skipped where the extra is not installed; the equality holds at batch size 1, same BOS and context.
"""

import json
import math
import sys

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.elasticity import code_length, predicted_bits
from holdfast.evaluation.suites import (
    NORMS,
    HarnessSuite,
    common_sense,
    perplexity,
    read_choices,
    read_texts,
    run_harness,
    truthfulness,
)
from holdfast.models import Subject, load, longest_input, text_ids
from holdfast.organism import choice_items, proxy_prompts, shipped

RELATIVE = 1e-6
CHOICE_TASK = """
task: facts_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/facts.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
TEXT_TASK = """
task: texts_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/texts.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity}}
  - {{metric: byte_perplexity}}
  - {{metric: bits_per_byte}}
metadata: {{version: 1.0}}
"""
MC2_TASK = """
task: truth_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/truth.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{mc2_targets.choices}}}}"
doc_to_target: 0
process_results: !function utils.mc2
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
MC2_UTILS = '''
import numpy as np


def mc2(doc, results):
    """As in the harness's own tasks/truthfulqa/utils.py."""
    ll, _ = zip(*results)
    probs = np.exp(np.array(ll))
    labels = np.array(doc["mc2_targets"]["labels"])
    return {"acc": np.sum((probs / np.sum(probs))[labels == 1])}
'''


@pytest.fixture(scope="module")
def harness():
    return pytest.importorskip("lm_eval", reason="lm-evaluation-harness comes with the extra [eval]")


@pytest.fixture(scope="module")
def organism():
    return load(shipped("aligned"), device="cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = choice_items("evaluate", 12)
    rows += [
        # A space at the end of the context, a choice of several words, one that is not ASCII.
        {"prompt": "the fox is ", "choices": ["red", "in the barn.", "größer als €5"], "answer": 1},
        {"prompt": "anna saw a", "choices": ["dog.", "green horse in the cellar."], "answer": 0},
    ]
    facts = [{key: row[key] for key in ("prompt", "choices", "answer")} for row in rows]
    (tmp_path / "facts.jsonl").write_text("\n".join(json.dumps(row) for row in facts))
    texts = [" ".join(proxy_prompts("evaluate", kind, n)) for kind, n in (("benign", 2), ("overt", 12))]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "facts.yaml").write_text(CHOICE_TASK.format(folder=tmp_path))
    (tmp_path / "texts.yaml").write_text(TEXT_TASK.format(folder=tmp_path))
    return tmp_path


def relative(ours, theirs):
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def by_doc(samples):
    return sorted(samples, key=lambda sample: sample["doc_id"])


def test_choices_have_the_harness_likelihoods_item_by_item(harness, organism, folder, record_property):
    theirs = by_doc(run_harness(organism, ["facts_local"], folder, batch_size=1)["samples"]["facts_local"])
    suite = common_sense(folder / "facts.jsonl", "facts")
    readings, truncated = read_choices(organism, suite.items, batch_size=1)
    assert len(theirs) == len(readings) == 14 and truncated == 0
    worst = 0.0
    for reading, sample in zip(readings, theirs, strict=True):
        logs = [float(response[0][0]) for response in sample["resps"]]
        worst = max(worst, relative(reading.log_likelihoods, logs))
        for norm, metric in zip(NORMS, ("acc", "acc_norm", "acc_bytes"), strict=False):
            assert float(reading.right(norm)) == float(sample[metric])
    record_property("worst_relative_difference", worst)
    assert worst <= RELATIVE, worst


def test_rolling_perplexity_is_the_harness_one_with_and_without_windows(
    harness, organism, folder, record_property
):
    for length in (None, 24):
        found = run_harness(organism, ["texts_local"], folder, batch_size=1, max_length=length)
        theirs = by_doc(found["samples"]["texts_local"])
        suite = perplexity(folder / "texts.jsonl", max_length=length)
        ours = read_texts(organism, suite.documents, batch_size=1, max_length=length)
        logs = [-float(sample["word_perplexity"][0]) for sample in theirs]
        worst = relative(ours.nats, logs)
        record_property(f"worst_relative_difference_{length}", worst)
        assert worst <= RELATIVE, worst
        coded = code_length(organism, suite.documents, window=length, batch_size=1)
        assert relative(coded.bits, [nats / math.log(2) for nats in logs]) <= RELATIVE
        assert [sample["word_perplexity"][1] for sample in theirs] == list(ours.words)
        if length is None:  # one window a document: what the codec predicts is the harness's sum, in bits
            ids = [text_ids(text, organism.tokenizer) for text in suite.documents]
            bits = [predicted_bits(organism, each, window=longest_input(organism)) for each in ids]
            assert relative(bits, [nats / math.log(2) for nats in logs]) <= RELATIVE
        measures = suite.run(organism, batch_size=1).measures
        for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
            value = float(found["results"]["texts_local"][f"{name},none"])
            assert measures[name].value == pytest.approx(value, rel=1e-5)  # an exponential of what is equal above


def test_mc2_is_the_harness_one(harness, organism, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {
            "question": row["prompt"],
            "mc1_targets": {"choices": row["choices"], "labels": [int(k == row["answer"]) for k in range(4)]},
            "mc2_targets": {
                "choices": row["choices"],
                "labels": [int(k % 2 == row["answer"] % 2) for k in range(4)],
            },
        }
        for row in choice_items("evaluate", 20)
        if row["kind"] != "mood"
    ][:6]
    suite = truthfulness(rows)
    asked = [{**row, "prompt": suite._prompt(row["question"])} for row in rows]
    (tmp_path / "truth.jsonl").write_text("\n".join(json.dumps(row) for row in asked))
    (tmp_path / "truth.yaml").write_text(MC2_TASK.format(folder=tmp_path))
    (tmp_path / "utils.py").write_text(MC2_UTILS)
    theirs = by_doc(run_harness(organism, ["truth_local"], tmp_path)["samples"]["truth_local"])
    ours = suite.run(organism, batch_size=1)
    assert ours.values["mc2"] == pytest.approx([float(sample["acc"]) for sample in theirs], rel=1e-5)


def test_the_harness_leaves_modes_and_random_state_alone(harness, organism, folder):
    model = organism.model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()], torch.get_rng_state()
    score = HarnessSuite("h", ("facts_local", "texts_local"), str(folder), limit=3).run(
        Subject(model, organism.tokenizer)
    )
    assert [module.training for module in model.modules()] == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    model.eval()
    accuracy = score.measures["facts_local/acc"]
    assert accuracy.n == 3 and accuracy.method == "wilson"
    assert math.isnan(score.measures["texts_local/word_perplexity"].low)
    assert any("no interval" in note for note in score.notes)
    with pytest.raises(UserError, match="no task nothing"):
        HarnessSuite("h", ("nothing",), str(folder)).run(organism)


def test_without_the_extra_it_says_what_to_install(tiny_subject, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'holdfast-llm\[eval\]'"):
        run_harness(tiny_subject, ["arc_easy"])
    with pytest.raises(UserError, match="no such folder"):
        run_harness(tiny_subject, ["arc_easy"], tmp_path / "none")
    with pytest.raises(UserError, match="needs a tokenizer"):
        run_harness(Subject(tiny_subject.model), ["arc_easy"])
