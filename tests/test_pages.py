"""README, CONTRIBUTING, CHANGELOG and docs/: what they link to and name exists, and no fact stands twice.

Each rule is a function from a page (its path in the repository and its text) to complaints, so that the tests
can plant a fault and see it found.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from flows.cli import application
from selrel.clips.profiles import bounds
from selrel.engine import Forward, trace
from selrel.scores.clip import score_clip
from selrel.selective import SelectiveParameters
from tests.pages import FENCE, REPOSITORY, blocks, pages
from tests.test_house import ROOMS

Rule = Callable[[str, str], list[str]]

_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FOLDERS = (*ROOMS, "tests", "docs", ".ci")
# Options of Dask's own commands.
_OF_DASK = {"--tls-ca-file", "--tls-cert", "--tls-key"}


def prose(text: str) -> str:
    return FENCE.sub("", text)


def spans(text: str) -> list[str]:
    return _SPAN.findall(prose(text))


def anchors(text: str) -> set[str]:
    """The headings as links name them, on a code host and in the site alike."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def links(path: str, text: str) -> list[str]:
    """Every relative link leads to a file, and to a heading where it names one."""
    found = []
    for link in _LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (REPOSITORY / path).parent / name if name else REPOSITORY / path
        if not target.exists():
            found.append(f"{path}: {link} leads nowhere")
        elif anchor and anchor not in anchors(text if not name else target.read_text()):
            found.append(f"{path}: {link} names no heading")
    return found


def files(path: str, text: str) -> list[str]:
    """Every file or folder of the repository that is named exists."""
    named = re.compile(rf"(?:{'|'.join(map(re.escape, _FOLDERS))})/[\w./*-]*")
    return [
        f"{path}: there is no {name}"
        for span in spans(text)
        for name in named.findall(span)
        if span.startswith(name) and not any(REPOSITORY.glob(name.rstrip("/")))
    ]


def modules(path: str, text: str) -> list[str]:
    """Every module that is run, and every name that is imported or written out in full, exists."""
    code = "\n".join([*spans(text), *(block for _, block in FENCE.findall(text))])
    run = re.findall(rf"-m ((?:{'|'.join(_FOLDERS[:-2])})[\w.]*)", code)
    written = [
        s for s in spans(text) if re.fullmatch(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+", s) and s[-5:] != ".toml"
    ]
    imported = [
        f"{node.module}.{alias.name}"
        for block in blocks(text, "python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(ROOMS)
        for alias in node.names
    ]
    return [
        f"{path}: there is no {name}"
        for name in [*run, *written, *imported]
        if not exists(name) and name not in all_sources()
    ]


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or what a module holds."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            return bool(module) and hasattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError:
            return False
    return True


@cache
def all_sources() -> str:
    """An event's name is written as a module's is."""
    return "\n".join(path.read_text() for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))


def commands(path: str, text: str) -> list[str]:
    """Every `selrel` line is of a command and options that exist, and so is every option in the text."""
    found = []
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *spans(text)]:
        words = arguments(line)
        if words and not words[0].startswith("-"):
            known = options().get(words[0])
            if known is None:
                # A word such as `selrel runs` alone, or a folder's name.
                found.append(f"{path}: there is no command {words[0]}")
                continue
            found += [f"{path}: {words[0]} has no {word}" for word in flags(words) if word not in known]
    anywhere = set().union(*options().values()) | _OF_DASK
    return found + [
        f"{path}: no command has {word}"
        for span in spans(text)
        if span.startswith("--")
        for word in flags(span.split())
        if word not in anywhere
    ]


def arguments(line: str) -> list[str]:
    """What follows `selrel` on a line, if it is that command's."""
    if not re.match(r"(?:\w+=\S+ )?(?:\.venv/bin/)?selrel ", line):
        return []
    words = shlex.split(line, comments=True)
    return words[words.index(next(word for word in words if word.endswith("selrel"))) + 1 :]


def flags(words: list[str]) -> Iterator[str]:
    return (word.partition("=")[0] for word in words if word.startswith("--"))


@cache
def options() -> dict[str, set[str]]:
    app = application()
    return {
        name: {option for one in app[name].assemble_argument_collection() for option in one.names}
        | {"--help", "--version"}
        for name in app
        if not name.startswith("-")
    }


def targets(path: str, text: str) -> list[str]:
    """Every `make` that is named is one of the Makefile's."""
    known = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    code = [*spans(text), *(line for block in blocks(text, "sh") for line in block.splitlines())]
    named = [found[1] for line in code if (found := re.match(r"make ([\w-]+)", line))]
    return [f"{path}: there is no make {name}" for name in named if name not in known]


RULES: tuple[Rule, ...] = (links, files, modules, commands, targets)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_pages_keep_the_rule(rule: Rule) -> None:
    assert [complaint for path, text in pages().items() for complaint in rule(path, text)] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (links, "[a](nowhere.md)"),
        (links, "![a picture](docs/nowhere.png)"),
        (links, "[a](docs/validity.md#no-such-heading)"),
        (links, "# One\n\n[a](#two)"),
        (files, "see `selrel/nowhere.py`"),
        (files, "see `tests/benchmarks/none_*.py`"),
        (modules, "`python -m tests.benchmarks.nothing`"),
        (modules, "```sh\n.venv/bin/python -m tests.nothing RUN\n```"),
        (modules, "```python\nfrom storage.arrays.cubes import open_nothing\n```"),
        (modules, "`storage.drawn.synthetic.read_nothing`"),
        (commands, "```sh\n.venv/bin/selrel explane --data ucf\n```"),
        (commands, "```sh\nselrel explain --data ucf \\\n    --no-such-option 3\n```"),
        (commands, "`--no-such-option 3` does it"),
        (commands, "`selrel compare --no-such-option`"),
        (targets, "```sh\nmake coffee    # with milk\n```"),
        (targets, "`make coffee`"),
    ],
)
def test_a_planted_fault_is_found(rule: Rule, text: str) -> None:
    assert len(rule("README.md", text)) == 1


def test_what_is_right_is_not_found() -> None:
    text = (
        "# One, two?\n\n[a](#one-two), [b](docs/validity.md#what-was-found), [c](https://example.org/#d)\n"
        "`selrel/scores/`, `tests/test_*.py`, `python -m tests.benchmarks.camera`, `selrel.toml`\n"
        "`selrel.motion-reliance.dropped`, `--max-drop 0.05`, `selrel runs --root results`, `make demo`\n"
        "```python\nfrom storage.arrays.cubes import open_run\n```\n"
    )
    assert [complaint for rule in RULES for complaint in rule("README.md", text)] == []


@pytest.mark.parametrize("path", [path for path, text in pages().items() if blocks(text, "python")])
def test_python_of_the_pages_can_be_read(path: str) -> None:
    for block in blocks(pages()[path], "python"):
        compile(block, path, "exec")


def test_the_model_of_the_page_can_be_explained() -> None:
    (block,) = (block for block in blocks(pages()["docs/checkpoints.md"], "python") if "def make" in block)
    names: dict[str, Any] = {}
    exec(block, names)
    model, profile = names["make"]()
    low, high = bounds(profile)
    graph = trace(model.eval(), profile.sample_shape, low=low, high=high)
    assert Forward(graph, torch.zeros(1, *profile.sample_shape)).logits.shape == (1, 101)


def test_the_readme_is_short() -> None:
    assert len(pages()["README.md"].splitlines()) <= 200


def test_no_table_and_no_picture_stands_twice() -> None:
    heads = Counter(
        head for text in pages().values() for head in re.findall(r"^(\|.+\|)\n\|[-|]+\|$", text, re.MULTILINE)
    )
    general = {"| column | meaning |", "| question | page |"}
    assert {head for head, n in heads.items() if n > 1} <= general
    pictures = Counter(
        (REPOSITORY / path).parent.joinpath(link).resolve()
        for path, text in pages().items()
        for link in _LINK.findall(text)
        if link.endswith(".png")
    )
    assert [picture.name for picture, n in pictures.items() if n > 1] == []
    assert {picture.name for picture in pictures} == {path.name for path in REPOSITORY.glob("docs/*.png")}


def test_every_page_stands_in_the_site_and_in_the_readme() -> None:
    text = pages()
    config = (REPOSITORY / "mkdocs.yml").read_text()
    in_the_site = set(re.findall(r": ([\w/-]+\.md)$", config, re.MULTILINE))
    own = {path.removeprefix("docs/") for path in text if path.startswith("docs/")}
    assert own | {"index.md", "contributing.md", "changelog.md"} == in_the_site
    assert yaml.safe_load(config)["strict"] is True
    linked = {link.partition("#")[0].removeprefix("docs/") for link in _LINK.findall(text["README.md"])}
    assert [page for page in own if page not in linked and not page.startswith("reference/")] == []


def test_what_the_installation_takes_is_said_alike() -> None:
    (size,) = re.findall(r"Installing into .*: ([\d.]+ GB)", (REPOSITORY / "Makefile").read_text())
    assert re.findall(r"[\d.]+ GB", pages()["README.md"]) == [size]


def test_every_score_has_its_line() -> None:
    cubes = {name: np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32) for name in "ab"}
    flow = np.zeros((4, 6, 6, 2), np.float32)
    rows = score_clip(cubes, flow, 4, sigmas=[2.0], parameters=SelectiveParameters())
    told = set(spans(pages()["docs/numbers.md"]))
    assert [name for part in rows for name in part[0] if name not in told] == []
