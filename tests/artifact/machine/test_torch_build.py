import pytest
import torch

from artifact.machine import torch_build
from artifact.machine.torch_build import TorchBuild, TorchDevice, probe_torch


def test_the_installed_torch_is_described_as_torch_describes_itself():
    found = probe_torch()
    assert found.problem is None
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
    assert len(found.devices) == torch.cuda.device_count()
    assert bool(found.architectures) == (torch.version.cuda is not None)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise ImportError('libcudart is missing')", "libcudart is missing"),
        ("import os; os._exit(3)", "exit status 3"),
        ("print('no json')", "cannot be imported"),
    ],
)
def test_a_broken_installation_is_a_problem_with_its_last_words(program, message):
    assert message in (probe_torch(program).problem or "")


def test_a_torch_that_hangs_is_a_problem(monkeypatch):
    monkeypatch.setattr(torch_build, "TIMEOUT_SECONDS", 0.2)
    assert "did not load" in (probe_torch("import time; time.sleep(60)").problem or "")


@pytest.mark.parametrize(
    ("architectures", "capability", "serves"),
    [
        (("sm_80", "sm_90"), (9, 0), True),
        (("sm_80", "sm_90"), (8, 6), True),  # within a generation, newer minor versions run
        (("sm_86", "sm_90"), (8, 0), False),
        (("sm_75", "sm_120"), (7, 0), False),
        (("sm_80", "compute_80"), (12, 0), True),  # compiled for the GPU when it is loaded
        (("sm_90a",), (9, 0), False),
        ((), (7, 0), True),  # an old torch does not tell: it is tried
    ],
)
def test_the_wheel_must_hold_kernels_for_the_generation(architectures, capability, serves):
    build = TorchBuild(architectures=architectures)
    assert build.has_kernels_for(TorchDevice("1", 0, capability)) == serves
