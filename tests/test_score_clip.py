"""All scores of one clip, from the relevance and the flow to the rows."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from selrel.clips.camera import camera_motion
from selrel.clips.flow import farneback, grey
from selrel.scores import score_clip
from selrel.selective import PRESETS, SIGMAS, SelectiveParameters
from tests.slow_selective import slow_area_precision, slow_mask

Array = npt.NDArray[Any]
Row = dict[str, Any]
Rows = list[Row]

SHAPE = (6, 5, 7)
SCORE_COLUMNS = [
    "method",
    "sigma",
    "voxels",
    "counted_voxels",
    "moving_voxels",
    "relevant_voxels",
    "relevant_moving_voxels",
    "positive_relevance",
    "positive_relevance_moving",
    "baseline_voxels",
    "baseline_relevance",
    "precision",
    "base_rate",
    "lift",
    "weighted_precision",
    "kept_voxels",
    "kept_relevance",
    "area_precision_2",
    "area_precision_5",
    "area_precision_10",
    "area_precision_20",
    "recall",
    "object_moving_voxels",
    "object_relevant_moving_voxels",
    "object_positive_relevance_moving",
    "object_precision",
    "object_base_rate",
    "object_lift",
    "object_weighted_precision",
    "object_recall",
]
OBJECT_COUNTS = ("object_moving", "object_relevant", "object_positive")
AGREEMENT_COLUMNS = [
    "method_a",
    "method_b",
    "sigma",
    "counted_voxels",
    "a_voxels",
    "b_voxels",
    "both_voxels",
    "either_voxels",
    "agreement",
    "iou",
]


def clip(seed: int = 0) -> tuple[dict[str, Array], Array]:
    """Relevance of three methods, dense, signed and sparse, and a flow whose last frame is unknown."""
    generator = np.random.default_rng(seed)
    signed = generator.standard_t(2.5, size=(3, *SHAPE)).astype(np.float32)
    relevance = {
        "deep_taylor": np.abs(signed[0]),
        "guided_backprop": signed[1],
        "grad_cam": np.maximum(signed[2] - 1, 0),
    }
    flow = generator.normal(0, 0.5, (*SHAPE, 2)).astype(np.float32)
    flow[-1] = np.nan
    return relevance, flow


def divide(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def slow_rows(
    relevance: dict[str, Array],
    flow: Array,
    n_valid: int,
    sigmas: tuple[float, ...],
    *,
    edge: Any,
    border: Any,
    tau: float,
    camera: Array | None = None,
) -> tuple[Rows, Rows]:
    """Every row again, by loops over voxels."""
    _, height, width = flow.shape[:3]
    counted = [v for v in np.ndindex(flow.shape[:3]) if v[0] < n_valid and not any(map(math.isnan, flow[v]))]
    moves = {v for v in counted if math.hypot(*map(float, flow[v])) > tau}
    by_itself = moves if camera is None else {v for v in counted if slow_speed(flow, camera, v) > tau}
    rows, relevant = [], {}
    for method, cube in relevance.items():
        values = {v: float(cube[v]) for v in counted}
        baseline = {v for v in counted if values[v] > 0}
        for sigma in (0.0, *sigmas):
            kept = baseline
            if sigma:
                kept = baseline & slow_mask(cube.tolist(), n_valid, sigma=sigma, edge=edge, border=border)
            relevant[method, sigma] = kept
            held, held_moving = (math.fsum(values[v] for v in part) for part in (kept, kept & moves))
            whole = math.fsum(values[v] for v in baseline)
            precision = divide(len(kept & moves), len(kept))
            base_rate = divide(len(moves), len(counted))
            lift = None if precision is None or not base_rate else precision / base_rate
            scores = [n_valid * height * width, len(counted), len(moves), len(kept), len(kept & moves)]
            scores += [held, held_moving, len(baseline), whole, precision, base_rate, lift]
            scores += [divide(held_moving, held), divide(len(kept), len(baseline)), divide(held, whole)]
            ranked = [values[v] if v in kept else 0.0 for v in counted]
            scores += [
                slow_area_precision(ranked, [v in moves for v in counted], len(counted), share)
                for share in (0.02, 0.05, 0.1, 0.2)
            ]
            scores.append(divide(len(kept & moves), len(moves)))
            ours = math.fsum(values[v] for v in kept & by_itself)
            scores += [len(by_itself), len(kept & by_itself), ours]
            precision, base_rate = (
                divide(len(kept & by_itself), len(kept)),
                divide(len(by_itself), len(counted)),
            )
            lift = None if precision is None or not base_rate else precision / base_rate
            scores += [precision, base_rate, lift, divide(ours, held)]
            scores.append(divide(len(kept & by_itself), len(by_itself)))
            rows.append(dict(zip(SCORE_COLUMNS, [method, sigma, *scores], strict=True)))
    pairs = []
    for a, b in itertools.combinations(relevance, 2):
        for sigma in (0.0, *sigmas):
            in_a, in_b = relevant[a, sigma], relevant[b, sigma]
            both, either = len(in_a & in_b), len(in_a | in_b)
            values = [a, b, sigma, len(counted), len(in_a), len(in_b), both, either]
            values += [divide(both, len(counted)), divide(both, either)]
            pairs.append(dict(zip(AGREEMENT_COLUMNS, values, strict=True)))
    return rows, pairs


def slow_speed(flow: Array, camera: Array, voxel: tuple[int, ...]) -> float:
    """How fast a voxel moves when the camera's motion is taken off."""
    time, y, x = voxel
    by_camera = [m[0] * x + m[1] * y + m[2] for m in camera[time].tolist()]
    return math.hypot(*(float(f) - c for f, c in zip(flow[voxel], by_camera, strict=True)))


def test_object_motion_restated() -> None:
    relevance, flow = clip(2)
    camera = np.random.default_rng(3).normal(0, 0.2, (6, 2, 3)).astype(np.float32)
    parameters = SelectiveParameters()
    scores, _ = score_clip(relevance, flow, 5, sigmas=(1.0,), parameters=parameters, camera=camera, tau=0.6)
    settings: Row = {"edge": "magnitude", "border": "replicate", "tau": 0.6}
    expected = slow_rows(relevance, flow, 5, (1.0,), camera=camera, **settings)[0]
    assert_same(scores, expected)
    assert all(row["object_moving_voxels"] != row["moving_voxels"] for row in scores)


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 4), (1, 12), (12, 4), (6, 7), (7, 6), (7, 7)],
)
def test_frames_of_any_size_have_motion_a_camera_and_scores(height: int, width: int) -> None:
    """From pixels to rows, each as in a run; a frame may be a single pixel."""
    generator = np.random.default_rng(height * 100 + width)
    frames = generator.integers(0, 256, (6, height, width, 3), dtype=np.uint8)
    found = farneback(grey(frames))
    flow = np.concatenate([found, np.full_like(found[:1], np.nan)])
    camera = camera_motion(flow)
    assert np.isfinite(camera[:5]).all() and np.isnan(camera[5]).all()
    cube = generator.standard_t(2.5, (6, height, width)).astype(np.float32)
    scores, _ = score_clip(
        {"m": cube}, flow, 6, sigmas=(0.5, 1.0), parameters=SelectiveParameters(), camera=camera, tau=0.1
    )
    settings: Row = {"edge": "magnitude", "border": "replicate", "tau": 0.1}
    assert_same(scores, slow_rows({"m": cube}, flow, 6, (0.5, 1.0), camera=camera, **settings)[0])


def test_camera_that_moves_the_whole_frame_leaves_the_object() -> None:
    flow = np.zeros((*SHAPE, 2), np.float32)
    flow[..., 0] = 3
    flow[:, 1:3, 2:4] += 2
    marked = np.zeros(SHAPE, np.float32)
    marked[:, 1:3, 2:5] = 1
    camera = np.zeros((6, 2, 3), np.float32)
    camera[:, 0, 2] = 3
    row = score_clip({"m": marked}, flow, 6, sigmas=[2.0], parameters=PRESETS["default"], camera=camera)[0][0]
    assert (row["precision"], row["base_rate"]) == (1.0, 1.0)
    assert row["recall"] == pytest.approx(6 / 35)
    assert row["object_precision"] == pytest.approx(4 / 6)
    assert row["object_recall"] == 1.0
    assert row["object_base_rate"] == pytest.approx(4 / 35)


def assert_same(rows: Sequence[Mapping[str, Any]], expected: Rows) -> None:
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-9), name
            else:
                assert row[name] == value, name


@pytest.mark.parametrize("n_valid", [6, 4])
@pytest.mark.parametrize(("edge", "border"), [("magnitude", "replicate"), ("rising", "zero")])
def test_every_row_restated(n_valid: int, edge: Any, border: Any) -> None:
    relevance, flow = clip(1)
    parameters = SelectiveParameters(edge=edge, border=border)
    scores, agreements = score_clip(
        relevance, flow, n_valid, sigmas=(0.5, 1.0, 2.0), parameters=parameters, tau=0.6
    )
    expected = slow_rows(relevance, flow, n_valid, (0.5, 1.0, 2.0), edge=edge, border=border, tau=0.6)
    assert_same(scores, expected[0])
    assert_same(agreements, expected[1])
    assert any(row["sigma"] and row["relevant_voxels"] for row in scores)


def test_rows_hold_plain_values_in_every_column() -> None:
    relevance, flow = clip()
    scores, agreements = score_clip(relevance, flow, 6, sigmas=SIGMAS, parameters=PRESETS["default"])
    assert [sorted(row) for row in scores] == [sorted(SCORE_COLUMNS)] * 3 * 9
    assert [sorted(row) for row in agreements] == [sorted(AGREEMENT_COLUMNS)] * 3 * 9
    assert [row["sigma"] for row in scores] == [0.0, *SIGMAS] * 3
    kinds = {type(value) for row in (*scores, *agreements) for value in row.values()}
    assert kinds == {str, int, float, type(None)}


def test_the_baseline_keeps_everything_and_dense_relevance_has_the_base_rate() -> None:
    scores, _ = score_clip(*clip(), 6, sigmas=[2], parameters=PRESETS["default"])
    assert scores[0]["kept_voxels"] == scores[0]["kept_relevance"] == 1.0
    assert scores[0]["precision"] == scores[0]["base_rate"]


def test_sigmas_are_sorted_and_each_scored_once() -> None:
    given, once = (
        score_clip(*clip(), 6, sigmas=s, parameters=PRESETS["default"]) for s in ([2, 1, 2.0], [1, 2])
    )
    assert given == once


def test_the_order_of_the_methods_changes_only_the_order_of_the_rows() -> None:
    relevance, flow = clip()
    scores, _ = score_clip(relevance, flow, 6, sigmas=SIGMAS, parameters=PRESETS["default"])
    for method in relevance:
        alone, pairs = score_clip(
            {method: relevance[method]}, flow, 6, sigmas=SIGMAS, parameters=PRESETS["default"]
        )
        assert alone == [row for row in scores if row["method"] == method]
        assert pairs == []


def test_padded_frames_change_nothing() -> None:
    relevance, flow = clip()
    padded = {method: cube.copy() for method, cube in relevance.items()}
    for cube in padded.values():
        cube[4:] = np.nan
    other = flow.copy()
    other[4:] = 100
    expected = score_clip(relevance, flow, 4, sigmas=SIGMAS, parameters=PRESETS["default"])
    assert score_clip(padded, other, 4, sigmas=SIGMAS, parameters=PRESETS["default"]) == expected
    assert score_clip(relevance, flow, 5, sigmas=SIGMAS, parameters=PRESETS["default"]) != expected


def test_a_clip_whose_flow_is_unknown_has_only_nulls() -> None:
    relevance, flow = clip()
    scores, agreements = score_clip(
        relevance, np.full_like(flow, np.nan), 6, sigmas=[2.0], parameters=PRESETS["default"]
    )
    for row in scores:
        assert row["counted_voxels"] == row["relevant_voxels"] == row["object_moving_voxels"] == 0
        ratios = [name for name in SCORE_COLUMNS[11:] if not name.startswith(OBJECT_COUNTS)]
        assert all(row[name] is None for name in ratios)
    assert all(row["agreement"] is None and row["iou"] is None for row in agreements)


def test_a_selective_map_that_is_empty_keeps_nothing_and_has_no_precision() -> None:
    flow = clip()[1]
    static = {"deep_taylor": np.ones(SHAPE, np.float32)}
    baseline, selective = score_clip(static, flow, 6, sigmas=[2.0], parameters=PRESETS["default"])[0]
    assert baseline["precision"] == baseline["base_rate"]
    assert selective["kept_voxels"] == selective["kept_relevance"] == 0.0
    assert selective["precision"] is None
    assert selective["area_precision_2"] is None


def test_half_precision_flow_and_the_published_rule() -> None:
    relevance, flow = clip()
    half = flow.astype(np.float16)
    arguments = {"sigmas": SIGMAS, "parameters": PRESETS["paper"], "rule": "frame_std"}
    scores = score_clip(relevance, half, 6, **arguments)
    assert scores == score_clip(relevance, half.astype(np.float32), 6, **arguments)
    by_tau = score_clip(relevance, half, 6, sigmas=SIGMAS, parameters=PRESETS["paper"])
    assert scores[0][0]["moving_voxels"] != by_tau[0][0]["moving_voxels"]


def test_inputs_are_left_alone() -> None:
    relevance, flow = clip()
    copies = {method: cube.copy() for method, cube in relevance.items()}, flow.copy()
    for cube in (*relevance.values(), flow):
        cube.setflags(write=False)
    score_clip(relevance, flow, 6, sigmas=SIGMAS, parameters=PRESETS["default"])
    np.testing.assert_equal((relevance, flow), copies)


def test_bad_calls_are_refused_in_one_line() -> None:
    relevance, flow = clip()
    damaged = {**relevance, "grad_cam": relevance["grad_cam"].copy()}
    damaged["grad_cam"][2, 1, 1:3] = np.nan
    good = {"relevance": relevance, "flow": flow, "n_valid": 6, "sigmas": [2.0], "rule": "tau", "tau": 0.5}
    for change, message in [
        ({"sigmas": [0.0]}, "sigma is 0.0; use a number of standard deviations above 0"),
        ({"sigmas": []}, "0 sigmas given"),
        ({"n_valid": 0}, "n_valid is 0; a clip of 6 frames has 1 to 6"),
        ({"n_valid": 7}, "n_valid is 7"),
        ({"flow": flow[:5]}, "n_valid is 6"),
        ({"flow": flow[:, :4]}, "relevance of deep_taylor has shape"),
        ({"relevance": damaged}, "relevance of grad_cam has 2 values that are not finite"),
        ({"rule": "speed"}, "motion rule 'speed' is unknown"),
        ({"tau": -0.5}, "tau is -0.5"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            score_clip(**(good | change), parameters=PRESETS["default"])
        assert "\n" not in str(error.value)
