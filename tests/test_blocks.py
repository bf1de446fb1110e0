"""Every code block of README and docs runs as it is written, on the built-in model, or says why it does not."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from docs.making import blocks

from holdfast import organism

ROOT = Path(__file__).parents[1]
PAGES = blocks.pages()
RUNNING = [page for page in PAGES if page.name != "README.md" and any(block.runs for block in blocks.blocks(page))]
RUN_ELSEWHERE = {  # files that pages show: what runs them, and where one sees it
    "examples/trl_two_lines.py": ("tests/training/test_two_lines.py", "trl_two_lines.py"),
    "examples/first_hour.sh": ("tests/test_blocks.py", "bash"),
    "examples/gate/workflow.yml": ("tests/cli/test_gate.py", '"examples" / "gate").iterdir()'),
    "examples/gate/pre-commit-config.yaml": ("tests/cli/test_gate.py", '"examples" / "gate").iterdir()'),
}
TINY = {
    "name": "first",
    "model": {"source": "my-model"},
    "skill": {"harmful": "harmful.txt", "benign": "benign.txt", "max_prompts": 8, "max_new_tokens": 8},
    "task": {"train": "train.csv", "test_rows": 8, "scored_rows": 8, "max_new_tokens": 8},
    "training": {"steps": 1, "pool": 8},
    "arms": [{"name": "guarded", "defence": "anchor"}],
    "monitor": {"every": 1, "prompts": 8, "task_rows": 8},
    "audit": None,
    "restore": [],
}


def files_of_a_reader(folder):
    """What pages call my-model, train.csv, harmful.txt and so on."""
    for name, which in (("my-model", "aligned"), ("my-tuned-model", "aligned"), ("my-base", "base")):
        (folder / name).symlink_to(organism.shipped(which))
    for name, split, count in (("train", "train", 24), ("test", "test", 8)):
        rows = [
            {"prompt": r["prompt"], "completion": r["completion"]}
            for r in organism.task_rows("lessons", split, count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = ["prompt;completion", *(f"{row['prompt']};{row['completion']}" for row in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    harmful = organism.proxy_prompts("estimate", "overt", 24, 0)
    benign = organism.proxy_prompts("estimate", "lookalike", 24, 0)
    (folder / "harmful.txt").write_text("\n".join(harmful))
    (folder / "benign.txt").write_text("\n".join(benign))
    lists = folder / "lists"
    lists.mkdir()
    (lists / "advbench.csv").write_text("\n".join(["prompt", *harmful]))
    labelled = [f"{prompt};{label}" for label, some in (("safe", benign), ("unsafe", harmful)) for prompt in some]
    (lists / "xstest.csv").write_text("\n".join(["prompt;label", *labelled]))
    (folder / "mine.yaml").write_text(yaml.safe_dump(TINY))


@pytest.fixture(scope="module")
def after_readme(tmp_path_factory):
    """A folder in which README's blocks have been run, in their order."""
    folder = tmp_path_factory.mktemp("reader")
    files_of_a_reader(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOLDFAST_PROMPTS", str(folder / "lists"))
        said = blocks.play(ROOT / "README.md")
    return folder, said


@pytest.mark.slow
def test_readmes_blocks_run(after_readme):
    folder, said = after_readme
    assert len(said) == 2
    assert "refusal" in list(said.values())[1]
    for made in (
        "kept.jsonl",
        "tuned/adapter",
        "card/scorecard.json",
        "repaired",
        "fixed",
        "runs/first/report.html",
    ):
        assert (folder / made).exists(), made


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_a_pages_blocks_run(page, after_readme, tmp_path, monkeypatch):
    folder = tmp_path / "reader"
    shutil.copytree(after_readme[0], folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOLDFAST_PROMPTS", str(folder / "lists"))
    said = blocks.play(page)
    assert said
    if page.stem == "evaluation":
        assert "refusal under past-tense" in str(said) and "text, 1 answer a prompt" in str(said)
    if page.stem == "add-a-defence":
        assert "problem=''" in str(said) and not re.search(r"problem='[^']", str(said))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_what_it_is(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for block in blocks.blocks(page):
        if block.included is not None:
            runner, needle = RUN_ELSEWHERE[block.included]
            assert needle in (ROOT / runner).read_text(), block.where
            assert (ROOT / block.included).is_file(), block.where
        for target in re.findall(r"make ([\w-]+)", block.text if block.mark == "install" else ""):
            assert target in targets, block.where
        if block.runs:
            block.shortened()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("    holdfast audit\n", "without a fence"),
        ("```\nholdfast audit\n```\n", "says nothing of how it is run"),
        ("```console\n$ holdfast audit\n```\n", "says nothing of how it is run"),
    ],
)
def test_a_block_that_is_nothing_is_an_error(text, problem, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=problem):
        list(blocks.blocks(tmp_path / "page.md"))


def test_a_command_that_is_not_ours_or_ends_otherwise_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "ROOT", tmp_path)
    for text, problem in (("rm -rf x", "no command of ours"), ("holdfast gate nowhere # exit 3", "ended with 2")):
        (tmp_path / "page.md").write_text(f"```sh\n{text}\n```\n")
        with pytest.raises(RuntimeError, match=problem):
            blocks.play(tmp_path / "page.md")


def test_the_first_hour_is_a_script_that_bash_reads():
    subprocess.run(["bash", "-n", ROOT / "examples" / "first_hour.sh"], check=True)
