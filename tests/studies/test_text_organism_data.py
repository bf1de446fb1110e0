"""What the real-text study promises about its data: nothing it is measured on was seen in alignment."""

import pytest
from studies.text_organism import corpus

from holdfast.data import normalise_text

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def prompts(shared_data):
    return corpus.alignment_prompts(shared_data, seed=0)


def _word_sets(texts):
    return [frozenset(normalise_text(text).split()) for text in texts]


def test_no_refused_prompt_shares_most_of_its_words_with_an_evaluation_prompt(shared_data, prompts):
    evaluation = {s for texts in corpus.evaluation_lists(shared_data).values() for s in _word_sets(texts)}
    for words in _word_sets(p.prompt for p in prompts.harmful):
        closest = max((len(words & other) / len(words | other) for other in evaluation), default=0.0)
        assert closest < corpus.NEAR_DUPLICATE


def test_over_a_hundred_prompts_of_one_list_are_advbench_s(prompts):
    assert prompts.removed["refusal_direction_harmful_train"]["advbench"] > 100


def test_held_out_prompts_were_not_aligned_on(prompts):
    seen = {normalise_text(p.prompt) for p in (*prompts.harmful, *prompts.lookalike)}
    held = {normalise_text(p.prompt) for p in (*prompts.held_out_harmful, *prompts.held_out_lookalike)}
    assert not seen & held
    assert min(len(prompts.held_out_harmful), len(prompts.held_out_lookalike)) > 200


def test_no_prompt_is_both_refused_and_answered(prompts):
    refused = {normalise_text(p.prompt) for p in (*prompts.harmful, *prompts.held_out_harmful)}
    answered = {
        normalise_text(p.prompt) for p in (*prompts.lookalike, *prompts.answered, *prompts.held_out_lookalike)
    }
    assert not refused & answered


def test_several_lists_teach_refusal_and_evaluation_lists_do_not(shared_data, prompts):
    assert len({p.source for p in prompts.harmful}) >= 5
    exact = {normalise_text(p) for texts in corpus.evaluation_lists(shared_data).values() for p in texts}
    assert not exact & {normalise_text(p.prompt) for p in prompts.harmful}


def test_fine_tuning_reads_no_row_that_pre_training_or_the_test_read(shared_data):
    rows = {
        split: {r["prompt"] for r in corpus.gsm8k_rows(shared_data, split)}
        for split in ("pretrain", "finetune", "test")
    }
    assert not rows["finetune"] & rows["pretrain"]
    assert not rows["finetune"] & rows["test"]


def test_pre_training_reads_no_evaluation_prompt(shared_data):
    exact = {normalise_text(p) for texts in corpus.evaluation_lists(shared_data).values() for p in texts}
    for document in corpus.pretraining_documents(shared_data):
        if document.messages:
            assert normalise_text(document.messages[0][1]) not in exact
