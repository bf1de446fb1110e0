"""A bar that only people see, and only when they have to wait."""

import io
import logging
import re
import sys
import time

import rich.progress

from holdfast.cli.app import _Screen
from holdfast.core import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """A standard error that says it is a terminal, a bar that does not wait, a clock that can be wound."""
    now, screen, built = [100.0], Terminal(), rich.progress.Progress
    monkeypatch.delenv(progress.QUIET_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "APPEARS_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(rich.progress, "Progress", lambda *a, **k: built(*a, **k, get_time=lambda: now[0]))
    return now, screen


def test_a_unit_shows_a_speed_that_leaves_out_what_was_done_before(monkeypatch):
    now, screen = terminal(monkeypatch)
    with progress.bar("scoring", 100_000, unit="tokens", done=40_000) as advance:
        now[0] += 40.0  # longer than rich looks back by itself
        advance(10_000)
        now[0] += 40.0
        advance(10_000)
    text = screen.getvalue()
    assert "scoring" in text
    assert "250 tokens/s" in text
    assert "60%" in text
    assert "0:02:40" in text  # 40 000 tokens left


def test_without_a_unit_there_is_no_speed(monkeypatch):
    now, screen = terminal(monkeypatch)
    with progress.bar("scoring", 10) as advance:
        now[0] += 1.0
        advance(5)
    assert "scoring" in screen.getvalue()
    assert "/s" not in screen.getvalue()


def test_nothing_is_drawn_where_nobody_looks(capsys):
    with progress.bar("scoring", 10, unit="tokens", done=5) as advance:
        advance(5)
    assert capsys.readouterr().err == ""


def test_a_note_stands_beside_the_bar_as_it_is_written(monkeypatch):
    now, screen = terminal(monkeypatch)
    with progress.bar("training [red]arm", 10) as advance:
        now[0] += 1.0
        advance.note("loss 1.25 [bold]x")
        advance(5)
    assert "loss 1.25 [bold]x" in screen.getvalue()
    assert "training [red]arm" in screen.getvalue()


def test_a_bar_comes_while_its_first_step_still_runs_and_does_not_come_after_its_end(monkeypatch):
    _, screen = terminal(monkeypatch)
    monkeypatch.setattr(progress, "APPEARS_AFTER_SECONDS", 0.01)
    with progress.bar("sampling", 10) as advance:
        for _ in range(1000):
            if advance.shown:
                break
            time.sleep(0.01)
    assert "sampling" in screen.getvalue()
    monkeypatch.setattr(progress, "APPEARS_AFTER_SECONDS", 1000.0)
    with progress.bar("too short to be seen", 10) as late:
        late()
    late._show()  # the timer that was already on its way
    assert "too short" not in screen.getvalue()


def test_bars_within_bars_share_the_screen(monkeypatch):
    _, screen = terminal(monkeypatch)
    with progress.bar("outer", 2) as outer:
        with progress.bar("inner", 2) as inner:
            inner()
            outer._progress.live.refresh()
        outer()
    text = screen.getvalue()
    assert "outer" in text and "inner" in text


def test_what_is_logged_stands_on_a_line_of_its_own_above_the_bar(monkeypatch):
    _, screen = terminal(monkeypatch)
    handler = _Screen()
    with progress.bar("training", 2) as advance:
        handler.emit(logging.makeLogRecord({"msg": "a pool of 8"}))
        advance()
    assert re.search(r"\x1b\[2Ka pool of 8\n", screen.getvalue())


def test_a_note_where_nobody_looks_is_no_error(capsys):
    with progress.bar("training", 10) as advance:
        advance.note("loss 1.25")
        advance()
    assert capsys.readouterr().err == ""
