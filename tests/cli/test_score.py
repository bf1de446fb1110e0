"""`holdfast score`: a table, a summary, and nothing lost when it is killed."""

import json

import pytest

from holdfast.cli import run
from holdfast.core.files import read_json
from holdfast.gradients import ScoreTable
from holdfast.gradients.offline import scorer
from tests.forked import killed_when

ROWS = ["--data", "organism:lessons", "--limit", "24"]


@pytest.fixture
def calls(monkeypatch):
    """Batches that the engine was asked for."""
    found, build = [], scorer.default_score_batch

    def counting(*arguments):
        score = build(*arguments)
        return lambda batch: (found.append(batch.index), score(batch))[1]

    monkeypatch.setattr(scorer, "default_score_batch", counting)
    return found


def score(out, *more):
    return run(["score", "organism:aligned", *ROWS, "--max-tokens", "256", "--out", str(out), *more])


def one_line(capsys):
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("holdfast:"))
    return line


def test_a_person_gets_quantiles_and_rank_correlations(capsys, tmp_path, calls):
    out = tmp_path / "s.parquet"
    assert score(out) == 0
    text = capsys.readouterr().out
    assert "gradient norms of 24 rows" in text
    assert "Spearman" in text and "1 / tokens" in text
    assert "next: holdfast select" in text.replace("\n", " ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.parquet", "s.parquet.json"]
    table = ScoreTable.from_parquet(out)
    numbers = ("id", "grad_norm", "loss_nats", "completion_tokens", "status")
    whose = ("dataset", "n_prompt", "row", "row_hash", "content_hash")
    assert table.columns == (*numbers, *whose, "reduction", "proxy", "scope", "model")
    assert (table.reduction, table.proxy, table.scope) == ("mean", "full", "all")
    assert table.model == read_json(tmp_path / "s.parquet.json")["hashes"]["model"]
    assert set(table["dataset"]) == {"organism:lessons"}
    assert len(calls) > 1
    assert len(read_json(tmp_path / "s.parquet.json")["grad_norm_quantiles"]) == 15


def test_a_machine_gets_the_same_as_json(capsys, tmp_path):
    assert score(tmp_path / "s.parquet", "--json", "--groups", "--strict") == 0
    said = json.loads(capsys.readouterr().out)
    summary = read_json(tmp_path / "s.parquet.json")
    assert said["rows"] == 24 and said["invalid"] == 0 and said["max_tokens"] == 256
    assert said["spearman"] == summary["spearman"]
    assert said["grad_norm_quantiles"] == {
        name: summary["grad_norm_quantiles"][name] for name in ("0%", "16%", "50%", "84%", "100%")
    }
    table = ScoreTable.from_parquet(tmp_path / "s.parquet")
    assert {"embedding", "block_0_mlp", "norms", "head"} <= table.squares.keys()


@pytest.mark.parametrize("value", ["0", "-3", "many", "1.5"])
def test_a_budget_that_is_no_number_is_wrong_usage(value, capsys, tmp_path):
    assert run(["score", "organism:aligned", *ROWS, "--max-tokens", value, "--out", str(tmp_path / "s")]) == 2
    assert "neither 'auto' nor a number of tokens" in " ".join(capsys.readouterr().err.split())


def test_the_table_never_replaces_the_data_or_a_folder(capsys, tmp_path):
    data = tmp_path / "train.parquet"
    data.write_text("rows")
    assert run(["score", "organism:aligned", "--data", str(data), "--out", str(data)]) == 2
    assert "--out is the data file itself" in one_line(capsys)
    assert score(tmp_path) == 2
    assert "is a folder" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_other_data_under_an_interrupted_run_is_refused_until_fresh(capsys, tmp_path, monkeypatch):
    out = tmp_path / "s.parquet"

    def stop(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "_joined", stop)
        assert score(out) == 130
    capsys.readouterr()
    assert (tmp_path / "s.parquet.shards" / "plan.json").exists()
    assert score(out, "--scope", "*layers.0*") == 2
    assert (
        "s.parquet.shards: begun with other scope; choose another --out, or start over with --fresh"
        in one_line(capsys)
    )
    assert not out.exists()
    assert score(out, "--scope", "*layers.0*", "--fresh") == 0
    assert read_json(tmp_path / "s.parquet.json")["scope"] == "*layers.0*"


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_bytes(capsys, tmp_path, calls, monkeypatch):
    out, rows = tmp_path / "killed.parquet", ["--data", "organism:lessons", "--limit", "200"]
    again = ["score", "organism:aligned", *rows, "--max-tokens", "64", "--groups", "--out"]
    shards = tmp_path / "killed.parquet.shards"
    killed_when(lambda: len(list(shards.glob("shard-*.parquet"))) >= 3, [*again, str(out)])
    finished = {int(path.stem.split("-")[1]) for path in shards.glob("shard-*.parquet")}
    plan = read_json(shards / "plan.json")["shards"]
    assert 3 <= len(finished) < len(plan)
    assert not out.exists()

    monkeypatch.delenv("HOLDFAST_QUIET")
    assert run([*again, str(out)]) == 0
    assert f"{len(finished)} finished shards are not scored again" in " ".join(capsys.readouterr().err.split())
    assert len(calls) == sum(len(ends) for number, ends in enumerate(plan) if number not in finished)
    calls.clear()
    assert run([*again, str(tmp_path / "whole.parquet")]) == 0
    assert len(calls) == sum(len(ends) for ends in plan)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        name + end for name in ("killed.parquet", "whole.parquet") for end in ("", ".json")
    ]


def test_a_proxy_says_how_well_it_ranks_these_rows(tmp_path, capsys):
    out = tmp_path / "proxy.parquet"
    command = ["score", "organism:aligned", "--data", "organism:lessons", "--limit", "24", "--out", str(out)]
    assert run([*command, "--proxy", "head"]) == 0
    said = capsys.readouterr().out
    assert "head" in said
    assert "Spearman" in said
    assert ScoreTable.from_parquet(out).proxy == "head"
    assert run([*command, "--proxy", "tea-leaves"]) == 2


@pytest.mark.parametrize("proxy", ["length", "head"])
def test_the_agreement_is_that_of_what_select_would_keep_of_both_tables(tmp_path, capsys, proxy):
    from holdfast.selection import select

    tables = {name: tmp_path / f"{name}.parquet" for name in ("full", proxy)}
    command = ["score", "organism:aligned", *ROWS, "--json", "--out"]
    assert run([*command, str(tables["full"])]) == 0
    capsys.readouterr()
    assert run([*command, str(tables[proxy]), "--proxy", proxy]) == 0
    said = json.loads(capsys.readouterr().out)["agreement"]
    by_norm = set(select(tables["full"]).indices)
    by_proxy = set(select(tables[proxy], allow_proxy=True).indices)
    assert said["selected_overlap"] == len(by_norm & by_proxy) / max(len(by_norm), len(by_proxy))
    assert (said["rule"], said["keep"], said["n"]) == ("moderate", 0.5, 24)


def test_a_correlation_is_printed_with_its_interval_and_a_title_on_one_line(tmp_path, capsys):
    from holdfast.gradients.agreement import rank_interval

    out = tmp_path / "s.parquet"
    command = ["score", "organism:aligned", "--data", "organism:lessons", "--limit", "8", "--proxy", "length"]
    assert run([*command, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "values of proxy length of 8 rows, at these shares of them\n" in text
    summary = json.loads((tmp_path / "s.parquet.json").read_text())
    wide = rank_interval(summary["spearman"]["loss_nats"], 8)
    assert f"{wide.value:+.3f} [{wide.low:+.2f}, {wide.high:+.2f}]" in text
    assert wide.high - wide.low > 0.5


def test_directions_are_columns_that_select_reads(capsys, tmp_path):
    out, page = tmp_path / "s.parquet", tmp_path / "page.txt"
    assert score(out, "--base", "organism:base", "--skill-prompts", "8", "--sensitive", "4") == 0
    text = capsys.readouterr().out
    table = ScoreTable.from_parquet(out)
    for name in ("toward_base", "against_skill", "sensitive_share"):
        assert f"{name}, at these shares of the rows" in text
        assert len(table[name]) == 24
    made_of = read_json(tmp_path / "s.parquet.json")["directions"]
    assert (made_of["sensitive"], made_of["seed"]) == (4, 0)
    command = ["select", str(out), "--data", "organism:lessons", "--out", str(tmp_path / "kept.jsonl")]
    command += ["--rule", "drop_high", "--keep", "0.75", "--loss-filter", "none"]
    assert run([*command, "--by", "against_skill", "--report", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lost = [k for k, reason in enumerate(found["reasons"]) if reason == "g_high"]
    assert sorted(table.against_skill.argsort()[-6:]) == lost
    assert found["by"] == "against_skill"
    first = page.read_text().split("The 20 highest values of against_skill\n")[1].split(",")[0]
    assert float(first) == pytest.approx(table.against_skill.max(), rel=1e-3)
    plain = tmp_path / "plain.parquet"
    assert score(plain) == 0
    command[1] = str(plain)
    capsys.readouterr()
    assert run([*command, "--by", "toward_base", "--force"]) == 2
    assert "score again with --base" in one_line(capsys)


def test_an_adapters_scope_has_no_way_back_to_the_base(capsys, tmp_path):
    from holdfast.models import add_lora, load, save_adapter
    from holdfast.organism import shipped

    save_adapter(add_lora(load(str(shipped("aligned")), device="cpu").model, 2, 4, seed=0), tmp_path / "adapter")
    adapted = ("--adapter", str(tmp_path / "adapter"), "--base", "organism:base")
    assert score(tmp_path / "s.parquet", *adapted) == 2
    assert "score with --scope all" in one_line(capsys)
    assert score(tmp_path / "s.parquet", *adapted, "--scope", "all") == 0
