import shlex

import numpy as np
import pytest

from flows import cli
from selrel.models.c3d import C3D, FAMILIES
from selrel.training.fitting import Samples, initialise
from storage.checkpoints.files import write_checkpoint
from tasks.command import command
from tasks.plan import plan
from tasks.request import Request


@pytest.fixture
def checkpoint(tmp_path):
    model = C3D((1,) * 8, (2, 2), 4)
    samples = Samples(
        lambda sample, shift: np.random.default_rng(sample).integers(
            0, 256, (16, 128, 171, 3), dtype=np.uint8
        ),
        np.zeros(2, np.int64),
    )
    initialise(model, samples, profile=FAMILIES[0].profile, seed=0)
    path = tmp_path / "it's a c3d; $(touch x).pth"
    write_checkpoint(path, model.state_dict())
    return path


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"methods": ["grad_cam"], "target": "HammerThrow", "sigmas": [0.75, 3], "subset": "all"},
        {"videos": 3, "seed": 9, "preset": "paper", "motion_rule": "frame_std", "tau": 0.3},
        {"edge": "falling", "floor": 1e-5, "methods": ["deep_taylor:alpha=2", "grad_cam"]},
        {"scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "resize": [180, 130], "split": 1},
        {"resize": 120, "crop_rounding": "floor"},
        {"family": "c3d-sports1m"},
        {"subset": "all", "held_out_groups": 1, "seed": 4},
    ],
)
def test_command_leads_to_the_same_run(tiny_ucf101, checkpoint, tmp_path, monkeypatch, choices):
    root = str(tmp_path / "root")
    made = plan(Request(data=str(tiny_ucf101), checkpoint=str(checkpoint), root=root, **choices))
    line = command(root, made.description, made.dataset)
    given = {}
    monkeypatch.setattr(
        "flows.commands.explain.run_explain", lambda *lists: given.update(request=lists[0]) or 0
    )
    words = shlex.split(line)
    assert words[0] == "selrel"
    assert cli.main(words[1:]) == 0
    again = plan(given["request"])
    assert (again.run, again.dataset_id) == (made.run, made.dataset_id)


@pytest.mark.parametrize(
    ("gate", "work", "last"),
    [
        (
            {"max_drop": 0.0, "against": None},
            {"workers": 2, "scheduler": None, "insecure": False},
            "--workers 2",
        ),
        (
            {"max_drop": 0.05, "against": "s3://bucket/old/runs/a"},
            {"workers": None, "scheduler": "tcp://10.0.0.1:8786", "insecure": True},
            "--max-drop 0.05 --against s3://bucket/old/runs/a --scheduler tcp://10.0.0.1:8786 --insecure",
        ),
    ],
)
def test_command_holds_the_gate_and_the_cluster(
    tiny_ucf101, checkpoint, tmp_path, monkeypatch, gate, work, last
):
    root, given = str(tmp_path / "root"), {}
    made = plan(Request(data=str(tiny_ucf101), checkpoint=str(checkpoint), root=root))
    line = command(root, {**made.description, "gate": gate}, made.dataset, work=work)
    assert line.endswith(f" {last}")
    monkeypatch.setattr(
        "flows.commands.explain.run_explain",
        lambda request, cluster: given.update(request=request, cluster=cluster) or 0,
    )
    assert cli.main(shlex.split(line)[1:]) == 0
    assert vars(given["cluster"]) == work
    assert {name: getattr(given["request"], name) for name in gate} == gate
