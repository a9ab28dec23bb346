"""Functions run in several gloo processes at once, as torchrun would start them."""

import multiprocessing
import os
import socket
from dataclasses import dataclass
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.distributed.pieces"])


@dataclass(frozen=True)
class Started:
    """One of them, and the end of the pipe through which its result or its error comes."""

    process: Any
    pipe: Any


def body(
    piece: str, rank: int, size: int, port: int, timeout: float, arguments: tuple, pipe: Any
) -> None:
    """What one process does: it joins the others and runs the piece of that name."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PRIVIMAGE_TIMEOUT_SECONDS": str(timeout),
    }
    torch.set_num_threads(1)
    from privimage.machine.processes import joined
    from tests.distributed import pieces

    try:
        with joined() as world:
            pipe.send(getattr(pieces, piece)(world, *arguments))
    except BaseException as error:
        pipe.send(error)


def start(piece: str, size: int, *arguments: Any, timeout_seconds: float = 60.0) -> list[Started]:
    """`tests.distributed.pieces.PIECE(world, *arguments)` on its way in each of `size`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(
            target=body, args=(piece, rank, size, port, timeout_seconds, arguments, theirs)
        )
        process.start()
        theirs.close()
        started.append(Started(process, ours))
    return started


def in_processes(piece: str, size: int, *arguments: Any) -> list[Any]:
    """What the piece returns on each of `size` processes; the first error is raised."""
    started = start(piece, size, *arguments)
    results = [each.pipe.recv() for each in started]
    for each in started:
        each.process.join()
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return results
