"""The labelled set is what its README says it is. Items are named by id only; the hard parts are never printed."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import holdfast

FOLDER = Path(holdfast.__file__).parent / "evaluation" / "labelled"
PARTS = {"ordinary": "o", "hard": "h", "hard_second": "s"}  # to the letter its ids begin with
REAL = {"real": "r", "real_closed": "t"}  # answers that models gave; the second half is closed
LABELS = ("refused", "complied", "unclear")
KEYS = ["id", "prompt", "response", "label", "kind", "language", "rule", "clear"]
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def read(part: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / f"{part}.jsonl").read_bytes().decode("utf-8").splitlines()]


def words(text: str) -> Counter:
    """Words with their counts; scripts written without spaces count by pairs of characters."""
    found: Counter = Counter()
    for word in re.findall(r"[^\W_]+", text.lower()):
        if re.search("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]", word):
            found.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        else:
            found[word] += 1
    return found


def test_the_hash_file_names_the_bytes_that_are_shipped():
    for line, part in zip((FOLDER / "SHA256").read_text().splitlines(), sorted(PARTS | REAL), strict=True):
        digest = hashlib.sha256((FOLDER / f"{part}.jsonl").read_bytes()).hexdigest()
        assert line == f"{digest}  {part}.jsonl"


@pytest.mark.parametrize("part", PARTS | REAL)
def test_the_schema_holds(part):
    items = read(part)
    data = (FOLDER / f"{part}.jsonl").read_bytes()
    assert data.endswith(b"\n") and data.count(b"\r") == 0 and data.count(b"\n") == len(items)
    assert [item["id"] for item in items] == [f"{(PARTS | REAL)[part]}{n:03d}" for n in range(1, len(items) + 1)]
    bad = [
        item["id"]
        for item in items
        if list(item) != (KEYS if part in PARTS else [*KEYS, "model", "tokens"])
        or not all(isinstance(item[key], str) for key in KEYS[:6])
        or not item["prompt"].strip()
        or item["label"] not in LABELS
        or not re.fullmatch("[a-z]{2}", item["language"])
        or not item["rule"]
        or not set(item["rule"]) <= set(range(1, 11))
        or not isinstance(item["clear"], bool)
    ]
    assert bad == []


@pytest.mark.parametrize(("part", "least"), [("ordinary", 230), ("hard", 220), ("hard_second", 260)])
def test_no_label_rules_and_few_items_are_doubtful(part, least):
    items = read(part)
    share = {label: sum(item["label"] == label for item in items) / len(items) for label in LABELS}
    assert len(items) >= least
    assert 0.38 <= share["refused"] <= 0.46 and 0.38 <= share["complied"] <= 0.46
    assert 0.10 <= share["unclear"] <= 0.18
    assert sum(not item["clear"] for item in items) <= 0.03 * len(items)


@pytest.mark.parametrize("part", PARTS)
def test_language_does_not_tell_the_label(part):
    items = read(part)
    for label in LABELS:
        other = [item["language"] != "en" for item in items if item["label"] == label]
        assert 0.25 <= sum(other) / len(other) <= 0.45, label


def test_more_than_twelve_languages():
    assert len({item["language"] for part in PARTS for item in read(part)}) > 12


@pytest.mark.parametrize(("part", "least"), [("hard", 25), ("hard_second", 44)])
def test_some_responses_are_refused_for_one_prompt_and_not_for_another(part, least):
    groups = defaultdict(list)
    for item in read(part):
        groups[item["response"]].append(item)
    pairs = [group for group in groups.values() if len(group) > 1]
    same_label = [group[0]["id"] for group in pairs if len({item["label"] for item in group}) < 2]
    assert len(pairs) >= least and same_label == []
    assert f"{len(pairs)} responses that appear word for word" in README


def test_the_second_hard_part_has_many_languages_and_each_is_refused_and_complied_in():
    seen = defaultdict(set)
    for item in read("hard_second"):
        seen[item["language"]].add(item["label"])
    assert len(set(seen) - {"en"}) >= 14
    assert [code for code, labels in seen.items() if not labels >= {"refused", "complied"}] == []


def test_the_second_hard_part_seldom_opens_a_refusal_with_a_stock_phrase():
    refused = [item for item in read("hard_second") if item["label"] == "refused"]
    stock = re.compile(
        r"\W*(i'm sorry|sorry|i can't|i cannot|i won't|as an ai|unfortunately|i'm afraid|no\b|non\b)", re.I
    )
    assert sum(bool(stock.match(item["response"])) for item in refused) <= len(refused) / 8


def test_nothing_is_said_twice_but_the_declared_pairs():
    items = [item for part in PARTS for item in read(part)]
    assert len({item["prompt"] for item in items}) == len(items)
    ordinary = [item["response"] for item in items if item["id"][0] == "o"]
    assert len(set(ordinary)) == len(ordinary)
    first = {item["response"] for item in items if item["id"][0] != "s"}
    assert [item["id"] for item in items if item["id"][0] == "s" and item["response"] in first] == []
    counted = [(item["id"], item["response"], words(item["response"])) for item in items]
    near = []
    for n, (a, text_a, words_a) in enumerate(counted):
        for b, text_b, words_b in counted[:n]:
            longer = max(words_a.total(), words_b.total())
            if text_a != text_b and longer >= 4 and (words_a & words_b).total() > longer / 2:
                near.append((b, a))
    assert near == []


def test_real_answers_are_split_by_prompt_and_come_from_several_models():
    halves = {part: read(part) for part in REAL}
    prompts = {part: {item["prompt"] for item in items} for part, items in halves.items()}
    assert not prompts["real"] & prompts["real_closed"]
    assert sum(map(len, halves.values())) >= 250
    for items in halves.values():
        assert len({item["model"] for item in items}) >= 3
        assert min(item["tokens"] for item in items) == 16 and max(item["tokens"] for item in items) == 128
        assert {item["label"] for item in items} == set(LABELS)
        assert sum(not item["clear"] for item in items) <= 0.08 * len(items)
    said = Counter(item["response"] for items in halves.values() for item in items)
    assert max(said.values()) <= 3  # a model's favourite refusal must not be the whole score


def test_the_readme_counts_the_real_answers():
    for part in REAL:
        items = read(part)
        cells = [sum(item["label"] == label for item in items) for label in LABELS]
        cells += [len(items), sum(not item["clear"] for item in items)]
        assert f"| `{part}.jsonl` | {' | '.join(map(str, cells))} |" in README


def rows(heading: str) -> dict[str, list[str]]:
    """The README's table under `heading`: first cell (in backticks) to the other cells."""
    section = README.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]
    lines = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in lines}


def test_the_readmes_counts_are_the_files():
    parts = {part: read(part) for part in PARTS}

    def count(part: str, **wanted) -> str:
        return str(sum(all(item[key] == value for key, value in wanted.items()) for item in parts[part]))

    assert rows("By label") == {
        f"{part}.jsonl": [*(count(part, label=x) for x in LABELS), count(part), count(part, clear=False)]
        for part in PARTS
    }
    languages = {item["language"] for items in parts.values() for item in items}
    assert {code: cells[1:] for code, cells in rows("By language").items()} == {
        code: [count(part, language=code, label=x) for part in PARTS for x in LABELS] for code in languages
    }
    of_label = {kind: set(cells[-1].split(", ")) for kind, cells in rows("By kind").items()}
    unlike = [x["id"] for items in parts.values() for x in items if x["label"] not in of_label[x["kind"]]]
    assert unlike == []
    kinds = {item["kind"] for items in parts.values() for item in items}
    assert {kind: cells[1 : 1 + len(PARTS)] for kind, cells in rows("By kind").items()} == {
        kind: [count(part, kind=kind) for part in PARTS] for kind in kinds
    }
