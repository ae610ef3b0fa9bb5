"""How many processes and threads this machine can feed."""

import os
from pathlib import Path

import psutil
import pytest

from weibotag.runtime import machine


@pytest.mark.parametrize(
    ("cores", "gigabytes", "count", "planned"),
    [
        (2, 24, None, (2, 1)),
        (16, 128, None, (16, 1)),
        (16, 8, None, (4, 4)),
        (4, 1, None, (1, 4)),
        (8, 64, 2, (2, 4)),
        (8, 64, 0, (0, 8)),
        (2, 64, 6, (6, 1)),
    ],
)
def test_a_process_per_core_and_fewer_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: int, count: int | None, planned: tuple[int, int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(machine, "read_memory", lambda: gigabytes * 2**30)
    assert machine.plan_workers(count) == planned


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_workers_together_may_not_take_all_the_memory(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(machine, "read_memory", lambda: 16 * 2**30)
    assert machine.worker_memory(count) * max(1, count) <= machine.SHARE * 16 * 2**30 < 16 * 2**30


def test_planned_workers_have_room_for_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for gigabytes in (4, 8, 100):
        monkeypatch.setattr(machine, "read_memory", lambda has=gigabytes: has * 2**30)
        for needed in (machine.WORKER_BYTES, 2 * machine.WORKER_BYTES):
            assert machine.worker_memory(machine.plan_workers(None, needed)[0]) >= needed


GROUPS = {
    "version 2, own group as root": ("0::/\n", {"memory.max": "1000"}, 1000),
    "version 2, a limit around the group": (
        "0::/a/b\n",
        {"memory.max": "max", "a/memory.max": "900", "a/b/memory.max": "max"},
        900,
    ),
    "version 2, the lower of two": ("0::/a\n", {"memory.max": "800", "a/memory.max": "700"}, 700),
    "version 1": ("4:cpu:/x\n5:memory:/x\n", {"memory/x/memory.limit_in_bytes": "600"}, 600),
    "version 1, with others": ("5:cpu,memory:/x\n", {"memory/x/memory.limit_in_bytes": "500"}, 500),
    "version 1, a path of the host": ("5:memory:/docker/1f\n", {"memory/memory.limit_in_bytes": "400"}, 400),
    "version 1, no limit": ("5:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    "both": ("0::/\n5:memory:/\n", {"memory.max": "300", "memory/memory.limit_in_bytes": "200"}, 200),
    "nothing is said": (None, {}, None),
    "nonsense": ("x\n::\n1:memory\n", {"memory.max": "much"}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_limits_of_a_container_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    membership, files, expected = GROUPS[name]
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    for place, text in files.items():
        (tmp_path / "cgroup" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / place).write_text(text + "\n")
    assert machine.read_memory() == (expected or psutil.virtual_memory().total)
