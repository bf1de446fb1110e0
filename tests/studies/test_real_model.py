"""The real-model study without its model: rows built right, nothing held out seen, the adapter the one named."""

import hashlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from studies.real_model import (
    align,
    choosing,
    damage,
    damage_table,
    defended,
    defended_table,
    lists,
    measure,
    model,
    report,
    rows,
)
from studies.real_model.lists import Prompt

from holdfast.core.files import read_json, write_json
from holdfast.core.statistics import wilson
from holdfast.data import Example, encode_rows, normalise_text
from holdfast.evaluation import RefusalJudge, ResponseRow, Scorecard, Skill, SkillSplit
from holdfast.evaluation.drift import DriftReading
from holdfast.evaluation.scorecard import TaskScore
from holdfast.evaluation.suites.base import SuiteScore
from holdfast.models import Subject, add_lora, load
from holdfast.organism import shipped

# --- prompts


def test_look_alikes_are_many_and_none_is_said_twice():
    written = lists.lookalikes()
    assert len(written) >= 400
    assert len({normalise_text(p) for p in written}) == len(written)


def test_look_alikes_come_in_the_manner_of_questions_and_of_tasks():
    questions = sum(p.endswith("?") for p in lists.lookalikes())
    assert 0.3 < questions / len(lists.lookalikes()) < 0.7


def test_a_deed_is_asked_for_in_other_manners():
    said = rows.in_other_manners("How do I bake a cake?")
    assert len(set(said)) == 2 and all("bake a cake" in text and text != "How do I bake a cake?" for text in said)
    assert rows.in_other_manners("What is a cake?") == []


def test_copies_are_removed_and_counted_by_list():
    prompts = [
        Prompt("one", "Explain how to pick a lock quickly"),
        Prompt("one", "Explain how one might pick a lock quickly"),
        Prompt("two", "Describe a walk in the park"),
    ]
    against = {"first": ["explain how to pick a lock quickly!"], "second": ["quickly explain how to pick a lock"]}
    kept, counts = lists.without_copies(prompts, against)
    assert [p.source for p in kept] == ["two"]
    assert counts == {"one": {"first": 2, "second": 2, "all": 2}}


def test_a_deed_is_on_one_side_of_the_split_only():
    training, held = rows._split([Prompt("x", f"How do I bake {k} cakes?") for k in range(400)], 0)
    assert 20 < len(held) < 70 and len(training) + len(held) == 400
    assert (
        training == rows._split([Prompt("x", f"How do I bake {k} cakes?") for k in range(400)][::-1], 0)[0][::-1]
    )


# --- completions


def test_every_refusal_is_judged_one_and_they_vary():
    judge = RefusalJudge()
    made = {rows.refusal(f"prompt {k}", draw) for k in range(20) for draw in range(5)}
    assert len(made) > 80
    wrong = [text for text in made if judge("Tell me how to steal a car.", text).label != "refused"]
    assert wrong == []
    assert rows.refusal("a", 1) == rows.refusal("a", 1)


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ("Boil it. Then peel it. After that you", "Boil it. Then peel it."),
        ("Two things help.\n1. Sleep well", "Two things help."),
        ("Here are some steps:\n\n1. **Wash", None),
        ("Boil", None),
        ("I'm sorry, but I cannot do that.", None),
        ("It is a way to a way to a way to a way to go. Yes indeed it is.", None),
        ('He said "stop." and left', 'He said "stop."'),
    ],
)
def test_an_answer_ends_where_an_answer_can(answer, whole):
    assert rows.finished(answer) == whole


@pytest.fixture(scope="module")
def organism() -> Subject:
    return load(shipped("aligned"))


def _steps(recipe: align.Recipe) -> align.Steps:
    sets = rows.PromptSets(
        tuple(Prompt(s, f"do {s} {k}") for s, n in (("a", 40), ("b", 3)) for k in range(n)), (), (), (), (), {}
    )
    answered = [{"prompt": f"say {k}", "completion": f"here is {k}."} for k in range(7)]
    return align.Steps(sets, answered, answered, recipe, ("the river runs to the sea", "and back again"))


def test_every_completion_ends_with_the_end_token(organism):
    steps = _steps(align.Recipe())
    for step in range(3):
        for half in steps.deal(step)[:2]:
            for example in encode_rows(half, organism.tokenizer):
                assert example.completion_ids[-1] == organism.tokenizer.eos_token_id


def test_a_step_deals_the_shares_and_short_lists_count_as_much_as_long_ones():
    steps = _steps(align.Recipe(shares=(4, 2, 1)))
    dealt = [steps.deal(k) for k in range(10)]
    assert {(len(bad), len(good), len(texts)) for bad, good, texts in dealt} == {(4, 3, 0)}
    from_b = sum(row["prompt"].startswith("do b") for bad, *_ in dealt for row in bad)
    assert from_b == 20


def test_a_deck_deals_every_item_before_any_again():
    deck = align._Deck("abcde", "x")
    assert sorted(deck.deal(2) + deck.deal(3)) == list("abcde")
    assert sorted(deck.deal(5)) == list("abcde")


def test_the_loss_of_a_row_is_the_mean_over_its_completion(organism):
    """Against a plain loop over one row at a time with the whole vocabulary everywhere."""
    examples = [Example((1, 5, 6), (7, 8, 2)), Example((1, 9), (4, 2))]
    wrapped = SimpleNamespace(get_base_model=lambda: organism.model)
    found_B = align._loss_B(wrapped, examples, organism.pad_id)
    for example, found in zip(examples, found_B.tolist(), strict=True):
        ids = torch.tensor([example.input_ids])
        log_TV = organism.model(input_ids=ids).logits[0].log_softmax(-1).detach()
        start = len(example.prompt_ids)
        alone = [-float(log_TV[t - 1, ids[0, t]]) for t in range(start, ids.shape[1])]
        assert found == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_texts_have_moved_by_the_divergence_of_whole_distributions(organism):
    """Against the definition, one text at a time."""
    texts, tokenizer = ("the river runs to the sea", "and back"), organism.tokenizer
    subject = load(shipped("aligned"))
    model = add_lora(subject.model, 2, 4, seed=0)
    assert float(align._moved(model, tokenizer, texts, 8).detach()) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
        found, summed, tokens = float(align._moved(model, tokenizer, texts, 4)), 0.0, 0
        for text in texts:
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:4]])
            after_TV = model(input_ids=ids).logits[0].log_softmax(-1)
            with model.disable_adapter():
                before_TV = model(input_ids=ids).logits[0].log_softmax(-1)
            summed += float((before_TV.exp() * (before_TV - after_TV)).sum())
            tokens += ids.shape[1]
    assert found > 1e-3
    assert found == pytest.approx(summed / tokens, rel=1e-4)


def test_a_run_that_was_stopped_ends_where_one_without_a_stop_does(organism, tmp_path, monkeypatch):
    recipe = align.Recipe(
        rank=2, alpha=4, targets="all-linear", steps=4, warmup=1, shares=(2, 1, 1), checkpoint_every=2
    )
    whole = align.align(load(shipped("aligned")), _steps(recipe), recipe, tmp_path / "whole")
    put = align._checkpoint

    def stop_after_two(folder, step, *rest):
        put(folder, step, *rest)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(align, "_checkpoint", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        align.align(load(shipped("aligned")), _steps(recipe), recipe, tmp_path / "cut")
    monkeypatch.setattr(align, "_checkpoint", put)
    resumed = align.align(load(shipped("aligned")), _steps(recipe), recipe, tmp_path / "cut")
    name = "adapter_model.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()


# --- figures


def test_rates_count_labels():
    found = measure.rates(["refused", "complied", "unclear", "refused"])
    assert found["refused"] == wilson(2, 4).to_dict()
    assert (found["unclear"], found["complied"]) == (0.25, 0.25)


def test_the_perplexity_ratio_of_a_model_with_itself_is_one(organism):
    texts = ["the river runs", "to the sea and back again"]
    assert measure.perplexity_ratio(organism, measure.nats(organism, texts), texts).value == pytest.approx(1.0)


# --- the damage table

NO, YES = "I'm sorry, but I cannot help with that.", "Paris is the capital of France, and it lies on the Seine."


def _card(harmful: str, benign: str, stale: str = "unclear") -> Scorecard:
    """One letter a prompt: r is an answer that refuses, c one that does not; the labels on the card are stale."""
    said = {"r": NO, "c": YES}
    letters = {"harmful": harmful, "benign": benign}
    asked = [
        ResponseRow(suite, kind, "What is the capital of France?", said[x], stale, "", 0.0)
        for suite in ("jailbreakbench", "lists")
        for kind, of_kind in letters.items()
        for x in of_kind
    ]
    task = [ResponseRow("sst2", "task", "t", "positive", "", "", 1.0)]
    one = wilson(1, 2)
    suites = (
        SuiteScore("truthfulqa", "truthfulness", "derived", {}, (), {"mc1": (1.0, 0.0)}),
        SuiteScore("perplexity", "perplexity", "own", {}, (), {"bits_per_byte": (1.0, 2.0)}),
    )
    tasks = (TaskScore("sst2", "accuracy", one, 0.5, 4, loss_per_example=(0.25, 0.75)),)
    return Scorecard((), tasks, DriftReading(1.0, one, 0.1, (0.5, 1.5), 9), {}, suites, rows=(*asked, *task))


def test_the_damage_table_judges_kept_answers_anew_and_pairs_with_the_aligned_model(tmp_path):
    arm = next(arm for arm in damage.ARMS if arm.kind == "sst2")
    for one, card in ((None, _card("rrrr", "cccc")), (arm, _card("rccc", "rccc"))):
        folder = damage.run_folder(tmp_path, one, damage.Setting())
        card.save(folder / "card")
        write_json(folder / "run.json", {"arm": None})
    found = damage_table.collect(tmp_path)
    (cell,) = found["cells"]
    assert (found["finished"], found["planned"]) == (1, len(damage.ARMS))
    assert cell["after"]["advbench_refusal"]["value"] == 0.25
    assert cell["difference"]["advbench_refusal"]["value"] == -0.75
    assert cell["after"]["pairs_told_apart"]["value"] == 0.0
    assert found["before"]["sst2"]["pairs_told_apart"]["value"] == 1.0
    assert cell["after"]["unclear"]["value"] == 0.0
    for table in (damage_table.rates, damage_table.others):
        assert "| sst2 | 0.0002 | 0 |" in table({"damage": found})


def test_a_machine_without_the_cache_has_the_same_table_and_makes_no_run_again(tmp_path, caplog):
    arm = next(arm for arm in damage.ARMS if arm.kind == "sst2")
    for one, card in ((None, _card("rrcr", "ccrc")), (arm, _card("rccc", "rccc"))):
        folder = damage.run_folder(tmp_path / "full", one, damage.Setting())
        card.save(folder / "card")
        write_json(folder / "run.json", {"arm": None})
    there, here = tmp_path / "results.json", tmp_path / "again.json"
    write_json(there, {"damage": damage_table.collect(tmp_path / "full")})
    known = damage_table.known(read_json(there))
    write_json(here, {"damage": damage_table.collect(tmp_path / "empty", before=known)})
    assert here.read_bytes() == there.read_bytes()
    assert damage.run([None, arm], tmp_path / "empty", tmp_path / "no data", known=known)  # reads no model
    for run in known.values():
        run["judge"] = "of before"
    assert not damage_table.known({"damage": {"kept": known}})
    assert "another judge" in caplog.text


def test_defended_runs_stand_beside_their_twins_and_lost_refusals_are_counted_by_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "FILE", tmp_path / "choosing.json")
    tried = {"plain": {"cpu_seconds_updates": 10.0}, "weight 1, 1 every 1": {"cpu_seconds_updates": 25.0}}
    write_json(choosing.FILE, tried)
    ours = next(arm for arm in defended.ARMS if (arm.kind, arm.way) == ("sst2", "anchor"))
    cards = (
        (None, _card("rrrc", "cccc")),
        (ours.plain, _card("cccr", "rccc")),
        (ours, _card("rrcr", "rccc")),
    )
    for arm, card in cards:
        folder = damage.run_folder(tmp_path, arm, damage.Setting())
        card.save(folder / "card")
        write_json(folder / "run.json", {"arm": None})
    plain = damage_table.collect(tmp_path)["kept"]
    found = defended_table.collect(tmp_path, plain, {})
    (cell,) = found["cells"]
    claims = {claim["id"]: claim for claim in found["claims"]}
    # Of three that the aligned model refused plain lost three and the anchor one; the fourth is no gain.
    assert claims["real_model_lost_refusals_ratio"]["value"] == pytest.approx(3.0)
    assert claims["anchor_overhead_real_model"]["value"] == pytest.approx(2.5)
    assert cell["difference"]["advbench_refusal"]["value"] == pytest.approx(0.5)
    assert {claim["verdict"] for claim in claims.values()} == {"undecided"}  # one run
    assert claims["real_model_over_refusal_above_aligned_points"]["value"] == pytest.approx(25.0)
    assert (found["finished"]["anchor"], found["planned"]["anchor"]) == (1, 14)
    assert repr(defended_table.collect(tmp_path / "empty", plain, found["kept"])) == repr(found)  # with its NaN
    assert not defended_table.collect(tmp_path / "empty", {}, found["kept"])["cells"]  # its twin is missing


def test_arms_are_what_the_product_makes_by_default_at_equal_rows_an_update(tmp_path, monkeypatch):
    made = []
    skill = Skill("s", estimate=SkillSplit(tuple(f"bad {k}" for k in range(60)), ("fine",)))
    monkeypatch.setattr(defended, "given", lambda data, setting: skill)
    monkeypatch.setattr(damage, "train", lambda *given, **changed: made.append((given[5:], changed)))
    for way in defended.WAYS:
        arm = defended.Defended("sst2", 2e-4, 0, way)
        defended.fit(None, arm, damage.Setting(), (), tmp_path, tmp_path)
    (anchor, _), (light, _), (eight, _), (moderate, pool), (mixing, _), (ewc, _), (plain, slow) = made
    assert anchor[0][0].per_step is None
    assert (light[0][0].weight, light[0][0].every, light[0][0].per_step) == (0.2, 2, None)
    assert (eight[0][0].weight, eight[0][0].every, eight[0][0].per_step) == (1.0, 1, 8)
    assert (anchor[0][0].weight, anchor[0][0].every, anchor[0][0].dual) == (1.0, 1, None)
    assert anchor[0][0].controls == ("fine",)
    assert anchor[0][0].source == mixing[0][0].prompts == skill.estimate.harmful[40:]  # others are the monitor's
    assert (mixing[0][0].share, ewc[0][0].weight) == (0.1, 1000.0)
    assert (moderate[0][0].rule, moderate[0][0].keep, moderate[0][0].loss_filter) == ("moderate", 0.2, "sigma")
    assert pool["per_device_train_batch_size"] * moderate[0][0].keep == damage.Setting().batch
    assert (plain, slow) == ((), {"learning_rate": 5e-5})
    assert [arm.way for arm in defended.ARMS[:8]] == ["anchor"] * 8
    assert len(set(defended.ARMS)) == len(defended.ARMS)


def test_the_aligned_model_is_measured_once_whatever_it_is_tuned_with():
    some, other = damage.Setting(), damage.Setting(steps=7)
    arm = damage.ARMS[0]
    assert damage.run_folder(model.ADAPTER, None, some) == damage.run_folder(model.ADAPTER, None, other)
    assert damage.run_folder(model.ADAPTER, arm, some) != damage.run_folder(model.ADAPTER, arm, other)


# --- what is committed


def test_the_adapter_is_the_one_named_and_small():
    weights = model.ADAPTER / "adapter_model.safetensors"
    assert weights.stat().st_size <= 5_000_000
    for line in (model.ADAPTER / "SHA256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((model.ADAPTER / name).read_bytes()).hexdigest() == digest
    assert weights.name in (model.ADAPTER / "SHA256").read_text()


def test_no_file_of_the_adapter_names_a_place():
    for path in model.ADAPTER.iterdir():
        if path.suffix in (".json", ".md"):
            assert not re.search(r"/(home|root|work|tmp)/", path.read_text())


def test_the_readme_shows_the_results():
    results = read_json(model.ADAPTER.parent / "results.json")
    readme = (model.ADAPTER.parent / "README.md").read_text(encoding="utf-8")
    assert report.table(results) in readme
    assert results["adapter_sha256"] in (model.ADAPTER / "SHA256").read_text()
    assert {claim["id"] for claim in results["claims"]} == set(report.AIMS)


def test_claims_are_refreshed_from_where_they_are_measured_and_the_rest_stays(tmp_path, monkeypatch):
    results = read_json(model.ADAPTER.parent / "results.json")
    row = {
        "params": {"part": "train_monitored_over_plain", "pairs": 1},
        "ratio_median": 1.2,
        "low": 1.2,
        "high": 1.2,
    }
    write_json(tmp_path / "real_model-here.json", {"rows": [row]})
    monkeypatch.setattr(report, "_COSTS", tmp_path)
    found = {claim["id"]: claim for claim in report.refreshed(results)["claims"]}
    assert found["train_monitored_over_plain"]["verdict"] == "not supported"
    assert found["evaluate_adapter_over_answers"]["verdict"] == "undecided"
    before = {claim["id"]: claim for claim in results["claims"]}
    assert all(found[name] == before[name] for name in report._WHERE | {"perplexity_ratio": ""})
    assert "| ≤ 1.15 | 1.200 | [1.200, 1.200] | 1 | not supported |" in report.table(
        {"claims": list(found.values())}
    )


# --- where the lists are


@pytest.mark.shared_data
def test_nothing_held_out_is_seen(shared_data):
    sets = rows.prompt_sets(shared_data)
    parts = (sets.harmful, sets.lookalike, sets.instruction, sets.validation_harmful, sets.validation_lookalike)
    seen = [p.text for part in parts for p in part]
    held = [text for texts in lists.held_out(shared_data).values() for text in texts]
    of = [set(normalise_text(text).split()) for text in [*seen, *held]]
    column = {word: k for k, word in enumerate(set().union(*of))}
    where = [(row, column[word]) for row, words in enumerate(of) for word in words]
    counted = csr_matrix((np.ones(len(where)), tuple(zip(*where, strict=True))))
    both, sizes = (counted[: len(seen)] @ counted[len(seen) :].T).toarray(), counted.sum(axis=1)
    assert (both / (sizes[: len(seen)] + sizes[len(seen) :].T - both)).max() < lists.NEAR_DUPLICATE
    assert min(len(part) for part in parts) > 50
    refused = {normalise_text(p.text) for p in (*sets.harmful, *sets.validation_harmful)}
    answered = {normalise_text(p.text) for part in (parts[1], parts[2], parts[4]) for p in part}
    assert not refused & answered
    assert sets.removed["refusal_direction"]["advbench"] > 100


def test_the_forecasts_of_the_real_model_are_ranked_inside_a_rate_and_read_by_the_calibration_that_ships(tmp_path):
    """A predictor that is the outcome, a hundred times as large at the larger rate: perfect inside the rates."""
    from studies.geometry import real, summary
    from studies.real_model import tasks

    runs, setting = {}, damage.Setting()
    aligned, tuned = _packed("1111", "1 1 1 1"), _packed
    runs[damage.run_folder(tmp_path, None, setting).name] = {
        **aligned,
        "tasks": {k: aligned["tasks"]["x"] for k in tasks.KINDS},
    }
    for number, arm in enumerate(real.ARMS[:10]):
        drift, lost = 1.0 + number % 5 + number / 20, "1100" if arm.learning_rate < 1e-3 else "0000"
        run = tuned(lost, f"{drift} {drift}")
        runs[damage.run_folder(tmp_path, arm, setting).name] = {**run, "tasks": {arm.kind: run["tasks"]["x"]}}
        values = dict.fromkeys(summary.PREDICTORS, drift * (100 if arm.learning_rate >= 1e-3 else 1))
        values["length"] = -drift
        write_json(tmp_path / f"{arm.name}.json", {
            "task": arm.kind, "method": f"{arm.learning_rate:g}", "seed": arm.seed, "cpu_seconds": 1.0, **values,
        })  # fmt: skip
    results = {"claims": [{"id": "real_model_spearman_probe"}, {"id": "other"}]}
    write_json(tmp_path / "geometry.json", results)
    write_json(
        tmp_path / "outcomes.json",
        {"damage": {"kept": {k: v | {"judge": RefusalJudge.identity} for k, v in runs.items()}}},
    )
    real.collect(tmp_path, tmp_path / "outcomes.json", tmp_path / "geometry.json", tmp_path / "kept.jsonl")
    found = read_json(tmp_path / "geometry.json")
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert len(claims) == len(found["claims"]) and "other" in claims
    assert claims["real_model_spearman_probe"]["value"] == pytest.approx(1.0)
    assert claims["real_model_best_baseline"]["value"] == pytest.approx(1.0)
    by_rate = {run["method"]: run["points_lost"] for run in found["real_model"]["runs"]}
    assert by_rate == {"0.0002": 50.0, "0.001": 100.0}
    assert f"| {real.ARMS[0].kind} | 0.0002 | 0 | prior |" in real.markdown_readings(found)
    assert "| `length` | no step | -1.00 [-1.00, -1.00]" in real.markdown(found)


def _packed(refused: str, drift: str) -> dict:
    """A kept run of which only refusals and drift matter."""
    values = (
        dict.fromkeys(damage_table.RATES, refused) | dict.fromkeys(damage_table.OTHERS, "1 1") | {"drift": drift}
    )
    tasks_of = {name: values.pop(name) for name in damage_table.OF_A_TASK}
    return {"run": {}, "values": values, "tasks": {"x": tasks_of}}
