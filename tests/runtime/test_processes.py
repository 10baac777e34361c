"""Processes that torchrun starts; several are in tests/engine/test_processes.py."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
import torch

from tcl_train.errors import TrainingError
from tcl_train.runtime import processes
from tcl_train.runtime.processes import of_torchrun


def test_others_that_never_come_are_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "TIME_TO_JOIN", timedelta(seconds=1))
    said = rf"2 processes .* at 127.0.0.1:{port} within 1 s"
    with pytest.raises(TrainingError, match=said), of_torchrun():
        pass


def test_large_tensors_are_added_up_where_they_lie() -> None:
    images = torch.zeros(64, 64, 3, 3)
    last = images.to(memory_format=torch.channels_last)
    for given in (images, last):
        lying = processes._large(given)
        assert lying is not None
        assert lying.data_ptr() == given.data_ptr()
        assert lying.is_contiguous()
    assert processes._large(images[:, ::2]) is None  # with gaps
    assert processes._large(images[:2]) is None
