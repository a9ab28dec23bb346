"""Functions run in several gloo processes at once, as torchrun would start them."""

import multiprocessing
import os
import socket
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.distributed.pieces"])


def body(piece: str, rank: int, size: int, port: int, arguments: tuple, pipe: Any) -> None:
    """What one process does: it joins the others and runs the piece of that name."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PRIVIMAGE_TIMEOUT_SECONDS": "60",
    }
    torch.set_num_threads(1)
    from privimage.world import joined
    from tests.distributed import pieces

    try:
        with joined() as world:
            pipe.send(getattr(pieces, piece)(world, *arguments))
    except BaseException as error:
        pipe.send(error)


def in_processes(piece: str, size: int, *arguments: Any) -> list[Any]:
    """What `tests.distributed.pieces.PIECE(world, *arguments)` returns on each of `size`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=body, args=(piece, rank, size, port, arguments, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return results
