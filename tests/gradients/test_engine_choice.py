import pytest
import torch
from torch import nn

from privimage.gradients import engine_choice
from privimage.gradients.engine import Engine
from privimage.gradients.engine_choice import choose_engine
from privimage.settings.config import PerformanceConfig


def losses_of(model, x):
    return model(x).square().sum(1)


def examples_of(num_images):
    return (torch.ones(num_images, 3),)


def choose(model=None, *, num_images=100, **settings):
    return choose_engine(
        losses_of,
        model or nn.Linear(3, 3),
        examples_of,
        num_images=num_images,
        batch_size=64,
        wanted=PerformanceConfig(**{"precision": "float32", "num_threads": 2} | settings),
    )


@pytest.fixture
def speeds(monkeypatch):
    """Seconds per image by engine, in place of a clock."""
    table: dict = {}
    asked = []

    def seconds(losses_of, model, examples_of, engine):
        asked.append(engine)
        result = table[engine.strategy, engine.micro_batch_size, engine.compiled]
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(engine_choice, "_seconds_per_image", seconds)
    return table, asked


@pytest.mark.parametrize(
    ("fastest", "expected"), [(0, ("loop", 1)), (1, ("folded", 8)), (2, ("folded", 32))]
)
def test_the_fastest_is_chosen_and_a_micro_batch_is_at_most_a_worker_s_share(
    speeds, fastest, expected
):
    table, _ = speeds
    for index, (strategy, size) in enumerate([("loop", 1), ("folded", 8), ("folded", 32)]):
        table[strategy, size, False] = 1.0 if index == fastest else 2.0
    engine = choose()  # 64 images over two workers: a share of 32
    assert (engine.strategy, engine.micro_batch_size, engine.num_workers) == (*expected, 2)


def test_what_is_given_is_not_timed(speeds):
    _, asked = speeds
    engine = choose(strategy="folded", micro_batch_size=5, compile=False, precision="bfloat16")
    assert engine == Engine("folded", 5, 2, "bfloat16", False)
    assert not asked


def test_a_micro_batch_that_does_not_fit_in_memory_is_passed_over(speeds):
    table, _ = speeds
    table["loop", 1, False], table["folded", 8, False] = 2.0, 1.0
    table["folded", 32, False] = torch.OutOfMemoryError("too large")
    assert choose().micro_batch_size == 8


@pytest.mark.parametrize(("available", "expected"), [(5_999, 8), (6_001, 32)])
def test_a_micro_batch_that_would_not_fit_is_not_tried(speeds, monkeypatch, available, expected):
    table, asked = speeds
    table |= {("loop", 1, False): 3.0, ("folded", 8, False): 2.0, ("folded", 32, False): 1.0}
    # two workers of 8 images took 1,500 bytes; of 32, they will take 6,000
    monkeypatch.setattr(engine_choice.memory, "with_growth", lambda work, device: (work(), 1_500))
    monkeypatch.setattr(engine_choice, "available_ram_bytes", lambda: available)
    assert choose().micro_batch_size == expected
    assert max(engine.micro_batch_size for engine in asked) == expected


@pytest.mark.parametrize(
    ("gain", "num_images", "expected"), [(0.5, 4000, True), (0.5, 100, False), (-0.5, 4000, False)]
)
def test_compiling_is_tried_for_long_work_only_and_kept_if_it_gains(
    speeds, gain, num_images, expected
):
    table, asked = speeds
    table["loop", 1, False], table["loop", 1, True] = 1.0, 1.0 - gain
    assert choose(strategy="loop", num_images=num_images).compiled is expected
    assert any(engine.compiled for engine in asked) == (num_images == 4000)


def test_a_compiler_that_fails_is_told_of_and_the_run_goes_on(speeds, caplog):
    table, _ = speeds
    table["loop", 1, False] = 1.0
    table["loop", 1, True] = RuntimeError("no compiler here\nand why")
    assert choose(strategy="loop", num_images=4000).compiled is False
    assert "not compiled: no compiler here" in caplog.text


def test_a_network_without_rules_gets_the_loop():
    class Scaled(nn.Linear):
        pass

    assert choose(Scaled(3, 3)).strategy == "loop"


def test_timing_leaves_network_and_gradients_as_they_were():
    model = nn.Linear(3, 3)
    before = model.weight.clone()
    engine = choose(model)
    assert engine.precision == "float32"
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
