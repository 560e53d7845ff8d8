"""Devices: who gets which, and who waits."""

import threading
import time

import pytest

from pipeline.flows.devices import Devices, find_gpus


def test_ids_given_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_gpus("GPU-8a, 1,1") == ["GPU-8a", "1"]
    assert find_gpus("cpu") == find_gpus("") == []
    assert find_gpus("0,-1,1") == ["0"], "CUDA sees none behind an invalid id"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,MIG-1")
    assert find_gpus() == ["3", "MIG-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert find_gpus() == [], "without nvidia-smi there is no GPU"


def test_a_device_has_one_stage_at_a_time_and_comes_back() -> None:
    devices = Devices(["0", "1"], cpu_slots=1)
    taken = threading.Event()
    with devices.lease(True, lambda: False) as one, devices.lease(True, lambda: False) as two:
        assert {one, two} == {"0", "1"}
        with devices.lease(True, lambda: True) as none, devices.lease(False, lambda: False) as cpu:
            assert none is None and cpu == ""
        waiting = threading.Thread(target=lambda: _take(devices, taken))
        waiting.start()
        assert not taken.wait(0.5), "both are taken"
    waiting.join(10)
    assert taken.is_set()


def test_without_a_gpu_its_stages_run_one_at_a_time() -> None:
    devices = Devices([], cpu_slots=1)
    taken = threading.Event()
    with devices.lease(True, lambda: False) as device:
        assert device == ""
        waiting = threading.Thread(target=lambda: _take(devices, taken))
        waiting.start()
        assert not taken.wait(0.5)
    waiting.join(10)
    assert taken.is_set()


@pytest.mark.parametrize("gpu", [True, False])
def test_a_turn_that_comes_free_by_a_cancellation_is_not_taken(gpu: bool) -> None:
    devices, cancelled, got = Devices([], cpu_slots=1), threading.Event(), []

    def wait() -> None:
        with devices.lease(gpu, cancelled.is_set) as device:
            got.append(device)

    with devices.lease(gpu, lambda: False):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.05)
        cancelled.set()
    waiting.join(10)
    assert got == [None]
    with devices.lease(gpu, lambda: False) as device:
        assert device == "", "it was given back"


def _take(devices: Devices, taken: threading.Event) -> None:
    with devices.lease(True, lambda: False):
        taken.set()
