"""The ledger of a watched place: what was seen there, what became of it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pyarrow as pa  # type: ignore[import-untyped]

from storage.stores.root import Root
from storage.tables import DamagedTable, check_kinds, read_table, write_table

Outcome = Literal["waiting", "refused", "started", "failed", "given up", "finished"]

_SCHEMA = pa.schema(
    [
        ("at", pa.string()),
        ("file", pa.string()),
        ("version", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("circumstances", pa.string()),
        ("run", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("flow_run", pa.string()),
        ("blocks", pa.int64()),
    ]
)
_KINDS = {field.name: "integer" if field.type == pa.int64() else "text" for field in _SCHEMA}
# A look every minute, each with something new, for two years.
_MOST_ENTRIES = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One row: what one look has shown about one file.

    Attributes
    ----------
    at : str
        When, in UTC by this machine's clock; for people, nothing is decided by it.
    file, version, size_bytes
        The file's URL, and its version and size as the listing gave them.
    outcome, reason
        ``waiting`` (may still be written), ``refused`` (can't be explained), ``started``, ``failed``,
        ``given up`` (failed too often), ``finished``; and why, in words.
    sha256
        Of the file; empty as long as it was not read.
    circumstances
        Hash of everything but the checkpoint that makes its run: settings, data set, code, libraries.
    run, flow_run
        The run's name, and the id of the flow run that was started, where there is one.
    blocks
        Blocks that were done already when it was started.
    """

    at: str
    file: str
    version: str
    size_bytes: int
    outcome: Outcome
    reason: str = ""
    sha256: str = ""
    circumstances: str = ""
    run: str = ""
    flow_run: str = ""
    blocks: int = 0


def read_ledger(root: Root, place: str) -> list[Entry]:
    """All entries of a watched place, oldest first; none if nothing was ever seen there."""
    try:
        table = read_table(root, root.ledger(place), most_rows=_MOST_ENTRIES)
    except FileNotFoundError:
        return []
    where = root.join(root.ledger(place))
    check_kinds(table, _KINDS, where)
    entries = [Entry(**row) for row in table.select(list(_KINDS)).to_pylist()]
    if unknown := {entry.outcome for entry in entries} - set(get_args(Outcome)):
        raise DamagedTable(f"{where} is damaged: {min(unknown)!r} is no outcome of a checkpoint; remove it")
    return entries


def append(root: Root, place: str, entries: Sequence[Entry]) -> None:
    """Add entries to a place's ledger; of a file that keeps growing, the last ``waiting`` alone stays."""
    if not entries:
        return
    kept: list[Entry] = []
    last: dict[str, int] = {}
    for entry in [*read_ledger(root, place), *entries]:
        before = last.get(entry.file)
        if before is not None and kept[before].outcome == entry.outcome == "waiting":
            kept[before] = entry
            continue
        last[entry.file] = len(kept)
        kept.append(entry)
    rows = [asdict(entry) for entry in kept]
    write_table(root, root.ledger(place), pa.Table.from_pylist(rows, schema=_SCHEMA))
