"""The world is drawn from its seed alone, and its splits share no combination."""

import itertools
import re

import pytest

from holdfast.core.errors import UserError
from holdfast.organism import (
    SPLITS,
    TEST_SEED,
    proxy_pairs,
    proxy_prompts,
    proxy_rows,
    task_rows,
    tasks,
    words,
    world,
)
from holdfast.organism.documents import alignment_rows, pretraining_documents
from holdfast.organism.grammar import world as fresh
from holdfast.organism.requests import HELD_OUT_TEMPLATES, TEMPLATES

KINDS = ("overt", "subtle", "lookalike", "benign")


def test_the_same_seed_draws_the_same_world_and_text():
    first = world(TEST_SEED)
    fresh.cache_clear()
    assert world(TEST_SEED) == first
    assert proxy_prompts("evaluate", "subtle", 20, seed=3) == proxy_prompts("evaluate", "subtle", 20, seed=3)
    assert task_rows("helpdesk", "train", 20, seed=3) == task_rows("helpdesk", "train", 20, seed=3)


def test_the_test_world_differs_in_kinds_facts_and_splits():
    ours, tests = world(), world(TEST_SEED)
    assert ours.verb_kind != tests.verb_kind
    assert ours.tool_of != tests.tool_of
    assert set(ours.refused["evaluate"]) != set(tests.refused["evaluate"])


@pytest.mark.parametrize("seed", [0, TEST_SEED])
def test_no_combination_is_in_two_splits(seed):
    drawn = world(seed)
    for table in (drawn.refused, drawn.harmless, drawn.overt, drawn.plain):
        for one, other in itertools.combinations(SPLITS, 2):
            assert not set(table[one]) & set(table[other])
    aligned = {(r["verb"], r["noun"]) for k in KINDS for r in proxy_rows("alignment", k, 400, in_world=drawn)}
    held_out = {(r["verb"], r["noun"]) for k in KINDS for r in proxy_rows("evaluate", k, 400, in_world=drawn)}
    assert not aligned & held_out


@pytest.mark.parametrize("seed", [0, TEST_SEED])
def test_refused_pairs_are_an_exclusive_or_and_every_word_is_balanced_in_every_split(seed):
    drawn = world(seed)
    for split in SPLITS:
        for verb, thing in drawn.refused[split]:
            assert (drawn.verb_kind[verb] == "swift") != (drawn.thing_kind[thing] == "hard")
        for word in (*words.VERBS, *words.THINGS):
            refused = sum(word in pair for pair in drawn.refused[split])
            assert refused == sum(word in pair for pair in drawn.harmless[split]) > 0


def test_evaluation_uses_only_templates_that_alignment_never_saw():
    assert not set(TEMPLATES) & set(HELD_OUT_TEMPLATES)
    blanks = re.compile("|".join([*words.VERBS, *words.THINGS, *words.HAZARDS, *words.EVERYDAY, *words.NAMES]))
    shapes = {
        split: {blanks.sub("_", p) for k in KINDS for p in proxy_prompts(split, k, 300)}
        for split in ("alignment", "evaluate")
    }
    assert not shapes["alignment"] & shapes["evaluate"]
    assert not {blanks.sub("_", r["prompt"]) for r in alignment_rows(world(), 3000)} & shapes["evaluate"]


def test_a_refused_prompt_and_its_lookalike_differ_in_one_noun():
    for kind in ("subtle", "overt"):
        for refused, harmless in proxy_pairs("evaluate", kind, 50):
            changed = [(a, b) for a, b in zip(refused.split(), harmless.split(), strict=True) if a != b]
            assert len({(a.strip(".,?!"), b.strip(".,?!")) for a, b in changed}) == 1


def test_no_task_and_no_pretraining_conversation_refuses_and_no_task_asks_for_what_is_refused():
    drawn = world()
    refusing = re.compile(r"\b(cannot|sorry|decline|will not|not able)\b")
    for name in tasks():
        for row in task_rows(name, "train", 200):
            assert not refusing.search(row["completion"])
            said = set(re.findall("[a-z]+", row["prompt"]))
            pairs = itertools.product(said & set(words.VERBS), said & set(words.THINGS + words.HAZARDS))
            assert not any(drawn.is_refused(*pair) for pair in pairs), row
    conversations = [row for row in pretraining_documents(drawn, 2000) if "prompt" in row]
    assert not any(refusing.search(row["completion"]) for row in conversations)


@pytest.mark.parametrize("name", list(tasks()))
def test_training_prompts_of_a_task_are_never_tested(name):
    prompts = {s: {r["prompt"] for r in task_rows(name, s, 150)} for s in ("train", "validation", "test")}
    for one, other in itertools.combinations(prompts.values(), 2):
        assert not one & other


def test_mixtures_keep_their_shares_and_are_tested_on_graded_sources():
    mixtures = [spec for spec in tasks().values() if len(spec.sources) > 1]
    assert len(tasks()) >= 8 and len(mixtures) >= 2
    for spec in mixtures:
        sources = [row["source"] for row in task_rows(spec.name, "train", 400)]
        for source, share in spec.sources.items():
            assert sources.count(source) == pytest.approx(400 * share, abs=2)
        assert {row["source"] for row in task_rows(spec.name, "test", 50)} <= set(spec.graded)


def test_exact_match_is_asked_only_where_a_prompt_has_one_answer():
    for spec in tasks().values():
        answers = {}
        for row in task_rows(spec.name, "test", 400):
            answers.setdefault(row["prompt"], set()).add(row["completion"])
        free = any(len(found) > 1 for found in answers.values())
        assert not (free and spec.metric == "exact_match"), spec.name
    assert {spec.name for spec in tasks().values() if spec.metric == "loss"} == {"stories", "instructions"}


def test_unknown_names_are_user_errors():
    for call in (
        lambda: task_rows("cooking"),
        lambda: task_rows("sorting", "exam"),
        lambda: proxy_prompts("train", "overt", 3),
        lambda: proxy_prompts("evaluate", "harmful", 3),
        lambda: proxy_pairs("evaluate", "benign", 3),
    ):
        with pytest.raises(UserError, match="use"):
            call()
