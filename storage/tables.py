"""Parquet files: written whole, the same bytes for the same table, checked when read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from storage.receipts import REPAIR, Written
from storage.root import Root


class DamagedTable(ValueError):
    """A file that can't be read as the table it should be."""


def write_table(root: Root, path: str, table: pa.Table | pd.DataFrame) -> str:
    """Write a table as one parquet file, atomically.

    Parameters
    ----------
    root : Root
        Where everything lies.
    path : str
        File under the root.
    table : pyarrow.Table or pandas.DataFrame
        The rows; a frame's index is dropped.

    Returns
    -------
    str
        sha256 of the file, for a receipt. The same table gives the same bytes with the same
        version of pyarrow.
    """
    plain = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    buffer = io.BytesIO()
    # pandas writes its own version into the metadata, which would change the bytes with it.
    pq.write_table(
        plain.replace_schema_metadata(None),
        buffer,
        compression="zstd",
        compression_level=3,
        version="2.6",
        write_page_checksum=True,
    )
    data = buffer.getvalue()
    root.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def write_tables(root: Root, tables: Mapping[str, tuple[str, pd.DataFrame]]) -> Written:
    """Write tables, (file, rows) by name, as `write_table` does, and say so as a receipt does."""
    sha256 = {name: write_table(root, path, rows) for name, (path, rows) in tables.items()}
    return Written(sha256, {tables[name][0]: found for name, found in sha256.items()})


def plain_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: null for NaN, which is what it means in a table."""
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def read_table(
    root: Root, path: str, *, sha256: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a parquet file, with its page checksums.

    Parameters
    ----------
    root, path
        Where the file lies.
    sha256 : str, optional
        The file's hash from its receipt. The page checksums cover the rows but not the footer
        with the columns' names and types; this covers all.
    columns : sequence of str, optional
        Those to read; by default all.

    Raises
    ------
    FileNotFoundError
        If it is absent.
    DamagedTable
        If it is not the parquet file it was.
    """
    data = root.read_bytes(path)
    if sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise DamagedTable(f"{root.join(path)} is not the file of its receipt: {REPAIR}")
    # pyarrow takes no other sequence.
    chosen = None if columns is None else list(columns)
    try:
        return pq.read_table(_of_arrow(data), columns=chosen, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedTable(f"{root.join(path)} is damaged ({reason}): {REPAIR}") from error


def _of_arrow(data: bytes) -> pa.BufferReader:
    """Copy a file's bytes to memory of Arrow's own, to read from.

    Arrow's threads may still let go of the file when the table is there. Bytes of Python's need Python's lock
    for that, and a thread that waits for it while Python ends takes the process down (SIGABRT, "terminate
    called without an active exception"): measured at 11 of 440 processes that ended right after reading.
    """
    copy = pa.BufferOutputStream()
    copy.write(data)
    return pa.BufferReader(copy.getvalue())


def read_tables(
    root: Root,
    directory: str,
    *,
    files: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """Concatenate all parquet files of a directory, in the order of their names, which is block order.

    Parameters
    ----------
    root, directory
        Where the files lie.
    files : mapping of str to str, optional
        What the receipts vouch for, sha256 by path: just those files are read, and checked.
    columns : sequence of str, optional
        As `read_table` takes them.
    where : pyarrow.compute.Expression, optional
        Which rows to keep, by the columns that are read; the others of a file go before the next is read.

    Raises
    ------
    FileNotFoundError
        If there is none.
    DamagedTable
        If one is not the file it was.
    """
    if files is None:
        names = [name for name in root.listdir(directory) if name.endswith(".parquet")]
        chosen: dict[str, str | None] = {f"{directory}/{name}": None for name in names}
    else:
        chosen = {path: files[path] for path in sorted(files) if path.startswith(f"{directory}/")}
    if not chosen:
        raise FileNotFoundError(
            f"no parquet file in {root.join(directory)}: has the stage that writes it run?"
        )
    found = (read_table(root, path, sha256=sha256, columns=columns) for path, sha256 in chosen.items())
    tables = [table if where is None else table.filter(where) for table in found]
    # A column that is null in a whole block has the type null there.
    return pa.concat_tables(tables, promote_options="default")
