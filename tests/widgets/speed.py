"""How long a widget takes to answer."""

import time
from collections.abc import Callable, Iterable


def quickest(answer: Callable, states: Iterable) -> float:
    """The shortest of the answers to all states but the first, which also fills caches, in seconds of processor time.

    The shortest, because everything else on the machine only adds to it: a neighbour who shares the core or its cache,
    and Python's garbage collection, which late in a session of four thousand tests takes longer than ten answers.
    """
    spent = []
    for state in states:
        start = time.process_time()
        answer(state)
        spent.append(time.process_time() - start)
    return min(spent[1:])
