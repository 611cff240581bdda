"""Tables over clips: group sums that merge, Tables 1 to 4, the sweep and the motion share."""

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selrel.scores import aggregate, score_clip
from selrel.scores.cells import Cells, score_cells
from selrel.scores.intervals import mean_interval, no_interval
from selrel.scores.metrics import tables
from selrel.scores.overhead import overhead
from selrel.scores.precision import NO_LIFT
from selrel.scores.selectivity import motion_share
from selrel.scores.sums import GroupSums, group_sums, merge
from selrel.selective import PRESETS

Row = dict[str, Any]
Rows = list[Row]
Columns = Mapping[str, npt.NDArray[Any]]
Clip = tuple[float | None, str, int]

table1, table2, table3, sweep, object_motion = (
    functools.partial(aggregate.build, tables()[name])
    for name in ("table1", "table2", "table3", "sweep", "object_motion")
)

METHODS = ("deep_taylor", "grad_cam")
SIGMAS = (1.0, 2.0)


def labelled(rows: Sequence[Mapping[str, Any]], clip: int) -> Rows:
    """Rows of one clip with the labels that a task gives them."""
    class_name = ("Archery", "YoYo", "Punch")[clip % 3]
    labels = {"clip": clip, "class": class_name, "group": f"{class_name}/g{clip % 12 // 3:02}"}
    return [labels | row for row in rows]


@functools.cache
def scored(seed: int = 0, n_clips: int = 36) -> tuple[Rows, Rows]:
    """Score and agreement rows of clips, one of them without known flow, some without relevance."""
    generator = np.random.default_rng(seed)
    all_scores, all_agreements = [], []
    for clip in range(n_clips):
        shape = (4, 6, 6)
        relevance = {
            "deep_taylor": generator.random(shape).astype(np.float32),
            "grad_cam": np.maximum(generator.normal(size=shape) - 1, 0).astype(np.float32),
        }
        if clip % 5 == 0:
            relevance["grad_cam"][:] = 0
        flow = generator.normal(0, 0.1 + 0.05 * (clip % 12), (*shape, 2)).astype(np.float32)
        if clip == 7:
            flow[:] = np.nan
        camera = generator.normal(0, 0.1, (4, 2, 3)).astype(np.float32)
        of_scores, of_agreements = score_clip(
            relevance, flow, 4, sigmas=SIGMAS, parameters=PRESETS["default"], camera=camera, tau=0.2
        )
        all_scores += labelled(of_scores, clip)
        all_agreements += labelled(of_agreements, clip)
    return all_scores, all_agreements


def columns(rows: Rows) -> Columns:
    """As a parquet reader gives them: null is NaN, strings are objects."""
    return {
        name: np.array(
            [math.nan if row[name] is None else row[name] for row in rows],
            object if isinstance(rows[0][name], str) else float,
        )
        for name in rows[0]
    }


def cells(rows: Rows) -> Cells:
    return score_cells([columns(rows)], pairs="method" not in rows[0])


def scores() -> Rows:
    return scored()[0]


def agreements() -> Rows:
    return scored()[1]


def chosen(rows: Rows, **labels: object) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in labels.items() if value)]


def assert_summary(row: Row, rows: Rows, score: str, prefix: str = "") -> None:
    """Mean, deviation and interval of a table row, restated from the clips' rows."""
    values = [clip[score] for clip in rows if clip[score] is not None]
    groups = np.array([clip["group"] for clip in rows if clip[score] is not None])
    name = (lambda statistic: f"{prefix}_{statistic}") if prefix else str
    if not values:
        assert [row[name(n)] for n in ("mean", "std", "low", "high")] == [None] * 4
        return
    assert row[name("mean")] == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert row[name("std")] == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-12)
    assert row[name("low")] <= row[name("mean")] <= row[name("high")]
    if len(values) == len(rows):
        interval = mean_interval(np.array(values), groups, of="share")
        assert (row[name("low")], row[name("high")]) == pytest.approx(interval, rel=1e-12)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e3, 1e3)),
            st.sampled_from("abcd"),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_partial_sums_merge_to_the_whole(clips: list[Clip]) -> None:
    def sums(part: list[Clip]) -> GroupSums:
        return group_sums(np.array([v for v, _, _ in part], object), np.array([g for _, g, _ in part]))

    parts = [[clip for clip in clips if clip[2] == block] for block in range(3)]
    merged, whole = merge(sums(part) for part in parts if part), sums(clips)
    assert merged.groups.tolist() == whole.groups.tolist() == sorted({g for _, g, _ in clips})
    assert merged.n.tolist() == whole.n.tolist()
    assert merged.n_null.tolist() == whole.n_null.tolist()
    np.testing.assert_allclose(merged.total, whole.total, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-9, atol=1e-6)

    values = [v for v, _, _ in clips if v is not None]
    assert int(merged.n_null.sum()) == len(clips) - len(values)
    assert merged.mean == (pytest.approx(statistics.fmean(values), abs=1e-9) if values else None)
    expected = statistics.stdev(values) if len(values) > 1 else None
    assert merged.std == (None if expected is None else pytest.approx(expected, rel=1e-9, abs=1e-6))


def test_the_deviation_of_equal_values_is_zero() -> None:
    assert group_sums(np.full(1000, 0.1), np.arange(1000) % 7).std == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("class_name", [None, "Archery", "YoYo", "Punch"])
@pytest.mark.parametrize("method", METHODS)
def test_table_1_restated(class_name: str | None, method: str) -> None:
    for sigma in (0.0, 2.0):
        rows = [
            row
            for row in table1(cells(scores()))
            if (row["class"], row["method"], row["sigma"]) == (class_name, method, sigma)
        ]
        assert len(rows) == 1
        row = rows[0]
        clips = [
            clip
            for clip in chosen(scores(), method=method, **{"class": class_name})
            if clip["sigma"] == sigma
        ]
        assert_summary(row, clips, "precision")
        with_precision = [clip for clip in clips if clip["precision"] is not None]
        assert row["n_clips"] == len(with_precision)
        assert row["n_uncounted"] == sum(clip["counted_voxels"] == 0 for clip in clips)
        nothing_relevant = [c for c in clips if c["counted_voxels"] and not c["relevant_voxels"]]
        assert row["n_empty"] == len(nothing_relevant)
        assert row["n_clips"] + row["n_empty"] + row["n_uncounted"] == len(clips)
        base_rate = statistics.fmean(clip["base_rate"] for clip in with_precision)
        assert row["base_rate"] == pytest.approx(base_rate)
        assert row["lift"] == pytest.approx(row["mean"] / base_rate)
        assert row["lift_low"] <= row["lift"] <= row["lift_high"]
        for score in [name for name in clips[0] if name.startswith("area_precision")]:
            counter = score.replace("precision", "clips")
            values = [clip[score] for clip in clips if clip[score] is not None]
            assert row[score] == (pytest.approx(statistics.fmean(values)) if values else None)
            assert row[counter] == len(values)
        weighted = statistics.fmean(clip["weighted_precision"] for clip in with_precision)
        assert row["weighted_precision"] == pytest.approx(weighted)


def test_the_trial_clips_have_empty_and_uncounted_ones() -> None:
    overall = {(row["method"], row["sigma"]): row for row in table1(cells(scores()))[:4]}
    assert overall["grad_cam", 0.0]["n_empty"] == 8
    assert {row["n_uncounted"] for row in overall.values()} == {1}


def test_a_dense_baseline_has_lift_one_and_an_interval_of_no_width() -> None:
    row = table1(cells(scores()))[0]
    assert (row["method"], row["sigma"]) == ("deep_taylor", 0.0)
    assert [row["lift"], row["lift_low"], row["lift_high"]] == pytest.approx([1, 1, 1])
    assert row["low"] < row["high"]


def test_rows_come_overall_first_then_by_class_in_order() -> None:
    rows = table1(cells(scores()))
    labels = [(row["class"], row["method"], row["sigma"]) for row in rows]
    expected = [
        (class_name, method, sigma)
        for class_name in (None, "Archery", "Punch", "YoYo")
        for method in METHODS
        for sigma in (0.0, 2.0)
    ]
    assert labels == expected
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, type(None)}


@pytest.mark.parametrize("class_name", [None, "Punch"])
def test_table_2_restated(class_name: str | None) -> None:
    rows = [row for row in table2(cells(agreements())) if row["class"] == class_name]
    assert [(r["method_a"], r["method_b"], r["sigma"]) for r in rows] == [(*METHODS, 0.0), (*METHODS, 2.0)]
    for row in rows:
        clips = [c for c in chosen(agreements(), **{"class": class_name}) if c["sigma"] == row["sigma"]]
        assert_summary(row, clips, "agreement")
        assert_summary(row, clips, "iou", prefix="iou")
        assert row["n_uncounted"] == sum(clip["counted_voxels"] == 0 for clip in clips)
        assert row["n_clips"] == len(clips) - row["n_uncounted"]
        without_union = sum(clip["iou"] is None for clip in clips)
        assert row["n_empty"] == without_union - row["n_uncounted"]


@pytest.mark.parametrize("class_name", [None, "YoYo"])
@pytest.mark.parametrize("method", METHODS)
def test_table_3_restated(class_name: str | None, method: str) -> None:
    rows = table3(cells(scores()), sigma=1.0)
    assert {row["sigma"] for row in rows} == {1.0}
    (row,) = (r for r in rows if (r["class"], r["method"]) == (class_name, method))
    clips = chosen(scores(), method=method, sigma=1.0, **{"class": class_name})
    assert_summary(row, clips, "kept_voxels", prefix="voxels")
    assert_summary(row, clips, "kept_relevance", prefix="relevance")
    counted = [clip for clip in clips if clip["counted_voxels"]]
    assert row["n_clips"] == sum(clip["baseline_voxels"] > 0 for clip in counted)
    assert row["n_empty"] == sum(clip["baseline_voxels"] == 0 for clip in counted)
    assert row["n_uncounted"] == len(clips) - len(counted)


def test_object_motion_restated() -> None:
    rows = object_motion(cells(scores()))
    assert len(rows) == (1 + 3) * 2 * 2
    for row in rows:
        clips = chosen(scores(), method=row["method"], **{"class": row["class"]})
        clips = [clip for clip in clips if clip["sigma"] == row["sigma"]]
        for kind in ("", "object_"):
            for score in (f"{kind}precision", f"{kind}recall"):
                values = [clip[score] for clip in clips if clip[score] is not None]
                assert row[score] == pytest.approx(statistics.fmean(values))
                assert row[f"{score}_low"] - 1e-12 <= row[score] <= row[f"{score}_high"] + 1e-12
            with_precision = [clip for clip in clips if clip["precision"] is not None]
            base_rate = statistics.fmean(clip[f"{kind}base_rate"] for clip in with_precision)
            assert row[f"{kind}base_rate"] == pytest.approx(base_rate)
            assert row[f"{kind}lift"] == pytest.approx(row[f"{kind}precision"] / base_rate)
            assert row[f"{kind}n_moving"] == sum(clip[f"{kind}recall"] is not None for clip in clips)
        assert row["n_clips"] == sum(clip["precision"] is not None for clip in clips)
        assert row["object_precision"] != row["precision"]


def test_the_sweep_restated() -> None:
    rows = sweep(cells(scores()))
    assert len(rows) == (1 + 3) * 2 * 3
    for row in rows:
        clips = chosen(scores(), method=row["method"], **{"class": row["class"]})
        clips = [clip for clip in clips if clip["sigma"] == row["sigma"]]
        for score in ("precision", "kept_voxels", "kept_relevance"):
            values = [clip[score] for clip in clips if clip[score] is not None]
            assert row[score] == pytest.approx(statistics.fmean(values))
            assert row[f"{score}_low"] <= row[score] + 1e-12
            assert row[f"{score}_high"] >= row[score] - 1e-12
        counted = [clip for clip in clips if clip["counted_voxels"]]
        empty = [clip for clip in counted if not clip["relevant_voxels"]]
        assert row["empty_share"] == len(empty) / len(counted)
        assert row["n_clips"] == len(counted) - len(empty)
        assert row["lift"] == pytest.approx(row["precision"] / row["base_rate"])


def test_the_sweep_agrees_with_the_tables() -> None:
    by_label = {(r["class"], r["method"], r["sigma"]): r for r in sweep(cells(scores()))}
    for row in table1(cells(scores())):
        other = by_label[row["class"], row["method"], row["sigma"]]
        assert (row["mean"], row["low"], row["lift"], row["n_empty"]) == (
            other["precision"],
            other["precision_low"],
            other["lift"],
            other["n_empty"],
        )


def test_the_motion_share_is_table_3s_relevance_of_deep_taylor() -> None:
    share = motion_share(cells(scores()))
    (row,) = (r for r in table3(cells(scores())) if (r["class"], r["method"]) == (None, "deep_taylor"))
    assert {n: share[n] for n in ("mean", "std", "low", "high")} == {
        n: row[f"relevance_{n}"] for n in ("mean", "std", "low", "high")
    }
    assert (share["method"], share["sigma"]) == ("deep_taylor", 2.0)
    assert share["n_clips"] == 35
    assert 0 < share["mean"] < 1


def test_the_order_of_the_rows_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(scores()))
    shuffled = [scores()[i] for i in order]
    for build in (table1, table3, sweep):
        for row, other in zip(build(cells(scores())), build(cells(shuffled)), strict=True):
            assert list(row) == list(other)
            for name, value in row.items():
                expected = pytest.approx(other[name], rel=1e-12) if isinstance(value, float) else other[name]
                assert value == expected, name


@pytest.mark.parametrize("n_batches", [2, 7, 36])
@pytest.mark.parametrize("build", [table1, table2, table3, sweep, object_motion])
def test_any_split_into_batches_gives_the_same_rows(build: Callable[..., Rows], n_batches: int) -> None:
    # A group that is in several classes, too; and batches in which a score is null throughout.
    rows = [row | {"group": row["group"].partition("/")[2]} for row in scored()[build is table2]]
    batch_of = np.random.default_rng(n_batches).integers(0, n_batches, 36)
    parts = [[row for row in rows if batch_of[row["clip"]] == batch] for batch in range(n_batches)]
    reduce = functools.partial(score_cells, pairs=build is table2)
    whole, split = build(reduce([columns(rows)])), build(reduce(columns(p) for p in parts if p))
    assert len(whole) == len(split) > 0
    for row, other in zip(split, whole, strict=True):
        assert list(row) == list(other)
        assert row == {name: near(value) for name, value in other.items()}


def near(value: object) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-14) if isinstance(value, float) else value


def test_a_group_in_several_classes_is_one_group_over_all_of_them() -> None:
    rows = [row | {"group": "g00"} for row in scores()]
    overall = table1(cells(rows))[0]
    assert overall["n_clips"] == 35
    assert [overall["low"], overall["high"]] == [None, None]


def test_what_is_held_does_not_grow_with_the_clips() -> None:
    batches = [columns(scores())] * 5
    few, many = score_cells(batches[:1]), score_cells(iter(batches))
    assert len(few.labels["cell"]) == len(many.labels["cell"]) == 12 * len(METHODS) * 3
    assert [row["n_clips"] for row in table1(many)] == [5 * row["n_clips"] for row in table1(few)]


@pytest.mark.parametrize("n_groups", [1, 2])
def test_few_groups_have_a_mean_no_interval_and_the_reason(n_groups: int) -> None:
    rows = [row for row in scores() if row["group"] in ("YoYo/g01", "YoYo/g02")[:n_groups]]
    row = table1(cells(rows))[0]
    assert row["n_clips"] > 1
    assert row["mean"] is not None
    assert [row[name] for name in ("low", "high", "lift_low", "lift_high")] == [None] * 4
    for build in (table1, table3, sweep, object_motion):
        reasons = {row["no_interval"] for row in build(cells(rows))}
        assert reasons == {no_interval(n_groups)} != {None}
    assert motion_share(cells(rows))["no_interval"] == no_interval(n_groups)


def test_no_lift_is_held_to_be_above_that_of_any_clip() -> None:
    """One group rules the ratio, and without it nothing is known; 1 over the least base rate is the most."""
    groups = ("Archery/g00", "YoYo/g01", "Punch/g02")
    rows = [
        row | ({"precision": 0.001, "base_rate": 1.0} if row["group"] == groups[0] else
               {"precision": 1.0, "base_rate": 0.01})
        for row in scores() if row["group"] in groups
    ]  # fmt: skip
    row = table1(cells(rows))[0]
    assert row["lift_low"] == pytest.approx(0)
    assert row["lift_high"] == pytest.approx(100)


def test_where_there_are_intervals_there_is_no_reason() -> None:
    for build in (table1, table3, sweep, object_motion):
        assert {row["no_interval"] for row in build(cells(scores())) if row["class"] is None} == {None}


def test_clips_in_which_next_to_nothing_moves_are_in_no_lift() -> None:
    rows = [row for row in scores() if row["precision"] is not None]
    # One voxel in 144 moves, and every map marks it.
    still = [
        row | {f"{kind}{name}": value for kind in ("", "object_") for name, value in
               (("precision", 1.0), ("base_rate", 1 / 144), ("lift", None))}
        for row in rows
        if row["clip"] % 2
    ]  # fmt: skip
    moving = [row for row in rows if row["clip"] % 2 == 0]
    for build in (table1, sweep, object_motion):
        both, alone = build(cells(still + moving))[0], build(cells(moving))[0]
        kinds = ("", "object_") if build is object_motion else ("",)
        for name in (f"{kind}{n}" for kind in kinds for n in ("lift", "lift_low", "lift_high", "lift_clips")):
            assert both[name] == pytest.approx(alone[name]), name
        assert both["n_clips"] == alone["n_clips"] + len({row["clip"] for row in still})
        assert both["base_rate"] < alone["base_rate"]
        assert both["no_lift"] is None
        nothing = build(cells(still))[0]
        assert [nothing[name] for name in ("lift", "lift_low", "lift_high", "lift_clips")] == [None] * 3 + [0]
        assert nothing["no_lift"] == NO_LIFT


def test_one_clip_has_a_mean_and_no_deviation() -> None:
    row = table1(cells(chosen(scores(), clip=1)))[0]
    assert row["mean"] is not None
    assert row["std"] is None


def test_a_method_that_is_always_empty_has_null_and_not_nan() -> None:
    rows = [
        row | {"precision": None, "relevant_voxels": 0} for row in scores() if row["method"] == "grad_cam"
    ]
    row = table1(cells(rows))[0]
    assert [row[n] for n in ("mean", "std", "low", "high", "base_rate", "lift", "lift_low")] == [None] * 7
    assert (row["n_clips"], row["n_empty"], row["n_uncounted"]) == (0, 35, 1)
    assert sweep(cells(rows))[0]["empty_share"] == 1.0


def test_no_rows_make_no_table() -> None:
    rows = columns(scores())
    for empty in (score_cells([]), score_cells([{name: column[:0] for name, column in rows.items()}])):
        assert table1(empty) == table3(empty) == sweep(empty) == []
    assert overhead({"method": np.array([], object), "seconds_per_clip": np.array([])}) == []


def test_table_4_is_the_median_and_the_quartiles() -> None:
    seconds = {"grad_cam": [0.5, 0.1, 0.2, 0.3, 0.4], "deep_taylor": [2.0]}
    timings = {
        "method": np.array([method for method, times in seconds.items() for _ in times], object),
        "seconds_per_clip": np.array([time for times in seconds.values() for time in times]),
    }
    # As they were measured, since each is on top of those before.
    grad_cam, deep_taylor = overhead(timings)
    assert deep_taylor == {
        "method": "deep_taylor", "median": 2.0, "low": None, "high": None, "least": 2.0, "n": 1,
    }  # fmt: skip
    quartiles = statistics.quantiles(seconds["grad_cam"], method="inclusive")
    assert [grad_cam[n] for n in ("low", "median", "high")] == pytest.approx(quartiles)
    assert (grad_cam["least"], grad_cam["n"]) == (0.1, 5)


def test_the_papers_figures_have_the_columns_of_our_tables() -> None:
    ours = {"table1": table1(cells(scores())), "table3": table3(cells(scores()))}
    ours["table2"] = table2(cells(agreements()))
    ours["table4"] = [{"method": "", "low": 0.0, "high": 0.0}]
    papers = {name: table.paper for name, table in tables().items() if table.paper}
    assert papers.keys() == ours.keys()
    for table, rows in papers.items():
        for row in rows:
            assert set(row) <= set(ours[table][0])
            assert all(0 < row[name] < 1 for name in row if not name.startswith(("method", "sigma")))
    by_label = {(row["method"], row["sigma"]): row["mean"] for row in papers["table1"]}
    assert by_label["deep_taylor", 2.0] / by_label["deep_taylor", 0.0] == pytest.approx(1.48, abs=0.01)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda c: table1(score_cells([c]), sigma=2.5),
            "nothing was scored at sigma 2.5; scored: 0.0, 1.0, 2.0",
        ),
        (lambda c: score_cells([{n: v for n, v in c.items() if n != "group"}]), "columns group are missing"),
        (lambda c: table2(score_cells([c])), "columns method_a, method_b, agreement, iou are missing"),
        (
            lambda c: motion_share(score_cells([c]), method="guided"),
            "no score of 'guided' at sigma 2.0; scored methods",
        ),
        (lambda c: overhead(c), "columns seconds_per_clip are missing"),
    ],
)
def test_bad_columns_are_refused_in_one_line(build: Callable[[Columns], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build(columns(scores()))
    assert "\n" not in str(error.value)
