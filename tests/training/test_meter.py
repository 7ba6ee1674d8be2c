import time

import pytest
import torch

from mobilebert_hf.training.meter import Meter


def read(meter, step, work=float, last=10):
    return meter.read(step, work, last, reduce=lambda tensor: tensor)


def test_terms_are_sums_over_a_steps_batches_and_means_over_the_steps_that_have_them():
    meter = Meter()
    for step in range(3):
        meter.begin_step(step, torch.tensor(100))
        for _ in range(2):
            meter.record(step, {"always": torch.tensor(step + 1.0)})
        if step == 2:
            meter.record(step, {"once": torch.tensor(7.0)})
    assert {name: value.item() for name, value in meter.at(2).items()} == {"always": 6.0, "once": 7.0}
    values = read(meter, 3)
    assert (values["always"], values["once"]) == (4.0, 7.0)
    assert read(meter, 3) == {}, "it starts anew"


def test_speed_and_time_left_follow_the_clock_without_pauses(monkeypatch):
    now = 5.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter()
    meter.begin_step(0, torch.tensor(300))
    now += 0.1
    with meter.paused():
        now += 0.4
    meter.begin_step(1, torch.tensor(200))
    meter.record(1, {"loss": torch.tensor(1.0)})
    # The two steps done cost 2 units, the eight to come 5 each.
    values = read(meter, 2, work=lambda steps: min(steps, 2) + 5 * max(steps - 2, 0))
    assert values["tokens_per_second"] == pytest.approx(500 / 0.1)
    assert values["hours_left"] == pytest.approx(0.1 / 2 * 40 / 3600)
