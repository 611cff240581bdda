from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats  # type: ignore[import-untyped]

from selrel.behaviour import CHANGES
from selrel.scores.localisation import CONTROLS
from selrel.scores.ranks import auc_interval
from storage.report.validity.format import called
from storage.report.validity.page import PLOTS, page
from storage.stores.root import Root
from storage.tables import read_table, write_table
from tasks.running.blocks import StageFailed
from tasks.validity.benchmark import Bench, Benchmark
from tasks.validity.verdict import tables_of, verdict

SETTINGS = Benchmark(
    correlations=(0.0, 0.5, 1.0), seeds=2, test_groups=8, methods=("deep_taylor",), sigmas=(1.0, 2.0)
)
N_CLIPS = 32
VOXELS, OBJECT = 1000, 100
# What each control hits, and the truths' sizes and hits: no two alike, so none can stand for another.
HITS = {"centre": 20, "luma": 25, "contrast": 28, "change": 30, "flow": 40, "object_flow": 45}
SIZES, FOUND = {"object": OBJECT, "swept": 150, "moving": 170}, {"object": 60, "swept": 65, "moving": 70}


def true_use(case):
    """What the planted models do: the more the scene tells, the less they follow the motion."""
    return case.motion * (1 - 0.9 * case.context) if case.trained else 0.5


def behaviour(case):
    labels, groups = np.arange(N_CLIPS) % 4, np.arange(N_CLIPS) // 4
    kinds = groups // 2 % 4
    follows = np.ones(N_CLIPS, bool)
    conflicts = np.random.default_rng(0).permutation(np.flatnonzero(kinds != labels))
    follows[conflicts[: round((1 - true_use(case)) * len(conflicts))]] = False
    said = np.where(follows, labels, kinds)
    columns = {f"predicted_{name}": said for name in CHANGES} | {
        f"lost_{name}": np.full(N_CLIPS, true_use(case)) for name in CHANGES
    }
    # Each clip's scores, and what a change leaves of them.
    for decision in ("decision", "decision_true"):
        columns |= {decision: np.full(N_CLIPS, 4.0)}
        columns |= {f"{decision}_{name}": np.full(N_CLIPS, 4 * (1 - true_use(case))) for name in CHANGES[1:]}
    rows = {"group": [f"g{g + 1:02d}" for g in groups], "label": labels, "kind": kinds, **columns}
    return pd.DataFrame(rows).assign(case=case.name)


def truth(case):
    """The positive magnitude map keeps as much as the model uses; the negative one the opposite."""
    rows = []
    for clip in range(N_CLIPS):
        for edge in ("magnitude", "rising", "falling"):
            for sign in ("positive", "negative"):
                for sigma in (0.0, 1.0, 2.0):
                    use = true_use(case) if sign == "positive" else 1 - true_use(case)
                    kept = 1.0 if sigma == 0 else use / sigma
                    chosen = VOXELS if sigma == 0 else 80
                    rows.append(
                        {
                            "clip": clip, "group": f"g{clip // 4 + 1:02d}", "panned": clip // 4 % 2 == 1,
                            "method": "deep_taylor", "edge": edge, "sign": sign, "sigma": sigma,
                            "voxels": VOXELS, "chosen": chosen, "relevance": kept, "baseline_relevance": 1.0,
                            **{f"{name}_voxels": n for name, n in SIZES.items()},
                            **{f"{name}_hits": FOUND[name] if sigma else n for name, n in SIZES.items()},
                            **{f"{name}_relevance": kept * n / VOXELS for name, n in SIZES.items()},
                            **{f"{name}_hits": n for name, n in HITS.items()},
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows).assign(case=case.name)


def plant(directory):
    root = Root(str(directory))
    bench = Bench(root.url, "planted", "")
    root.write_json(bench.paths.description, {"settings": SETTINGS.as_dict()})
    for case in SETTINGS.cases:
        write_table(root, bench.paths.measured("behaviour", case.name), behaviour(case))
        write_table(root, bench.paths.measured("truth", case.name), truth(case))
    for number in SETTINGS.sanity_cases:
        name = SETTINGS.cases[number].name
        by_motion = SETTINGS.cases[number].motion > 0
        layers = {
            "layer": ["fc6", "conv1"], "correlation": [0.9, 0.1], "iou": [0.5, 0.15], "chance_iou": 0.05,
            "share_before": 0.4 if by_motion else 0.2, "share_after": [0.38 if by_motion else 0.21, 0.3],
            "right_before": True, "right_after": [True, False],
        }  # fmt: skip
        scenes = pd.DataFrame({"group": ["g01", "g02", "g03"], "clip": [0, 17, 8]})
        sanity = pd.DataFrame(layers).merge(scenes, how="cross").assign(method="deep_taylor", case=name)
        write_table(root, bench.paths.measured("sanity", name), sanity)
    return bench


@pytest.fixture
def planted(tmp_path):
    return plant(tmp_path)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = plant(tmp_path_factory.mktemp("root"))
    verdict.fn(bench)
    return bench


def table(bench, name):
    return read_table(bench.place, bench.paths.table(name)).to_pandas()


def test_cases_are_every_correlation_and_seed_and_the_two_ends():
    names = [case.name for case in SETTINGS.cases]
    assert len(set(names)) == len(names) == 3 * 2 + 2 + 2
    assert [SETTINGS.cases[number].name for number in SETTINGS.sanity_cases] == [
        "both-0.00-seed1", "both-0.00-seed2", "context-seed1", "context-seed2",
    ]  # fmt: skip
    assert Benchmark(**SETTINGS.as_dict()) == SETTINGS


def test_motion_use_is_read_from_conflicts(bench):
    models = table(bench, "models").set_index("case")
    for case in SETTINGS.cases:
        found = models.loc[case.name]
        assert found.motion_use == pytest.approx(true_use(case), abs=1 / 24)
        assert found.freeze_effect == pytest.approx(true_use(case))
        assert found.motion_use_low <= found.motion_use <= found.motion_use_high
        assert found.conflicts == 24
        assert found.motion_reliance == found.order_reliance_true == pytest.approx(true_use(case))
        assert found.accuracy_agreeing == 1.0


def ranked_ties(values):
    """Spearman's correlation that the upper half has with the values by itself, spread over its orders."""
    ranks = pd.Series(values).rank()
    half = len(values) // 2
    means = np.repeat([ranks[:half].mean(), ranks[half:].mean()], half)
    return np.cov(means, ranks)[0, 1] / ranks.var()


def test_a_share_that_rises_with_motion_use_is_seen_to(bench):
    validity = table(bench, "validity")
    chosen = validity[
        (validity.sigma == 2) & (validity.what == "share") & (validity.measure == "freeze_effect")
    ]
    assert len(chosen) == 3 * 2 * 3
    for row in chosen.itertuples():
        sign = 1 if row.sign == "positive" else -1
        assert row.spearman == pytest.approx(sign)
        assert row.auc == (1.0 if sign == 1 else 0.0)
        assert (row.models, row.seeds, row.followers) == (8, 2, 4)
        # Four above four others: 3nm / ((n + m)^2 - 1) without ties; two seeds do the same here.
        n = ranked_ties([0.0, 0.0, 0.1, 0.1, 0.55, 0.55, 1.0, 1.0])
        assert row.spearman_of_kinds == pytest.approx(sign * n)
        assert row.followers_spearman == pytest.approx(sign)
        # Two seeds are too few.
        assert [row.spearman_low, row.over_kinds_low, row.followers_spearman_low] == [None] * 3
        assert row.over_kinds == pytest.approx(row.spearman - row.spearman_of_kinds)
        assert (row.auc_low, row.auc_high) == auc_interval(row.auc, 4, 4)
        assert row.auc_high - row.auc_low > 0.2
    # The baseline keeps everything: a constant has no rank correlation.
    assert validity[(validity.sigma == 0) & (validity.what == "share")].spearman.isna().all()


def test_clips_are_compared_between_motion_and_context_models(bench):
    pairs = table(bench, "pairs").set_index(["edge", "sign", "sigma"])
    assert pairs.loc[("magnitude", "positive", 2.0)].clip_auc == 1.0
    assert pairs.loc[("magnitude", "negative", 2.0)].clip_auc == 0.0
    assert pairs.loc[("magnitude", "positive", 0.0)].clip_auc == 0.5
    # Where the order is always the same, the interval is no point: none of 8 scenes was otherwise.
    always = pairs.loc[("magnitude", "positive", 2.0)]
    assert (always.clip_auc_low, always.clip_auc_high) == (pytest.approx(0.025 ** (1 / 8)), 1.0)
    never = pairs.loc[("magnitude", "negative", 2.0)]
    assert (never.clip_auc_low, never.clip_auc_high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 8)))


def without_relevance(bench, clips):
    """Make the tables when some clips have no relevance, so no share, under the scene-trained models."""
    measured = {case.name: truth(case) for case in SETTINGS.cases}
    for name in ("context-seed1", "context-seed2"):
        measured[name].loc[measured[name]["clip"].isin(clips), "baseline_relevance"] = 0.0
    for name, rows in measured.items():
        write_table(bench.place, bench.paths.measured("truth", name), rows)
    return tables_of(bench)


def test_a_clip_without_a_pair_is_left_out_alone(planted):
    pairs = without_relevance(planted, [3])["pairs"].set_index(["edge", "sign", "sigma"])
    found = pairs.loc[("magnitude", "positive", 2.0)]
    assert (found.clips, found.clip_auc) == (N_CLIPS - 1, 1.0)


def test_a_method_without_any_pair_has_a_dash(planted):
    tables = without_relevance(planted, range(N_CLIPS))
    assert (tables["pairs"].clips == 0).all()
    lines = page(tables, settings={}).splitlines()
    head = next(line for line in lines if "AUC, same clip" in line)
    row = lines[lines.index(head) + 2]
    assert row.startswith("| deep_taylor |") and row.endswith("| - |")
    assert row.count("|") == head.count("|")


@pytest.mark.parametrize("kind", ["behaviour", "truth", "sanity"])
def test_a_case_that_was_not_measured_stops_the_verdict(planted, kind):
    planted.place.delete(planted.paths.measured(kind, "context-seed2"))
    with pytest.raises(StageFailed, match=f"{kind} of context-seed2 is missing"):
        verdict.fn(planted)
    assert not planted.place.exists(planted.paths.success)


def test_random_weights_have_an_interval_over_scenes(bench):
    sanity = table(bench, "sanity").set_index(["kind", "layer"])
    assert sanity.loc["all"].randomised.to_dict() == {"fc6": 1, "conv1": 2}
    for layer, correlation, iou in (("fc6", 0.9, 0.5), ("conv1", 0.1, 0.15)):
        row = sanity.loc[("all", layer)]
        assert row.correlation_low == pytest.approx(correlation) == row.correlation_high
        assert row.iou == pytest.approx(iou)
        assert row.chance_iou == pytest.approx(0.05)


def test_share_and_answers_under_random_weights_are_of_each_kind(bench):
    sanity = table(bench, "sanity").set_index(["kind", "layer"])
    assert set(sanity.clips) == {3}
    for kind, layer, before, after in (
        ("motion", "fc6", 0.4, 0.38),
        ("motion", "conv1", 0.4, 0.3),
        ("context", "fc6", 0.2, 0.21),
        ("all", "fc6", 0.3, 0.295),
    ):
        row = sanity.loc[(kind, layer)]
        assert (row.share_before, row.share_after) == (pytest.approx(before), pytest.approx(after))
        assert row.share_change == pytest.approx(after - before)
        assert row.share_change_low == pytest.approx(after - before) == row.share_change_high
        assert (row.right_before, row.right_after) == (1, layer == "fc6")
        # Three scenes say little about answers that were all right, or all wrong.
        assert row.right_before_low == pytest.approx(0.025 ** (1 / 3))


def test_localisation_stands_beside_its_controls(bench):
    found = table(bench, "localisation")
    row = found[(found.kind == "followers") & (found.edge == "magnitude") & (found["sign"] == "positive")]
    row = row[row.sigma == 2].iloc[0]
    assert set(HITS) == set(CONTROLS)
    for name, true in SIZES.items():
        hits = FOUND[name]
        assert (row[f"{name}_precision"], row[f"{name}_recall"]) == pytest.approx((hits / 80, hits / true))
        assert row[f"{name}_iou"] == pytest.approx(hits / (80 + true - hits))
    assert row.object_iou_low == row.object_iou_high == pytest.approx(60 / 120)
    # Random voxels of the same area hit by their share: 80 of 1000, 8 of 100.
    for name, hits in {**HITS, "random": 8}.items():
        assert row[f"{name}_precision"] == pytest.approx(hits / 80)
        assert row[f"{name}_recall"] == pytest.approx(hits / 100)
        assert row[f"{name}_iou"] == pytest.approx(hits / (180 - hits))
        gain = 60 / 120 - hits / (180 - hits)
        assert row[f"{name}_gain"] == pytest.approx(gain)
        assert row[f"{name}_gain_low"] == pytest.approx(gain) == row[f"{name}_gain_high"]
    assert row.object_share == pytest.approx(0.1)
    assert (row.area, row.object_area) == (pytest.approx(0.08), pytest.approx(0.1))
    assert set(found.kind) == {"followers", "others", "untrained"}


def test_gain_is_paired_by_clip_and_its_interval_is_over_scenes(planted):
    hits = np.arange(N_CLIPS) + 10
    for case in SETTINGS.cases:
        rows = truth(case)
        rows["luma_hits"] = hits[rows["clip"]]
        write_table(planted.place, planted.paths.measured("truth", case.name), rows)
    found = tables_of(planted)["localisation"]
    row = found[(found.kind == "others") & (found.edge == "rising") & (found["sign"] == "positive")]
    row = row[row.sigma == 1].iloc[0]
    gains = 0.5 - hits / (180 - hits)
    assert row.luma_gain == pytest.approx(gains.mean())
    scenes = gains.reshape(8, 4).mean(axis=1)
    expected = stats.t.interval(0.95, 7, scenes.mean(), stats.sem(scenes))
    assert (row.luma_gain_low, row.luma_gain_high) == pytest.approx(expected)


def test_page_and_plots_are_written(bench):
    text = bench.place.read_bytes(bench.paths.page).decode()
    low = auc_interval(1.0, 4, 4)[0]
    assert "None where there are fewer than three seeds, or scenes" in text
    assert f"| 1.00 [{low:.2f}, 1.00] | 1.00 [{0.025 ** (1 / 8):.2f}, 1.00] |" in text
    for control in CONTROLS:
        assert f"gain over {called(control)}" in text and called(control) != control
    assert "| scene alone | 2 |" in text
    for name in PLOTS:
        assert bench.place.read_bytes(bench.paths.plot(f"{name}.png")).startswith(b"\x89PNG")
        assert b"<svg" in bench.place.read_bytes(bench.paths.plot(f"{name}.svg"))


def test_the_same_measurements_make_the_same_bytes(bench, planted):
    verdict.fn(planted)
    made, again = Path(bench.root), Path(planted.root)
    files = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} == {".json", ".md", ".parquet", ".png", ".svg"}
    assert [name for name in files if (made / name).read_bytes() != (again / name).read_bytes()] == []


def test_page_says_in_words_what_the_tables_hold(bench):
    said = page(tables_of(bench), settings={}).partition("## What the models do")[0]
    low = auc_interval(1.0, 4, 4)[0]
    for text in (
        "Every follower has a higher motion share than every other model by deep_taylor.",
        "motion use?** Not shown for deep_taylor.",
        "More than every map of its area that knows no model, by deep_taylor.",
        "explanations are nearly as before by deep_taylor (fc6 0.90).",
        f"| deep_taylor | 1.00 [{low:.2f}, 1.00] | 1.00 | 0.20 | 0.50 | 0.17 "
        "[0.17, 0.17] (the longest flow less the camera's) | 0.90 | 0.10 | 0.40, 0.38, 0.30 |",
        "none where there are fewer than three seeds or scenes",
    ):
        assert text in said


def test_page_does_not_claim_more_than_the_tables(bench):
    tables = tables_of(bench)
    tables["validity"] = tables["validity"].assign(
        auc=0.7, auc_low=0.4, auc_high=0.9, over_kinds_low=-0.1, over_kinds_high=0.2
    )
    tables["localisation"] = tables["localisation"].assign(luma_gain=-0.1, luma_gain_low=-0.2)
    tables["sanity"] = tables["sanity"].assign(correlation=0.2)
    said = page(tables, settings={}).partition("## What the models do")[0]
    assert "followers from others?** This is not shown for deep_taylor." in said
    assert "motion use?** Not shown for deep_taylor." in said
    assert "decides?** Not shown for deep_taylor." in said
    tables["localisation"] = tables["localisation"].assign(luma_gain_high=-0.05)
    assert "decides?** Less than such a map, which needs no model, by deep_taylor." in page(
        tables, settings={}
    )
    assert "weights?** They change by deep_taylor." in said
    assert "-0.10 [-0.20" in said


def test_a_finished_verdict_is_not_changed(bench):
    before = bench.place.read_bytes(bench.paths.page)
    bench.place.write_bytes(bench.paths.page, b"untouched")
    verdict.fn(bench)
    assert bench.place.read_bytes(bench.paths.page) == b"untouched"
    bench.place.write_bytes(bench.paths.page, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correlations": ()}, "give one or more"),
        ({"correlations": (0.5, 0.5)}, "differ in two decimals"),
        ({"correlations": (0.25, 0.251)}, "differ in two decimals"),
        ({"correlations": (1.0,), "seeds": 1}, "1 correlation and 1 seed make too few models"),
        ({"correlations": (1.5,)}, "each is 0 to 1"),
        ({"seeds": 0}, "seeds is 0; give 1 or more"),
        ({"test_groups": 4}, "test_groups is 4; give 8 or more"),
        ({"methods": ("guess",)}, "unknown method 'guess'"),
        ({"sigmas": (0.0,)}, "sigma is 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Benchmark(**change)
