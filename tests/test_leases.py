"""Leases, on a directory and on a real S3 server that knows no conditional writes."""

import errno
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
import uuid

import pytest

from storage.stores import leases
from storage.stores.leases import LostLease, lease, read_holder
from storage.stores.root import Root
from tests.servers import BUCKET, free_port, s3_client, s3_server


@pytest.fixture
def root(any_root):
    return any_root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    monkeypatch.setattr(leases, "_POLL_S", 0.1)
    monkeypatch.setattr(leases, "_SETTLE_S", 0.5)


def write_holder(root, *, host="elsewhere", machine="another", pid=1, age=0.0):
    holder = {"token": "x", "host": host, "machine": machine, "pid": pid, "beat": time.time() - age}
    root.write_bytes("lease.json", json.dumps(holder).encode())


def test_a_lease_names_this_process_and_is_gone_afterwards(root):
    with lease(root, "lease.json"):
        holder = read_holder(root, "lease.json")
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
    assert read_holder(root, "lease.json") is None
    assert not root.exists("lease.json")


def test_a_lease_is_whole_as_soon_as_it_is_there(tmp_path, monkeypatch):
    seen = []
    synced = os.fsync

    def watched(descriptor):
        seen.append((tmp_path / "lease.json").exists())
        synced(descriptor)

    monkeypatch.setattr("storage.stores.disk.os.fsync", watched)
    place = Root(str(tmp_path))
    assert place.create_bytes("lease.json", b"{}")
    assert not place.create_bytes("lease.json", b"[]")
    assert seen == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]
    assert place.read_bytes("lease.json") == b"{}"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_links_holds_leases_too(tmp_path, monkeypatch, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("storage.stores.disk.os.link", refused)
    place = Root(str(tmp_path))
    assert place.create_bytes("lease.json", b"{}")
    assert not place.create_bytes("lease.json", b"[]")
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]
    assert place.read_bytes("lease.json") == b"{}"


def test_a_lease_beats(root):
    with lease(root, "lease.json"):
        first = read_holder(root, "lease.json").beat
        deadline = time.monotonic() + 10
        while read_holder(root, "lease.json").beat == first:
            assert time.monotonic() < deadline


def test_one_works_and_the_others_wait(root, monkeypatch):
    # A store without conditional writes: nobody may be slower than this between looking and writing.
    monkeypatch.setattr(leases, "_SETTLE_S", 2.0)
    inside, most, waited = [], [], []

    def work(number):
        with lease(root, "lease.json", on_wait=waited.append):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.3)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most == [1, 1, 1]
    assert waited and str(waited[0]) == f"process {os.getpid()} on {socket.gethostname()}"


def dead_pid():
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid


def test_a_dead_process_of_this_machine_holds_nothing_back(root):
    with lease(root, "lease.json"):
        here = read_holder(root, "lease.json").machine
    write_holder(root, machine=here, pid=dead_pid())
    with lease(root, "lease.json", on_wait=pytest.fail):
        assert read_holder(root, "lease.json").pid == os.getpid()


def test_a_container_with_the_same_host_name_is_not_taken_for_this_one(root):
    write_holder(root, host=socket.gethostname(), machine="the same boot/4026532841", pid=dead_pid())
    waited = []

    def leave(holder):
        waited.append(holder.host)
        root.delete("lease.json")

    with lease(root, "lease.json", on_wait=leave):
        assert waited == [socket.gethostname()]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the host name must do")
def test_a_machine_is_a_boot_and_a_namespace_of_processes(root):
    with lease(root, "lease.json"):
        boot, _, namespace = read_holder(root, "lease.json").machine.partition("/")
    assert uuid.UUID(boot)
    assert os.readlink("/proc/self/ns/pid") == f"pid:[{namespace}]"


def test_a_process_that_is_silent_for_long_holds_nothing_back(root):
    write_holder(root, age=leases.STALE_S + 1)
    with lease(root, "lease.json", on_wait=pytest.fail):
        assert read_holder(root, "lease.json").pid == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1}'])
def test_a_damaged_lease_holds_nothing_back(root, content):
    root.write_bytes("lease.json", content)
    with lease(root, "lease.json"):
        assert read_holder(root, "lease.json").pid == os.getpid()


def test_a_living_process_elsewhere_is_waited_for(root):
    write_holder(root)
    waited = []

    def leave(holder):
        waited.append(str(holder))
        root.delete("lease.json")

    with lease(root, "lease.json", on_wait=leave):
        assert waited == ["process 1 on elsewhere"]


def test_who_loses_its_lease_does_not_delete_that_of_another(root, monkeypatch):
    # Nor beats on; a beat that has looked already would.
    monkeypatch.setattr(leases, "BEAT_S", 1.0)
    with lease(root, "lease.json"):
        write_holder(root)
        time.sleep(1.5)
    assert read_holder(root, "lease.json").host == "elsewhere"


def test_who_holds_its_lease_is_let_go_on(root):
    with lease(root, "lease.json") as held:
        held.check()
        time.sleep(0.3)
        held.check()


def test_who_loses_its_lease_is_told_who_has_it_and_what_to_do(root, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_S", 60.0)
    with lease(root, "lease.json") as held:
        write_holder(root)
        told = "held by process 1 on elsewhere: .* start the same command"
        with pytest.raises(LostLease, match=told) as lost:
            held.check()
        assert "\n" not in str(lost.value)
        root.delete("lease.json")
        with pytest.raises(LostLease, match="lease.json is gone: another process took over"):
            held.check()


def test_a_store_that_is_away_for_a_while_costs_nobody_its_lease(tmp_path):
    port, served = free_port(), tmp_path / "served"
    outcome = []
    with s3_server(served, port=port) as server, s3_client(server):
        root = Root(f"s3://{BUCKET}/root")
        with lease(root, "lease.json") as held:
            server.process.kill()
            server.process.wait()
            asking = threading.Thread(target=lambda: outcome.append(held.check()), daemon=True)
            asking.start()
            time.sleep(2)
            assert not outcome
            with s3_server(served, port=port):
                asking.join(timeout=120)
    assert outcome == [None]
