"""What a process of ours inherits: nothing that was meant for other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import matplotlib
import numpy as np
import psutil
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from prefect.settings import get_current_settings, temporary_settings

from flows.serving.prefect_settings import (
    client_of,
    environment_of_a_command,
    environment_of_a_server,
    environment_of_a_worker,
)
from storage.environment import changed_environment, inherited
from storage.report.drawing import own_style
from storage.videos import reader as videos
from tests.hostile import hostile_directory, hostile_variables

STRAY = ("OPENCV_", "ZARR_", "FSSPEC_", "MPLBACKEND", "TORCH_", "PYTHONWARNINGS", "WEB_CONCURRENCY")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process in hostile surroundings; where it is."""
    for name, value in hostile_variables(hostile_directory(tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", "http://10.0.0.1"),
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("OMP_NUM_THREADS", "1"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("SELREL_ROOT", "results"),
        ("LC_ALL", "C"),
    ],
)
def test_what_was_given_is_kept(name: str, value: str) -> None:
    assert inherited({name: value})[name] == value


def test_what_is_for_others_is_left_out(hostile: Path) -> None:
    environments = {
        "private": environment_of_a_server(hostile, "a:b"),
        "standing": environment_of_a_server(hostile, "a:b", api="http://127.0.0.1:4200/api"),
        "worker": environment_of_a_worker({"OMP_NUM_THREADS": "1"}),
        "command": environment_of_a_command(hostile),
    }
    for name, environment in environments.items():
        assert [found for found in environment if found.startswith(STRAY)] == [], name
    assert not [name for name in environments["worker"] if name.startswith("DASK_DISTRIBUTED")]
    own = {"PREFECT_HOME", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_SERVER_API_AUTH_STRING"}
    own |= {"PREFECT_SERVER_DATABASE_TIMEOUT"}
    of_a_kind = {
        "private": {
            "PREFECT_SERVER_BLOCKS_REGISTER_ON_START",
            "PREFECT_SERVER_DATABASE_MIGRATE_ON_START",
            "PREFECT_SERVER_LOGGING_LEVEL",
            "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED",
            "PREFECT_SERVER_UI_ENABLED",
        },
        "standing": {
            "PREFECT_API_AUTH_STRING",
            "PREFECT_API_URL",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
            "PREFECT_WORKER_QUERY_SECONDS",
        },
    }
    for kind, others in of_a_kind.items():
        assert {name for name in environments[kind] if name.startswith("PREFECT_")} == own | others
        assert environments[kind]["PREFECT_HOME"] == str(hostile)


@pytest.mark.parametrize(
    "proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "x://y"]
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
def test_loopback_is_reached_without_a_proxy(name: str, proxy: str) -> None:
    given = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (
        changed_environment(inherited({**given, name: proxy, "no_proxy": "example.org"})),
        httpx.Client() as client,
    ):
        assert os.environ["NO_PROXY"].startswith("example.org,")
        for host in ("127.0.0.1", "localhost", "[::1]"):
            assert client._transport_for_url(httpx.URL(f"http://{host}:80/")) is client._transport


def test_a_proxy_for_the_outside_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = inherited({"HTTP_PROXY": "proxy.example.org:3128", "NO_PROXY": "*"})
    assert kept["HTTP_PROXY"] == "proxy.example.org:3128"
    assert kept["NO_PROXY"] == "*"


def test_a_certificate_file_that_is_gone_is_no_longer_named(tmp_path: Path) -> None:
    there = tmp_path / "bundle.pem"
    there.touch()
    assert inherited({"SSL_CERT_FILE": str(there)})["SSL_CERT_FILE"] == str(there)
    assert "SSL_CERT_FILE" not in inherited({"SSL_CERT_FILE": str(tmp_path / "gone.pem")})


def test_a_path_of_python_means_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inherited({"PYTHONPATH": "src:/lib:"})["PYTHONPATH"] == f"{tmp_path}/src:/lib:{tmp_path}"
    assert not inherited({"PYTHONPATH": ""})["PYTHONPATH"], "no name is no directory, not this one"


def test_an_environment_is_changed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZARR_X", "1")
    before = dict(os.environ)
    with pytest.raises(KeyError), changed_environment({"PATH": "/bin", "NEW": "2"}):
        assert dict(os.environ) == {"PATH": "/bin", "NEW": "2"}
        raise KeyError
    assert dict(os.environ) == before


def test_prefect_is_a_client_of_our_server_alone(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With "many", Prefect itself could not make its settings.
    monkeypatch.setenv("PREFECT_TASKS_DEFAULT_RETRIES", "7")
    before = get_current_settings()
    with client_of("http://127.0.0.1:1/api", hostile, "a:b"):
        found = get_current_settings()
        assert found.api.url == "http://127.0.0.1:1/api"
        assert found.tasks.default_retries == 0
        assert found.server.database.connection_url is not None
        assert str(hostile / "prefect.db") in found.server.database.connection_url.get_secret_value()
        # A copy asks its sources again for all that is not set.
        with temporary_settings({"client.max_retries": 2}) as copied:  # type: ignore[dict-item]
            assert copied.tasks.default_retries == 0
            assert copied.client.max_retries == 2
    assert get_current_settings() is before


def test_a_command_imports_prefect_without_the_files_of_the_working_directory(hostile: Path) -> None:
    code = (
        "from flows.serving.prefect_settings import import_prefect; import_prefect();"
        "from prefect.settings import get_current_settings;"
        "print(get_current_settings().api.url, get_current_settings().runner.poll_frequency)"
    )
    environment = environment_of_a_command(hostile) | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=hostile,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["None", "10"], done.stderr


def test_a_worker_does_not_import_prefect_by_the_way() -> None:
    """First it imports what it was sent; only then `import_prefect` keeps other projects' settings out."""
    code = "import flows.serving.cluster, sys; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_decoder_has_an_environment_of_its_own(tiny_ucf101: Path, hostile: Path) -> None:
    videos._close_server()
    try:
        assert videos.count_frames(tiny_ucf101 / "UCF-101/Archery/v_Archery_g01_c01.avi").n_frames == 20
        (server,) = videos._servers
        found = psutil.Process(server.process.pid).environ()
        given = {name: value for name, value in found.items() if name.startswith("OPENCV_")}
        assert given == {name: videos.decoder.ENVIRONMENT[name] for name in given}
    finally:
        videos._close_server()


def test_a_figure_is_drawn_in_our_style_only() -> None:
    def drawn() -> np.ndarray:
        with own_style({"axes.axisbelow": True}):
            figure = Figure(figsize=(2, 1))
            canvas = FigureCanvasAgg(figure)
            figure.subplots().plot([1, 2], label="a")
            canvas.draw()
            return np.asarray(canvas.buffer_rgba()).copy()

    expected = drawn()
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "axes.facecolor": "red"}):
        np.testing.assert_array_equal(drawn(), expected)
        assert matplotlib.rcParams["font.size"] == 31
