"""Work done ahead, in a thread: what waits for files or lets go of the interpreter overlaps with what follows."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
END = object()


def work_ahead(items: Iterable[Item], depth: int = 1) -> Iterator[Item]:
    """Give the items of an iterable while a thread makes up to `depth` further ones; an error comes where it was made."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Item | object]] = [pool.submit(next, source, END) for _ in range(depth + 1)]
        while True:
            item = waiting.pop(0).result()
            if item is END:
                return
            waiting.append(pool.submit(next, source, END))
            yield item  # type: ignore[misc]
