"""Rounding cubes to float16 in the store moves no table entry by 0.05 points, no interval by 1 % of it."""

import cv2
import numpy as np
import pytest

from selrel.models import recognise
from storage.checkpoints.files import read_checkpoint
from tests.benchmarks.storage import explained
from tests.rounding import changes, rounded, tables_of

POINTS = 0.05


def made_cubes(n_clips=6, size=56):
    """Cubes like those of the methods: heavy tails around a moving blob, ReLU zeros, an upsampled map."""
    random = np.random.default_rng(0)
    shape = (n_clips, 16, size, size)
    blob = np.stack([moving_blob(size, random) for _ in range(n_clips)])
    dense = (
        np.maximum(random.normal(size=shape), 0) ** 3
        * blob
        * 10.0 ** random.uniform(-9, 3, (n_clips, 1, 1, 1))
    )
    signed = random.standard_cauchy(shape) * blob
    maps = np.maximum(random.normal(size=(n_clips, 2, 4, 4)), 0).repeat(8, axis=1)
    upsampled = np.stack(
        [[cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in clip] for clip in maps]
    )
    cubes = {"deep_taylor": dense, "guided_backprop": signed, "grad_cam": upsampled}
    return {name: cube.astype(np.float32) for name, cube in cubes.items()}


def moving_blob(size, random):
    y, x = np.mgrid[:size, :size]
    centres = random.uniform(10, size - 10, 2) + np.arange(16)[:, None] * random.uniform(-1, 1, 2)
    return np.exp([-((y - cy) ** 2 + (x - cx) ** 2) / 150 for cy, cx in centres])


def check(cubes, flow, **groups):
    before, after = tables_of(cubes, flow, **groups), tables_of(rounded(cubes), flow, **groups)
    found = dict(changes(before, after))
    assert len(found) > 200
    # A thing compared with itself would pass, too.
    assert max(found.values()) > 0
    worst = max(found, key=found.__getitem__)
    assert found[worst] < POINTS, worst


def test_no_table_entry_of_made_cubes_moves():
    cubes = made_cubes()
    flow = np.random.default_rng(1).normal(0, 0.5, (*cubes["deep_taylor"].shape, 2)).astype(np.float16)
    check(cubes, flow, n_groups=6)


@pytest.mark.slow
def test_no_table_entry_of_real_clips_moves(shared_data):
    checkpoint = read_checkpoint(shared_data / "checkpoints" / "C3D_mini_epoch-19.pth.tar")
    check(*explained(str(shared_data / "ucf101-mini"), recognise(checkpoint.state), 8))
