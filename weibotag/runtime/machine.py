"""What this machine, or the container around this process, can feed: processes, threads and memory."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

# What a process that looks at pictures takes with the default stages; networks of torch take about twice as much.
WORKER_BYTES = 1_500 * 2**20
# Of the memory that all workers may have together: the rest is for the run itself and for the system.
SHARE = 0.8
# What libraries ask for and never touch counts towards a limit of data: a gigabyte with the default stages.
RESERVED = 2**30
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NVIDIA = Path("/dev/nvidiactl")


def plan_workers(count: int | None = None, needed: int = WORKER_BYTES) -> tuple[int, int]:
    """Return (processes, threads of each): one thread per core, and fewer processes where one's `needed` bytes are short.

    Many processes of one thread do more than one of many threads: what is between the networks runs in parallel too.
    """
    cores = len(os.sched_getaffinity(0))
    if count is None:
        count = max(1, min(cores, int(SHARE * read_memory()) // needed))
    return count, max(1, cores // max(1, count))


def worker_memory(count: int) -> int:
    """Return how many bytes one of `count` workers may take before it is stopped; all of them have `SHARE` together."""
    return int(SHARE * read_memory()) // max(1, count)


def read_memory() -> int:
    """Return the bytes of memory that this machine, or the container around this process, has."""
    return min(psutil.virtual_memory().total, *read_limits())


def read_limits() -> Iterator[int]:
    """Yield the limits of the control groups (versions 1 and 2) that this process is in, and of those around them."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        lines = []
    groups = [line.split(":", 2)[1:] for line in lines if line.count(":") >= 2]
    # A container often sees its own group as the root, whatever path it is told.
    for controllers, path in [*groups, ("", "/"), ("memory", "/")]:
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (CGROUPS, "memory.max")
        place = root / path.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(root) and (limit := _read_number(folder / name)) is not None:
                yield limit
    yield sys.maxsize


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def limit_memory(most: int) -> None:
    """Have the system refuse this process more than `most` bytes of data, and what libraries reserve besides (Linux).

    Of data, not of addresses: onnxruntime, OpenCV and torch map files and reserve ranges several times the size of what they
    use. Not where there is an NVIDIA driver, which maps the GPU's memory too; what is resident is watched from outside.
    """
    if sys.platform != "linux" or NVIDIA.exists():
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most + RESERVED
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
