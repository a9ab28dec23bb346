"""DP fine-tuning over several processes of one thread each, and what they tell each other.

    python bench/processes.py [--world 1,2,4] [--steps 6] [--rounds 3]

The paper's CIFAR-10 network, the loop of `finetune` itself, the same Poisson samples whatever the
number of processes. Beside them: one process whose worker threads take all cores. More processes
than cores only show what is lost.
"""

import os
import socket
import subprocess
import sys
import time
from typing import Any

import torch
from harness import Row, interleaved, median, parser, publish, report
from paper_network import paper_network

from privimage.audit.probes import ledger_of
from privimage.data.image_set import ImageSet
from privimage.gradients.engine import Engine
from privimage.machine.hardware import usable_cores
from privimage.machine.processes import joined
from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.rng import insecure_source
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import FinetuneConfig
from privimage.training.finetune import finetune

NUM_IMAGES, RATE, COPIES = 48, 0.5, 8


def main() -> None:
    options_of = parser(__doc__)
    options_of.add_argument("--steps", type=int, default=6)
    options_of.add_argument("--world", default="1,2,4")
    options = options_of.parse_args()
    if options.variant:
        kind, number = options.variant.split("=")
        if kind == "processes" and "RANK" not in os.environ:
            start_processes(int(number))
        else:
            run_steps(options.steps, num_workers=int(number) if kind == "threads" else 1)
        return
    sizes = [int(size) for size in options.world.split(",")]
    variants = [f"threads={usable_cores()}", *(f"processes={size}" for size in sizes)]
    arguments = ["--steps", str(options.steps)]
    found = interleaved(__file__, variants, rounds=options.rounds, options=arguments)
    publish_table(found, options, alone=variants[1])


def start_processes(num: int) -> None:
    """This very script once for each process; the leader reports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(num):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num)}
        environment = os.environ | address | place | {"LOCAL_WORLD_SIZE": str(num)}
        children.append(subprocess.Popen([sys.executable, *sys.argv], env=environment))
    statuses = [child.wait() for child in children]
    if any(statuses):
        raise SystemExit(1)


def run_steps(num_steps: int, *, num_workers: int) -> None:
    torch.set_num_threads(1)
    denoiser = paper_network(32, torch.device("cpu"))
    pixels = torch.randint(0, 256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8)
    names = tuple(str(label) for label in range(10))
    images = ImageSet(pixels, torch.arange(NUM_IMAGES) % 10, names, "made up", NUM_IMAGES)
    source = insecure_source(0, insecure_for_reproduction=True)
    ledger = ledger_of({DP_SGD: Mechanism(1.0, RATE, num_steps)}, source)
    times = [time.perf_counter()]
    with joined() as world:
        finetune(
            denoiser,
            images,
            FinetuneConfig(learning_rate=3e-4, noise_multiplicity=COPIES),
            clip_norm=1e-3,
            ledger=ledger,
            source=source,
            seed=0,
            engine=Engine("loop", num_workers=num_workers),
            on_release=lambda step, gradient: times.append(time.perf_counter()),
            context=TrainingContext(world=world),
        )
        if world.is_leader:
            report(
                steps_seconds=times[-1] - times[1],
                mib_a_step=world.num_bytes / num_steps / 2**20,
                model_mib=sum(p.nbytes for p in denoiser.parameters()) / 2**20,
            )


def publish_table(found: dict[str, list[Row]], options: Any, *, alone: str) -> None:
    rows = []
    base = median(found[alone], "steps_seconds")
    for variant, results in found.items():
        kind, number = variant.split("=")
        seconds = median(results, "steps_seconds")
        processes = int(number) if kind == "processes" else 1
        cores = min(int(number), usable_cores())
        rows.append([
            f"{processes}", f"{number if kind == 'threads' else 1}",
            f"{seconds / (options.steps - 1):.2f}", f"{base / seconds:.2f}",
            f"{base / seconds / cores:.0%}", f"{median(results, 'mib_a_step'):.1f}",
        ])  # fmt: skip
    model = median(found[alone], "model_mib")
    publish(
        "processes",
        title=f"DP fine-tuning over processes (gloo, model of {model:.1f} MiB)",
        columns=["processes", "threads of each", "step, s", "times as fast", "of the cores in use",
                 "MiB told a step"],
        rows=rows, settings=vars(options), figures=found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
