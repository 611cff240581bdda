"""`--model package.module:factory`: a residual network that no file of the project knows."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.arrays.cubes import open_run

FACTORY = """
    import os
    import uuid
    from pathlib import Path

    import torch
    from torch import nn

    from selrel.clips.profiles import Profile, View

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv3d(3, 4, 3, stride=(1, 2, 2), padding=1, bias=False)
            self.norm = nn.BatchNorm3d(4)
            self.relu = nn.ReLU(inplace=True)
            # As DataParallel begins every name.
            self.module = nn.Conv3d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 4)

        def forward(self, clips):
            x = self.relu(self.norm(self.stem(clips)))
            residual = x
            x = self.module(x)
            x += residual
            return self.head(self.relu(x).mean((2, 3, 4)))

    def make():
        Path(__file__).with_name(f"{os.getpid()}-{uuid.uuid4().hex}.made").touch()
        view = View(resize=(32, 24), crop=(24, 24), clip_length=8)
        return Small(), Profile("small", view, "RGB", 1 / 255, (0.5,) * 3, (0.25,) * 3, "classInd")
"""


@pytest.mark.slow
def test_a_model_of_the_users_own_is_explained(tiny_ucf101: Path, tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text(textwrap.dedent(FACTORY))
    checkpoint = tmp_path / "small.pth"
    code = "import torch, own_model as own; torch.save(own.make()[0].state_dict(), 'small.pth')"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=120)
    command = [sys.executable, "-m", "flows.cli", "explain", "--data", str(tiny_ucf101), "--subset", "all"]
    command += ["--checkpoint", str(checkpoint), "--root", str(tmp_path / "root"), "--workers", "2"]
    command += ["--model", "own_model:make", "--methods", "deep_taylor", "sensitivity", "--block-clips", "2"]
    for made in tmp_path.glob("*.made"):
        made.unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "root/runs").iterdir()
    cubes = open_run(str(run)).load()
    assert cubes.sizes["time"] == 8 and cubes.sizes["y"] == 24
    assert np.isfinite(cubes.deep_taylor).all() and (cubes.sensitivity >= 0).all()
    assert cubes.deep_taylor.attrs["units"] == "1"
    makers = [path.name.split("-")[0] for path in tmp_path.glob("*.made")]
    assert len(makers) == len(set(makers)) == 3, "the planner and each of two workers, once, for six blocks"
    weights = torch.load(checkpoint, weights_only=True)
    assert weights["head.weight"].shape[0] == len(cubes.output)
