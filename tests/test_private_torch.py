"""What is used of torch without a promise stands in one file, and is checked when torch changes."""

import ast
import re
from pathlib import Path

import pytest

from selrel.engine import private_torch

ROOT = Path(private_torch.__file__).parents[2]
WHAT_TO_CHECK = (
    "check that batch norms and views of results are still exported as BATCH_NORM and UNSAFE_VIEW "
    "(tests/test_trace.py), that pack_kernel and convolve_packed give what aten.convolution gives, but for "
    "rounding, and still save time (tests/benchmarks/explain.py), and that uncompiled knows a compiled model "
    "(tests/test_models_factory.py); then set CHECKED_WITH in selrel/engine/private_torch.py"
)


def wrong_version(constraints: str) -> str | None:
    """What to do about the pinned version of torch; None if it is the one that was checked."""
    pinned = re.search(r"^torch==(\S+)$", constraints, flags=re.MULTILINE)
    found = pinned.group(1) if pinned else "no version"
    if found == private_torch.CHECKED_WITH:
        return None
    return f"torch is pinned to {found}, and was checked with {private_torch.CHECKED_WITH}: {WHAT_TO_CHECK}"


def private_names(text: str) -> list[str]:
    """The private names of torch that a file uses, by attribute or import."""
    tree = ast.parse(text)
    spelled = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    spelled += [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    spelled += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return [
        name for name in spelled if re.match(r"(torch|aten|nn|fx)\b", name) and re.search(r"\._(?!_)", name)
    ]


def test_the_pinned_version_of_torch_is_the_one_that_was_checked() -> None:
    assert (wrong := wrong_version((ROOT / "constraints.txt").read_text())) is None, wrong


@pytest.mark.parametrize("pins", ["torch==2.14.0\n", "torchvision==2.13.0\n", ""])
def test_another_version_says_what_to_check(pins: str) -> None:
    wrong = wrong_version(pins)
    assert wrong is not None and "pack_kernel" in wrong and "set CHECKED_WITH" in wrong


def test_no_other_file_uses_private_names_of_torch() -> None:
    files = [file for room in ("selrel", "storage", "tasks", "flows") for file in (ROOT / room).rglob("*.py")]
    used = {file.name: names for file in files if (names := private_names(file.read_text()))}
    assert list(used) == ["private_torch.py"] and len(used["private_torch.py"]) >= 5


@pytest.mark.parametrize(
    "text", ["torch._C.x()", "x = aten._y.default", "from torch._dynamo import z", "import torch._inductor"]
)
def test_a_private_name_is_seen(text: str) -> None:
    assert private_names(text)
