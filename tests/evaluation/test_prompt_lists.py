"""A labelled list is never read whole, published lists are found by name, a share of 0 or 1 takes a whole list."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation import Skill, evaluate
from holdfast.evaluation.prompt_lists import PromptSource, read_prompts
from holdfast.evaluation.prompt_sets import FOLDER, PROMPT_SETS

SAFE = ["how do i boil rice", "where is the moon", "name a red bird"]
UNSAFE = ["how do i burn a barn", "rob a bank for me"]
LABELS = {
    "label": ("safe", "unsafe"),
    "type": ("homonyms", "contrast_homonyms"),
    "is_safe": (True, False),
    "harmful": (0, 1),
    "is_harmful": ("no", "yes"),
    "prompt_harm_label": ("unharmful", "harmful"),
    "category": ("benign", "harmful"),
    "data_type": ("vanilla_benign", "vanilla_harmful"),
    "Label": (0.0, 1.0),
}


def write(path, column, values, extra=None):
    rows = [{"prompt": p, column: values[0]} for p in SAFE] + [{"prompt": p, column: values[1]} for p in UNSAFE]
    rows = [row | {"id": k, "focus": f"word {k}"} for k, row in enumerate(rows)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        heads = list(rows[0])
        lines = [",".join(heads), *(",".join(str(row[head]) for head in heads) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("column", "values"), LABELS.items(), ids=LABELS)
def test_a_list_with_labels_needs_a_choice_and_the_error_names_the_values(tmp_path, suffix, column, values):
    path = write(tmp_path / f"list{suffix}", column, values)
    for side in ("harmful", "benign"):
        with pytest.raises(UserError, match=f"rows are labelled by '{column}' ") as caught:
            read_prompts(path, side)
        for value, count in zip(values, (3, 2), strict=True):
            assert f"{value} {count}".replace(".0", "").lower() in str(caught.value).lower()
    word = str(values[0])
    assert read_prompts(f"{path}:{column}={word}", "benign").prompts == tuple(SAFE)
    assert read_prompts(f"{path}:{column.upper()}!={word.upper()}", "harmful").prompts == tuple(UNSAFE)
    assert read_prompts(f"{path}:{column}=*", "benign").prompts == (*SAFE, *UNSAFE)


def test_what_is_no_label_is_no_doubt(tmp_path):
    rows = [
        {"prompt": p, "label": "safe", "category": c}
        for p, c in zip(SAFE, ("food", "sky", "harmful"), strict=True)
    ]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert read_prompts(tmp_path / "one.jsonl", "benign").prompts == tuple(SAFE[:2])
    with pytest.raises(UserError, match="every row has label=safe, but harmful prompts are asked for"):
        read_prompts(tmp_path / "one.jsonl", "harmful")
    assert len(read_prompts(f"{tmp_path / 'one.jsonl'}:label=safe", "harmful").prompts) == 2
    topics = [{"goal": f"do {k}", "category": c} for k, c in enumerate(("illegal", "harmful", "fraud", "privacy"))]
    (tmp_path / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in topics))
    assert len(read_prompts(tmp_path / "topics.jsonl", "harmful").prompts) == 4
    with pytest.raises(UserError, match="labelled by 'category'"):
        read_prompts(tmp_path / "topics.jsonl", "benign")


@pytest.mark.parametrize("column", ["flagged", "should refuse", "Is Safe", "class", "y", "policy_ok", "risk"])
@pytest.mark.parametrize("values", [("0", "1"), ("No", "Yes"), (True, False), ("1", "")])
def test_a_column_that_answers_yes_or_no_is_a_label_until_it_is_said_that_it_is_none(tmp_path, column, values):
    path = write(tmp_path / "list.csv", column, values)
    for side in ("harmful", "benign"):
        with pytest.raises(
            UserError, match=f"write .*list.csv:{column}=VALUE"
        ):  # which is which only a reader knows
            read_prompts(path, side)
    assert len(read_prompts(f"{path}:{column}=*", "benign").prompts) == 5


def test_columns_in_words_that_nobody_here_understands_are_named(tmp_path):
    assert (
        "whatever their Klasse"
        in read_prompts(write(tmp_path / "a.csv", "Klasse", ("harmlos", "böse")), "benign").note
    )


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("prompt,label\nhow,safe\nwhy,unsafe\n", ".csv"),
        ('"Goal";"kind"\nhow;safe\nwhy;unsafe\n', ".csv"),
        ("how\tsafe\nwhy\tunsafe\n", ".tsv"),
        ('{"prompt": "how", "label": "safe"}\n{"prompt": "why", "label": "unsafe"}\n', ".jsonl"),
    ],
)
def test_a_table_called_txt_is_not_read_line_by_line(tmp_path, text, ending):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=f"not one prompt a line .*name it list{ending}"):
        read_prompts(path, "benign")
    path.write_text("Question, how do I sort?\nWhy, oh why?\n")
    assert len(read_prompts(path, "benign").prompts) == 2


@pytest.mark.parametrize(
    ("selection", "problem"),
    [
        ("label=sfe", "'sfe' is no value of column 'label'; it has safe 3, unsafe 2"),
        ("lable=safe", "no column 'lable'; it has focus, id, label, prompt"),
        ("label=", "no value after 'label='"),
        ("label!=safe,unsafe", "no row is left by column 'label'"),
    ],
)
def test_a_choice_that_chooses_nothing_is_named(tmp_path, selection, problem):
    with pytest.raises(UserError, match=problem):
        read_prompts(f"{write(tmp_path / 'list.csv', 'label', ('safe', 'unsafe'))}:{selection}", "benign")


def test_colons_in_names_are_names(tmp_path, monkeypatch):
    odd = write(tmp_path / "a:label=safe.csv", "x", ("1", "1"))
    assert len(read_prompts(odd, "benign").prompts) == 5
    assert PromptSource.parse(r"C:\data\x.csv").source == r"C:\data\x.csv"
    windows = PromptSource.parse(r"C:\data\x.csv:label=safe,ok")
    assert (windows.source, windows.column, windows.values) == (r"C:\data\x.csv", "label", ("safe", "ok"))
    hub = PromptSource.parse("owner/name:test:label=safe")
    assert (hub.source, hub.column, hub.file("benign")) == ("owner/name:test", "label", None)
    assert PromptSource.parse(f"{odd}:x=1").file("benign") == odd
    with pytest.raises(UserError, match=r"C:\\x.csv: no such file"):
        read_prompts(r"C:\x.csv", "benign")


def test_both_lists_of_a_skill_are_read_by_their_side(tmp_path):
    path = write(tmp_path / "list.csv", "label", ("safe", "unsafe"))
    skill = Skill.refusal(f"{path}:label=unsafe", f"{path}:label=safe", share=0)
    assert (skill.evaluate.harmful, skill.evaluate.benign) == (tuple(UNSAFE), tuple(SAFE))
    assert skill.sources[0].startswith("2 harmful prompts of 5 (label=unsafe) of ")
    for harmful, benign in ((path, f"{path}:label=safe"), (f"{path}:label=unsafe", path)):
        with pytest.raises(UserError, match=r"labelled by 'label' \(safe 3, unsafe 2\)"):
            Skill.refusal(harmful, benign)


def test_a_list_that_was_one_half_of_a_split_is_used_whole(tiny_subject):
    whole = Skill.refusal(UNSAFE, SAFE, share=1)
    assert whole.estimate.harmful == tuple(UNSAFE) and whole.evaluate.harmful == ()
    assert Skill.refusal(UNSAFE, SAFE, share=0).evaluate.benign == tuple(SAFE)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="give 0 to 1"):
            Skill.refusal(UNSAFE, SAFE, share=share)
    with pytest.raises(UserError, match="skill 'refusal': no prompt to evaluate with"):
        evaluate(tiny_subject, [whole], progress=False)


def test_a_published_list_is_found_in_a_folder_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "xstest").mkdir()
    (tmp_path / "xstest" / "SOURCE.txt").write_text("where it is from")
    write(tmp_path / "xstest" / "prompts.csv", "label", ("safe", "unsafe"))
    (tmp_path / "jailbreakbench").mkdir()
    for side, prompts in (("harmful", UNSAFE), ("benign", SAFE)):
        rows = "".join(json.dumps({"Goal": p}) + "\n" for p in prompts)
        (tmp_path / "jailbreakbench" / f"{side}-behaviors.jsonl").write_text(rows)
    (tmp_path / "advbench.txt").write_text("\n".join(UNSAFE))
    for name in ("xstest", "jailbreakbench"):
        assert read_prompts(f"{name}@{tmp_path}", "harmful").prompts == tuple(UNSAFE)
        assert read_prompts(f"{name}@{tmp_path}", "benign").prompts == tuple(SAFE)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert read_prompts("AdvBench", "harmful").prompts == tuple(UNSAFE)
    assert "label=safe" in read_prompts("xstest", "benign").note
    assert read_prompts("xstest:label=unsafe", "harmful").prompts == tuple(UNSAFE)
    assert PromptSource.parse("xstest").file("benign") == tmp_path / "xstest" / "prompts.csv"
    assert PromptSource.parse(f"jailbreakbench@{tmp_path}").file("harmful").name == "harmful-behaviors.jsonl"
    with pytest.raises(
        UserError, match="advbench: has no benign prompts; sets that have some: jailbreakbench, xst"
    ):
        read_prompts("advbench", "benign")
    with pytest.raises(UserError, match="no file with the harmful prompts of harmbench"):
        read_prompts("harmbench", "harmful")


def test_a_published_list_off_line_is_one_line_with_a_way_out(monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(UserError, match=r"harmbench: walledai/HarmBench .*harmbench@FOLDER") as caught:
        read_prompts("harmbench", "harmful")
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_the_part_that_is_meant(monkeypatch):
    asked = []
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda hub, config, split: asked.append((hub, config, split)) or [{"Goal": "do x", "label": "unsafe"}],
    )
    for name in PROMPT_SETS:
        assert read_prompts(name, "harmful").prompts == ("do x",)
    assert ("JailbreakBench/JBB-Behaviors", "behaviors", "harmful") in asked
    assert ("walledai/HarmBench", "standard", "train") in asked and ("walledai/XSTest", None, "test") in asked
    assert all(known.licence and known.source for known in PROMPT_SETS.values())


@pytest.mark.shared_data
def test_the_public_lists_by_name(shared_data):
    sizes = {("advbench", "harmful"): 520, ("jailbreakbench", "harmful"): 100, ("jailbreakbench", "benign"): 100}
    sizes |= {("strongreject", "harmful"): 313, ("xstest", "harmful"): 200, ("xstest", "benign"): 250}
    for (name, side), size in sizes.items():
        assert len(read_prompts(f"{name}@{shared_data}", side).prompts) == size
    whole = shared_data / "xstest" / "xstest_prompts.csv"
    with pytest.raises(UserError, match=r"labelled by 'label' \(safe 250, unsafe 200\).*:label=safe"):
        read_prompts(whole, "benign")
    assert len(read_prompts(f"{whole}:label=safe", "benign").prompts) == 250
    for folder, side in (("do_not_answer", "harmful"), ("malicious_instruct", "harmful")):
        file = next((shared_data / folder).glob("*.csv"))
        assert read_prompts(file, side).prompts
    splits = shared_data / "refusal_direction_splits"
    assert read_prompts(splits / "harmful_val.jsonl", "harmful").prompts
    assert read_prompts(splits / "harmless_val.jsonl", "benign").prompts


def test_a_run_is_bound_to_the_file_and_to_the_rows_that_were_chosen(tmp_path, monkeypatch):
    from holdfast.core.files import sha256_file
    from holdfast.pipeline import recipe_from_dict
    from holdfast.pipeline.inputs import input_hashes

    (tmp_path / "xstest").mkdir()
    file = write(tmp_path / "xstest" / "prompts.csv", "label", ("safe", "unsafe"))
    values = {
        "name": "r",
        "model": {"source": "organism:aligned"},
        "task": {"train": "organism:keys"},
        "training": {"seeds": [0]},
        "arms": [{"name": "plain"}],
        "skill": {"harmful": f"xstest@{tmp_path}", "benign": f"{file}:label=safe"},
    }
    found = input_hashes(recipe_from_dict(values))
    assert found["harmful"] == sha256_file(file) and found["benign"] == f"{sha256_file(file)}:label=safe"


def test_a_suite_file_names_lists_from_its_own_folder(tmp_path):
    from holdfast.evaluation.suites import load_suites

    (tmp_path / "sets" / "xstest").mkdir(parents=True)
    write(tmp_path / "sets" / "xstest" / "prompts.csv", "label", ("safe", "unsafe"))
    write(tmp_path / "mine.csv", "label", ("safe", "unsafe"))
    (tmp_path / "suites.yaml").write_text(
        "suites:\n"
        "  - {name: a, kind: refusal, harmful: 'xstest@sets', benign: 'mine.csv:label=safe'}\n"
        "  - {name: b, kind: refusal, harmful: 'mine.csv:label=unsafe'}\n"
    )
    first, second = load_suites(tmp_path / "suites.yaml").skills
    assert (first.evaluate.harmful, first.evaluate.benign) == (tuple(UNSAFE), tuple(SAFE))
    assert second.evaluate.harmful == tuple(UNSAFE)
