"""Images worked on with all cores, in chunks whose number under way is bounded.

Threads and not processes: Pillow lets go of Python's lock while it decodes and resizes, nothing is
copied between processes, and a script needs no main guard. What Python itself does for an image
(some 50 microseconds) still takes turns, so small images gain little. Private images stay here.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

from privimage.machine.hardware import usable_cores

CHUNK = 64  # images; the lock is passed on more often than this, the queue is not
CHUNKS_PER_CORE = 2
MANY = 5000  # images; fewer are done before anybody asks how long it takes

Watcher = Callable[[str, int, int], None]  # (what is done, images done, of so many)
_watcher: ContextVar[Watcher | None] = ContextVar("_watcher", default=None)


@contextmanager
def watched(progress: Watcher) -> Iterator[None]:
    """Tell `progress` of all work on many images in this context, however deep it is called."""
    token = _watcher.set(progress)
    try:
        yield
    finally:
        _watcher.reset(token)


def for_each_chunk(
    work: Callable[[range], None], number: int, *, doing: str | None = None, num_threads: int = 0
) -> None:
    """Call `work` on ranges that cover `number` items; by default one thread per usable core.

    `doing` says in a word or two what is done, to who watches; without it nothing is said. `work`
    handles its range in order and must not touch what belongs to another one. Of several faults
    the one at the smallest index is raised, and what has not begun by then never does.
    """
    num_threads = num_threads or usable_cores()
    under_way: deque[Future[None]] = deque()
    watcher = _watcher.get() if number >= MANY and doing else None
    done = 0

    def wait_for_one() -> None:
        nonlocal done
        under_way.popleft().result()
        done = min(done + CHUNK, number)
        if watcher and doing:
            watcher(doing, done, number)

    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for start in range(0, number, CHUNK):
                if len(under_way) == CHUNKS_PER_CORE * num_threads:
                    wait_for_one()
                under_way.append(pool.submit(work, range(start, min(start + CHUNK, number))))
            while under_way:
                wait_for_one()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
