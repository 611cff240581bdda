"""Discriminative relevance: spatial and temporal, against frozen clips that are written out in full."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selrel.clips.profiles import bounds
from selrel.engine import Forward, trace
from selrel.engine.frozen import frozen
from selrel.explain import deep_taylor, discriminative
from selrel.models import families, recognise
from tests.published_models import CASES, random_clips, random_state

KINDS = ("r3d_18", "resnet3d-50B-2020")


def kind(name: str) -> tuple[Any, tuple[int, int, int], Tensor, Tensor]:
    """A narrow model of a published kind, in float64, the size of its clips and the bounds of a pixel."""
    family, shapes, _, size = CASES[name]
    low, high = (bound.double() for bound in bounds(families()[family][0].profile))
    return recognise(random_state(shapes, seed=2), family=family).model.double(), size, low, high


@pytest.fixture(
    scope="module",
    params=[*(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS), "side by side", "overlapping"],
)
def traced(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    """A model's graph, and three clips."""
    if request.param not in KINDS:
        graph = small(torch.float64, overlapping=request.param == "overlapping")
        return graph, clips_of(3, torch.float64)
    model, size, low, high = kind(request.param)
    clips = random_clips(3, (3, *size), low=low.float(), high=high.float(), seed=1).double()
    return trace(model, (3, *size), low=low, high=high), clips


def test_what_differs_along_time_is_all_there_is(traced: tuple[Any, Tensor]) -> None:
    graph, clips = traced
    frames = clips[:, :, 5:6]
    whole = Forward(graph, frames.expand_as(clips).contiguous())
    short = Forward(frozen(graph), frames)
    torch.testing.assert_close(short.logits, whole.logits, rtol=1e-9, atol=1e-9)
    targets = torch.tensor([0, 2, 1])
    for alpha in (1.0, 2.0):
        expected = deep_taylor.explain(whole, targets, alpha=alpha).sum(dim=1, keepdim=True)
        found = deep_taylor.explain(short, targets, alpha=alpha)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_the_restated_formula(traced: tuple[Any, Tensor]) -> None:
    """Every frame's frozen clip in full, one by one."""
    graph, clips = traced
    clips, targets = clips[:1], torch.tensor([2])
    forward = Forward(graph, clips)
    temporal = discriminative.explain(forward, targets)
    beside = discriminative.beside(forward, targets)
    for clip, target, found, spatial, logits in zip(
        clips,
        targets,
        temporal,
        beside["spatial"],
        beside["frames"],
        strict=True,
    ):
        own = Forward(graph, clip[None])
        relevance = deep_taylor.explain(own, target[None], start="logit")[0]
        for f in range(clip.shape[1]):
            stopped = Forward(graph, clip[None, :, f : f + 1].expand(1, *clip.shape).contiguous())
            of_frame = deep_taylor.explain(stopped, target[None], start="logit")[0].mean(dim=0)
            largest = float(relevance.abs().max())
            torch.testing.assert_close(spatial[f], of_frame, rtol=1e-6, atol=1e-8 * largest)
            torch.testing.assert_close(found[f], relevance[f] - of_frame, rtol=1e-6, atol=1e-8 * largest)
            torch.testing.assert_close(logits[f], stopped.logits[0], rtol=1e-9, atol=1e-9)


class Small(nn.Module):
    """A narrow 3D CNN without biases, in which no relevance is lost; `overlapping` pools as I3D does."""

    def __init__(self, *, overlapping: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        pool = nn.MaxPool3d(3, 2, 1) if overlapping else nn.MaxPool3d(2)
        self.body = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(8, 8, 3, padding=1, bias=False), nn.ReLU(), pool,
            nn.Conv3d(8, 8, (3, 1, 1), stride=(2, 1, 1), bias=False), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(8 * 3 * 4 * 4, 5, bias=False)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(clips).flatten(1))
        return logits


def small(dtype: torch.dtype = torch.float32, *, overlapping: bool = False) -> Any:
    bound = torch.ones(3, dtype=dtype)
    return trace(Small(overlapping=overlapping).to(dtype), (3, 16, 16, 16), low=-bound, high=bound)


def clips_of(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand((n, 3, 16, 16, 16), generator=torch.Generator().manual_seed(7), dtype=dtype) * 2 - 1


def test_temporal_relevance_adds_up_to_what_stopping_takes_away() -> None:
    forward = Forward(small(), clips_of(4))
    targets = forward.logits.argmax(dim=1)
    temporal = discriminative.explain(forward, targets)
    said = discriminative.beside(forward, targets)["frames"]
    of_target = said.gather(2, targets[:, None, None].expand(-1, 16, 1))[..., 0]
    taken = forward.logits.gather(1, targets[:, None])[:, 0] - of_target.mean(dim=1)
    torch.testing.assert_close(
        temporal.sum((1, 2, 3)), taken, rtol=1e-4, atol=1e-4 * float(taken.abs().max())
    )


def test_a_frozen_clip_has_no_temporal_relevance_but_at_its_ends() -> None:
    """Padding gives the frames at either end other relevance; all together there is none."""
    clips = clips_of(2)[:, :, :1].expand(-1, -1, 16, -1, -1).contiguous()
    forward = Forward(small(), clips)
    targets = forward.logits.argmax(dim=1)
    temporal, spatial = (
        discriminative.explain(forward, targets),
        discriminative.beside(forward, targets)["spatial"],
    )
    assert temporal.sum((1, 2, 3)).abs().max() < 1e-4 * spatial.sum((1, 2, 3)).abs().max()
    assert (spatial - spatial[:, :1]).abs().max() < 1e-4 * spatial.abs().max()


def test_a_batch_is_its_clips_one_by_one() -> None:
    graph, clips, targets = small(), clips_of(3), torch.tensor([1, 4, 0])
    together = discriminative.explain(Forward(graph, clips), targets)
    for clip, target, found in zip(clips, targets, together, strict=True):
        alone = discriminative.explain(Forward(graph, clip[None]), target[None])[0]
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


def test_the_authors_variant_takes_the_first_slice_and_divides_by_the_largest() -> None:
    graph = small(torch.float64)
    forward, targets = Forward(graph, clips_of(1, torch.float64)), torch.tensor([1])
    temporal = discriminative.explain(forward, targets, variant="authors")
    spatial = torch.stack(
        [
            deep_taylor.explain(
                Forward(graph, forward.clips[:, :, f : f + 1].expand(-1, -1, 16, -1, -1).contiguous()),
                targets,
                start="logit",
            )[:, 0]
            for f in range(16)
        ],
        dim=1,
    )
    relevance = deep_taylor.explain(forward, targets, start="logit")
    expected = relevance / relevance.abs().max() - spatial / spatial.abs().max()
    torch.testing.assert_close(temporal, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="unknown variant 'median'; allowed: mean, authors"):
        discriminative.explain(forward, targets, variant="median")


def test_the_model_and_its_graph_stay_as_they_are() -> None:
    graph = small()
    before = copy.copy(graph.nodes)
    first = Forward(graph, clips_of(1)).logits
    discriminative.explain(Forward(graph, clips_of(1)), torch.tensor([0]))
    assert graph.nodes == before and torch.equal(Forward(graph, clips_of(1)).logits, first)
