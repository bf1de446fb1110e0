"""Evidence: rechecked without torch, and refused when anything about it is odd."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json
from holdfast.gating import EvidenceError, Measured, Policy, Row, decide, verify
from holdfast.gating.binding import Bound, Provenance, bound_files
from holdfast.gating.evidence import canonical, digest_of, prompts_hash, statement
from holdfast.gating.schema import json_schema
from tests.gating.rows import C, E, R, U, refusals, rows

HERE = Path(__file__)
SCHEMA = HERE.parents[2] / "src" / "holdfast" / "gating" / "evidence-v1.schema.json"
DOCUMENTED = HERE.parents[2] / "docs" / "evidence-v1.schema.json"
POLICY = Policy(max_refusal_loss=10, max_task_drop=30, max_kl_nats=9)


@pytest.fixture(scope="module")
def made():
    """A statement that passes."""
    drift = Measured("kl_nats", "drift", tuple(Row(f"drift:{k}", k % 3 + 0.5) for k in range(12)))
    task = Measured("task_drop", "sums", rows((40, 0.5, 0.6), (10, 1.0, 1.0)))
    measured = [refusals((2, C, R), (97, R, R), (1, U, R, False), (1, E, E, True)), task, drift]
    provenance = Provenance(
        adapter=Bound("tuned", {"adapter_model.safetensors": "a" * 64}),
        judge={"judge": "RefusalJudge", "max_new_tokens": 64},
        code={"holdfast": "0.1.0"},
        card={"scorecard.json": "c" * 64},
    )
    return statement(POLICY, measured, decide(POLICY, measured), provenance)


@pytest.fixture
def refused(tmp_path):
    """``refused(text, **given)``: why the evidence does not hold; None if it does."""

    def ask(text, **given):
        path = tmp_path / "evidence.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            verify(path, **given)
        except EvidenceError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 600
            return str(error)
        return None

    return ask


def forged(made, change, rebind=True):
    """A copy, changed by ``change``, with every hash in it made to fit again, as a forger would."""
    copy = json.loads(json.dumps(made))
    change(copy)
    predicate = copy["predicate"]
    if rebind and "bindings" in predicate:
        predicate["bindings"]["policy"] = hash_json(predicate["policy"])
        predicate["bindings"]["prompts"] = prompts_hash([Measured.from_dict(m) for m in predicate["measured"]])
        predicate["digest"] = digest_of(copy)
    return canonical(copy)


def test_it_holds_and_says_what_it_is_not_bound_to(made, refused, tmp_path):
    assert refused(canonical(made)) is None
    found = verify(tmp_path / "evidence.json", policy=POLICY, digest=made["predicate"]["digest"])
    assert found.verdict.status == "passed" and found.checked == ("policy", "digest")
    assert found.absent == ("base", "reference", "data", "numerics")
    with pytest.raises(UserError, match="no such file"):
        verify(tmp_path / "none.json")


def test_one_changed_byte_anywhere_is_seen(made, refused):
    text = canonical(made).encode()
    for place in [*range(0, len(text), max(1, len(text) // 100)), len(text) - 1]:
        for other in (text[place] ^ 1, ord(" ")):
            if other != text[place]:
                assert refused(text[:place] + bytes([other]) + text[place + 1 :]), place
    assert refused(text[:-1]) and refused(text + b"\n") and refused(b"\xef\xbb\xbf" + text)


def test_what_nothing_else_guards_is_guarded_by_the_digest(made, refused):
    for old, new in (("c" * 64, "d" * 64), (made["predicate"]["digest"], "0" * 64)):
        said = refused(canonical(made).replace(old, new))
        assert "its digest is not that of its content" in said


def part(*keys):
    def at(copy):
        value = copy["predicate"]
        for key in keys:
            value = value[key]
        return value

    return at


def put(value, *keys):
    def change(copy):
        part(*keys[:-1])(copy)[keys[-1]] = value

    return change


def drop(*keys):
    return lambda copy: part(*keys[:-1])(copy).pop(keys[-1])


def both(*changes):
    return lambda copy: [change(copy) for change in changes]


FORGERIES = {
    "a version to come": (put(2, "version"), "predicate.version"),
    "another predicate": (lambda c: c.update(predicateType="urn:holdfast-llm:gate-evidence:v2"), "another type"),
    "another statement": (lambda c: c.update(_type="https://in-toto.io/Statement/v2"), "not an in-toto"),
    "no subject": (lambda c: c.update(subject=[]), "subject"),
    "another subject": (lambda c: c["subject"][0]["digest"].update(sha256="b" * 64), "subject is not the model"),
    "a field missing": (drop("bindings"), "bindings: field required"),
    "a check missing": (drop("verdict", "checks", 0), "another verdict"),
    "a field too many": (put(1, "signed"), "extra inputs"),
    "the policy looser": (put(50.0, "policy", "max_refusal_loss"), "another verdict"),
    "the policy's key gone": (drop("policy", "max_kl_nats"), "field required"),
    "a budget dropped": (put(None, "policy", "max_kl_nats"), "different budgets"),
    "no budget": (
        both(*(put(None, "policy", f"max_{name}") for name in ("kl_nats", "refusal_loss", "task_drop"))),
        "no policy",
    ),
    "a budget of a billion": (put(1e9, "policy", "max_refusal_loss"), "less than 100"),
    "false alarms of one": (put(1.0, "policy", "false_alarms"), "false_alarms"),
    "the verdict": (put("failed", "verdict", "status"), "another verdict"),
    "a check's verdict": (put("insufficient", "verdict", "checks", 0, "status"), "another verdict"),
    "an end of an interval": (put(0.01, "verdict", "checks", 0, "high"), "another verdict"),
    "a level": (put(0.5, "verdict", "level"), "another verdict"),
    "a row turned": (put("refused", "measured", 0, "rows", 0, "ours"), "another verdict"),
    "a label of no judge": (put("safe", "measured", 0, "rows", 0, "ours"), "ours"),
    "a number for a label": (put(1.0, "measured", 0, "rows", 0, "ours"), "no value of it"),
    "a label for a number": (put("refused", "measured", 1, "rows", 0, "ours"), "no value of it"),
    "true for a number": (put(True, "measured", 1, "rows", 0, "ours"), "ours"),
    "a score above one": (put(1.5, "measured", 1, "rows", 0, "ours"), "no value of it"),
    "nats below none": (put(-1.0, "measured", 2, "rows", 0, "ours"), "no value of it"),
    "rows gone": (drop("measured", 0, "rows", 0), "another verdict"),
    "no rows, no reason": (put([], "measured", 0, "rows"), "not both"),
    "a row twice": (lambda c: part("measured", 0, "rows")(c).append(part("measured", 0, "rows", 0)(c)), "twice"),
    "a budget twice": (lambda c: part("measured")(c).append(part("measured", 0)(c)), "stands twice"),
    "drift's rows for refusals": (put("drift:0", "measured", 0, "rows", 0, "id"), "another kind"),
    "an id that is no hash": (put("how to", "measured", 0, "rows", 0, "id"), "id"),
    "a newline after an id": (put("a" * 64 + ":0\n", "measured", 0, "rows", 0, "id"), "id"),
    "a floor to hide under": (put(0.9, "measured", 0, "floor"), "another verdict"),
    "another judge": (put("Nobody", "recorded", "judge", "judge"), "recorded of judge"),
    "a judge gone": (drop("recorded", "judge"), "recorded of judge"),
    "absent, hidden": (put([], "absent"), "says is absent"),
    "a digest of another shape": (put("A" * 64, "bindings", "policy"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_that_made_its_hashes_fit_is_refused(name, made, refused):
    change, why = FORGERIES[name]
    said = refused(forged(made, change))
    if why is None:  # the hash was made to fit again: nothing was forged
        assert said is None
    else:
        assert said is not None and re.search(why, said), said
    assert refused(forged(made, change, rebind=False))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("null", "not an in-toto"),
        ("[" * 200_000, "not JSON"),
        ('{"_type": 1, "_type": 2}', "stands twice"),
        ("{'a': 1}", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("9" * 10_000, "not"),
    ],
)
def test_what_is_no_evidence_is_refused(text, why, refused):
    assert re.search(why, refused(text))


def test_numbers_that_are_none_are_refused(made, refused):
    text = canonical(made)
    for odd in ("NaN", "Infinity", "-Infinity", "1e999"):
        assert refused(text.replace('"ours": 0.5', f'"ours": {odd}', 1)), odd
    assert refused(text.replace('"n": 101', '"n": 1, "n": 101', 1))


def test_a_forged_verdict_and_policy_are_seen_by_whoever_knows_the_policy_or_the_digest(made, refused):
    loose = Policy(max_refusal_loss=50, max_task_drop=30, max_kl_nats=9)
    measured = [Measured.from_dict(entry) for entry in made["predicate"]["measured"]]
    text = canonical(statement(loose, measured, decide(loose, measured), Provenance(card={"card": "c" * 64})))
    assert refused(text) is None  # nobody signed it: it only says what it says
    assert "another policy" in refused(text, policy=POLICY)
    assert "digest is not the one" in refused(text, digest=made["predicate"]["digest"])


def test_files_given_must_be_those_it_is_about(refused, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "README.md").write_text("any")
    measured = [refusals((99, R, R))]
    policy = Policy(max_refusal_loss=10)
    provenance = Provenance(adapter=bound_files(adapter))
    text = canonical(statement(policy, measured, decide(policy, measured), provenance))
    (adapter / "README.md").write_text("another")
    assert refused(text, adapter=adapter) is None
    assert "not bound to any base" in refused(text, base=adapter)
    (adapter / "chat_template.jinja").write_text("x")
    assert "chat_template.jinja was not there" in refused(text, adapter=adapter)
    (adapter / "chat_template.jinja").unlink()
    (adapter / "adapter_model.safetensors").write_bytes(b"weightz")
    assert "adapter_model.safetensors is another file" in refused(text, adapter=adapter)
    with pytest.raises(UserError, match="no such file or folder"):
        refused(text, adapter=tmp_path / "nowhere")


def test_it_is_rechecked_where_there_is_no_torch(made, tmp_path):
    path = tmp_path / "evidence.json"
    path.write_text(canonical(made))
    heavy = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "tokenizers", "pandas")
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({heavy}))\n"  # a None in there makes an import fail
        "from holdfast.cli import run\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "verify", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "passed"


def test_the_published_schema_is_the_one_that_is_enforced(made):
    published = json.loads(SCHEMA.read_text())
    assert published == json_schema() == json.loads(DOCUMENTED.read_text())
    assert not list(problems(made, published, published))
    for name, (change, _) in FORGERIES.items():
        if name in (
            "a version to come",
            "a field missing",
            "a field too many",
            "no subject",
            "a label of no judge",
        ):
            copy = json.loads(json.dumps(made))
            change(copy)
            assert list(problems(copy, published, published)), name


KINDS = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def problems(value, schema, root, where="$"):
    """JSON Schema's words that the published one uses, by hand."""
    if "$ref" in schema:
        yield from problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema and not any(not list(problems(value, s, root, where)) for s in schema["anyOf"]):
        yield f"{where}: none of the kinds"
    kind = schema.get("type")
    if kind == "null":
        if value is not None:
            yield f"{where}: not null"
    elif kind and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield f"{where}: not {kind}"
        return
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{where}: {value!r}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{where}: pattern"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{where}: too few"
        for k, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), root, f"{where}[{k}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (f"{where}: no {name}" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            more = schema.get("additionalProperties", {})
            if name not in known and more is False:
                yield f"{where}: {name} unknown"
            yield from problems(
                item, known.get(name, more if isinstance(more, dict) else {}), root, f"{where}.{name}"
            )
