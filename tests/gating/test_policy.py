"""Budgets in a file: what is odd is refused in one line that names it."""

import pytest

from holdfast.core.errors import UserError
from holdfast.gating import Policy, read_policy

HOSTILE = {
    "nothing": ("", "holds no keys"),
    "a list": ("- 5", "holds no keys"),
    "no budget": ("false_alarms: 0.05", "no budget was given"),
    "a typo": ("max_refusal_los: 5", "did you mean 'max_refusal_loss'"),
    "another key": ("budget: 5", "unknown key 'budget'"),
    "twice": ("max_refusal_loss: 1\nmax_refusal_loss: 50", "stands twice"),
    "below nothing": ("max_refusal_loss: -1", "below 0"),
    "everything": ("max_refusal_loss: 100", "allow everything"),
    "not a number": ("max_refusal_loss: .nan", "not a number"),
    "no end": ("max_kl_nats: .inf", "not a number"),
    "yes": ("max_refusal_loss: yes", "not a number"),
    "a text": ("max_refusal_loss: '5'", "not a number"),
    "no value": ("max_refusal_loss:", "has no value"),
    "sure alarms": ("max_refusal_loss: 5\nfalse_alarms: 1", "not a chance"),
    "no alarms": ("max_refusal_loss: 5\nfalse_alarms: 0", "not a chance"),
    "hardly any": ("max_refusal_loss: 5\nfalse_alarms: 1e-300", "not a"),
    "a merge": ("a: &a {max_refusal_loss: 5}\n<<: *a", "aliases"),
    "laughs": ("a: &a [1,1]\nb: &b [*a,*a]\nmax_refusal_loss: 5", "aliases"),
    "code": ("max_refusal_loss: !!python/object/apply:os.getcwd []", "not YAML"),
    "deep": ("[" * 1000, "not YAML"),
    "long": ("#" * 70_000, "larger than 64 kB"),
    "controls": ("max_refusal_loss: 5\x00", "not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_odd_policy_is_refused_in_one_line(name, tmp_path):
    text, why = HOSTILE[name]
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=why) as told:
        read_policy(path)
    assert str(told.value).startswith(str(path)) and len(str(told.value)) < 400


def test_flags_stand_before_the_file(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text("max_refusal_loss: 5\nmax_kl_nats: 2\n")
    assert read_policy(path, {"max_refusal_loss": 3, "max_task_drop": None}) == Policy(3, max_kl_nats=2)
    with pytest.raises(UserError, match="no such file"):
        read_policy(tmp_path / "none.yaml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not YAML"):
        read_policy(path)
