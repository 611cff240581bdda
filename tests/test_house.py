"""The house rules that a program can check: which room may import what, and what files are called.

Each rule is a function from a file (its path in the repository and its text) to complaints, so that the tests
can plant a violation and see it found.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from selrel.training.recipe import Recipe
from tasks.request import Cluster, Request, Training
from tasks.stages import STAGES

REPOSITORY = Path(__file__).parent.parent
ROOMS = ("flows", "tasks", "selrel", "storage")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}

# What each room may import of the others.
ARROWS = {
    "flows": {"flows", "tasks", "selrel", "storage"},
    "tasks": {"tasks", "selrel", "storage"},
    "selrel": {"selrel"},
    "storage": {"storage"},
}
CORE_LIBRARIES = {"numpy", "scipy", "torch", "cv2"}
# Libraries that only some rooms or files may name.
RESERVED = {
    "distributed": ("tasks/running/fanout.py", "flows/serving/cluster.py"),
    "dask": ("tasks/running/fanout.py", "flows/serving/cluster.py"),
    "prefect": ("flows/", "tasks/"),
    "fsspec": ("storage/",),
    "s3fs": ("storage/",),
    "zarr": ("storage/",),
    "xarray": ("storage/",),
    "cyclopts": ("flows/",),
}
# Modules of the standard library that read or write, or know the time: not for arrays in, arrays out.
OUTSIDE_WORLD = {
    "os",
    "io",
    "shutil",
    "tempfile",
    "subprocess",
    "socket",
    "urllib",
    "http",
    "logging",
    "time",
}

# `python -m selrel` is the command, so this file is one of flows wherever it lies.
COMMAND = "selrel/__main__.py"

Rule = Callable[[str, str], list[str]]


def imports(text: str) -> Iterator[tuple[int, str]]:
    """Every module named by an import anywhere in a file, with its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def arrows(path: str, text: str) -> list[str]:
    room = "flows" if path == COMMAND else path.partition("/")[0]
    found = []
    for line, module in imports(text):
        top = module.partition(".")[0]
        if not top:
            found.append(f"{path}:{line}: relative import {module}")
        elif top == "tests" or (top in ROOMS and top not in ARROWS[room]):
            found.append(f"{path}:{line}: {room} imports {module}")
        elif top in RESERVED and not path.startswith(RESERVED[top]):
            found.append(f"{path}:{line}: {top} belongs to {', '.join(RESERVED[top])}")
    return found


def core_is_arrays(path: str, text: str) -> list[str]:
    if not path.startswith("selrel/") or path == COMMAND:
        return []
    allowed = (CORE_LIBRARIES | sys.stdlib_module_names | {"selrel"}) - OUTSIDE_WORLD
    found = [
        f"{path}:{line}: the core imports {module}"
        for line, module in imports(text)
        if module.partition(".")[0] not in allowed
    ]
    return found + [
        f"{path}:{node.lineno}: the core calls {name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and (name := dotted(node.func)) in CORE_CALLS
    ]


CORE_CALLS = {
    "open", "print", "input",
    "torch.load", "torch.save",
    "numpy.load", "numpy.save", "np.load", "np.save",
    "cv2.VideoCapture", "cv2.VideoWriter", "cv2.imread", "cv2.imwrite",
}  # fmt: skip


def environment_at_import(path: str, text: str) -> list[str]:
    """The environment and files are read inside functions only."""
    return [
        f"{path}:{node.lineno}: {name} when imported"
        for node in outside_functions(ast.parse(text))
        if isinstance(node, ast.Attribute | ast.Name)
        and (name := dotted(node)) in {"os.environ", "os.getenv", "open", "input"}
    ]


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "__name__" in ast.unparse(child.test):
            continue
        yield child
        yield from outside_functions(child)


def store_paths(path: str, text: str) -> list[str]:
    """Where things lie below the root is spelled in `storage.layout` alone, which reaches no file itself."""
    if path == "storage/layout.py":
        return [
            f"{path}:{line}: imports {module}: the layout is names alone, the root reads and writes"
            for line, module in imports(text)
            if module.partition(".")[0] not in sys.stdlib_module_names - OUTSIDE_WORLD - {"pathlib", "glob"}
        ]
    return [
        f"{path}:{node.lineno}: spells {node.value!r}, which storage/layout.py does"
        for node in ast.walk(without_docstrings(ast.parse(text)))
        if isinstance(node, ast.Constant) and node.value in LAYOUT_NAMES
    ]


def one_way_to_s3(path: str, text: str) -> list[str]:
    """What a root is reached by works for every root."""
    if not path.startswith("storage/"):
        return []
    return [
        f"{path}:{line}: imports {module}: use fsspec, so that every root works"
        for line, module in imports(text)
        if module.partition(".")[0] in {"glob", "s3fs", "boto3"}
    ]


def private_zarr(path: str, text: str) -> list[str]:
    """What zarr may change in any release is used in one file, which a test of its own guards."""
    return [
        f"{path}:{line}: imports {module}: storage/arrays/private_zarr.py alone may"
        for line, module in imports(text)
        if module.startswith(("zarr.core", "zarr.registry")) and path != "storage/arrays/private_zarr.py"
    ]


LAYOUT_NAMES = {
    "frames.zarr", "motion.zarr", "relevance.zarr", "index.parquet", "exclusions.parquet",
    "run.json", "receipts", "_SUCCESS.json",
}  # fmt: skip


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                part
                for part in node.body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
    return tree


def file_names(path: str, text: str) -> list[str]:
    parts = PurePosixPath(path).with_suffix("").parts
    return [f"{path}: a file named {part} says nothing" for part in parts if part in VAGUE_NAMES]


def machine_paths(path: str, text: str) -> list[str]:
    """No path of one machine is in the code: it would work there only."""
    return [
        f"{path}:{node.lineno}: the path {node.value!r}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("/home/", "/root/", "/Users/"))
    ]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def stage_names(path: str, text: str) -> list[str]:
    """A stage is spelled in its own file; everybody else goes through the table."""
    if path.startswith("tasks/stages/"):
        return []
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            found += [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in RECEIPT_CALLS:
            found += node.args
        elif isinstance(node, ast.Tuple | ast.List):
            # A single one may be the command of that name.
            names = [e for e in node.elts if isinstance(e, ast.Constant) and e.value in STAGE_NAMES]
            found += names if len(names) > 1 else []
    return [
        f"{path}:{value.lineno}: spells the stage {value.value!r}; tasks.stages.STAGES lists them"
        for value in found
        if isinstance(value, ast.Constant) and value.value in STAGE_NAMES
    ]


def options_once(path: str, text: str) -> list[str]:
    """An option is declared in one of the lists, and reaches flows and commands from there."""
    if not path.startswith("flows/"):
        return []
    return [
        f"{path}:{node.lineno}: {node.name} takes {argument.arg}, an option of tasks/request.py"
        for node in functions(text)
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.arg in OPTIONS
    ]


def few_arguments(path: str, text: str) -> list[str]:
    """What needs more is a value of its own."""
    return [
        f"{path}:{node.lineno}: {node.name} takes {n} arguments; at most {MOST_ARGUMENTS}"
        for node in functions(text)
        if f"{path} {node.name}" not in DOORS
        and (n := len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])) > MOST_ARGUMENTS
    ]


def short_functions(path: str, text: str) -> list[str]:
    """A reader sees all of it at once."""
    found = []
    for node in functions(text):
        first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
        n = (node.end_lineno or 0) - first.lineno + 1
        if n > MOST_LINES:
            found.append(f"{path}:{node.lineno}: {node.name} has {n} lines; at most {MOST_LINES}")
    return found


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


LISTS = (Request, Training, Recipe, Cluster)
# Other commands have these of their own.
OF_MANY = {"data", "checkpoint", "root", "every", "epochs", "workers"}
# Dask's own words for a cluster.
OF_DASK = {"scheduler", "insecure"}
OPTIONS = {option.name for kind in LISTS for option in dataclasses.fields(kind)} - OF_MANY - OF_DASK
MOST_ARGUMENTS, MOST_LINES = 10, 60
# Where a store is described, everything about it comes together.
DOORS = {"storage/arrays/cubes.py create_relevance"}

# "motion" is what much else is called, too.
STAGE_NAMES = {stage.name for stage in STAGES} - {"motion"}
RECEIPT_CALLS = {"blocks_done", "done_blocks", "pending", "read_receipts", "recorded_files", "run_stage"}

RULES: tuple[Rule, ...] = (
    arrows, core_is_arrays, environment_at_import, store_paths, one_way_to_s3, private_zarr, file_names,
    machine_paths, stage_names, options_once, few_arguments,
    short_functions,
)  # fmt: skip


def files_of_the_house() -> dict[str, str]:
    return {
        path.relative_to(REPOSITORY).as_posix(): path.read_text()
        for room in ROOMS
        for path in sorted((REPOSITORY / room).rglob("*.py"))
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    files = files_of_the_house()
    assert {path.partition("/")[0] for path in files} == set(ROOMS)
    assert [complaint for path, text in files.items() for complaint in rule(path, text)] == []


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (arrows, "selrel/clips/windows.py", "import storage.layout"),
        (arrows, "selrel/clips/windows.py", "from storage import layout"),
        (arrows, "selrel/models/__main__.py", "from flows.cli import main"),
        (arrows, "storage/tables.py", "def later():\n    from selrel.clips.windows import windows"),
        (arrows, "storage/tables.py", "from tasks.stages.index import index"),
        (arrows, "tasks/stages/index.py", "from flows.serving.cluster import cluster"),
        (arrows, "flows/cli.py", "from tests.servers import s3_server"),
        (arrows, "tasks/stages/index.py", "from .plan import Plan"),
        (arrows, "tasks/stages/index.py", "import distributed"),
        (arrows, "flows/cli.py", "from dask.distributed import Client"),
        (arrows, "flows/cli.py", "import zarr"),
        (arrows, "storage/tables.py", "from prefect import task"),
        (arrows, "tasks/stages/index.py", "if True:\n    import s3fs"),
        (core_is_arrays, "selrel/clips/flow.py", "import xarray as xr"),
        (core_is_arrays, "selrel/clips/flow.py", "import pandas"),
        (core_is_arrays, "selrel/clips/flow.py", "import logging"),
        (core_is_arrays, "selrel/clips/flow.py", "import urllib.request"),
        (core_is_arrays, "selrel/models/c3d.py", "import torch\nstate = torch.load('a.pth')"),
        (core_is_arrays, "selrel/scores/precision.py", "def f(x):\n    print(x)"),
        (environment_at_import, "flows/cli.py", "import os\nhome = os.environ['HOME']"),
        (environment_at_import, "flows/cli.py", "import os\nif os.getenv('X'):\n    pass"),
        (environment_at_import, "tasks/plan.py", "class A:\n    text = open('a').read()"),
        (store_paths, "tasks/stages/decode.py", "store = root + '/x/' + 'frames.zarr'"),
        (store_paths, "storage/stores/root.py", "path = 'run.json'"),
        (store_paths, "storage/layout.py", "import fsspec"),
        (store_paths, "storage/layout.py", "from pathlib import Path"),
        (store_paths, "storage/layout.py", "from storage.stores.root import Root"),
        (one_way_to_s3, "storage/stores/root.py", "import s3fs"),
        (one_way_to_s3, "storage/checkpoints/sources.py", "import boto3"),
        (private_zarr, "storage/arrays/blocks.py", "from zarr.core.buffer import Buffer"),
        (file_names, "tasks/utils.py", ""),
        (file_names, "selrel/common/precision.py", ""),
        (options_once, "flows/train_c3d.py", "def train_c3d(data, momentum=0.9):\n    pass"),
        (few_arguments, "tasks/plan.py", "def plan(" + ", ".join("abcdefghijk") + "):\n    pass"),
        (short_functions, "tasks/plan.py", "def plan():\n" + "    pass\n" * 61),
        (stage_names, "tasks/watch.py", "blocks_done(root, paths, 'explain')"),
        (stage_names, "tasks/plan.py", "blocks_done(root, paths, 'score')"),
        (stage_names, "tasks/plan.py", "if stage == 'decode':\n    pass"),
        (machine_paths, "flows/cli.py", "data = '/home/me/UCF-101'"),
    ],
)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str) -> None:
    assert len(rule(path, text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "selrel/scores/precision.py",
            "import math\nimport numpy as np\nimport torch\nfrom selrel import clips",
        ),
        ("tasks/running/fanout.py", "from distributed import Client\nfrom prefect import task"),
        ("selrel/__main__.py", "import sys\nfrom flows.cli import main"),
        ("flows/serving/cluster.py", "import dask\nfrom distributed import LocalCluster"),
        ("storage/layout.py", "import re\nname = 'frames.zarr'"),
        ("storage/stores/root.py", "import os\nimport fsspec\nfrom storage.layout import RUNS"),
        ("flows/cli.py", "import os\ndef home():\n    return os.environ['HOME']"),
        ("flows/cli.py", "import os, sys\nif __name__ == '__main__':\n    print(os.environ)"),
        ("tasks/stages/decode.py", 'def decode():\n    """Write frames.zarr."""'),
    ],
)
def test_what_is_allowed_is_not_found(path: str, text: str) -> None:
    assert [complaint for rule in RULES for complaint in rule(path, text)] == []


def test_every_package_is_listed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    folders = {
        path.parent.relative_to(REPOSITORY).as_posix().replace("/", ".")
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == folders
    assert [
        folder for folder in folders if not (REPOSITORY / folder.replace(".", "/") / "__init__.py").exists()
    ] == []


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["test"], *extras["docs"], "setuptools"]
    pinned = {line.partition("==")[0].lower() for line in constraints()}
    assert [name for name in map(distribution, wanted) if name not in pinned] == []
    assert "torch==2.13.0" in constraints()


def constraints() -> list[str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert all("==" in line for line in lines), "exact versions only"
    return lines


def distribution(requirement: str) -> str:
    for end in "[=<>!~ ;":
        requirement = requirement.partition(end)[0]
    return requirement.lower()
