"""Work done ahead in threads, handed over in order.

Threads and not processes: decoding and resizing hold no lock of the interpreter, nothing has to be copied between
processes, and a fork beside Paddle's own threads can stand still for ever.
"""
import collections
import concurrent.futures


def ordered(function, arguments, workers, ahead):
    """Yield ``function(argument)`` for every argument, in order.

    Args:
        function: callable; what it raises is raised here, at its place.
        arguments: iterable, consumed as the work proceeds.
        workers: threads; 0 = the work is done here, when it is asked for.
        ahead: results that may wait before the one that is handed over.
    """
    if not workers:
        yield from map(function, arguments)
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    waiting = collections.deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(function, argument))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the consumer stops early
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)
