from selrel.scores.intervals import no_interval
from storage.report.figures import percent
from storage.runs import Run, read_summary
from storage.stores.root import run_at
from tasks.artifacts import headline, history
from tests.made_run import make_run


def test_headline_and_history_tell_the_motion_share(tmp_path):
    place, paths = run_at(make_run(tmp_path, n_clips=3).url)
    summary = read_summary(place, paths)
    share = percent(summary["motion_share"]["mean"])
    verdict = {"difference": -0.031, "passed": False, "previous": "before"}
    said = headline(paths.name, summary | {"comparison": verdict}, "s3://bucket/page")
    assert share in said and "[The report](s3://bucket/page)" in said
    assert "FAILED: -3.1 points against `before`" in said
    assert share not in headline(paths.name, summary | {"motion_share": None}, "x")
    (row,) = history(Run(place, paths))
    assert row["run"] == paths.name and row["checkpoint"] == "c3d.pth.tar"
    # Three clips are of three groups.
    assert row["motion share"].startswith(share) and "no interval" not in row["motion share"]


def test_two_groups_give_no_interval_and_say_so(tmp_path):
    place, paths = run_at(make_run(tmp_path, n_clips=2).url)
    summary = read_summary(place, paths)
    reason = summary["motion_share"]["no_interval"]
    assert reason == no_interval(2)
    assert reason in headline(paths.name, summary, "x")
    (row,) = history(Run(place, paths))
    assert row["motion share"].endswith("% (no interval)")
