"""Images worked on with all cores, in chunks whose number under way is bounded.

Threads and not processes: Pillow lets go of Python's lock while it decodes and resizes, nothing is
copied between processes, and a script needs no main guard. What Python itself does for an image
(some 50 microseconds) still takes turns, so small images gain little. Private images stay here.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from privimage.machine.hardware import usable_cores

CHUNK = 64  # images; the lock is passed on more often than this, the queue is not
CHUNKS_PER_CORE = 2


def for_each_chunk(work: Callable[[range], None], number: int, *, num_threads: int = 0) -> None:
    """Call `work` on ranges that cover `number` items; by default one thread per usable core.

    `work` handles its range in order and must not touch what belongs to another one. Of several
    faults the one at the smallest index is raised, and what has not begun by then never does.
    """
    num_threads = num_threads or usable_cores()
    under_way: deque[Future[None]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for start in range(0, number, CHUNK):
                if len(under_way) == CHUNKS_PER_CORE * num_threads:
                    under_way.popleft().result()
                under_way.append(pool.submit(work, range(start, min(start + CHUNK, number))))
            while under_way:
                under_way.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
