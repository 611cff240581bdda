"""A run's page, and exported clips, in a real browser: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from selrel.pictures.images import overlay
from selrel.scores.aggregate import SIGMA
from selrel.scores.precision import NO_LIFT
from storage.report.exports import mp4, webm
from tasks.export import read_clip
from tests.made_run import METHODS, Made, make_run

pytestmark = pytest.mark.browser

WIDE, NARROW = 1280, 400
HOSTILE = (
    "<img src=x onerror=\"window.hit='attribute'\">'\"&amp;</script><script>window.hit='script'</script>"
)
CLASSES = ("Archery", HOSTILE, "Hammer Throw")


@dataclass
class Opened:
    """A page, and what it did while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium: `make test-browser` installs it")
    # Chromium refuses to run as root in its sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=arguments)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """`visit(file, width=1280, offline=False)` opens a file from the disk."""
    contexts = []

    def open_file(file: Path, *, width: int = WIDE, offline: bool = False) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=offline)
        contexts.append(context)
        opened = Opened(context.new_page())
        page = opened.page
        page.on("console", lambda said: opened.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("dialog", lambda dialog: opened.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: opened.requests.append(request.url))
        # Other work on the machine may make the first page slow.
        page.goto(file.as_uri(), timeout=120_000)
        return opened

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    methods = (*METHODS, "discriminative")
    changes = {"frozen": 0.9, "shuffled": 0.5, "reversed": 0.1}
    place = tmp_path_factory.mktemp("made")
    return make_run(place, n_clips=12, classes=CLASSES, methods=methods, reliances=changes)


@pytest.fixture(scope="module")
def report(made: Made) -> Path:
    return Path(made.url) / "report" / "index.html"


def player_of(page: Page) -> Locator:
    """The first player, drawn."""
    player = page.locator("#pictures .player")
    player.scroll_into_view_if_needed()
    expect(player).to_have_attribute("data-ready", re.compile(r"\d+"))
    return player


def full_figures(page: Page) -> None:
    page.locator(".switch button[data-level=full]").click()
    expect(page.locator("body")).to_have_attribute("data-level", "full")


def everything_open(page: Page) -> None:
    """Both reading levels' figures, every fold, a class's clips, all players and charts."""
    full_figures(page)
    page.locator(".opener").first.click()
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for place in page.locator(".player, .chart").all():
        place.scroll_into_view_if_needed()
    for player in page.locator(".player").all():
        expect(player).to_have_attribute("data-ready", re.compile(r"\d+"))
    for chart in page.locator("#threshold .chart").all():
        expect(chart.locator("svg")).to_have_count(1)


def pixels(canvas: Locator) -> np.ndarray:
    """What a canvas shows, (y, x, 3)."""
    found = canvas.evaluate(
        "(c) => ({ size: [c.height, c.width],"
        " values: Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data) })"
    )
    return np.array(found["values"], np.uint8).reshape(*found["size"], 4)[..., :3]


def test_the_page_loads_without_complaint_and_without_a_network(report, visit):
    opened = visit(report, offline=True)
    page = opened.page
    everything_open(page)
    assert opened.complaints == []
    places = {url for url in opened.requests if not url.startswith("data:")}
    assert len(places) > 1, "the clips of a class are files beside the page"
    assert all(url.startswith(report.parent.as_uri() + "/") for url in places), places
    # What the page forbids itself, and what there is no network for, would have been heard.
    for url in ("http://127.0.0.1:9/a.png", "file:///a.png"):
        with page.expect_console_message():
            page.evaluate("(url) => { new Image().src = url; }", url)
    assert opened.complaints


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_moves_under_the_pointer_while_charts_are_drawn(report, visit, width):
    """What is pressed in one place and let go of in another is not clicked."""
    page = visit(report, width=width).page
    player_of(page)
    full_figures(page)
    page.evaluate("""() => {
        window.moved = [];
        const tell = (list) => moved.push(...list.getEntries().flatMap((entry) => entry.sources));
        window.moves = new PerformanceObserver(tell);
        moves.observe({ type: "layout-shift" });
    }""")
    charts = page.locator("#threshold .chart")
    assert charts.locator("svg").count() < charts.count(), "those far away wait"
    page.locator("#need-title").evaluate("(title) => title.scrollIntoView({ block: 'center' })")
    expect(charts.last.locator("svg")).to_have_count(1)
    for chart in charts.all():
        chart.evaluate("(chart) => chart.scrollIntoView({ block: 'end' })")
        expect(chart.locator("svg")).to_have_count(1)
    # A frame later, all that moved is known.
    page.evaluate("() => new Promise((go) => requestAnimationFrame(() => setTimeout(go)))")
    assert page.evaluate("[...moves.takeRecords(), ...moved].length") == 0


def test_the_page_says_why_there_is_no_lift_and_draws_no_band(visit, tmp_path):
    """Of two videos in which nothing moves, of two groups."""
    made = make_run(tmp_path, n_clips=2, still=["v_0000_g00.avi", "v_0000_g01.avi"])
    opened = visit(Path(made.url) / "report" / "index.html")
    page = opened.page
    assert f"(no lift: {NO_LIFT})" in page.locator("#threshold .reading").inner_text()
    expect(page.locator("#pictures .player .reading")).to_contain_text("(no lift: too few points move)")
    full_figures(page)
    lifts = page.locator("#at-threshold [data-figure=lift]")
    assert lifts.all_inner_texts() == ["none"] * len(METHODS)
    chart = page.locator("[data-chart=kept_relevance]")
    chart.scroll_into_view_if_needed()
    expect(chart.locator("svg .mark-symbol path").first).to_be_attached()
    assert chart.locator("svg .mark-area path[d]").count() == 0
    assert "NaN" not in page.locator("main").inner_text()
    assert opened.complaints == []


def test_the_slider_shows_the_numbers_of_the_sweep(made, report, visit):
    page = visit(report).page
    sweep = pd.read_parquet(Path(made.url) / "tables" / "sweep.parquet")
    of_all = sweep[sweep["class"].isna()].set_index(["method", "sigma"])
    slider, shown = page.locator("#sigma"), page.locator("#threshold [data-figure]")
    seen = set()
    for at, sigma in enumerate(sorted(sweep.sigma.unique())):
        slider.fill(str(at))
        for place in shown.all():
            name, method = place.get_attribute("data-figure"), place.get_attribute("data-method")
            value = of_all.loc[(method, sigma), name]
            kind, ratio = place.get_attribute("data-kind"), f"{value:.2f}"
            if kind == "times":
                ratio += " times chance"
            expected = f"{100 * value:.1f} %" if kind == "percent" else ratio
            expected = "-" if pd.isna(value) else expected
            assert place.text_content() == expected, (name, method, sigma)
            seen.add((name, method, expected))
    methods = {method for _, method, _ in seen}
    assert methods == set(made.cubes)
    assert len(seen) > 3 * len(methods), "the numbers should differ from threshold to threshold"


def painted(made: Made, clip: int, frame: int, *, sigma: float, scale: float) -> np.ndarray:
    """What stands in a player's picture of deep Taylor: the core's own overlay of the core's own mask."""
    n = int(made.clips.n_valid_frames[clip])
    cube = read_clip(made.url, clip, methods=["deep_taylor"], sigma=sigma or SIGMA)
    relevance, mask = cube.relevance["deep_taylor"], cube.masks()["deep_taylor"]
    assert len(relevance) == n
    shown = relevance[frame] if sigma == 0 else np.where(mask[frame], relevance[frame], 0)
    return overlay(made.frames[clip, frame], shown, scale=scale)


def test_pictures_are_those_of_the_mask_and_the_scale_that_is_said(made, report, visit):
    page = visit(report).page
    player = player_of(page)
    clip, frame = int(player.get_attribute("data-ready")), 3
    player.locator(".frame").fill(str(frame))
    scale = page.evaluate("shared.scales.deep_taylor")
    assert f"{scale:.2g} of the decision (deep Taylor)" in page.locator("[data-stretched=no]").inner_text()
    for at, sigma in enumerate(page.evaluate("shared.sigmas")):
        page.locator("#sigma").fill(str(at))
        shown = pixels(player.locator("> .views canvas").nth(3)).astype(int)
        wanted = painted(made, clip, frame, sigma=sigma, scale=scale)
        # The frame below is compressed with losses, and the colours have 63 steps.
        assert np.abs(shown - wanted).mean() < 6, sigma
        coloured = [np.ptp(picture.astype(int), axis=2) > 12 for picture in (shown, wanted)]
        assert np.mean(coloured[0] != coloured[1]) < 0.02, sigma


def test_the_legend_says_when_colours_are_stretched(report, visit):
    page = visit(report).page
    picture = player_of(page).locator("> .views canvas").nth(2)
    fixed = pixels(picture)
    for place in page.locator("[data-stretched]").all():
        assert place.is_visible() == (place.get_attribute("data-stretched") == "no")
    page.locator("#stretch").check()
    for place in page.locator("[data-stretched]").all():
        assert place.is_visible() == (place.get_attribute("data-stretched") == "yes")
    assert not np.array_equal(pixels(picture), fixed)


def test_the_curve_marks_the_frame_that_is_shown(report, visit):
    player = player_of(visit(report).page)
    rule, frame = player.locator(".curve .mark-rule.role-mark line"), player.locator(".frame")
    places = []
    for at in (0, 4, 7):
        frame.fill(str(at))
        if places:
            expect(rule).not_to_have_attribute("transform", places[-1])
        places.append(rule.get_attribute("transform"))
    lefts = [float(re.findall(r"[\d.]+", place)[0]) for place in places]
    assert lefts == sorted(set(lefts))


def test_each_frame_is_shown_by_itself(report, visit):
    """Of a clip that was looked at frame by frame: both parts of its relevance, and what each frame gives."""
    page = visit(report).page
    player = player_of(page)
    captions = player.locator("> .views figcaption")
    expect(captions.filter(has_text="what still frames show")).to_have_count(1)
    expect(captions.filter(has_text="what change adds")).to_have_count(1)
    # Of a clip whose explained class is not its answer, no frame gives a part of a decision.
    for opener in page.locator(".opener").all():
        opener.click()

    def looked_at():
        for one in page.locator(".opened .player").all():
            for tab in one.locator(".tabs button").all():
                tab.click()
                expect(one).to_have_attribute("data-ready", tab.get_attribute("data-clip") or "")
                if one.locator("figure.frames").is_visible():
                    return one
        raise AssertionError("no clip has a decision to speak of")

    player = looked_at()
    frames = player.locator("figure.frames")
    shown = int(player.locator(".frame").get_attribute("max") or 0) + 1
    expect(frames.locator("circle")).to_have_count(shown)
    heights = [float(dot.get_attribute("cy") or 0) for dot in frames.locator("circle").all()]
    assert heights == sorted(heights, reverse=True)
    rule, places = frames.locator("line.now"), []
    for at in (0, shown - 1):
        player.locator(".frame").fill(str(at))
        expect(player).to_have_attribute("data-frame", str(at))
        places.append(float(rule.get_attribute("x1") or 0))
    assert places[0] < places[1]
    assert re.search(rf"The best, frame {shown}, gives [0-9.]+ %", frames.locator("figcaption").inner_text())


def test_each_class_has_its_bars(report, visit):
    for width in (WIDE, NARROW):
        page = visit(report, width=width).page
        table = page.locator("#need table").first
        assert table.locator("tbody tr").count() == len(CLASSES)
        assert table.locator("thead th").all_inner_texts()[1:5] == [
            "as they are",
            "frozen",
            "shuffled",
            "reversed",
        ]
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_no_threshold_is_said_to_be_none(report, visit):
    page = visit(report).page
    player = player_of(page)
    assert "counts as changing" in page.locator("#threshold .reading").inner_text()
    page.locator("#sigma").fill("0")
    for words in (page.locator("#threshold .reading"), player.locator(".reading")):
        text = words.inner_text()
        assert text.startswith("No threshold: all the evidence") and "chang" not in text


def test_a_player_tells_its_clip_and_its_flag(made, report, visit):
    page = visit(report).page
    full_figures(page)
    clips = pd.read_parquet(Path(made.url) / "tables" / "clips.parquet")
    page.locator(".opener").first.click()
    player = page.locator(".opened .player")
    seen = set()
    for tab in player.locator(".tabs button").all():
        tab.click()
        number = int(tab.get_attribute("data-clip"))
        expect(player).to_have_attribute("data-ready", str(number))
        about = player.locator(".about").inner_text()
        assert f"clip {number}:" in about
        assert ("Flagged" in about) == bool(clips.flag[number])
        seen.add(bool(clips.flag[number]))
    assert True in seen


def test_a_clip_that_is_missing_or_cut_off_says_so_and_may_be_tried_again(report, visit, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(report.parent, folder)
    page = visit(folder / "index.html").page
    opener = page.locator(".opener").first
    first, second = (
        folder / page.evaluate(f"shared.files[{n}]") for n in opener.get_attribute("data-clips").split()[:2]
    )
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    kept = first.read_bytes()
    first.unlink()
    opener.click()
    player = page.locator(".opened .player")
    expect(player.locator(".failure")).to_contain_text("is missing")
    tabs = player.locator(".tabs button")
    tabs.nth(1).click()
    expect(player.locator(".failure")).to_contain_text("is damaged")
    assert not player.locator("> .views").is_visible()
    first.write_bytes(kept)
    tabs.nth(0).click()
    expect(player).to_have_attribute("data-ready", tabs.nth(0).get_attribute("data-clip"))
    expect(player.locator("> .views")).to_be_visible()


def test_the_last_clip_that_was_chosen_is_shown(report, visit):
    """Whichever file comes last."""
    page = visit(report).page
    page.locator(".opener").first.click()
    player = page.locator(".opened .player")
    expect(player).to_have_attribute("data-ready", re.compile(r"\d+"))
    tabs = player.locator(".tabs button")
    slow, wanted = (int(tabs.nth(at).get_attribute("data-clip")) for at in (1, 0))
    page.evaluate(f"""() => {{
        const clip = loadClip({slow});
        opened.set({slow}, new Promise((go) => {{ window.arrive = () => clip.then(go); }}));
    }}""")
    tabs.nth(1).click()
    tabs.nth(0).click()
    expect(player).to_have_attribute("data-ready", str(wanted))
    canvas = player.locator("> .views canvas").first
    before = pixels(canvas)
    page.evaluate("arrive()")
    page.wait_for_timeout(200)
    assert player.get_attribute("data-ready") == str(wanted)
    assert np.array_equal(pixels(canvas), before)
    assert f"clip {wanted}:" in player.locator(".about").inner_text()


def test_a_player_shows_the_frames_of_its_clip(made, report, visit):
    page = visit(report).page
    player = player_of(page)
    clip = int(player.get_attribute("data-ready"))
    n = int(made.clips.n_valid_frames[clip])
    frame, picture = player.locator(".frame"), player.locator("> .views canvas").first
    assert frame.get_attribute("max") == str(n - 1)
    for t in (0, n // 2, n - 1):
        frame.fill(str(t))
        shown = pixels(picture).astype(int)
        differences = [np.abs(shown - made.frames[clip, other]).mean() for other in range(n)]
        assert np.argmin(differences) == t


def test_a_player_plays_and_pauses(report, visit):
    page = visit(report).page
    player = player_of(page)
    play, frame = player.locator(".play"), player.locator(".frame")
    frame.fill("0")
    play.click()
    expect(play).to_have_attribute("aria-pressed", "true")
    for _ in range(3):
        expect(frame).not_to_have_value(frame.input_value())
    play.click()
    expect(play).to_have_attribute("aria-pressed", "false")
    before = frame.input_value()
    page.wait_for_timeout(600)
    assert frame.input_value() == before


def test_a_player_obeys_the_keyboard(report, visit):
    page = visit(report).page
    player = player_of(page)
    play, frame = player.locator(".play"), player.locator(".frame")
    frame.fill("0")
    player.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(frame).to_have_value("2")
    page.keyboard.press("ArrowLeft")
    expect(frame).to_have_value("1")
    page.keyboard.press("Space")
    expect(play).to_have_attribute("aria-pressed", "true")
    expect(frame).not_to_have_value("1")
    page.keyboard.press("Space")
    expect(play).to_have_attribute("aria-pressed", "false")
    at = frame.input_value()
    page.keyboard.press("Alt+ArrowRight")
    player.locator("details.sheet summary").click()
    player.locator("details.sheet .wide").focus()
    page.keyboard.press("ArrowRight")
    expect(frame).to_have_value(at)
    expect(frame).to_have_attribute("aria-valuetext", re.compile(rf"^{int(at) + 1} of \d+$"))


def test_a_class_that_is_closed_stands_still(report, visit):
    page = visit(report).page
    opener = page.locator(".opener").first
    opener.click()
    player = page.locator(".opened .player")
    expect(player).to_have_attribute("data-ready", re.compile(r"\d+"))
    player.focus()
    page.keyboard.press("Space")
    expect(player.locator(".play")).to_have_attribute("aria-pressed", "true")
    opener.click()
    expect(player.locator(".play")).to_have_attribute("aria-pressed", "false")
    page.locator("#sigma").fill("0")
    opener.click()
    expect(player.locator(".reading")).to_contain_text("No threshold")


def test_a_tip_explains_a_word_and_can_be_pointed_at(report, visit):
    page = visit(report).page
    word, tip = page.locator("#result .term").first, page.locator("#tip")
    word.hover()
    expect(tip).to_have_text(word.get_attribute("data-word"))
    expect(word).to_have_attribute("aria-describedby", "tip")
    tip.hover()
    expect(tip).to_be_visible()
    page.locator("h1").hover()
    expect(tip).to_be_hidden()
    assert word.get_attribute("aria-describedby") is None


def test_a_palette_and_a_method_are_chosen(report, visit):
    page = visit(report).page
    player = player_of(page)
    picture = player.locator("> .views canvas").nth(2)
    before = pixels(picture)
    page.locator("#palette").select_option("orange-purple")
    assert not np.array_equal(pixels(picture), before)
    expect(page.locator("#ramp-words")).to_contain_text("orange: for it")
    player.locator(".method").select_option("guided_backprop")
    expect(player.locator("> .views figcaption").nth(2)).to_have_text("guided backpropagation: all evidence")
    player.locator(".method").select_option("all methods")
    # Input and flow, two of each method, and what still frames show.
    expect(player.locator("> .views canvas")).to_have_count(2 + 2 * (len(METHODS) + 1) + 1)


def test_the_command_is_copied_or_selected(report, visit):
    page = visit(report).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    expect(page.locator("#copied")).to_have_text(re.compile("^(Copied|Selected)"))
    held = page.evaluate("getSelection().toString() || navigator.clipboard.readText()")
    assert held.strip() == page.locator("#command").inner_text().strip()


def test_a_hostile_class_name_is_text_and_runs_nothing(report, visit):
    opened = visit(report)
    page = opened.page
    everything_open(page)
    hostile = page.locator(".opener", has_text="onerror")
    assert hostile.text_content() == HOSTILE
    hostile.click()
    about = page.locator(".opened .player .about strong", has_text="onerror").first
    assert about.text_content() == HOSTILE
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src=x]").count() == 0
    assert opened.complaints == []


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_nothing_is_wider_than_the_window(report, visit, width):
    page = visit(report, width=width).page
    for show in (lambda: None, lambda: everything_open(page)):
        show()
        wide, seen = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= seen == width
    for player in page.locator(".opened .player").all():
        inside, room = player.evaluate(
            "(p) => [p.getBoundingClientRect().width, p.closest('.wide').clientWidth]"
        )
        assert inside < room + 1


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing_serious(report, visit, width):
    page = visit(report, width=width).page
    for show in (lambda: player_of(page), lambda: everything_open(page)):
        show()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response
        assert found["testEngine"]["name"] == "axe-core"
        serious = [
            (broken["id"], [node["target"] for node in broken["nodes"]][:3])
            for broken in found["violations"]
            if broken["impact"] in ("serious", "critical")
        ]
        assert serious == []


def test_axe_would_find_a_picture_without_words(report, visit):
    page = visit(report).page
    page.evaluate("document.querySelector('main').append(new Image(9, 9))")
    found = Axe().run(page).response["violations"]
    assert "image-alt" in {broken["id"] for broken in found}


@pytest.mark.slow
def test_the_page_of_a_thousand_clips_is_light(tmp_path, visit, record_property):
    classes = [f"Class {number:03d}" for number in range(101)]
    methods = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")
    made = make_run(tmp_path, n_clips=1000, size=(16, 16), classes=classes, methods=methods)
    file = Path(made.url) / "report" / "index.html"
    assert file.stat().st_size < 30e6
    began = time.perf_counter()
    opened = visit(file)
    player = player_of(opened.page)
    player.focus()
    opened.page.keyboard.press("ArrowRight")
    opened.page.locator("#sigma").fill("2")
    seconds = time.perf_counter() - began
    record_property("seconds until a player and the slider answer", seconds)
    print(f"{file.stat().st_size / 1e6:.1f} MB, {seconds:.2f} s until a player and the slider answer")
    assert opened.page.locator(".opener").count() == len(classes)
    assert opened.complaints == []


@pytest.mark.parametrize("encode", [webm, mp4])
def test_an_exported_clip_plays(encode, tmp_path, visit):
    frames = np.repeat(np.arange(0, 240, 15, dtype=np.uint8)[:, None, None, None], 64, axis=1)
    frames = np.repeat(np.repeat(frames, 96, axis=2), 3, axis=3)
    file = tmp_path / f"clip.{encode.__name__}"
    file.write_bytes(encode(frames, fps=8))
    page = visit(file).page
    video = page.locator("video")
    page.wait_for_function("document.querySelector('video').currentTime > 0.2")
    assert video.evaluate("(v) => [v.videoWidth, v.videoHeight, v.error]") == [96, 64, None]
    assert video.evaluate("(v) => v.duration") == pytest.approx(2, abs=0.1)
