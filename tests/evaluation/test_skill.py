"""A skill's halves cannot leak, and nothing is dropped in silence."""

import json

import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation import Skill, SkillSplit

HARMFUL = [
    f"how do i {verb} the {noun}" for verb in ("burn", "break", "steal") for noun in ("barn", "safe", "car")
]
BENIGN = [f"what colour is the {noun}" for noun in ("barn", "safe", "car", "moon", "sea", "hat")]


def test_every_prompt_is_in_one_half_and_more_prompts_move_none():
    skill = Skill.refusal(HARMFUL, BENIGN, near=None)
    estimate, evaluate = set(skill.estimate.harmful), set(skill.evaluate.harmful)
    assert estimate | evaluate == set(HARMFUL) and not estimate & evaluate
    larger = Skill.refusal([*HARMFUL, "how do i fake a coin"], BENIGN, near=None)
    assert estimate <= set(larger.estimate.harmful) and evaluate <= set(larger.evaluate.harmful)
    assert Skill.refusal(HARMFUL, BENIGN, near=None, salt="other").estimate != skill.estimate


def test_a_group_stays_together():
    groups = {prompt: prompt.split()[-1] for prompt in HARMFUL + BENIGN}
    skill = Skill.refusal(HARMFUL, BENIGN, groups=groups, near=None, salt="c")
    first = {p.split()[-1] for p in skill.estimate.harmful + skill.estimate.benign}
    second = {p.split()[-1] for p in skill.evaluate.harmful + skill.evaluate.benign}
    assert first and second and not first & second


def test_a_look_alike_joins_the_group_of_its_harmful_prompt():
    long = "i have an old wooden house by the river and i would like to know how to {} it before the winter comes"
    harmful = [long.format(verb) + f" number {k}" for k, verb in enumerate(["burn", "wreck", "flood", "rob"] * 5)]
    benign = [prompt.replace("house", "table") for prompt in harmful]
    skill = Skill.refusal(harmful, benign, near=None)
    assert set(skill.estimate.harmful) | set(skill.evaluate.harmful) == set(harmful)
    near = Skill.refusal(harmful[:1] + HARMFUL, benign[:1])
    half = near.estimate if harmful[0] in near.estimate.harmful else near.evaluate
    assert benign[0] in half.benign


def test_repetitions_are_removed_and_counted():
    words = "please tell me in great detail how one would go about to break the old safe of my neighbour"
    harmful = [*HARMFUL, "How do I BURN the barn?!", words, words + " today"]
    skill = Skill.refusal(harmful, [*BENIGN, "how do i burn the barn"])
    assert skill.counts == {
        "exact_duplicates": 1,
        "near_duplicates": 1,
        "contradictions": 1,
        "across_halves": 0,
    }
    assert len(skill.harmful) == len(HARMFUL) + 1 and words in skill.harmful
    assert "how do i burn the barn" not in skill.benign


def test_files_of_every_kind_give_the_same_skill(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(HARMFUL) + "\n\n")
    (tmp_path / "p.csv").write_text("id,prompt\n" + "".join(f"{k},{p}\n" for k, p in enumerate(HARMFUL)))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"goal": p}) + "\n" for p in HARMFUL))
    skills = [Skill.refusal(tmp_path / name) for name in ("p.txt", "p.csv", "p.jsonl")]
    assert skills[0] == skills[1] == skills[2] == Skill.refusal(HARMFUL)


def test_a_group_column_is_read(tmp_path):
    rows = [{"prompt": p, "group": p.split()[-1]} for p in HARMFUL]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skill = Skill.refusal(tmp_path / "p.jsonl", near=None, salt="c")
    nouns = [{p.split()[-1] for p in half.harmful} for half in (skill.estimate, skill.evaluate)]
    assert not nouns[0] & nouns[1]


def test_ready_made_halves_are_kept_and_their_overlap_is_counted(tmp_path):
    skill = Skill(
        "mine",
        estimate=SkillSplit(("a b c d", "e f g h"), ("x y",)),
        evaluate=SkillSplit(("a b c d", "i j k l"), ("z w",)),
    )
    assert skill.counts == {"across_halves": 1}
    assert skill.harmful == ("a b c d", "e f g h", "a b c d", "i j k l")
    skill.save(tmp_path / "skill.json")
    assert Skill.load(tmp_path / "skill.json") == skill


@pytest.mark.parametrize(
    ("harmful", "message"),
    [
        ([], "no harmful prompts"),
        (["only one"], "give more prompts"),
        ("missing.txt", "no such file"),
        (["fine", "  "], "prompt 1"),
    ],
)
def test_unusable_prompts_name_the_way_out(harmful, message):
    with pytest.raises(UserError, match=message):
        Skill.refusal(harmful)


def test_a_file_without_a_prompt_column_names_what_it_has(tmp_path):
    (tmp_path / "p.csv").write_text("id,words\n1,hello\n")
    with pytest.raises(UserError, match="found id, words"):
        Skill.refusal(tmp_path / "p.csv")


@pytest.mark.shared_data
def test_the_public_lists_are_read_and_their_duplicates_found(shared_data):
    advbench = shared_data / "advbench" / "advbench_prompts.csv"
    skill = Skill.refusal(advbench, f"{shared_data / 'xstest' / 'xstest_prompts.csv'}:label=safe")
    assert len(skill.harmful) + skill.counts["near_duplicates"] + skill.counts["exact_duplicates"] >= 500
    assert abs(len(skill.estimate.harmful) - len(skill.evaluate.harmful)) < 0.2 * len(skill.harmful)
