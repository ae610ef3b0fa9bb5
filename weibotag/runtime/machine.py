"""How many processes, and how many threads each, this machine can feed."""

import os
from pathlib import Path

import psutil

# What a process that looks at pictures takes with the default stages; networks of torch take about twice as much.
WORKER_BYTES = 1_500 * 2**20
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# A worker that takes more than its share of the memory by so much runs away.
GENEROUS = 2.0


def plan_workers(count: int | None = None) -> tuple[int, int]:
    """Return (processes, threads of each): one thread per core, and fewer processes where memory is short.

    Many processes of one thread do more than one of many threads: what is between the networks runs in parallel too.
    """
    cores = len(os.sched_getaffinity(0))
    if count is None:
        count = max(1, min(cores, read_memory() // WORKER_BYTES))
    return count, max(1, cores // max(1, count))


def worker_memory(count: int) -> int:
    """Return how many bytes one of `count` workers may take before it is stopped."""
    return int(min(0.9, GENEROUS / max(1, count)) * read_memory())


def read_memory() -> int:
    """Return the bytes of memory that this machine, or the container around this process, has."""
    total = psutil.virtual_memory().total
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
