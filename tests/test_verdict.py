import numpy as np
import pandas as pd
import pytest

from selrel.behaviour import CHANGES
from storage.layout import Root
from storage.tables import read_table, write_table
from storage.validity_page import page
from tasks.benchmark import Bench, Benchmark
from tasks.stages import StageFailed
from tasks.verdict import tables_of, verdict

SETTINGS = Benchmark(
    correlations=(0.0, 0.5, 1.0), seeds=2, test_groups=8, methods=("deep_taylor",), sigmas=(1.0, 2.0)
)
N_CLIPS = 32
VOXELS, OBJECT = 1000, 100


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
                    hits = OBJECT if sigma == 0 else 60
                    rows.append(
                        {
                            "clip": clip, "group": f"g{clip // 4 + 1:02d}", "panned": clip // 4 % 2 == 1,
                            "method": "deep_taylor", "edge": edge, "sign": sign, "sigma": sigma,
                            "voxels": VOXELS, "chosen": chosen, "relevance": kept, "baseline_relevance": 1.0,
                            **{f"{name}_voxels": OBJECT for name in ("object", "swept", "moving")},
                            **{f"{name}_hits": hits for name in ("object", "swept", "moving")},
                            **{f"{name}_relevance": 0.0 for name in ("object", "swept", "moving")},
                            "centre_hits": 20, "flow_hits": 40, "change_hits": 30,
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
        layers = {"layer": ["fc6", "conv1"], "correlation": [0.9, 0.1], "iou": [0.5, 0.1], "chance_iou": 0.1}
        scenes = pd.DataFrame({"group": ["g01", "g02"], "clip": [0, 17]})
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
        assert found.accuracy_agreeing == 1.0


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
        assert row.models == 8
    # The baseline keeps everything: a constant has no rank correlation.
    assert validity[(validity.sigma == 0) & (validity.what == "share")].spearman.isna().all()


def test_clips_are_compared_between_motion_and_context_models(bench):
    pairs = table(bench, "pairs").set_index(["edge", "sign", "sigma"])
    assert pairs.loc[("magnitude", "positive", 2.0)].clip_auc == 1.0
    assert pairs.loc[("magnitude", "negative", 2.0)].clip_auc == 0.0
    assert pairs.loc[("magnitude", "positive", 0.0)].clip_auc == 0.5


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
    assert (found.clips, found.clip_auc, found.clip_auc_low) == (N_CLIPS - 1, 1.0, 1.0)


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
    sanity = table(bench, "sanity").set_index("layer")
    assert sanity.randomised.to_dict() == {"fc6": 1, "conv1": 2}
    for layer, correlation in (("fc6", 0.9), ("conv1", 0.1)):
        row = sanity.loc[layer]
        assert row.correlation_low == pytest.approx(correlation) == row.correlation_high


def test_localisation_stands_beside_its_controls(bench):
    found = table(bench, "localisation")
    row = found[(found.kind == "motion") & (found.edge == "magnitude") & (found["sign"] == "positive")]
    row = row[row.sigma == 2].iloc[0]
    assert (row.object_precision, row.object_recall) == (60 / 80, 60 / 100)
    assert row.object_iou == row.object_iou_low == row.object_iou_high == pytest.approx(60 / 120)
    assert row.flow_iou == pytest.approx(40 / 140)
    # Random voxels of the same area hit by their share: 80 of 1000, 8 of 100.
    assert row.random_precision == pytest.approx(0.1)
    assert row.random_recall == pytest.approx(0.08)
    assert set(found.kind) == {"motion", "context", "untrained"}


def test_page_and_plots_are_written(bench):
    text = bench.place.read_bytes(bench.paths.page).decode()
    assert "| deep_taylor | 1.00 [1.00, 1.00] |" in text
    assert "| scene alone | 2 |" in text
    for name in ("motion-share", "rank-correlation", "localisation", "sanity"):
        assert bench.place.read_bytes(bench.paths.plot(f"{name}.png")).startswith(b"\x89PNG")
        assert b"<svg" in bench.place.read_bytes(bench.paths.plot(f"{name}.svg"))


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
        ({"correlations": (0.5, 0.5)}, "different ones"),
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
