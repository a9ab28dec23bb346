"""How one command becomes several processes (`--gpus N`), and how it is stopped.

torchrun starts the same command N times, one process a GPU; without a GPU they share the cores. A
process that dies stops the others, and torchrun starts all of them again; they continue from the
last saved state. A command that was stopped continues when it is repeated.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from privimage.errors import ConfigError, PeerLostError

MAX_RESTARTS = 3
INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells have it


class Terminated(KeyboardInterrupt):
    """SIGTERM, from `docker stop` or a scheduler: it ends a run as Ctrl-C does."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated; by default it would end the process without a word."""

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopped_with_a_word(word: str = "the same command continues the run") -> Iterator[None]:
    """For a command: inside, Ctrl-C and SIGTERM end it with exit code 130 or 143, and it says how
    to go on.
    """
    try:
        with stopped_by_sigterm():
            yield
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\ninterrupted; {word}\n")  # to a person
        sys.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_restarted() -> bool:
    """Whether torchrun started it in place of one that died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def launch(module: str, num_processes: int, arguments: list[str]) -> None:
    """`python -m module *arguments` in that many processes; PeerLostError unless all end well.

    Ctrl-C and SIGTERM reach them through torchrun.
    """
    refuse_missing_gpus(num_processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_processes}", f"--max-restarts={MAX_RESTARTS}"]
    # one thread each: the library sets its own number, and torchrun would warn
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    process = subprocess.Popen([*command, "-m", module, *arguments], env=environment)
    try:
        status = process.wait()
    except KeyboardInterrupt:  # Ctrl-C went to torchrun as well, SIGTERM did not
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if status:
        raise PeerLostError(
            f"the {num_processes} processes ended with status {status}; what went wrong stands "
            "above; the same command continues the run"
        )


def refuse_missing_gpus(num_processes: int) -> None:
    """ConfigError for more processes than GPUs, where there are GPUs: each needs its own."""
    import torch  # not above: `artifact doctor` answers even where torch is broken

    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < num_processes:
        raise ConfigError(
            f"--gpus {num_processes}, and PyTorch sees {num_gpus} here; ask for at most {num_gpus}"
        )
