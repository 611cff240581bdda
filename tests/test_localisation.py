import numpy as np
import pytest

from selrel.scores.localisation import CONTROLS, control_orders, hits_by_area, ratios, swept
from selrel.scores.truth import score_truth
from selrel.selective import SelectiveParameters, selective_mask

SIGMAS = (1.0, 2.0)
PARAMETERS = SelectiveParameters()


def blob(seed=0, shape=(6, 12, 14)):
    """Signed relevance with a bump that moves right, its mask, a flow and a picture."""
    rng = np.random.default_rng(seed)
    cube = rng.normal(0, 0.05, shape).astype(np.float32)
    mask = np.zeros(shape, bool)
    for t in range(shape[0]):
        mask[t, 4:8, t : t + 4] = True
    cube[mask] += 1
    flow = rng.normal(0, 0.2, (*shape, 2))
    flow[mask] += (1, 0)
    flow[-1] = np.nan
    luma = (100 + 50 * mask + rng.integers(0, 9, shape)).astype(np.uint8)
    return cube, mask, flow, luma


def test_ratios():
    assert ratios(8, 4, 2) == {"precision": 0.25, "recall": 0.5, "iou": 0.2}
    assert ratios(0, 4, 0) == {"precision": None, "recall": 0.0, "iou": 0.0}
    assert ratios(0, 0, 0) == {"precision": None, "recall": None, "iou": None}


def test_swept_reaches_one_frame_to_each_side():
    mask = np.zeros((4, 1, 4), bool)
    mask[1, 0, 1] = mask[2, 0, 2] = True
    assert np.argwhere(swept(mask)).tolist() == [
        [0, 0, 1],
        [1, 0, 1],
        [1, 0, 2],
        [2, 0, 1],
        [2, 0, 2],
        [3, 0, 2],
    ]


def test_hits_by_area_are_those_of_the_first_voxels():
    rng = np.random.default_rng(0)
    truth, order = rng.random((2, 3, 4)) < 0.4, rng.permutation(24)
    hits = hits_by_area(order, truth)
    assert hits.tolist() == [int(truth.ravel()[order[:k]].sum()) for k in range(25)]


def test_controls_order_by_what_they_are_named_for():
    _, _, flow, luma = blob()
    object_flow = flow - (1, 0)
    orders = control_orders(flow, object_flow, luma)
    assert tuple(orders) == CONTROLS
    assert {tuple(sorted(order.tolist())) for order in orders.values()} == {tuple(range(luma.size))}
    t, y, x = (axis[orders["centre"]] for axis in np.unravel_index(np.arange(luma.size), luma.shape))
    assert (np.diff(np.hypot(y - 5.5, x - 6.5)) >= -1e-9).all()
    for name, field in (("flow", flow), ("object_flow", object_flow)):
        length = np.linalg.norm(field.astype(np.float32), axis=-1).ravel()[orders[name]]
        known = ~np.isnan(length)
        assert known[: known.sum()].all()
        assert (np.diff(length[known]) <= 0).all()
    assert (np.diff(luma.ravel()[orders["luma"]].astype(int)) <= 0).all()
    apart = np.abs([frame - np.median(frame) for frame in luma.astype(float)])
    assert (np.diff(apart.ravel()[orders["contrast"]]) <= 0).all()
    before, after = np.roll(luma, 1, 0).astype(int), np.roll(luma, -1, 0).astype(int)
    before[0], after[-1] = luma[0], luma[-1]
    assert (np.diff(np.abs(after - before).ravel()[orders["change"]]) <= 0).all()


@pytest.fixture(scope="module")
def rows():
    cube, mask, flow, luma = blob()
    return score_truth(
        {"bump": cube, "nothing": np.zeros_like(cube)},
        {"object": mask, "moving": swept(mask)},
        control_orders(flow, flow - (1, 0), luma),
        sigmas=SIGMAS,
        parameters=PARAMETERS,
    )


def test_every_map_has_a_row(rows):
    keys = [(r["method"], r["edge"], r["sign"], r["sigma"]) for r in rows]
    assert len(keys) == len(set(keys)) == 2 * 2 * (3 * len(SIGMAS) + 1)


def test_counts_are_those_of_the_masks_themselves(rows):
    import torch

    cube, mask, flow, luma = blob()
    orders = control_orders(flow, flow - (1, 0), luma)
    for row in rows:
        if row["method"] != "bump":
            continue
        factor = 1 if row["sign"] == "positive" else -1
        chosen = factor * cube > 0
        assert row["baseline_relevance"] == pytest.approx(float((factor * cube)[chosen].sum(dtype=float)))
        if row["sigma"]:
            parameters = SelectiveParameters(edge=row["edge"], sigma=row["sigma"])
            chosen &= selective_mask(torch.from_numpy(cube), len(cube), parameters).numpy()
        assert row["chosen"] == chosen.sum()
        assert row["relevance"] == pytest.approx(float((factor * cube)[chosen].sum(dtype=float)))
        for truth, true in (("object", mask), ("moving", swept(mask))):
            assert row[f"{truth}_voxels"] == true.sum()
            assert row[f"{truth}_hits"] == (chosen & true).sum()
            assert row[f"{truth}_relevance"] == pytest.approx(
                float((factor * cube)[chosen & true].sum(dtype=float))
            )
        for control, order in orders.items():
            assert row[f"{control}_hits"] == mask.ravel()[order[: chosen.sum()]].sum()


def test_a_map_without_relevance_chooses_nothing(rows):
    for row in rows:
        if row["method"] == "nothing":
            assert (row["chosen"], row["object_hits"], row["flow_hits"]) == (0, 0, 0)


def test_a_moving_bump_is_found_better_than_by_chance(rows):
    (row,) = (
        r
        for r in rows
        if (r["method"], r["edge"], r["sign"], r["sigma"]) == ("bump", "magnitude", "positive", 1.0)
    )
    assert row["object_hits"] / row["chosen"] > 2 * row["object_voxels"] / row["voxels"]
