import json
import os
import pickle

import pytest

from storage.stores.root import Root, UnusableRoot, run_at
from tests.servers import BUCKET, s3_client


@pytest.fixture
def root(any_root):
    return Root(f"{any_root.url}/a root")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/data/root/", "/data/root"),
        ("/data/./x/../root", "/data/root"),
        ("file:///data/a%20root", "/data/a root"),
        ("file://localhost/data/root", "/data/root"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/prefix/deep/", "s3://bucket/prefix/deep"),
    ],
)
def test_a_root_has_one_form(given, kept):
    assert Root(given).url == kept
    assert Root(kept) == Root(given)


def test_a_relative_directory_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Root("results").url == str(tmp_path / "results")


@pytest.mark.parametrize(
    "url",
    [
        "", " ", "gs://bucket/x", "http://host/x", "s3:/bucket", "s3://", "s3:///x", "s3://bucket//x",
        "s3://bucket/../x", "s3://bucket/a?b", "s3://bucket/a#b", "file://elsewhere/x", "file:relative/x",
    ],
)  # fmt: skip
def test_a_url_that_names_no_place_is_refused_in_one_line(url):
    with pytest.raises(UnusableRoot) as refused:
        Root(url)
    assert "\n" not in str(refused.value)
    assert "s3://bucket/prefix" in str(refused.value)


def test_keys_in_a_url_are_refused_and_not_repeated():
    for url in ("s3://AKIA:topsecret@bucket/x", "http://me:topsecret@host/x"):
        with pytest.raises(UnusableRoot) as refused:
            Root(url)
        assert "topsecret" not in str(refused.value)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a"])
def test_a_path_that_leaves_the_root_is_refused(path):
    with pytest.raises(ValueError, match="does not stay under"):
        Root("/root").join(path)


def test_bytes_come_back_and_replace_what_was_there(root):
    assert not root.exists("a/b.bin")
    root.write_bytes("a/b.bin", b"one")
    root.write_bytes("a/b.bin", b"two\x00")
    assert root.read_bytes("a/b.bin") == b"two\x00"
    assert root.exists("a/b.bin")
    assert root.exists("a")
    assert (root.size("a/b.bin"), root.size("a/c.bin"), root.size("a/b.bin/c")) == (4, None, None)
    root.delete("a/b.bin")
    root.delete("a/b.bin")
    assert not root.exists("a/b.bin")


def test_an_absent_file_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"no file .*a/b\.bin"):
        root.read_bytes("a/b.bin")


def test_a_listing_is_sorted_and_fresh(root):
    assert root.listdir("a") == []
    for name in ("10.json", "9.json", ".hidden", "sub/x"):
        root.write_bytes(f"a/{name}", b"x")
    assert root.listdir("a") == ["10.json", "9.json", "sub"]
    root.write_bytes("a/11.json", b"x")
    assert root.listdir("a") == ["10.json", "11.json", "9.json", "sub"]


def test_json_has_one_spelling(root):
    root.write_json("a.json", {"b": 1.5, "a": ["é", None]})
    first = root.read_bytes("a.json")
    root.write_json("a.json", {"a": ("é", None), "b": 1.5})
    assert root.read_bytes("a.json") == first
    assert root.read_json("a.json") == json.loads(first)
    with pytest.raises(ValueError):
        root.write_json("a.json", {"a": float("nan")})
    root.write_bytes("a.json", first[:-5])
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        root.read_json("a.json")


def test_a_root_can_be_sent_to_a_worker(root):
    root.write_bytes("x", b"x")
    assert pickle.loads(pickle.dumps(root)).read_bytes("x") == b"x"


def test_a_writable_root_stays_as_it_was(root):
    root.check_writable()
    root.check_writable()
    assert root.listdir("") == []
    if root.is_local:
        assert not os.path.exists(root.url)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    root = Root(str(tmp_path))
    root.write_bytes("a", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.stores.root.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        root.write_bytes("a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_root_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnusableRoot, match="can't be written: Not a directory") as refused:
        Root(str(tmp_path / "file" / "root")).check_writable()
    assert "\n" not in str(refused.value)


def test_free_space_is_that_of_the_nearest_directory(tmp_path):
    free = Root(str(tmp_path / "not" / "there")).free_bytes()
    stat = os.statvfs(tmp_path)
    assert free == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.01, abs=1e8)
    assert Root("s3://bucket/x").free_bytes() is None


def test_wrong_credentials_are_refused_in_one_line(server):
    with s3_client(server, AWS_SECRET_ACCESS_KEY="wrong-secret"):
        with pytest.raises(UnusableRoot, match="can't be written") as refused:
            Root(f"s3://{BUCKET}/wrong").check_writable()
        assert "\n" not in str(refused.value)
        assert "wrong-secret" not in str(refused.value)
    assert not (server.directory / BUCKET / "wrong").exists()


def test_no_credentials_are_refused_in_one_line(server):
    with (
        s3_client(server, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""),
        pytest.raises(UnusableRoot, match="can't be written") as refused,
    ):
        Root(f"s3://{BUCKET}/none").check_writable()
    assert "\n" not in str(refused.value)
    assert not (server.directory / BUCKET / "none").exists()


def test_a_bucket_that_is_not_there_is_refused_in_one_line(server):
    with s3_client(server), pytest.raises(UnusableRoot, match="can't be written") as refused:
        Root("s3://absent/x").check_writable()
    assert "\n" not in str(refused.value)


def test_an_object_is_what_the_server_keeps(server):
    with s3_client(server):
        Root(f"s3://{BUCKET}/kept").write_bytes("a/b", b"bytes")
    assert (server.directory / BUCKET / "kept" / "a" / "b").read_bytes() == b"bytes"


def test_a_run_is_found_by_its_url(tmp_path):
    root, run = run_at(f"{tmp_path}/runs/c3d-01/")
    assert root == Root(str(tmp_path))
    assert run == root.run("c3d-01")
    root, run = run_at("s3://bucket/prefix/runs/c3d-01")
    assert (root.url, run.name) == ("s3://bucket/prefix", "c3d-01")
    for url in ("/x/c3d-01", "runs", "s3://bucket/x"):
        with pytest.raises(ValueError, match="is not a run"):
            run_at(url)
