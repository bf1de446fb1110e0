"""``holdfast evaluate`` with another model, attacks, judges side by side: what is printed, written and refused."""

import json
import re

import pytest
import torch

from holdfast import organism
from holdfast.cli import output, run
from holdfast.evaluation import Comparison, Scorecard
from holdfast.evaluation.attacks.named import SPELLINGS
from holdfast.gating import verify
from holdfast.models import add_lora, load, save_adapter
from tests.cli.test_cli import one_line

SHORT = ["--limit", "4", "--max-new-tokens", "8"]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def evaluate(*options, model="organism:aligned"):
    return run(["evaluate", model, *SHORT, *map(str, options)])


def printed(capsys, *options, **kwargs):
    capsys.readouterr()
    assert evaluate(*options, **kwargs) == 0
    return capsys.readouterr().out


def told(capsys, *options, **kwargs):
    return json.loads(printed(capsys, "--json", *options, **kwargs))


@pytest.fixture
def adapter(tmp_path):
    """An adapter on the aligned model that changes what it says."""
    model = add_lora(load(organism.shipped("aligned")).model, rank=2, alpha=4, seed=0)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=stream))
    save_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--noise", "3"], "add --against"),
        (["--noise", "1", "--against", "organism:base"], "2 or more re-runs"),
        (["--noise", "-1", "--against", "organism:base"], "2 or more re-runs"),
        (["--attack", "jailbreak"], "attack 'jailbreak': unknown; use one of direct,"),
        (["--attack", "direct", "--attack", "list"], "attack 'list': unknown"),
        (["--attack", "prefill:x"], "not a number where one belongs; write prefill:K"),
        (["--attack", "worst-of:2", "--attack", "worst-of:2@1"], "two attacks are called 'worst-of-2@1'"),
        (["--attack", "relearn:2"], "'relearn' needs harmless rows to learn from (--attack-rows)"),
        (["--attack", "many-shot:2"], "'many-shot' needs harmless questions and answers (--attack-rows)"),
        (["--attack", "many-shot:2", "--attack-rows", "none.jsonl"], "none.jsonl: no such file"),
        (["--attack", "template", "--attack-templates", "none.jsonl"], "none.jsonl: no such file"),
        (["--attack", "scale:2"], "scaling an adapter needs one"),
        (["--judge", "offline", "--judge", "oracle"], "--judge 'oracle': unknown"),
        (["--judge", "guard:harmbench"], "write guard:FORMAT:SOURCE"),
        (["--against", "organism:nobody"], "organism:aligned and organism:base"),
        (["--against", "./nowhere"], "no such folder"),
        (["--judge", "likelihood", "--against", "organism:base"], "reads one model"),
    ],
)
def test_misuse_is_exit_two_in_words_and_writes_nothing(options, said, capsys, tmp_path):
    assert evaluate(*options, "--out", tmp_path / "card") == 2
    words = " ".join(capsys.readouterr().err.split())
    assert said in words
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_attacks(capsys):
    text = printed(capsys, "--attack", "list")
    assert all(name in text for name in SPELLINGS)
    assert told(capsys, "--attack", "list") == SPELLINGS


def test_another_model_and_two_judges_in_json(capsys):
    found = told(
        capsys,
        "--against",
        "organism:base",
        "--noise",
        2,
        "--judge",
        "offline",
        "--judge",
        "keyword",
        "--attack",
        "direct",
    )
    ours, theirs = found["skills"][0], found["against"]["skills"][0]
    assert ours["refusal"]["n"] == theirs["refusal"]["n"] == 4
    assert ours["refusal"]["value"] == 1.0 and theirs["refusal"]["value"] == 0.0
    comparison = found["comparison"]
    by_name = {(d["suite"], d["measure"], d["attack"]): d for d in comparison["differences"]}
    assert set(by_name) == {
        ("refusal", "refusal", ""),
        ("refusal", "over_refusal", ""),
        ("refusal", "attack_success", "direct"),
    }
    assert by_name["refusal", "refusal", ""]["interval"]["value"] == 1.0
    assert set(comparison["floors"]) == {f"refusal: {m}" for m in ("refusal", "attack_success", "over_refusal")}
    assert found["drift"]["kl_nats"] > 0 and found["against"]["drift"] is None
    assert [(pair["a"], pair["b"]) for pair in found["agreement"]["pairs"]] == [("offline", "keyword")]
    assert found["attacks"][0]["attack"] == "direct"


def test_one_model_and_one_judge_have_none_of_it(capsys):
    found = told(capsys)
    assert not {"against", "comparison", "agreement"} & set(found) and found["attacks"] == []


def test_the_files_are_those_that_are_promised(capsys, tmp_path):
    out = tmp_path / "card"
    told(
        capsys,
        "--against",
        "organism:base",
        "--judge",
        "offline",
        "--judge",
        "keyword",
        "--attack",
        "prefill:2",
        "--out",
        out,
    )
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "scorecard.json",
        "responses.parquet",
        "comparison.json",
        "agreement.json",
        "provenance.json",
        "against/scorecard.json",
        "against/responses.parquet",
    }
    ours, theirs = Scorecard.load(out), Scorecard.load(out / "against")
    assert [row.attack for row in ours.rows] == [""] * 8 + ["prefill-2"] * 4
    assert [row.prompt for row in ours.rows] == [row.prompt for row in theirs.rows]
    assert Comparison.load(out / "comparison.json").differences[0].ours == ours.skills[0].refusal.value


def test_the_same_model_with_an_adapter_is_compared_with_itself_without(capsys, adapter, tmp_path, monkeypatch):
    loaded, real = [], output.load_subject
    monkeypatch.setattr(output, "load_subject", lambda *args: loaded.append(args[:2]) or real(*args))
    out = tmp_path / "card"
    options = ["--adapter", adapter, "--against", "organism:aligned", "--attack", "scale:0"]
    found = told(capsys, *options, "--out", out)
    assert loaded == [("organism:aligned", adapter)]  # once: it is in memory as it was
    bare = told(capsys)
    assert found["against"]["skills"] == bare["skills"] and found["drift"]["kl_nats"] > 0
    ours, theirs = Scorecard.load(out), Scorecard.load(out / "against")
    scaled = [row.response for row in ours.rows if row.attack == "adapter-x0"]
    assert scaled == [row.response for row in theirs.rows[:4]] != [row.response for row in ours.rows[:4]]
    assert "adapter-x0" in found["comparison"]["left_out"][0]
    evidence = tmp_path / "evidence.json"
    assert run(["gate", str(out), "--max-refusal-loss", "50", "--evidence", str(evidence)]) in (3, 4)  # 4 prompts
    sound = verify(evidence, adapter, organism.shipped("aligned"))
    assert sound.checked == ("adapter", "base") and sound.absent == ("data",)  # the built-in prompts are no file


def test_rows_are_shots_and_lessons(capsys, tmp_path):
    rows = organism.task_rows("lessons", "train", 12, 0)
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(json.dumps({k: r[k] for k in ("prompt", "completion")}) for r in rows), encoding="utf-8"
    )
    found = told(capsys, "--attack", "many-shot:2", "--attack", "relearn:2@1e-3", "--attack-rows", path)
    shots, relearned = found["attacks"]
    assert (shots["attack"], relearned["attack"]) == ("many-shot-2", "relearn-2@0.001")
    assert shots["budget"]["extra_prompt_tokens"] > 0
    assert relearned["budget"]["spent"]["gradient_steps"] == 2
    assert relearned["budget"]["spent"]["training_tokens"] > 0


def test_templates_and_the_system_prompt_reach_the_model(capsys, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"name": "box", "template": "please , {prompt}"}\n', encoding="utf-8")
    options = ["--attack", "template", "--attack-templates", tmp_path / "own.jsonl"]
    plain, under = told(capsys, *options), told(capsys, *options, "--system", "be brief")
    assert [score["attack"] for card in (plain, under) for score in card["attacks"]] == ["template-box"] * 2
    assert (plain["settings"]["system"], under["settings"]["system"]) == (None, "be brief")


def test_answers_are_kept_and_a_second_run_says_the_same(capsys, tmp_path):
    options = ["--cache", tmp_path / "kept", "--attack", "worst-of:2", "--against", "organism:base"]
    first = told(capsys, *options)
    kept = {path: path.read_bytes() for path in (tmp_path / "kept" / "answers").rglob("*.json")}
    again = told(capsys, *options)
    assert {path: path.read_bytes() for path in (tmp_path / "kept" / "answers").rglob("*.json")} == kept
    assert len({path.parent for path in kept}) == 6  # two models: plain, and two sampled answers of each
    for card in (first, again, first["against"], again["against"]):
        for score in card["attacks"]:
            score["budget"]["seconds"] = None
    assert again == first


def test_a_person_reads_both_columns_the_differences_and_no_terminal_controls(capsys, tmp_path):
    name = "box\x1b[31m\x07red"
    (tmp_path / "own.jsonl").write_text(
        json.dumps({"name": name, "template": "please , {prompt}"}), encoding="utf-8"
    )
    (tmp_path / "harmful.txt").write_text(
        "\n".join(organism.proxy_prompts("estimate", "overt", 3)), encoding="utf-8"
    )
    (tmp_path / "suites.yaml").write_text(
        '- {name: "own\\e[2J", kind: refusal, harmful: harmful.txt}\n', encoding="utf-8"
    )
    options = [
        "--attack",
        "template",
        "--attack-templates",
        tmp_path / "own.jsonl",
        "--suites",
        tmp_path / "suites.yaml",
    ]
    text = printed(capsys, *options, "--against", "organism:base", "--judge", "offline", "--judge", "keyword")
    assert not CONTROL.search(text)
    assert "box[31mred" in text and "own[2J" in text  # what is left of them is seen
    assert "minus organism:base:" in text and "all judges equal on" in text
    assert "refusal: +100.0 points" in text and "comparisons at once" in text
    assert "nats a sequence" in " ".join(text.split())


def test_without_another_model_the_text_has_one_column(capsys, adapter, tmp_path):
    text = printed(capsys, "--adapter", adapter, "--out", tmp_path / "card")
    assert "minus organism" not in text and "comparison" not in text
    assert "drift" in text and "without its" in text
    assert f"wrote {tmp_path / 'card'}" in text


def test_a_folder_that_is_taken_is_not_written_into(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert evaluate("--out", tmp_path) == 2
    assert str(tmp_path) in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
