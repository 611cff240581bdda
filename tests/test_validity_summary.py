"""The sentences of a validity benchmark, on small tables of which it is known what they say."""

import pandas as pd
import pytest

from storage.report.validity.summary import summary

SHARE = {"camera": "all", "measure": "motion_use", "what": "share"}
DEFAULT = {"edge": "magnitude", "sign": "positive", "sigma": 2.0}
NOTHING = pd.DataFrame(columns=["kind", "method", "edge", "sign", "sigma"])
MAPS = [
    {"method": method, "edge": edge, "sign": sign, "sigma": sigma}
    for method in ("deep_taylor", "grad_cam")
    for edge, sign, sigma in (
        ("magnitude", "positive", 2.0),
        ("rising", "positive", 2.5),
        ("falling", "negative", 1.0),
    )
]


def measured(map_, spearman, **more):
    ends = {"spearman_low": spearman - 0.1, "spearman_high": spearman + 0.1}
    unknown = dict.fromkeys(("auc", "auc_low", "auc_high", "over_kinds_low", "over_kinds_high"))
    return {**SHARE, **map_, "spearman": spearman, **ends, **unknown, **more}


def said(question, *, validity=(), localisation=NOTHING):
    """The sentence that answers a question, without it; none is ''."""
    columns = [*measured(MAPS[0], 0.0)]
    tables = {
        "validity": pd.DataFrame(validity, columns=columns),
        "localisation": pd.DataFrame(localisation),
        "sanity": NOTHING,
    }
    lines = [line for line in summary(tables).splitlines() if f"**{question}**" in line]
    assert len(lines) <= 1
    return lines[0].partition("** ")[2] if lines else ""


@pytest.mark.parametrize("best", MAPS)
def test_the_best_map_is_the_one_with_the_highest_rank_correlation(best):
    rows = [measured(map_, 0.7 if map_ == best else 0.1 + 0.05 * n) for n, map_ in enumerate(MAPS)]
    (default,) = (
        row["spearman"] for row in rows if row.items() >= {**DEFAULT, "method": best["method"]}.items()
    )
    assert said("Which map is best?", validity=rows) == (
        "Of 6 maps the motion share rises most with motion use by {method}, {edge} edge, {sign} relevance, "
        "{sigma:g} sigma: rank correlation 0.70 [0.60, 0.80], flattered by the choice among so many; ".format(
            **best
        )
        + f"its default map has {default:.2f} [{default - 0.1:.2f}, {default + 0.1:.2f}]."
    )


@pytest.mark.parametrize(
    "other", [{"camera": "panned"}, {"measure": "freeze_effect"}, {"what": "object_share"}, {"sigma": 0.0}]
)
def test_the_best_map_is_none_of_another_measurement(other):
    rows = [measured(MAPS[1], 0.2), measured(MAPS[4], 0.9, **other), measured(MAPS[5], float("nan"))]
    found = said("Which map is best?", validity=rows)
    assert found.startswith(
        "Of 1 maps the motion share rises most with motion use by deep_taylor, rising edge"
    )
    assert "default" not in found


def test_the_best_map_may_fall_with_motion_use():
    rows = [measured(MAPS[0], -0.6), measured(MAPS[4], -0.2)]
    assert (
        "by grad_cam, rising edge, positive relevance, 2.5 sigma: rank correlation -0.20 [-0.30, -0.10]"
        in said("Which map is best?", validity=rows)
    )


def test_no_map_is_best_where_none_has_a_rank_correlation():
    assert said("Which map is best?", validity=[measured(MAPS[0], float("nan"))]) == ""


def gains(method, luma, flow, kind="followers"):
    """Overlap of a default map with its gains over two controls, each as (low, high)."""
    ends = {"luma_gain": luma, "flow_gain": flow}
    found = {"kind": kind, "method": method, **DEFAULT, "object_iou": 0.5}
    for name, (low, high) in ends.items():
        found |= {name: ((low or 0) + (high or 0)) / 2, f"{name}_low": low, f"{name}_high": high}
    return found


def test_a_map_is_held_against_every_control():
    localisation = [
        gains("above_both", (0.1, 0.2), (0.01, 0.3)),
        gains("below_one", (0.1, 0.2), (-0.3, -0.01)),
        gains("unclear", (0.1, 0.2), (-0.1, 0.2)),
        gains("at_zero", (0.1, 0.2), (0.0, 0.2)),
        gains("without_interval", (0.1, 0.2), (None, None)),
        gains("above_both", (-0.3, -0.2), (-0.3, -0.2), kind="others"),
    ]
    assert said("Does the map find the object that decides?", localisation=localisation) == (
        "More than every map of its area that knows no model, by above_both; not shown for unclear, at_zero, "
        "without_interval; less than such a map, which needs no model, by below_one."
    )
