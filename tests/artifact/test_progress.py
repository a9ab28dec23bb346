import io

import pytest

from artifact import progress
from artifact.progress import RunProgress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_outside_a_terminal_a_line_comes_at_the_start_at_the_end_and_every_ten_seconds(clock):
    stream = io.StringIO()
    with RunProgress(num_arms=2, stream=stream) as show:
        for step in range(1, 101):
            clock[0] += 0.25
            show("no_arm", "query_network", step, 100)
    lines = stream.getvalue().splitlines()
    # 25 s: the first step, two heartbeats, the last step
    assert len(lines) == 4
    assert lines[0] == "[1/2] no arm: query network: 1/100 (1%), 0 s"
    assert lines[-1] == "[1/2] no arm: query network: 100/100 (100%), 25 s"


def test_the_time_left_follows_from_the_rate_of_the_stage(clock):
    stream = io.StringIO()
    show = RunProgress(num_arms=1, stream=stream)
    show("a", "finetune", 1, 100)
    clock[0] += 20.0
    show("a", "finetune", 25, 100)  # a quarter in 20 s: 60 s are left
    assert stream.getvalue().splitlines()[-1].endswith("20 s, about 60 s left")


def test_a_new_arm_begins_a_new_count(clock):
    stream = io.StringIO()
    show = RunProgress(num_arms=2, stream=stream)
    show("a", "finetune", 5, 5)
    show("b", "finetune", 1, 5)
    assert stream.getvalue().splitlines()[-1].startswith("[2/2] b: finetune: 1/5")


def test_a_stage_of_unknown_length_does_not_divide_by_zero(clock):
    stream = io.StringIO()
    RunProgress(num_arms=1, stream=stream)("a", "query", 0, 0)
    assert "0/0" in stream.getvalue()


def test_on_a_terminal_every_stage_gets_a_bar(clock):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with RunProgress(num_arms=1, stream=stream) as show:
        show("a", "pretrain", 1, 2)
        show("a", "pretrain", 2, 2)
    assert "[1/1] a: pretrain" in stream.getvalue()
