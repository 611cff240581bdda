"""The environment that processes of this project run in: what was meant for other programs is left out.

A run depends on nothing in its surroundings that it was not given. Kept on purpose are the AWS credentials
and endpoint, proxies (S3 and a team's server may need them), CUDA_VISIBLE_DEVICES, what a machine's owner
sets for its processors and its memory (OMP_, MKL_, ATEN_CPU_CAPABILITY, PYTORCH_), PATH, PYTHONPATH, TMPDIR,
the locale, and SELREL_. Dask's and Prefect's own variables are for their clients alone: they say how to reach
a cluster or a server that is there already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

# What begins like this changes what a library here computes, stores, draws or loads.
STRAY = (
    "FSSPEC_",
    "FORWARDED_ALLOW_IPS",
    "MATPLOTLIBRC",
    "MPLBACKEND",
    "NVIDIA_TF32_OVERRIDE",
    "OPENCV_",
    "PYTHONINSPECT",
    "PYTHONSTARTUP",
    "PYTHONWARNINGS",
    "TORCH_",
    "UVICORN_",
    "WEB_CONCURRENCY",
    "ZARR_",
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def inherited(environment: Mapping[str, str], *, but: tuple[str, ...] = ()) -> dict[str, str]:
    """What a process of ours inherits of an environment.

    Parameters
    ----------
    environment : mapping of str to str
        Usually `os.environ`.
    but : tuple of str
        Beginnings of names that are left out besides `STRAY`.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(STRAY + but)}
    # An empty one is none, as for Python itself: made absolute, it would be the working directory.
    if kept.get("PYTHONPATH"):
        # A process of ours may start in another directory.
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, kept["PYTHONPATH"].split(os.pathsep)))
    # httpx opens this file also where nothing is encrypted.
    if "SSL_CERT_FILE" in kept and not Path(kept["SSL_CERT_FILE"]).is_file():
        del kept["SSL_CERT_FILE"]
    # Send nothing for this machine through a proxy, and name none that nothing here can use.
    usable = ("http", "https", *(("socks5", "socks5h") if find_spec("socksio") else ()))
    for name in [name for name in kept if name.lower() in _PROXIES]:
        # httpx opens every proxy that is named, used or not; SOCKS needs a package, and S3 can't use it.
        proxy = kept[name]
        if (urlsplit(proxy).scheme if "://" in proxy else "http") not in usable:
            del kept[name]
    named = kept.get("no_proxy") or kept.get("NO_PROXY") or ""
    hosts = [host for host in map(str.strip, named.split(",")) if host]
    if "*" not in hosts:
        direct = ",".join(hosts + [host for host in _LOOPBACK if host not in hosts])
        kept.update({"no_proxy": direct, "NO_PROXY": direct})
    return kept


@contextmanager
def changed_environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Make this process's environment just `wanted`, and afterwards what it was."""
    before = dict(os.environ)
    _become(wanted)
    try:
        yield
    finally:
        _become(before)


def _become(wanted: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    os.environ.update(wanted)
