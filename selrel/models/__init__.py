"""Models, one file an architecture, and how a checkpoint's keys are recognised.

An architecture file offers ``FAMILIES``, the published formats of its checkpoints, and
``build(state)``, which makes the model that fits a state with the architecture's own names. Files
are found by listing this room; there is nothing to register. A model that no file knows comes from a
factory of the user's own, by `from_factory`.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selrel.clips.profiles import Profile
from selrel.engine.private_torch import uncompiled

State = Mapping[str, Tensor]

LISTED_KEYS = 20

# What DataParallel and torch.compile put before every name of the model that they wrap.
_PREFIX = re.compile(r"(?:module|_orig_mod)\.")
_TWICE = "the checkpoint names some weights twice, with and without a prefix such as 'module.'; keep one set"

# Batch norm's count of training steps: no weight, and PyTorch before 0.4.1 did not save it.
COUNTER = "num_batches_tracked"


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
    accepts: Callable[[State], bool] = lambda state: True


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
    files: list[Any] = [
        importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)
    ]
    return {family.name: (family, file) for file in files for family in file.FAMILIES}


def recognise(state: State, *, family: str | None = None) -> Recognised:
    """Make the model that a checkpoint's weights belong to.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights under their published names; a leading ``module.`` or ``_orig_mod.`` is ignored. Never
        written to, and the model may share memory with it.
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
    stripped = _spellings(state)[-1]
    if len(stripped) != len(state):
        raise ValueError(_TWICE)
    if family is not None and family not in known:
        raise ValueError(f"unknown checkpoint family {family!r}; known: {', '.join(known)}")
    chosen, architecture = known[family] if family is not None else _best_family(stripped, known)
    # Without memory: the widths are a stranger's numbers, and the first values would be thrown away.
    with torch.device("meta"):
        model = architecture.build(_renamed(stripped, chosen))
    _load(model, stripped, chosen)
    model.requires_grad_(True).eval()
    heads = [m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Linear | nn.Conv3d)]
    assert heads, "an architecture ends in a linear layer or a 1x1x1 convolution"
    return Recognised(model, chosen.name, chosen.profile, heads[-1])


def from_factory(path: str, *, state: State | None = None) -> Recognised:
    """Make a model that no file of this room knows, with a factory of the user's own.

    Parameters
    ----------
    path : str
        ``package.module:factory``: what to import, and a function in it that takes no arguments and
        returns a `torch.nn.Module` and its `Profile` (or the profile's plain dict).
    state : mapping of str to Tensor, optional
        Weights under the model's own names; where these do not fit as they are, without a leading
        ``module.`` or ``_orig_mod.``. By default the model keeps those it was made with.

    Returns
    -------
    Recognised
        The model in eval mode and float32, with the profile; the family is the profile's.

    Raises
    ------
    ValueError
        If the factory can't be found, raises, or returns something else; if the model is compiled by
        TorchScript, has no plain weights, or can't map one clip of the profile to logits; or if the
        weights do not fit (all keys are listed).
    """
    made, profile = _made(path)
    model = _plain(made, path)
    if state is not None:
        expected = model.state_dict().keys()

        def misfits(spelling: State) -> int:
            return sum(not key.endswith(COUNTER) for key in spelling.keys() ^ expected)

        # The names in the file, where others fit no better.
        best = min(_spellings(state), key=misfits)
        if len(best) != len(state):
            raise ValueError(_TWICE)
        _load(model, best, Family(profile.family, str, profile))
    return Recognised(model, profile.family, profile, _counted_outputs(model, profile, path))


def size(state: State, key: str, axis: int, default: int) -> int:
    """Length of one axis of a weight; `default` where no weight tells, so that all faults get listed."""
    value = state.get(key)
    return int(value.shape[axis]) if value is not None and value.ndim > axis and value.numel() else default


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


def make_model(state: Mapping[str, Tensor], *, family: str | None, factory: str | None) -> Recognised:
    """Make a checkpoint's model: of a known family, or by a factory of the user's own."""
    return recognise(state, family=family) if factory is None else from_factory(factory, state=state)


def _spellings(state: State) -> list[dict[str, Tensor]]:
    """A state's names as they are, then with one wrapper's prefix after another taken off."""
    spellings = [dict(state)]
    while any(map(_PREFIX.match, spellings[-1])):
        last = spellings[-1]
        spellings.append({key[m.end() if (m := _PREFIX.match(key)) else 0 :]: last[key] for key in last})
    return spellings


def _best_family(
    state: State, known: Mapping[str, tuple[Family, Architecture]]
) -> tuple[Family, Architecture]:
    """Pick the family that knows most keys, then the one that accepts the state."""
    renamed = {name: _renamed(state, family) for name, (family, _) in known.items()}
    ranked = [(len(own), known[name][0].accepts(own), name) for name, own in renamed.items()]
    known_keys, _, name = max(ranked, key=lambda rank: rank[:2], default=(0, False, ""))
    if 2 * known_keys <= len(state) or not known_keys:
        raise ValueError(
            f"unknown checkpoint family: of {len(state)} keys ({_listed(state, 4)}) no known family has "
            f"more than half; known families: {', '.join(known)}"
        )
    return known[name]


def _renamed(state: State, family: Family) -> dict[str, Tensor]:
    pairs = ((family.rename(key), value) for key, value in state.items())
    return {key: value for key, value in pairs if key is not None}


def _load(model: nn.Module, state: State, family: Family) -> None:
    expected = model.state_dict()
    if faults := _faults(state, family, expected):
        raise ValueError(f"the checkpoint does not fit family {family.name}: {'; '.join(faults)}")
    renamed = _renamed(state, family)
    counters = {key: torch.zeros((), dtype=torch.int64) for key in expected.keys() - renamed.keys()}
    weights = {
        key: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)
        for key, value in renamed.items()
    }
    model.load_state_dict({**weights, **counters}, assign=True)


def _faults(state: State, family: Family, expected: State) -> list[str]:
    """List what does not fit, in the published names where the checkpoint has one."""
    own = {key: family.rename(key) or "" for key in state}
    missing = [key for key in expected if key not in own.values() and not key.endswith(COUNTER)]
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


def _made(path: str) -> tuple[nn.Module, Profile]:
    """What the factory gives: a model as it is, and its profile."""
    module, _, name = path.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError(f"the model {path!r} is not an import path; write package.module:factory")
    try:
        factory = getattr(importlib.import_module(module), name, None)
    # A script that reads its arguments when it is imported ends the process.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"the model {path!r} can't be imported: {_reason(error)}; install its package into this "
            "environment or add its directory to PYTHONPATH"
        ) from error
    if not callable(factory):
        raise ValueError(f"the model {path!r}: {module} has no function {name}; name one that is there")
    try:
        made: Any = factory()
    except (Exception, SystemExit) as error:
        raise ValueError(f"the model {path!r} can't be made: its factory raised {_reason(error)}") from error
    pair = made if isinstance(made, tuple | list) and len(made) == 2 else (made, None)
    if not isinstance(pair[0], nn.Module) or not isinstance(pair[1], Profile | Mapping):
        what = ", ".join(map(_kind, made)) if pair is made else _kind(made)
        raise ValueError(
            f"the model {path!r} can't be used: its factory returned {what}; it must return a "
            "torch.nn.Module and its Profile (or the profile as a dict)"
        )
    return pair[0], _as_profile(pair[1], path)


def _kind(value: object) -> str:
    if value is None or isinstance(value, type):
        return "None" if value is None else f"the class {value.__name__} (not an object of it)"
    return type(value).__name__


def _plain(model: nn.Module, path: str) -> nn.Module:
    """Take a model out of what parallelises or compiles it, in eval mode and float32, on the CPU."""
    inner: Any = model
    while inner is not None:
        model = inner
        parallel = isinstance(inner, nn.DataParallel | DistributedDataParallel)
        inner = inner.module if parallel else uncompiled(inner)
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"the model {path!r} can't be used: {name or 'it'} is compiled by TorchScript, which hides "
                "its operations; return it as it was before torch.jit.script or torch.jit.trace"
            )
    try:
        values = model.state_dict().items()
        if strange := [key for key, value in values if not isinstance(value, Tensor)]:
            raise TypeError(f"{strange[0][:80]} holds no plain numbers, as in a quantised model")
        return model.to("cpu", torch.float32).requires_grad_(True).eval()
    except Exception as error:
        raise ValueError(
            f"the model {path!r} can't be used: {_reason(error)}; return a torch.nn.Module with its weights, "
            "neither lazy, quantised, exported nor on the meta device"
        ) from error


def _as_profile(given: Profile | Mapping[str, Any], path: str) -> Profile:
    if isinstance(given, Profile):
        return given
    try:
        return Profile.from_dict(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the profile of the model {path!r} is not one: {_reason(error)}") from error


def _counted_outputs(model: nn.Module, profile: Profile, path: str) -> int:
    """Run one black clip: a stranger's model may end in any layer."""
    shape = (1, *profile.sample_shape)
    try:
        # Compiling, if parts of it are to be compiled, would take longer than the clip.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits: object = model(torch.zeros(shape))
    except Exception as error:
        raise ValueError(
            f"the model {path!r} can't run a clip of shape {shape}, its profile's: {_reason(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model {path!r} returned {what} for one clip; it must return logits (clip, class)"
        )
    return logits.shape[1]


def _reason(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
