import io

import pytest

from privimage.machine.terminal import progress
from privimage.machine.terminal.progress import StageProgress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_outside_a_terminal_a_line_comes_at_the_start_at_the_end_and_every_ten_seconds(clock):
    stream = io.StringIO()
    with StageProgress(stream=stream) as show:
        for step in range(1, 101):
            clock[0] += 0.25
            show("query_network", step, 100)
    lines = stream.getvalue().splitlines()
    # 25 s: the first step, two heartbeats, the last step
    assert len(lines) == 4
    assert lines[0] == "query network: 1/100 (1%), 0 s"
    assert lines[-1] == "query network: 100/100 (100%), 25 s"


def test_the_time_left_follows_from_the_rate_of_the_stage(clock):
    stream = io.StringIO()
    show = StageProgress(stream=stream)
    show("finetune", 1, 100)
    clock[0] += 20.0
    show("finetune", 25, 100)  # a quarter in 20 s: 60 s are left
    assert stream.getvalue().splitlines()[-1].endswith("20 s, about 60 s left")


def test_a_new_stage_begins_a_new_count(clock):
    stream = io.StringIO()
    show = StageProgress(stream=stream)
    show("pretrain", 5, 5)
    clock[0] += 20.0
    show("finetune", 1, 5)
    assert stream.getvalue().splitlines()[-1] == "finetune: 1/5 (20%), 0 s"


def test_a_stage_of_unknown_length_does_not_divide_by_zero(clock):
    stream = io.StringIO()
    StageProgress(stream=stream)("query", 0, 0)
    assert "0/0" in stream.getvalue()


def test_on_a_terminal_every_stage_gets_a_bar(clock):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with StageProgress(stream=stream) as show:
        show("pretrain", 1, 2)
        show("pretrain", 2, 2)
    assert "pretrain" in stream.getvalue()


def test_the_time_left_of_the_whole_run_counts_the_stages_to_come(clock):
    stream = io.StringIO()
    show = StageProgress(stream=stream, expected={"pretrain": 40, "finetune": 7200, "generate": 60})
    show("pretrain", 1, 4)  # no pace yet: three quarters of 40 s, 7260 s
    assert stream.getvalue().endswith("0 s; whole run: about 2.0 h left\n")
    clock[0] += 20.0
    show("pretrain", 2, 4)
    show("generate", 1, 2)
    assert stream.getvalue().endswith("whole run: about 30 s left\n")
    show("evaluate", 1, 2)  # nobody expected it
    assert "whole" not in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (119, "119 s"), (125, "2 min"), (9000, "2.5 h"), (2e5, "2.3 days")],
)
def test_durations_have_two_digits(seconds, text):
    assert progress.duration(seconds) == text
