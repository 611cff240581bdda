import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from selrel.pictures.images import PALETTES, flow_wheel, png, relevance_legend, webp
from selrel.pictures.playback import layer
from selrel.scores.metrics import terms
from selrel.selective import SelectiveParameters
from storage.report import render_report, write_clip, write_report
from storage.report.media import clip_script
from storage.stores.root import Root, report_at
from tasks.views import views

HOSTILE = "<script>alert('x')</script>\"'&{{ 7*7 }}</table>"
METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")
SIGMAS = (0.0, 1.0, 2.0)
FLAG = "the explained class is not the model's answer"


def numbers(seed):
    """An endless row of different shares, each recognisable with one decimal of a per cent."""
    value = seed
    while True:
        value = (value * 377 + 101) % 997
        yield value / 1000 + 0.0002


def fields(names, source):
    return {name: next(source) for name in names}


def row_of_table1(class_name, method, sigma, source):
    shares = (
        "mean",
        "std",
        "low",
        "high",
        "base_rate",
        "lift",
        "lift_low",
        "lift_high",
        "weighted_precision",
    )
    areas = [f"area_precision_{share}" for share in (2, 5, 10, 20)]
    row = fields((*shares, *areas), source)
    return {"class": class_name, "method": method, "sigma": sigma, "n_clips": 1234, "n_empty": 5, **row}


def row_of_table3(class_name, method, source):
    statistics = [f"{kind}_{s}" for kind in ("voxels", "relevance") for s in ("mean", "std", "low", "high")]
    return {
        "class": class_name,
        "method": method,
        "sigma": 2.0,
        "n_clips": 1234,
        "n_empty": 5,
        **fields(statistics, source),
    }


def row_of_object_motion(method, source):
    names = ("recall", "object_precision", "object_base_rate", "object_lift", "object_recall")
    return {"class": None, "method": method, "sigma": 2.0, **fields(names, source)}


def row_of_sweep(class_name, method, sigma, source):
    means = ("precision", "lift", "kept_voxels", "kept_relevance")
    names = [name + end for name in means for end in ("", "_low", "_high")]
    shares = fields((*names, "base_rate", "empty_share"), source)
    return {"class": class_name, "method": method, "sigma": sigma, "n_clips": 9, "n_empty": 0, **shares}


def figures_of(source):
    names = ("kept_relevance", "kept_voxels", "precision", "base_rate", "lift")
    return {method: {name: [next(source) for _ in SIGMAS] for name in names} for method in METHODS}


def script_of(clip):
    cube = np.random.default_rng(clip).normal(size=(4, 8, 8)).astype(np.float32)
    layers = {method: layer(cube, SIGMAS[1:], SelectiveParameters(), scale=1.0) for method in METHODS}
    wheel = webp(flow_wheel(8), quality=85)
    return clip_script(clip, frames=wheel, flow=wheel, layers=layers)


def reliance_of(lost):
    return {
        "reliance": lost, "low": lost - 0.1, "high": lost + 0.1, "mean_score": 4.0, "n_clips": 1233,
        "n_groups": 77, "no_interval": None, "no_decision": None, "reads": "partly", "kept": 0.6543,
        "kept_low": 0.6, "kept_high": 0.7, "accuracy": 1 - lost, "accuracy_low": 0.1, "accuracy_high": 0.9,
        "intact_accuracy": 0.7377, "intact_accuracy_low": 0.7, "intact_accuracy_high": 0.8,
    }  # fmt: skip


def context_of(classes=("Archery", "Biking")):
    source = numbers(3)
    everywhere = (None, *classes)
    agreement = ("mean", "std", "low", "high", "iou_mean", "iou_std", "iou_low", "iou_high")
    tables = {
        "table1": [row_of_table1(c, m, s, source) for c in everywhere for m in METHODS for s in (0.0, 2.0)],
        "table2": [
            {"class": None, "method_a": "deep_taylor", "method_b": m, "sigma": 0.0, "n_clips": 77}
            | fields(agreement, source)
            for m in METHODS[1:]
        ],
        "table3": [row_of_table3(c, m, source) for c in everywhere for m in METHODS],
        "table4": [
            {"method": m, "median": 0.0123, "low": 0.0111, "high": 0.0222, "least": 0.01, "n": 42}
            for m in METHODS
        ],
        "object_motion": [row_of_object_motion(m, source) for m in METHODS],
        "sweep": [row_of_sweep(c, m, s, source) for c in everywhere for m in METHODS for s in SIGMAS],
    }
    changes = {"frozen": 0.4321, "shuffled": 0.1234, "reversed": 0.0567}
    tables["reliance"] = [
        {**reliance_of(lost), "class": c, "change": change, "target": target}
        for c in everywhere
        for change, lost in changes.items()
        for target in ("predicted", "true")
    ]
    share = {"mean": 0.2213, "low": 0.2004, "high": 0.2431, "sigma": 2.0, "n_clips": 1234}
    return {
        "run": "c3d-0123456789abcdef",
        "n_classes": 4,
        "summary": {
            "motion_share": share,
            "motion_reliance": reliance_of(0.4321),
            "frozen_share": {
                "as_it_is": 0.2222,
                "frozen": 0.1987,
                "difference": 0.0235,
                "low": 0.011,
                "high": 0.036,
                "n_clips": 32,
                "no_interval": None,
            },  # fmt: skip
            "clips": 1240,
            "videos": 310,
            "accuracy": 0.7377,
            "excluded_videos": 1,
            "largest_conservation_error": 3.21e-6,
            "results_sha256": "ab" * 32,
            "comparison": None,
        },
        "description": {
            "checkpoint_sha256": "cd" * 32,
            "settings": {"sigmas": [1.0, 2.0], "target": "predicted"},
        },
        "tables": tables,
        "shown": list(views().values()),
        "words": terms(),
        "exclusions": [{"video": "a/b.avi", "class": "a", "kind": "excluded", "reason": "no frame"}],
        "flags": [{"clip": 244, "video": "c/d.avi", "class": "c", "start_frame": 16, "flag": FLAG}],
        "clips": [
            {
                "clip": clip,
                "video": "Archery/v_Archery_g01_c01.avi",
                "class": "Archery",
                "predicted": "Biking",
                "start_frame": 32,
                "place": place,
                "flag": "" if clip == 3 else FLAG,
                "figures": figures_of(source),
                "single_frames": {"shares": [0.4, 0.7], "same": [False, True], "best": 1},
            }
            for clip, place in ((3, "highest"), (4, "lowest"))
        ],
        "featured": [{"clip": 3, "place": "typical", "script": script_of(3)}],
        "legends": {
            "flow": png(flow_wheel()),
            "flow_scale": 4.0,
            "scales": dict.fromkeys(METHODS, 0.25),
            "units": dict.fromkeys(METHODS, "logit") | {"deep_taylor": "1"},
            "palettes": {name: list(ends) for name, ends in PALETTES.items()},
            "steps": png(relevance_legend(30)),
        },
        "command": "selrel explain --data ucf --checkpoint c3d.pth",
    }


class Page(HTMLParser):
    """What a page holds, as a browser would read it."""

    VOID = {"meta", "img", "link", "br", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.tables, self.scripts, self._open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, "elements are nested properly"

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            self.scripts.append((self._open[-1], data))
            return
        self.texts.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    @property
    def shared(self):
        """What the page's scripts read."""
        return json.loads(next(text for kind, text in self.scripts if text.startswith('{"methods"')))

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def cells(page):
    return {cell for table in page.tables for row in table for cell in row}


@pytest.fixture(scope="module")
def page():
    return Page(render_report(context_of()))


def test_first_screen_answers_the_question_with_its_interval(page):
    first = page.text.partition("What it means")[0]
    assert "Does this model use motion?" in first and "In part." in first
    assert "43.2 % 33.2 to 53.2 ( 95 % interval ) is its motion reliance" in first
    for row in (
        "as they are 73.8 %",
        "frozen 56.8 % 43.2 %",
        "shuffled 87.7 % 12.3 %",
        "reversed 94.3 % 5.7 %",
    ):
        assert row in first
    assert "65.4 % of the model's answers stay the same" in first
    assert "310 videos were explained in 1,240 clips" in first
    assert "22.1 % (20.0 to 24.3) of the evidence for its answers changes over time" in first
    told = "32 of the clips still have 19.9 %, and 22.2 % as they are: +2.4 points (95 %: +1.1 to +3.6)."
    assert told in first
    chance = context_of()["tables"]["table3"][0]["voxels_mean"]
    assert f"As many places picked at random would hold {100 * chance:.1f} %." in first
    assert page.text.index("What it does not show") < page.text.index("Table 1.")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "Nobody asked"),
        (
            {"reliance": None, "no_decision": "no decision to speak of: it guesses"},
            "Nobody can say: no decision",
        ),
        ({"reads": "hardly"}, "Hardly."),
        ({"reads": "hardly to partly"}, "Hardly, or in part: the interval spans both."),
        ({"low": None, "high": None, "no_interval": "only 2 groups"}, "interval : only 2 groups"),
    ],
)
def test_first_screen_says_what_is_known(found, words):
    context = context_of()
    context["summary"]["motion_reliance"] = found and {**reliance_of(0.4321), **found}
    if found is None:
        del context["tables"]["reliance"]
    text = Page(render_report(context)).text.partition("What it means")[0]
    assert words in text


def test_every_figure_of_the_tables_stands_in_the_page(page):
    tables, shown = context_of()["tables"], cells(page)
    percent = ("base_rate", "weighted_precision", *(f"area_precision_{s}" for s in (2, 5, 10, 20)))
    for row in (row for row in tables["table1"] if row["class"] is None):
        wanted = [f"{100 * row[name]:.1f}" for name in percent]
        wanted += [f"{100 * row['mean']:.1f} ({100 * row['std']:.1f})", f"{row['lift']:.2f}", "1,234"]
        wanted += [f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"]
        assert set(wanted) <= shown
    for row in tables["table2"]:
        assert {
            f"deep_taylor / {row['method_b']}",
            f"{100 * row['iou_mean']:.1f} ({100 * row['iou_std']:.1f})",
        } <= shown
    for row in (row for row in tables["table3"] if row["class"] is None):
        for kind in ("voxels", "relevance"):
            assert f"{100 * row[f'{kind}_mean']:.1f} ({100 * row[f'{kind}_std']:.1f})" in shown
            assert f"{100 * row[f'{kind}_low']:.1f} to {100 * row[f'{kind}_high']:.1f}" in shown
    for row in (row for row in tables["sweep"] if row["class"] is None):
        names = ("precision", "kept_voxels", "kept_relevance", "empty_share")
        assert {f"{100 * row[name]:.1f}" for name in names} | {f"{row['lift']:.2f}"} <= shown
    assert {"12.30", "11.10 to 22.20", "42"} <= shown


def test_papers_figures_stand_in_the_rows_they_belong_to(page):
    by_title = {tuple(table[0]): table for table in page.tables if table}
    table1 = next(table for table in by_title.values() if "Paper, % (sd)" in table[0] and "Lift" in table[0])
    column = table1[0].index("Paper, % (sd)")
    papers = {(row[0], row[1]): row[column] for row in table1[1:]}
    assert papers["deep_taylor", "baseline"] == "27.8 (16.7)"
    assert papers["deep_taylor", "selective, 2 sigma"] == "41.1 (18.9)"
    assert papers["guided_backprop", "selective, 2 sigma"] == "-"
    table3 = next(table for head, table in by_title.items() if "Paper: voxels" in head)
    assert {row[0]: (row[3], row[6]) for row in table3[1:]}["deep_taylor"] == ("7.7 (4.1)", "10.5 (7.1)")
    table4 = next(table for head, table in by_title.items() if "Step" in head)
    assert {row[0]: row[-1] for row in table4[1:]}["deep_taylor"] == "1.16 to 1.71"


def test_classes_are_sorted_by_motion_share():
    context = context_of(classes=("low", "high", "none", "mid"))
    values = {"low": 0.1, "high": 0.9, "none": None, "mid": 0.5}
    for row in context["tables"]["table3"]:
        if row["class"] is not None:
            row["relevance_mean"] = values[row["class"]]
            row["relevance_low"] = row["relevance_high"] = None
    table = next(
        t for t in Page(render_report(context)).tables if t[0][0] == "Class" and "Motion share, %" in t[0]
    )
    assert [row[:3] for row in table[1:]] == [
        ["high", "90.0", "-"],
        ["mid", "50.0", "-"],
        ["low", "10.0", "-"],
        ["none", "-", "-"],
    ]


def test_classes_that_need_motion_most_come_first():
    context = context_of(classes=("low", "high", "none"))
    lost = {"low": 0.1, "high": 0.9, "none": None}
    for row in context["tables"]["reliance"]:
        if row["class"] is not None:
            row["reliance"] = lost[row["class"]]
            row["no_decision"] = None if row["reliance"] else "no decision to speak of"
    table = next(t for t in Page(render_report(context)).tables if "score lost frozen" in t[0])
    assert table[0][1:5] == ["as they are", "frozen", "shuffled", "reversed"]
    assert [row[0] for row in table[1:]] == ["high", "low", "none"]
    assert table[1][1:5] == ["73.8 %", "56.8 %", "87.7 %", "94.3 %"] and table[3][5] == "none"


def test_how_often_one_frame_is_enough_is_said_of_the_clips_that_were_looked_at():
    context = context_of()
    context["clips"][1]["single_frames"] = {"shares": [0.5, 0.9], "same": [False, False], "best": 1}
    text = Page(render_report(context)).text
    assert "Of 2 of these clips, every frame was also shown to the model by itself: in 1 of them" in text
    for clip in context["clips"]:
        clip["single_frames"] = None
    assert "shown to the model by itself" not in Page(render_report(context)).text


def test_hostile_names_are_shown_as_text():
    def poisoned(value):
        if isinstance(value, dict):
            return {key: poisoned(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [poisoned(inner) for inner in value]
        return HOSTILE + value if isinstance(value, str) else value

    context = context_of()
    clean = Page(render_report(context))
    names = ("run", "exclusions", "flags", "command", "description")
    context |= {name: poisoned(context[name]) for name in names}
    for clip in context["clips"]:
        clip |= {name: HOSTILE + clip[name] for name in ("video", "class", "predicted")}
    for rows in context["tables"].values():
        for row in rows:
            if row.get("class") is not None:
                row["class"] = HOSTILE + row["class"]
    page = Page(render_report(context))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE + "Archery" in cells(page)
    assert page.shared["clips"][0]["video"] == HOSTILE + "Archery/v_Archery_g01_c01.avi"
    assert HOSTILE + "selrel explain" in page.text
    # A template in a name stays as it is.
    assert page.text.count("{{ 7*7 }}") > 10


def test_page_needs_no_network_and_runs_only_its_own_scripts(page):
    assert not {"iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert "url(" not in "".join(text for kind, text in page.scripts if kind == "style")
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    scripts = [text for kind, text in page.scripts if kind == "script"][1:]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes


def test_pictures_are_inside_and_have_words(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    # The method in one picture, and the wheel, which is told in the text beside it.
    assert [bool(image["alt"]) for image in images] == [True, False]
    steps = base64.b64decode(images[0]["src"].partition("base64,")[2])
    assert steps == context_of()["legends"]["steps"]


def test_scripts_read_what_the_tables_hold(page):
    context = context_of()
    shared = page.shared
    assert shared["sigmas"] == list(SIGMAS)
    for row in (row for row in context["tables"]["sweep"] if row["class"] is None):
        at = SIGMAS.index(row["sigma"])
        assert shared["swept"]["lift"][row["method"]][at] == row["lift"]
        assert shared["swept"]["kept_relevance"][row["method"]][at] == row["kept_relevance"]
    assert shared["files"] == {"3": "media/clip-000003.js", "4": "media/clip-000004.js"}
    assert set(shared["charts"]) == {"precision", "lift", "kept_voxels", "kept_relevance", "empty_share"}
    drawn = shared["charts"]["lift"]["datasets"][shared["charts"]["lift"]["data"]["name"]]
    assert [row["value"] for row in drawn if row["method"] == "Grad-CAM"] == shared["swept"]["lift"][
        "grad_cam"
    ]


def test_a_row_of_a_class_opens_its_clips(page):
    openers = [attributes for tag, attributes in page.tags if attributes.get("class") == "opener"]
    assert [(a["data-clips"], a["data-places"]) for a in openers] == [("3 4", "highest lowest")]


def test_every_term_on_hover_is_in_the_glossary(page):
    terms = [attributes for _, attributes in page.tags if attributes.get("class") == "term"]
    glossary = {attributes["id"] for tag, attributes in page.tags if tag == "dt"}
    columns = [column for table in views().values() for column in table["columns"]]
    plain = {
        "Paper, % (sd)", "Paper: voxels", "Paper: relevance", "Paper, ms (in all)", "Step", "Median, ms",
        "Quartiles, ms", "Measured", "Score", "Before", "Now", "Difference", "Change", "Asked about",
        "Answers kept, %", "Right as it is, %", "Right when changed, %",
    }  # fmt: skip
    assert {column["heading"] for column in columns if not column["term"]} == plain
    assert {column["term"] for column in columns if column["term"]} <= {name[5:] for name in glossary}
    assert {attributes["href"] for attributes in terms} == {f"#{name}" for name in glossary}
    assert all(attributes["data-word"] for attributes in terms)


def test_both_reading_levels_hold_the_result(page):
    levels = [attributes.get("data-level") for tag, attributes in page.tags if tag in ("body", "button")]
    assert [level for level in levels if level] == ["plain", "plain", "full"]
    full = [attributes.get("id") for _, attributes in page.tags if attributes.get("class") == "full"]
    assert "tables" in full
    assert "result" not in full


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "No earlier run of this series"),
        ({"max_drop": None}, "Passed (no limit was set): -3.0 points ( 95 % interval -5.0 to -1.0) since"),
        ({"max_drop": 0.05}, "-3.0 points ( 95 % interval -5.0 to -1.0) since the run before, c3d-before"),
        ({"max_drop": 0.01, "high": 0.01}, "whose interval reaches 0."),
        ({"max_drop": 0.01, "passed": False}, "Failed : -3.0 points"),
        (
            {"difference": None, "error": "no clip"},
            "could not be compared with this one: no clip",
        ),
        ({"difference": None, "max_drop": None}, "nothing to compare with c3d-before."),
    ],
)
def test_first_screen_says_whether_it_passed(found, words):
    context = context_of()
    verdict = {"previous": "c3d-before", "before": 0.2513, "difference": -0.03, "low": -0.05, "high": -0.01}
    context["summary"]["comparison"] = found and {**verdict, "passed": True, **found}
    text = Page(render_report(context)).text.replace(" :", ":").replace("Failed:", "Failed :")
    assert words in text


def test_a_clips_file_holds_the_exact_masks():
    cube = np.random.default_rng(5).normal(size=(6, 9, 7)).astype(np.float32)
    made = layer(cube, [1.0, 2.0], SelectiveParameters(), scale=1.0)
    text = clip_script(5, frames=b"frames", flow=b"flow", layers={"sensitivity": made})
    assert text.isascii()
    content = json.loads(text.removeprefix("selrelClip(").removesuffix(");\n"))
    assert (content["clip"], content["frames"], content["height"], content["width"]) == (5, 6, 9, 7)
    packed = content["layers"]["sensitivity"]["levels"]
    levels = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(cube.shape)
    assert (levels == made["levels"]).all()
    assert content["input"] == "data:image/webp;base64," + base64.b64encode(b"frames").decode()


def test_pages_of_the_same_run_are_the_same():
    assert render_report(context_of()) == render_report(context_of())


def test_exclusions_flags_and_how_it_was_made_stand_in_full(page):
    assert {"a/b.avi", "no frame", "244", "c/d.avi", FLAG, "17"} <= cells(page)
    assert {"settings.target", "predicted", "settings.sigmas", "[1.0, 2.0]", "cd" * 32} <= cells(page)
    assert "ab" * 32 in page.text
    assert "selrel explain --data ucf --checkpoint c3d.pth" in page.text


def test_run_of_one_method_without_deep_taylor():
    context = context_of()
    context["summary"] |= {"motion_share": None, "largest_conservation_error": None}
    for name in ("table1", "table3", "table4", "object_motion", "sweep"):
        context["tables"][name] = [r for r in context["tables"][name] if r["method"] == "grad_cam"]
    del context["tables"]["table2"]
    context |= {"clips": [], "featured": [], "exclusions": [], "flags": []}
    context["legends"] |= {"steps": None, "scales": {}}
    page = Page(render_report(context))
    assert "deep Taylor was not among the methods" in page.text
    assert "Table 2." not in page.text
    assert "Classes, by relevance kept (Grad-CAM)" in page.text
    assert "How much of the evidence" not in page.text


def test_nulls_are_dashes_and_never_none_or_nan():
    context = context_of()
    context["summary"]["motion_share"] |= {"mean": None, "low": None, "high": None}
    for rows in context["tables"].values():
        for row in rows:
            counts = ("class", "method", "method_a", "method_b", "sigma", "n_clips", "n_empty", "n")
            counts += ("change", "target")
            row |= {name: None for name in row if name not in counts}
    page = Page(render_report(context))
    assert "no clip has any positive relevance" in page.text
    assert not re.search(r"\b(None|nan|NaN)\b", page.text)


def test_missing_key_is_an_error():
    context = context_of()
    del context["command"]
    with pytest.raises(KeyError, match="command"):
        render_report(context)


def test_report_is_written_where_the_run_keeps_it(tmp_path):
    root = Root(str(tmp_path))
    paths = root.run("c3d-0123456789abcdef").report
    context = context_of()
    write_clip(root, paths, 3, context["featured"][0]["script"])
    write_report(root, paths, context)
    report = tmp_path / "runs" / "c3d-0123456789abcdef" / "report"
    assert (report / "index.html").read_text() == render_report(context)
    assert (report / "media" / "clip-000003.js").read_text() == context["featured"][0]["script"]


def test_report_of_its_own_lies_in_any_directory(tmp_path):
    root, paths = report_at(str(tmp_path / "a page"))
    write_report(root, paths, context_of())
    assert (tmp_path / "a page" / "index.html").exists()
    root, paths = report_at("s3://bucket/some/page")
    assert root.join(paths.page) == "s3://bucket/some/page/index.html"
