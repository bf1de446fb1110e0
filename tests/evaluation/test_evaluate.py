"""The scorecard counts what judges said, keeps unclear apart, and survives its folder."""

import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation import (
    Reference,
    Scorecard,
    Skill,
    SkillScore,
    SkillSplit,
    Task,
    Verdict,
    compare_rates,
    evaluate,
)
from holdfast.evaluation.tasks import (
    exact_match,
    final_number,
    longest_common_subsequence,
    numeric,
    rouge_l,
    token_f1,
)

SKILL = Skill(
    "refusal",
    estimate=SkillSplit(("never shown to a judge",), ("nor this",)),
    evaluate=SkillSplit(("one", "two", "three", "four"), ("five", "six")),
)


class Scripted:
    """Labels by prompt; breaks where it is told to."""

    def __init__(self, labels):
        self.labels, self.seen = labels, []

    def __call__(self, prompt, response):
        self.seen.append(prompt)
        if self.labels[prompt] == "break":
            raise ValueError("no")
        return Verdict(self.labels[prompt], "scripted")


LABELS = {
    "one": "refused",
    "two": "refused",
    "three": "unclear",
    "four": "break",
    "five": "complied",
    "six": "unclear",
}


def card(subject, labels=LABELS, **kwargs):
    return evaluate(subject, [SKILL], judge=Scripted(labels), max_new_tokens=3, progress=False, **kwargs)


def test_unclear_and_error_are_counted_apart_and_never_as_a_pass(tiny_subject):
    whole = card(tiny_subject)
    assert {row.prompt for row in whole.rows if row.score == 1.0} == {"one", "two", "five"}
    score = whole.skill("refusal")
    assert score.harmful_counts == {"refused": 2, "complied": 0, "unclear": 1, "error": 1}
    assert (score.refusal.value, score.attack_success.value) == (0.5, 0.0)
    assert (score.over_refusal.value, score.benign_compliance.value) == (0.0, 0.5)
    assert (score.unclear, score.errors) == (2, 1)
    assert whole.notes[0].startswith("1 of 6 answers could not be judged (error)") and whole.notes[0] in str(whole)
    assert score.refusal.method == "wilson" and score.refusal.n == 4
    assert whole.notes[1].startswith("2 of 6 answers are neither refused nor complied to the judge (unclear)")
    seldom = card(tiny_subject, {**LABELS, "four": "refused", "six": "complied"})
    assert seldom.notes == () and seldom.skill("refusal").unclear == 1


def test_nothing_of_the_estimate_half_is_ever_judged(tiny_subject):
    judge = Scripted(LABELS)
    evaluate(tiny_subject, [SKILL], judge=judge, max_new_tokens=2, progress=False)
    assert judge.seen == ["one", "two", "three", "four", "five", "six"]


def test_a_card_survives_its_folder(tiny_subject, tmp_path):
    task = Task("sums", ("add two and three",), ("five",), max_new_tokens=3)
    reference = Reference.of(tiny_subject, ["one", "two"], 4)
    whole = card(tiny_subject, tasks=[task], reference=reference)
    whole.save(tmp_path / "card")
    again = Scorecard.load(tmp_path / "card")
    assert again == whole and again.rows == whole.rows
    assert [row.kind for row in again.rows] == ["harmful"] * 4 + ["benign"] * 2 + ["task"]
    assert again.drift is not None and again.drift.kl_nats == 0.0
    assert "never counted as a pass" in str(again)


def test_the_model_is_left_in_its_mode(tiny_subject):
    tiny_subject.model.train()
    card(tiny_subject)
    assert tiny_subject.model.training and tiny_subject.model.model.layers[0].training


def test_the_task_loss_is_that_of_the_held_out_examples(tiny_subject, tiny_examples):
    import torch
    import torch.nn.functional as F

    task = Task("sums", ("add",), ("five",), examples=tuple(tiny_examples), max_new_tokens=2)
    score = evaluate(tiny_subject, tasks=[task], progress=False).task("sums")
    total, tokens = 0.0, 0
    for example in tiny_examples:
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logits = tiny_subject.model(input_ids=ids).logits[0].double()
        for t, scored in enumerate(example.loss_mask):
            if scored:
                total += float(F.cross_entropy(logits[t - 1], ids[0, t]))
                tokens += 1
    assert score.loss_nats_per_token == pytest.approx(total / tokens, rel=1e-5)
    assert score.loss_tokens == tokens


def test_two_cards_are_compared_prompt_by_prompt(tiny_subject):
    all_refused = dict.fromkeys(LABELS, "refused")
    a, b = card(tiny_subject, all_refused), card(tiny_subject)
    difference = compare_rates(a, b, "refusal")
    assert difference.value == 0.5 and difference.n == 4
    assert compare_rates(a, b, "refusal", "over_refusal").value == 1.0
    assert compare_rates(a, a, "refusal").value == 0.0
    other = Skill("refusal", estimate=SKILL.estimate, evaluate=SkillSplit(("one",), ()))
    c = evaluate(tiny_subject, [other], judge=Scripted(LABELS), max_new_tokens=2, progress=False)
    with pytest.raises(UserError, match="same prompts"):
        compare_rates(a, c, "refusal")
    with pytest.raises(UserError, match="it has refusal"):
        a.skill("truth")


def test_no_prompts_is_no_rate_and_not_a_pass():
    score = SkillScore.of("empty", [], [])
    assert score.refusal.value != score.refusal.value
    assert (score.refusal.low, score.refusal.high) == (0.0, 1.0)


def test_two_suites_of_one_name_are_refused(tiny_subject):
    with pytest.raises(UserError, match="share a name"):
        evaluate(tiny_subject, [SKILL], [Task("refusal", (), ())], progress=False)


@pytest.mark.parametrize(
    ("metric", "response", "answer", "score"),
    [
        (exact_match, " It is  42. ", "it is 42", 1.0),
        (exact_match, "-3", "3", 0.0),
        (numeric, "so 3 + 4 = 7 apples\n#### 1,007", "#### 1007", 1.0),
        (numeric, "the answer is 12.50 dollars", "12.5", 1.0),
        (numeric, "-3", "3", 0.0),
        (numeric, "no idea", "3", 0.0),
        (numeric, "12 or 13", "#### 13", 1.0),
        (token_f1, "the red cat", "a red cat", 2 / 3),
        (token_f1, "cat cat cat", "cat", 0.5),
        (token_f1, "", "", 1.0),
        (rouge_l, "a b c d", "a x c d", 0.75),
        (rouge_l, "d c b a", "a b c d", 0.25),
        (rouge_l, "", "a", 0.0),
    ],
)
def test_metrics_on_worked_cases(metric, response, answer, score):
    assert metric(response, answer) == pytest.approx(score)


def test_the_longest_common_subsequence_against_all_subsequences():
    import random
    from itertools import combinations

    rng = random.Random(0)
    for _ in range(30):
        a, b = (rng.choices("abc", k=rng.randrange(0, 7)) for _ in range(2))
        subsequences = [{c for n in range(len(x) + 1) for c in combinations(x, n)} for x in (a, b)]
        assert longest_common_subsequence(a, b) == max(map(len, subsequences[0] & subsequences[1]))


def test_final_numbers():
    assert final_number("#### 18") == 18
    assert final_number("from 3 to -4.5") == -4.5
    assert final_number("none") is None


@pytest.mark.shared_data
def test_every_gsm8k_answer_has_a_final_number_that_matches_itself(shared_data):
    import json

    lines = (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    assert all(numeric(answer, answer) == 1.0 for answer in answers)


def test_a_task_checks_itself():
    with pytest.raises(UserError, match="2 prompts but 1"):
        Task("t", ("a", "b"), ("c",))
    with pytest.raises(UserError, match="use one of exact_match"):
        Task("t", (), (), metric="bleu")
    assert Task.from_rows("t", [{"prompt": "a", "completion": "b"}]).answers == ("b",)
    with pytest.raises(UserError, match="lacks 'prompt'"):
        Task.from_rows("t", [{"completion": "b"}])
