"""What the explain task does where a batch does not fit into memory, and where two classes are equal."""

import logging
from types import SimpleNamespace

import pytest
import torch

from selrel.engine.ties import first_highest
from selrel.explainer import Explanation
from storage.datasets.ucf101 import LABEL_ORDERS, label_index
from tasks.stages.explain import _arrays, in_batches


class Device:
    """Has room for so many clips, and notes the batches it was given."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.done: list[tuple[int, int]] = []

    def explain(self, start: int, stop: int) -> list[int]:
        if stop - start > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.done.append((start, stop))
        return list(range(start, stop))


def test_batches_cover_the_range_in_order() -> None:
    device = Device(room=8)
    assert sum(in_batches(device.explain, 3, 14, size=4), []) == list(range(3, 14))
    assert device.done == [(3, 7), (7, 11), (11, 14)]


def test_batches_are_halved_until_they_fit_and_stay_small(caplog: pytest.LogCaptureFixture) -> None:
    device = Device(room=3)
    with caplog.at_level(logging.WARNING, logger="selrel"):
        assert sum(in_batches(device.explain, 0, 13, size=8), []) == list(range(13))
    assert [stop - start for start, stop in device.done] == [2, 2, 2, 2, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "a batch of 8 clips does not fit into the device's memory: going on with 4",
        "a batch of 4 clips does not fit into the device's memory: going on with 2",
    ]


def test_a_clip_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(Device(room=0).explain, 0, 8, size=8))


@pytest.mark.parametrize("order", LABEL_ORDERS)
def test_of_two_equal_outputs_the_explained_one_is_the_prediction(order: str) -> None:
    """Also where the first by label is the other one, and where they differ by a rounding."""
    classes = ["Hammering", "HammerThrow", "Rowing"]
    outputs = label_index(classes, order)
    logits = torch.tensor([[2.0, 2.0, 1.0], [2.0, 2.0 + 2e-7, 1.0], [2.0 + 2e-7, 2.0, 1.0], [1.0, 2.0, 3.0]])
    batch = Explanation(logits, first_highest(logits), {}, torch.full((4,), torch.nan))
    profile = SimpleNamespace(label_order=order)
    model = SimpleNamespace(explainer=SimpleNamespace(profile=profile))
    job = SimpleNamespace(work=SimpleNamespace(clips=SimpleNamespace(classes=classes)), model=model)
    arrays = _arrays(job, [batch])
    assert arrays["predicted"].tolist() == arrays["target"].tolist() == [outputs.index(0)] * 3 + [2]
    assert torch.equal(torch.tensor(arrays["logits"]), logits[:, outputs])
