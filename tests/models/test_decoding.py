"""Rows that have ended leave the batch, and the others do not notice."""

from holdfast.models import Subject, decoding
from holdfast.models.decoding import continue_prompts
from tests.gradients import zoo


def test_finished_rows_leave_the_batch_and_answers_stay(monkeypatch):
    subject = Subject(zoo.build(zoo.ARCHITECTURES[0], spread=3.0))
    prompts = [[1, *range(5 + k, 7 + k + k % 3)] for k in range(16)]
    free = continue_prompts(subject, prompts, 10, 0.0, [], ())
    ends = {free[0][1], free[3][4], free[7][6]}
    cut = [next((a[: t + 1] for t, token in enumerate(a) if token in ends), a) for a in free]
    assert len({len(answer) for answer in cut}) > 2
    rows = []
    subject.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    assert continue_prompts(subject, prompts, 10, 0.0, [], ends) == cut
    for step, count in enumerate(rows):
        running = sum(len(answer) > step for answer in cut)
        assert running <= count < max(running, 1) * 8 / 7 + 1
    assert rows[-1] < rows[0]
    rows.clear()
    monkeypatch.setattr(decoding, "SHRINK_AT", 1)  # nothing leaves
    assert continue_prompts(subject, prompts, 10, 0.0, [], ends) == cut and set(rows) == {16}
