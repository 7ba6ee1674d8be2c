"""What a result says of the machine, and how calls are timed."""

import time
from importlib.metadata import version

import pytest

from mobilebert_hf.machine import CPUS, WARM_UP, describe_machine, describe_version, time_interleaved


def test_a_result_says_what_small_types_can_use():
    flags = [line for line in CPUS.read_text().splitlines() if line.startswith("flags")] if CPUS.exists() else []
    if not flags:
        pytest.skip("Linux on x86 alone says so elsewhere")
    known = {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni"}
    assert known & set(describe_machine()["instructions"]) == known & set(flags[0].split())


def test_a_clone_without_git_has_a_version(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_version.__wrapped__() == f"mobilebert-hf {version('mobilebert-hf')}"


def test_a_call_is_timed_when_what_came_before_has_come_to_rest(monkeypatch):
    began = {"short": [], "long": []}
    now = 5.0
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: now)

    def call(name, seconds):
        nonlocal now
        began[name].append(now)
        now += seconds

    calls = {"short": lambda: call("short", 0.01), "long": lambda: call("long", 2 * WARM_UP)}
    times = time_interleaved(calls, seconds=0.0)
    assert {name: len(found) for name, found in times.items()} == {"short": 3, "long": 3}
    assert times["short"] == pytest.approx([10] * 3)
    assert times["long"] == pytest.approx([2e3 * WARM_UP] * 3)
    for stamps in began.values():
        assert stamps[-3] - stamps[1] >= WARM_UP
    assert len(began["long"]) == 5, "one that takes long is at rest after one call"
    assert len(began["short"]) > 5
