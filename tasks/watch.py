"""Watch: which checkpoints of a place have no finished run, and why others get none.

Everything is decided by content: the file's sha256 and the hash of all else that makes its run. Names, dates
and clocks decide nothing but the order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound

from selrel.models import from_factory
from storage.checkpoints.ledger import Entry, Outcome, read_ledger
from storage.checkpoints.sources import Candidate, candidates
from storage.datasets.fingerprints import facts, keep
from storage.datasets.ucf101 import choose_classes, read_dataset
from storage.layout import RunPaths, content_hash
from storage.runs import Run, finished_run, is_finished, read_run
from storage.stores.receipts import blocks_done
from storage.stores.root import Root, UnreadableFile, UnusableRoot, file_at
from tasks.compare import NotComparable, check_alike
from tasks.gate import judgement
from tasks.plan import machinery, plan
from tasks.request import Request
from tasks.stages import STAGES

STOPPED = "selrel serve was stopped during this run."
_NO_SLOT = "Deployment concurrency limit reached"
_BY_HAND = "(somebody cancelled it; to have it explained, start the deployment by hand)"
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Look:
    """What one look at a place has shown.

    Attributes
    ----------
    news
        Entries that the ledger does not hold yet, the due ones left out.
    due
        Checkpoints to explain, oldest first, as the entries that their start would leave.
    active
        Entries of what is being explained.
    """

    news: tuple[Entry, ...]
    due: tuple[Entry, ...]
    active: tuple[Entry, ...]


def look(place: str, request: Request, *, patterns: Sequence[str], tries: int) -> Look:
    """Compare the files of a place with its ledger and with the runs under the root.

    Parameters
    ----------
    place : str
        Directory or ``s3://`` prefix where checkpoints appear.
    request : Request
        What would be asked of each; its checkpoint is ignored.
    patterns : sequence of str
        Names of checkpoints.
    tries : int
        Starts in a row that add no finished block, after which a checkpoint is given up.

    Raises
    ------
    ValueError, OSError
        If the place, the data set, the root, the run to compare with or the model's factory can't be used. A
        checkpoint that can't be used is refused, and the reason is in its entry.
    """
    here = _checked(place, request, tries)
    found = candidates(place, patterns)
    if not found:
        return Look((), (), ())
    judge = _Judge(request, read_ledger(Root(request.root), place), here, tries)
    verdicts = [verdict for candidate in found for verdict in judge.verdicts(candidate)]
    return Look(
        news=tuple(judge.news(verdicts)),
        due=tuple(verdict for verdict in verdicts if judge.is_due(verdict)),
        active=tuple(judge.active),
    )


def check_place(place: str, request: Request, *, tries: int) -> None:
    """Raise as `look` does for what fails with any checkpoint, and if the root can't be written."""
    _checked(place, request, tries)
    candidates(place)
    Root(request.root).check_writable()


def _checked(place: str, request: Request, tries: int) -> str:
    """Refuse a request with which no checkpoint could be explained, and give its circumstances."""
    if tries < 1:
        raise ValueError(f"tries is {tries}; give 1 or more")
    watched, root = Root(place).url, Root(request.root).url
    if f"{root}/".startswith(f"{watched}/"):
        raise ValueError(
            f"the root {root} lies inside the watched place {watched}; give it a place elsewhere"
        )
    here = circumstances(request)
    # What no checkpoint can mend is checked here, so that none is refused for it.
    if request.against is not None:
        earlier = finished_run(request.against).description
        # Its data set depends on each checkpoint's profile.
        wanted = {"dataset_id": earlier.get("dataset_id"), "settings": request.settings()}
        check_alike(request.against, wanted)
    if request.model is not None:
        from_factory(request.model)
    return here


def circumstances(request: Request) -> str:
    """Hash of everything that makes a run, except the checkpoint; the gate only judges it.

    Of the videos, what the file system says: a look must not read them all. One that was touched only has its
    checkpoints looked at anew, which finds their runs.
    """
    found = read_dataset(request.data, split=request.split, subset=request.subset)
    asked = dataclasses.asdict(request)
    for name in ("data", "checkpoint", "root", "max_drop", "against"):
        del asked[name]
    if request.classes is not None:
        asked["classes"] = choose_classes(found, request.classes).classes
    videos = [[video.name, video.label, *facts(video.path)] for video in found.videos]
    return content_hash({"asked": asked, "videos": videos, "classes": list(found.classes), **machinery()})


def ended(entry: Entry, outcome: Outcome, reason: str = "") -> Entry:
    """The entry that follows a start, now."""
    return replace(entry, at=_now(), outcome=outcome, reason=reason)


class _Judge:
    """Decides about each file in turn, given the ledger."""

    def __init__(self, request: Request, ledger: Sequence[Entry], here: str, tries: int) -> None:
        self.active: list[Entry] = []
        self._request = request
        self._root = Root(request.root)
        self._ledger = ledger
        self._here = here
        self._tries = tries
        self._in_hand: dict[str, str] = {}

    def news(self, verdicts: Sequence[Entry]) -> Iterator[Entry]:
        """Verdicts that tell something new about their file."""
        last = {entry.file: entry for entry in self._ledger}
        for verdict in verdicts:
            before = last.get(verdict.file)
            # What is under way was told when it was started, of another version of the file, perhaps.
            told = before is not None and replace(before, at=verdict.at) == verdict
            if told or verdict in self.active or self.is_due(verdict):
                continue
            last[verdict.file] = verdict
            yield verdict

    def is_due(self, verdict: Entry) -> bool:
        """Whether a verdict says that the checkpoint is to be started."""
        return verdict.outcome == "started" and verdict not in self.active

    def verdicts(self, candidate: Candidate) -> Iterator[Entry]:
        """Say what is known about a file now; nothing if it is gone meanwhile."""
        entry = Entry(_now(), candidate.url, candidate.version, candidate.size_bytes, "waiting")
        seen = [e for e in self._ledger if (e.file, e.version) == (entry.file, entry.version)]
        try:
            sha256, reason = _settled(candidate, seen)
            if reason:
                yield replace(entry, sha256=sha256, reason=reason)
            else:
                yield from self._of_content(replace(entry, sha256=sha256, circumstances=self._here))
        except FileNotFoundError:
            return
        except UnusableRoot:
            raise
        except PermissionError as error:
            yield replace(entry, reason=f"can't be read: {error.strerror or error}")
        except (UnreadableFile, ValueError) as error:
            # Its run is damaged, perhaps; that stops no other file, and may be mended by the next look.
            yield replace(entry, reason=str(error))

    def _of_content(self, entry: Entry) -> Iterator[Entry]:
        other = self._in_hand.setdefault(entry.sha256, entry.file)
        before = [
            e for e in self._ledger if (e.sha256, e.circumstances) == (entry.sha256, entry.circumstances)
        ]
        refused = next((e for e in before if e.outcome == "refused"), None)
        if refused is not None:
            yield replace(entry, outcome="refused", reason=refused.reason)
            return
        run = next((e.run for e in reversed(before) if e.run), "")
        try:
            if not run:
                made = plan(replace(self._request, checkpoint=entry.file))
                if made.description["checkpoint_sha256"] != entry.sha256:
                    raise FileNotFoundError(f"{entry.file} was replaced while it was looked at")
                # The next file's plan need not read the videos again.
                keep(self._root, made.data, made.fingerprints)
                run = made.run
            entry = replace(entry, run=run)
        except UnusableRoot:
            raise
        except NotComparable as error:
            # Not for good, since it says nothing of the checkpoint that the other run can't be compared.
            yield replace(entry, reason=str(error))
            return
        except ValueError as error:
            yield replace(entry, outcome="refused", reason=str(error))
            return
        paths = self._root.run(entry.run)
        if is_finished(self._root, paths):
            yield replace(entry, outcome="finished", reason=judgement(Run(self._root, paths)))
        elif other != entry.file:
            yield replace(entry, reason=f"the same content as {other}, which comes first")
        else:
            yield from self._unfinished(entry, [e for e in before if e.outcome in ("started", "failed")])

    def _unfinished(self, entry: Entry, before: Sequence[Entry]) -> Iterator[Entry]:
        # One entry of each start; those made without a server have no flow run to be told by.
        started = (e for e in before if e.outcome == "started")
        starts = list({start.flow_run or n: start for n, start in enumerate(started)}.values())
        reason, excused = "", {e.flow_run for e in before if e.outcome == "failed" and _excused(e.reason)}
        if starts:
            last, state = starts[-1], _state(starts[-1].flow_run)
            if state is not None and not state.is_final():
                self.active.append(last)
                yield last
                return
            # By a person, and not by the deployment's limit.
            if state is not None and state.is_cancelled() and _NO_SLOT not in (state.message or ""):
                reason = f"{_why(state)} {_BY_HAND}"
                yield replace(entry, outcome="given up", reason=reason, blocks=last.blocks)
                return
            reason = before[-1].reason if before[-1].outcome == "failed" else _why(state)
            excused |= {last.flow_run} if _excused(reason) else set()
            if before[-1].outcome == "started":
                yield replace(last, at=entry.at, outcome="failed", reason=reason)
        blocks = _blocks_done(self._root, self._root.run(entry.run))
        counted = [start.blocks for start in reversed(starts) if start.flow_run not in excused]
        # How many of the last starts found as many blocks done as there are now.
        idle = sum(1 for _ in takewhile(lambda done: done == blocks, counted))
        if idle >= self._tries:
            reason = f"{idle} attempts added nothing; the last one: {reason}"
            yield replace(entry, outcome="given up", reason=reason, blocks=blocks)
        else:
            yield replace(entry, outcome="started", reason=f"attempt {len(starts) + 1}", blocks=blocks)


def _settled(candidate: Candidate, seen: Sequence[Entry]) -> tuple[str, str]:
    """The file's sha256, and why it may still be written; an empty reason if it is whole."""
    known = next((entry.sha256 for entry in seen if entry.sha256), "")
    if candidate.promised is None:
        if not seen:
            return "", "seen for the first time; it is taken if the next look finds it unchanged"
        return known or _sha256(candidate.url), ""
    if not candidate.promised:
        return known, "its .sha256 file holds no sha256, or can't be read"
    found = known or _sha256(candidate.url)
    if found == candidate.promised:
        return found, ""
    return found, f"it has sha256 {found}, its .sha256 file says {candidate.promised}: one is not written yet"


def _sha256(url: str) -> str:
    root, path = file_at(url)
    digest = hashlib.sha256()
    for part in root.read_parts(path, _CHUNK_BYTES):
        digest.update(part)
    return digest.hexdigest()


def _blocks_done(root: Root, run: RunPaths) -> int:
    try:
        dataset = root.dataset(read_run(root, run)["dataset_id"])
    except (FileNotFoundError, ValueError, KeyError):
        # Absent or damaged: a start writes it anew.
        return 0
    return sum(len(blocks_done(root, stage.where(run, dataset), stage.name)) for stage in STAGES)


def _state(flow_run: str) -> State | None:
    """State of a flow run; None if it was none of a server's, or the server does not know it any more."""
    if not flow_run:
        return None
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run(UUID(flow_run)).state
        except ObjectNotFound:
            return None


def _why(state: State | None) -> str:
    if state is None:
        return "it was interrupted"
    return f"{state.name}: {' '.join((state.message or 'no reason given').split())}"


def _excused(reason: str) -> bool:
    """Whether a start failed for a reason that no checkpoint is to blame for."""
    return STOPPED in reason or _NO_SLOT in reason


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
