"""`--gpus N`: N processes of the same command under torchrun, one a GPU.

A process that dies stops the others, and torchrun starts all of them again; they continue from the
last saved state. On a machine without a GPU the processes share its cores.
"""

import os
import signal
import subprocess
import sys

from artifact.exit_codes import RunFailedError

MAX_RESTARTS = 3


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(num_processes: int, arguments: list[str]) -> None:
    """Run `artifact` with `arguments` in that many processes; RunFailedError unless all end well.

    Ctrl-C and SIGTERM reach them through torchrun.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_processes}", f"--max-restarts={MAX_RESTARTS}"]
    # one thread each: the library sets its own number, and torchrun would warn
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    process = subprocess.Popen([*command, "-m", "artifact", *arguments], env=environment)
    try:
        status = process.wait()
    except KeyboardInterrupt:  # Ctrl-C went to torchrun as well, SIGTERM did not
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if status:
        raise RunFailedError(
            f"the {num_processes} processes ended with status {status}; what went wrong stands "
            "above; the same command continues the run"
        )
