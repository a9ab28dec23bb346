"""Several processes must release what one does: two are started, and compared with one.

Sums are exact and the seeded noise is the leader's alone, so the releases are the same bits.
"""

import multiprocessing
import os
import socket
from multiprocessing.connection import Connection

import torch

from privimage.audit.checks import made_up_images, released_by
from privimage.audit.moments_checks import asked
from privimage.machine.processes import ALONE, World, joined


def largest_difference(seed: int) -> float:
    """Between what one process releases and what two do, over steps, query and moments; 0 is
    right."""
    alone, together = _released_by(ALONE, seed), _released_by_two(seed)
    pairs = [
        (torch.tensor(one), torch.tensor(two)) for one, two in zip(alone, together, strict=True)
    ]
    return max(float((one - two).abs().max()) for one, two in pairs)


def _released_by(world: World, seed: int) -> list[list[float]]:
    moments = asked(made_up_images(13, seed=seed), length=1.0, seed=seed, world=world)
    return [*released_by(world, seed), *([m.flatten().tolist() for m in moments] * world.is_leader)]


def _released_by_two(seed: int) -> list[list[float]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")  # a process of its own, with torch unused so far
    ours, theirs = context.Pipe(duplex=False)
    started = [
        context.Process(target=_take_part, args=(rank, port, seed, theirs)) for rank in range(2)
    ]
    for process in started:
        process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        for process in started:
            process.join()


def _take_part(rank: int, port: int, seed: int, pipe: Connection) -> None:
    """One of the two; the leader tells what was released."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with joined() as world:
        released = _released_by(world, seed)
        if world.is_leader:
            pipe.send(released)
