"""The processes of one run: one leads, all share the work (torch.distributed, started by torchrun).

The leader alone touches the run folder, the ledger and the randomness that privacy rests on; the
others get from it what they need. What is computed depends on their number by rounding only.
Private sums go to the leader and to nobody else. The network between the processes is trusted:
nothing on it is encrypted.
"""

import io
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from privimage.errors import PeerLostError

TIMEOUT = "PRIVIMAGE_TIMEOUT_SECONDS"  # how long a process waits for another in the midst of work
DEFAULT_TIMEOUT_SECONDS = 300
POLL_SECONDS = 0.05
Value = TypeVar("Value")


class World:
    """`size` processes, this one being number `rank`; number 0 leads. One alone needs no network.

    All processes must call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self._barriers = 0
        self.num_bytes = 0  # given to transfers so far, by or to this process

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def rows(self, num: int) -> slice:
        """This process's part of `num` rows: contiguous, as equal as can be, maybe empty."""
        return slice(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    def barrier(self) -> None:
        """Wait, as long as it takes, until every process is here: between pieces of work.

        A process that died ends the wait through torchrun, which stops all the others.
        """
        self._barriers += 1
        if self.size == 1:
            return
        # not torch's own barrier, which gives up after the timeout: a stage of the leader's alone
        # may take hours. Each barrier has a key of its own, as a counter there cannot be reset
        with _in_touch():
            key = f"barrier/{self._barriers}"
            self._store.add(key, 1)
            while self._store.add(key, 0) < self.size:
                time.sleep(POLL_SECONDS)  # adding 0 reads the counter

    def broadcast(self, value: Value) -> Value:
        """The leader's `value` (tensors, numbers, plain containers), for everybody."""
        if self.size == 1:
            return value
        content = _packed(value) if self.is_leader else b""
        with _in_touch():
            length = torch.tensor([len(content)])  # first: the others need a buffer of that size
            dist.broadcast(length, src=0)
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if self.is_leader:
                buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(buffer, src=0)
        self.num_bytes += buffer.nbytes
        return value if self.is_leader else _unpacked(buffer)

    def broadcast_flag(self, answer: bool) -> bool:
        """The leader's answer to a question that only it can decide, for instance of time."""
        if self.size == 1:
            return answer
        flag = torch.tensor([int(answer)])
        with _in_touch():
            dist.broadcast(flag, src=0)
        return bool(flag.item())

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one transfer."""
        if self.size == 1:
            return
        with _in_touch():
            bucket = _flat(tensors)
            dist.all_reduce(bucket)
            _spread(bucket, tensors)
        self.num_bytes += bucket.nbytes

    def reduce_to_leader_(self, tensors: Sequence[Tensor]) -> None:
        """The same on the leader; on the others the tensors are of no use afterwards."""
        if self.size == 1:
            return
        with _in_touch():
            bucket = _flat(tensors)
            dist.reduce(bucket, dst=0)
            if self.is_leader:
                _spread(bucket, tensors)
        self.num_bytes += bucket.nbytes

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite each tensor by the leader's."""
        if self.size == 1:
            return
        with _in_touch():
            # types are not mixed in a transfer, for that would convert them; sorted, since every
            # process has to make the same transfers in the same order
            for kind in sorted({str(tensor.dtype) for tensor in tensors}):
                same = [tensor for tensor in tensors if str(tensor.dtype) == kind]
                bucket = _flat(same)
                dist.broadcast(bucket, src=0)
                _spread(bucket, same)
                self.num_bytes += bucket.nbytes

    def send_to_leader(self, tensor: Tensor, *, sender: int) -> Tensor:
        """On the leader the tensor of process `sender`, of the shape and type of `tensor`."""
        if sender == 0 or self.rank not in (0, sender):
            return tensor
        with _in_touch():
            if self.is_leader:
                tensor = torch.empty_like(tensor)
                dist.recv(tensor, src=sender)
            else:
                dist.send(tensor.contiguous(), dst=0)
        return tensor

    def send_from_leader(self, tensor: Tensor, *, receiver: int) -> Tensor:
        """On process `receiver` the leader's tensor, of the shape and type of `tensor`."""
        if receiver == 0 or self.rank not in (0, receiver):
            return tensor
        with _in_touch():
            if self.is_leader:
                dist.send(tensor.contiguous(), dst=receiver)
            else:
                tensor = torch.empty_like(tensor)
                dist.recv(tensor, src=0)
        return tensor


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun started, or this one ALONE where it started none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    seconds = float(os.environ.get(TIMEOUT, DEFAULT_TIMEOUT_SECONDS))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # flags and packed values travel from the CPU
    with _in_touch():
        patience = timedelta(seconds=seconds)
        # of torchrun's store everything is kept under a name of this meeting, see below
        store, rank, size = next(iter(rendezvous("env://", timeout=patience)))
        place = PrefixStore(_meeting_place(store, rank, size, patience=seconds), store)
        group = PrefixStore("group", place)
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=patience)
    try:
        yield World(rank, size, store=PrefixStore("barriers", place))
    finally:
        dist.destroy_process_group()


def _meeting_place(store: Any, rank: int, size: int, *, patience: float) -> str:
    """A name that these very processes agree on: the store may hold what earlier ones, started
    by the same torchrun and now dead, left in it.

    The leader publishes a fresh name, and each follower answers it with a fresh name of its own.
    Once all have answered, the leader publishes their names under its own; a follower that finds
    its name there has met the living leader.
    """
    own, end = secrets.token_hex(8), time.monotonic() + patience
    if rank == 0:
        store.set("leader", own)  # in place of a dead leader's
    while time.monotonic() < end:
        if rank == 0:
            keys = [f"follower/{other}" for other in range(1, size)]
            answers = [store.get(key).decode() for key in keys if store.check([key])]
            # an answer to another name was meant for a dead leader
            names = [name for to, _, name in (a.partition("/") for a in answers) if to == own]
            if len(names) == size - 1:
                store.set(f"go/{own}", "/".join(names) or "/")  # a value may not be empty
                return own
        elif store.check(["leader"]):
            # this may still be a dead leader's name: asked again until somebody says go
            leader = store.get("leader").decode()
            store.set(f"follower/{rank}", f"{leader}/{own}")
            go = f"go/{leader}"
            # a go without the own name was for the process that had this rank before
            if store.check([go]) and own in store.get(go).decode().split("/"):
                return leader
        time.sleep(POLL_SECONDS)
    raise ValueError(f"not all of {size} processes came within {patience:g} s")


@contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # gloo, NCCL and the store raise several classes
        reason = " ".join(str(error).split())[:200]
        raise PeerLostError(
            f"contact with another process of this run was lost ({reason}); repeat the command: "
            "it continues from the last saved state"
        ) from error


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(buffer: Tensor) -> Any:
    content = io.BytesIO(buffer.numpy().tobytes())
    # plain values only: what comes over the network can run no code
    return torch.load(content, map_location="cpu", weights_only=True)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _spread(bucket: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = bucket.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view(tensor.shape))
