import base64
import re
from html.parser import HTMLParser

import pytest

from selrel.pictures import flow_wheel, png, relevance_legend
from selrel.scores.paper import PAPER
from storage.layout import Root
from storage.report import render_report, write_report

HOSTILE = "<script>alert('x')</script>\"'&{{ 7*7 }}</table>"
METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")
SIGMAS = (0.0, 1.0, 2.0)


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


def row_of_sweep(class_name, method, sigma, source):
    means = ("precision", "lift", "kept_voxels", "kept_relevance")
    names = [name + end for name in means for end in ("", "_low", "_high")]
    shares = fields((*names, "base_rate", "empty_share"), source)
    return {"class": class_name, "method": method, "sigma": sigma, "n_clips": 9, "n_empty": 0, **shares}


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
        "sweep": [row_of_sweep(c, m, s, source) for c in everywhere for m in METHODS for s in SIGMAS],
    }
    share = {"mean": 0.2213, "low": 0.2004, "high": 0.2431, "sigma": 2.0, "n_clips": 1234}
    return {
        "run": "c3d-0123456789abcdef",
        "summary": {
            "motion_share": share,
            "clips": 1240,
            "videos": 310,
            "accuracy": 0.7377,
            "flagged_clips": 1,
            "excluded_videos": 1,
            "largest_conservation_error": 3.21e-6,
            "results_sha256": "ab" * 32,
        },
        "description": {
            "checkpoint_sha256": "cd" * 32,
            "settings": {"sigmas": [1.0, 2.0], "target": "predicted"},
        },
        "tables": tables,
        "paper": PAPER,
        "exclusions": [{"video": "a/b.avi", "class": "a", "kind": "excluded", "reason": "no frame"}],
        "flags": [{"video": "c/d.avi", "class": "c", "start_frame": 16, "flag": "logit is not positive"}],
        "clips": [
            {
                "video": "Archery/v_Archery_g01_c01.avi",
                "class": "Archery",
                "predicted": "Biking",
                "start_frame": 32,
                "note": "Near the mean.",
                "sheet": png(flow_wheel(20)),
                "steps": png(relevance_legend(30)),
            }
        ],
        "legends": {"relevance": png(relevance_legend()), "flow": png(flow_wheel()), "flow_scale": 4.0},
        "command": "selrel explain --data ucf --checkpoint c3d.pth",
    }


class Page(HTMLParser):
    """What a page holds, as a browser would read it."""

    VOID = {"meta", "img", "link", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.tables, self._open = [], [], [], []
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
        self.texts.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def cells(page):
    return {cell for table in page.tables for row in table for cell in row}


@pytest.fixture(scope="module")
def page():
    return Page(render_report(context_of()))


def test_first_screen_says_the_number_with_its_interval(page):
    number = "22.1 % 20.0 to 24.3 (95 % interval)"
    assert f"{number} of the evidence for this model's answers changes over time." in page.text
    chance = context_of()["tables"]["table3"][0]["voxels_mean"]
    assert f"as many places picked at random would hold {100 * chance:.1f} % of the evidence" in page.text
    assert "1,240 clips of 310 videos were explained; the model is right on 73.8 %" in page.text
    assert page.text.index("What it does not show") < page.text.index("Table 1.")


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
    table1 = next(table for head, table in by_title.items() if "Lift" in head and "Map" in head)
    column = table1[0].index("Paper, % (sd)")
    papers = {(row[0], row[1]): row[column] for row in table1[1:]}
    assert papers["deep_taylor", "baseline"] == "27.8 (16.7)"
    assert papers["deep_taylor", "selective, 2 sigma"] == "41.1 (18.9)"
    assert papers["guided_backprop", "selective, 2 sigma"] == "-"
    table3 = next(table for head, table in by_title.items() if "Paper: voxels" in head)
    assert {row[0]: row[-2:] for row in table3[1:]}["deep_taylor"] == ["7.7 (4.1)", "10.5 (7.1)"]
    table4 = next(table for head, table in by_title.items() if "Step" in head)
    assert {row[0]: row[-1] for row in table4[1:]}["deep_taylor"] == "1.16 to 1.71"


def test_classes_are_sorted_by_motion_share():
    context = context_of(classes=("low", "high", "none", "mid"))
    values = {"low": 0.1, "high": 0.9, "none": None, "mid": 0.5}
    for row in context["tables"]["table3"]:
        if row["class"] is not None:
            row["relevance_mean"] = values[row["class"]]
            row["relevance_low"] = row["relevance_high"] = None
    table = next(t for t in Page(render_report(context)).tables if t[0][0] == "Class" and len(t[0]) == 7)
    assert [row[:3] for row in table[1:]] == [
        ["high", "90.0", "-"],
        ["mid", "50.0", "-"],
        ["low", "10.0", "-"],
        ["none", "-", "-"],
    ]


def test_hostile_names_are_shown_as_text():
    def poisoned(value):
        if isinstance(value, dict):
            return {key: poisoned(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [poisoned(inner) for inner in value]
        return HOSTILE + value if isinstance(value, str) else value

    context = context_of()
    clean = Page(render_report(context))
    names = ("run", "exclusions", "flags", "clips", "command", "description")
    context |= {name: poisoned(context[name]) for name in names}
    for rows in context["tables"].values():
        for row in rows:
            if row.get("class") is not None:
                row["class"] = HOSTILE + row["class"]
    page = Page(render_report(context))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE + "Archery" in cells(page)
    assert HOSTILE + "Archery/v_Archery_g01_c01.avi" in page.text
    assert HOSTILE + "selrel explain" in page.text
    assert "49" not in re.findall(r"x'\)</script>\"'&(\S+)", page.text)


def test_page_needs_no_network_and_runs_nothing(page):
    text = render_report(context_of())
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert "default-src 'none'" in text
    assert "url(" not in text


def test_pictures_are_inside_and_have_words(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    # The sweep, two legends (told in the text beside them), steps and sheet.
    assert len(images) == 5
    assert [bool(image["alt"]) for image in images] == [True, False, False, True, True]
    sheet = base64.b64decode(images[-1]["src"].partition("base64,")[2])
    assert sheet == context_of()["clips"][0]["sheet"]
    chart = base64.b64decode(images[0]["src"].partition("base64,")[2])
    assert b"<svg" in chart
    assert b"<script" not in chart


def test_pages_of_the_same_run_are_the_same():
    assert render_report(context_of()) == render_report(context_of())


def test_exclusions_flags_and_how_it_was_made_stand_in_full(page):
    assert {"a/b.avi", "no frame", "c/d.avi", "logit is not positive", "17"} <= cells(page)
    assert {"settings.target", "predicted", "settings.sigmas", "[1.0, 2.0]", "cd" * 32} <= cells(page)
    assert "ab" * 32 in page.text
    assert "selrel explain --data ucf --checkpoint c3d.pth" in page.text


def test_run_of_one_method_without_deep_taylor():
    context = context_of()
    context["summary"] |= {"motion_share": None, "largest_conservation_error": None}
    for name in ("table1", "table3", "table4", "sweep"):
        context["tables"][name] = [r for r in context["tables"][name] if r["method"] == "grad_cam"]
    del context["tables"]["table2"]
    context |= {"clips": [], "exclusions": [], "flags": []}
    page = Page(render_report(context))
    assert "deep Taylor was not among the methods" in page.text
    assert "Table 2." not in page.text
    assert "Classes, by motion share" not in page.text


def test_nulls_are_dashes_and_never_none_or_nan():
    context = context_of()
    context["summary"]["motion_share"] |= {"mean": None, "low": None, "high": None}
    for rows in context["tables"].values():
        for row in rows:
            counts = ("class", "method", "method_a", "method_b", "sigma", "n_clips", "n_empty", "n")
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
    paths = root.run("c3d-0123456789abcdef")
    write_report(root, paths, context_of())
    written = (tmp_path / "runs" / "c3d-0123456789abcdef" / "report" / "index.html").read_text("utf-8")
    assert written == render_report(context_of())
