"""Models, one file an architecture, and how a checkpoint's keys are recognised.

An architecture file offers ``FAMILIES``, the published formats of its checkpoints, and
``build(state)``, which makes the model that fits a state with the architecture's own names. Files
are found by listing this room; there is nothing to register.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from selrel.profiles import Profile

State = Mapping[str, Tensor]

LISTED_KEYS = 20


def _any_state(state: State) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """One published checkpoint format of an architecture.

    Attributes
    ----------
    name : str
        What a user types and a run records.
    rename : callable
        Gives the architecture's own name of a published key, None for a key it does not know.
    profile : Profile
        What checkpoints of the family expect of their input.
    accepts : callable
        Whether a renamed state can be of this family; tells apart families with the same keys.
    """

    name: str
    rename: Callable[[str], str | None]
    profile: Profile
    accepts: Callable[[State], bool] = _any_state


class Architecture(Protocol):
    """What a file of this room offers."""

    FAMILIES: tuple[Family, ...]

    def build(self, state: State) -> nn.Module:
        """Make the model with the widths of these weights; its own values do not matter."""
        ...


@dataclass(frozen=True)
class Recognised:
    """A checkpoint's model and what is known about it.

    Attributes
    ----------
    model : torch.nn.Module
        In eval mode, float32, on the CPU; gives logits (clip, class).
    family : str
        Name of the checkpoint family.
    profile : Profile
        The family's profile.
    n_outputs : int
        Number of classes the model tells apart.
    """

    model: nn.Module
    family: str
    profile: Profile
    n_outputs: int


def families() -> dict[str, tuple[Family, Architecture]]:
    """Find every checkpoint family of the room, by name, with its architecture file."""
    return {family.name: (family, file) for file in _architectures() for family in file.FAMILIES}


def recognise(state: State, *, family: str | None = None) -> Recognised:
    """Make the model that a checkpoint's weights belong to.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights under their published names; a leading ``module.`` is ignored. Never written to, and
        the model may share memory with it.
    family : str, optional
        Name of the family; by default it follows from the keys.

    Returns
    -------
    Recognised
        The model in eval mode and float32, with its family, profile and number of outputs.

    Raises
    ------
    ValueError
        If the family is unknown, or keys are missing, unexpected or misshapen (all are listed).
    """
    known = families()
    stripped = _without_module(state)
    if family is not None and family not in known:
        raise ValueError(f"unknown checkpoint family {family!r}; known: {', '.join(known)}")
    chosen, architecture = known[family] if family is not None else _best_family(stripped, known)
    model = _built(stripped, chosen, architecture)
    return Recognised(model, chosen.name, chosen.profile, _n_outputs(model))


def check_outputs(n_outputs: int, n_classes: int) -> None:
    """Refuse a model whose outputs are not the data set's classes.

    Raises
    ------
    ValueError
        If the two numbers differ.
    """
    if n_outputs != n_classes:
        raise ValueError(
            f"the checkpoint has {n_outputs} outputs and the data set {n_classes} classes; "
            f"use a checkpoint with {n_classes} outputs, or fine-tune this one first"
        )


def _architectures() -> Iterator[Architecture]:
    for found in pkgutil.iter_modules(__path__):
        yield importlib.import_module(f"{__name__}.{found.name}")


def _without_module(state: State) -> dict[str, Tensor]:
    stripped = {_own_name(key): value for key, value in state.items()}
    if len(stripped) != len(state):
        raise ValueError("the checkpoint names some weights twice, with and without 'module.'; keep one set")
    return stripped


def _own_name(key: str) -> str:
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def _best_family(
    state: State, known: Mapping[str, tuple[Family, Architecture]]
) -> tuple[Family, Architecture]:
    """Pick the family that knows most keys, then the one that accepts the state."""
    ranked = [(*_fit(state, family), name) for name, (family, _) in known.items()]
    known_keys, _, name = max(ranked, key=lambda rank: rank[:2], default=(0, False, ""))
    if 2 * known_keys <= len(state) or not known_keys:
        raise ValueError(
            f"unknown checkpoint family: of {len(state)} keys ({_listed(state, 4)}) no known family has "
            f"more than half; known families: {', '.join(known)}"
        )
    return known[name]


def _fit(state: State, family: Family) -> tuple[int, bool]:
    renamed = _renamed(state, family)
    return len(renamed), family.accepts(renamed)


def _renamed(state: State, family: Family) -> dict[str, Tensor]:
    pairs = ((family.rename(key), value) for key, value in state.items())
    return {key: value for key, value in pairs if key is not None}


def _built(state: State, family: Family, architecture: Architecture) -> nn.Module:
    renamed = _renamed(state, family)
    # Without memory: the widths are a stranger's numbers, and the first values would be thrown away.
    with torch.device("meta"):
        model = architecture.build(renamed)
    expected = model.state_dict()
    if faults := _faults(state, family, expected):
        raise ValueError(f"the checkpoint does not fit family {family.name}: {'; '.join(faults)}")
    model.load_state_dict({key: _as_float32(renamed[key]) for key in expected}, assign=True)
    return model.requires_grad_(True).eval()


def _as_float32(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)


def _faults(state: State, family: Family, expected: State) -> list[str]:
    """List what does not fit, in the published names where the checkpoint has one."""
    own = {key: family.rename(key) or "" for key in state}
    missing = [key for key in expected if key not in own.values()]
    unexpected = [key for key, name in own.items() if name not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[name].shape)}"
        for key, name in own.items()
        if name in expected and state[key].shape != expected[name].shape
    ]
    names = list(own.values())
    repeated = [key for key, name in own.items() if name in expected and names.count(name) > 1]
    lists = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("repeated", repeated),
        ("misshapen", misshapen),
    )
    return [f"{len(keys)} {what}: {_listed(keys, LISTED_KEYS)}" for what, keys in lists if keys]


def _listed(keys: Iterable[str], most: int) -> str:
    names = [key[:80] for key in keys]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _n_outputs(model: nn.Module) -> int:
    """Count the rows of the last linear layer, the model's head."""
    heads = [module.out_features for module in model.modules() if isinstance(module, nn.Linear)]
    assert heads, "an architecture ends in a linear layer"
    return heads[-1]
