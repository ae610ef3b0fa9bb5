"""How many processes and threads this machine can feed."""

import os

import pytest

from weibotag.runtime import pool


@pytest.mark.parametrize(
    ("cores", "gigabytes", "count", "planned"),
    [
        (2, 24, None, (2, 1)),
        (16, 128, None, (16, 1)),
        (16, 8, None, (5, 3)),
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
    monkeypatch.setattr(pool, "read_memory", lambda: gigabytes * 2**30)
    assert pool.plan_workers(count) == planned


def test_workers_together_may_not_take_all_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "read_memory", lambda: 100)
    assert pool.worker_memory(1) == 90
    assert pool.worker_memory(10) == 20
    assert pool.worker_memory(0) == 90


def test_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    total = pool.read_memory()
    limit = pool.CGROUP_LIMIT.__class__(str(tmp_path)) / "memory.max"
    monkeypatch.setattr(pool, "CGROUP_LIMIT", limit)
    limit.write_text("max\n")
    assert pool.read_memory() >= total
    limit.write_text(f"{2**28}\n")
    assert pool.read_memory() == 2**28
