"""Surroundings that were made for other programs: each of these variables and files has broken a run."""

from __future__ import annotations

import os
from pathlib import Path

# Nothing listens there, on any machine.
_NOWHERE = "127.0.0.1:9"


def hostile_variables(home: Path) -> dict[str, str]:
    """An environment in which nothing is for this project but the path, and what tests need."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "XDG_CACHE_HOME") if name in os.environ}
    proxies = {
        "HTTP_PROXY": f"http://{_NOWHERE}",
        "https_proxy": f"http://{_NOWHERE}",
        "ALL_PROXY": f"socks5://{_NOWHERE}",
        "all_proxy": f"socks5h://{_NOWHERE}",
        "SSL_CERT_FILE": "/no/such/bundle.pem",
    }
    libraries = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "False",
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "['no_such_module']",
        "DASK_SCHEDULER": "threads",
        "FSSPEC_FILE": '{"no_such_option": 1}',
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OPENCV_VIDEOIO_PRIORITY_FFMPEG": "0",
        "OPENCV_VIDEOIO_PRIORITY_LIST": "NO_SUCH",
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;none",
        "TORCH_LOGS": "no_such_log",
        "WEB_CONCURRENCY": "3",
        "ZARR_ARRAY__ORDER": "F",
        "ZARR_DEFAULT_ZARR_FORMAT": "2",
        "ZARR_CODEC_PIPELINE__PATH": "no.such.Pipeline",
    }
    prefect = {
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////no/such/prefect.db",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "PREFECT_HOME": "/proc/no/such/home",
        "PREFECT_LOGGING_SETTINGS_PATH": "/no/such/logging.yml",
        "PREFECT_PROFILE": "another",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_TASKS_DEFAULT_RETRIES": "many",
    }
    python = {
        "HOME": str(home),
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONHASHSEED": "7",
        "PYTHONSTARTUP": "/no/such/startup.py",
        "PYTHONWARNINGS": "error",
        "TZ": "Pacific/Kiritimati",
    }
    return kept | proxies | libraries | prefect | python


def hostile_directory(directory: Path) -> Path:
    """A working directory, and a home in it, with the configuration files of other programs."""
    home = directory / "home"
    database = f"sqlite+aiosqlite:///{directory}/theirs.db"
    files = {
        ".env": "PREFECT_API_URL=http://127.0.0.1:9/api\nPREFECT_RUNNER_POLL_FREQUENCY=often\n",
        "prefect.toml": f'[server.database]\nconnection_url = "{database}"\n',
        "pyproject.toml": f'[tool.prefect.server.database]\nconnection_url = "{database}"\n',
        "matplotlibrc": "font.size: 31\nsavefig.dpi: 17\n",
        "home/.config/dask/dask.yaml": "distributed:\n  scheduler:\n    preload: [no_such_module]\n",
        "home/.config/fsspec/conf.json": '{"file": {"no_such_option": 1}}',
        "home/.config/matplotlib/matplotlibrc": "svg.fonttype: path\n",
        "home/.config/zarr/zarr.yaml": "default_zarr_format: 2\n",
        "home/.prefect/profiles.toml": 'active = "theirs"\n[profiles.theirs]\nPREFECT_API_URL = "http://127.0.0.1:9"\n',
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return home
