"""Parquet files: written whole, the same bytes for the same table, checked when read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from storage.stores.receipts import REPAIR, Written, of_bytes
from storage.stores.root import Root, TooLarge
from storage.text import first_line

# As a file, and unfolded in memory: several times what the clips of the largest data set take.
MAX_BYTES = 2**28
MAX_COLUMNS = 500
# Bytes of a value, by parquet's types; of a text, of what refers to it.
_WIDTHS = {"BOOLEAN": 8, "INT32": 8, "INT64": 8, "FLOAT": 8, "DOUBLE": 8, "BYTE_ARRAY": 8}

_IS: dict[str, Callable[[pa.DataType], bool]] = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "integer": pa.types.is_integer,
    "number": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
    "flag": pa.types.is_boolean,
}


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
    data = _bytes(table)
    root.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def write_tables(root: Root, tables: Mapping[str, tuple[str, pd.DataFrame]]) -> Written:
    """Write tables, (file, rows) by name, as `write_table` does, and say so as a receipt does."""
    written = Written()
    for name, (path, rows) in tables.items():
        data = _bytes(rows)
        root.write_bytes(path, data)
        file = of_bytes(path, data)
        written |= Written({name: file.files[path]}) | file
    return written


def _bytes(table: pa.Table | pd.DataFrame) -> bytes:
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
    return buffer.getvalue()


def plain_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: null for NaN, which is what it means in a table."""
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def read_table(
    root: Root,
    path: str,
    *,
    sha256: str | None = None,
    columns: Sequence[str] | None = None,
    most_rows: int | None = None,
) -> pa.Table:
    """Read a parquet file, with its page checksums, if what it says it holds can be true.

    Parameters
    ----------
    root, path
        Where the file lies.
    sha256 : str, optional
        The file's hash from its receipt. The page checksums cover the rows but not the footer
        with the columns' names and types; this covers all.
    columns : sequence of str, optional
        Those to read; by default all.
    most_rows : int, optional
        How many rows such a table has at most. A few kB can hold many millions.

    Raises
    ------
    FileNotFoundError
        If it is absent.
    DamagedTable
        If it is not the parquet file it was, or one that this project would not write: of more rows or bytes,
        or of columns that are neither numbers nor text.
    """
    try:
        data = root.read_bytes(path, most=MAX_BYTES)
    except TooLarge as error:
        raise DamagedTable(f"{error}: {REPAIR}") from None
    if sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise DamagedTable(f"{root.join(path)} is not the file of its receipt: {REPAIR}")
    # pyarrow takes no other sequence.
    chosen = None if columns is None else list(columns)
    try:
        copy = _of_arrow(data)
        found = pq.read_metadata(pa.BufferReader(copy))
        if fault := _fault(found, most_rows):
            raise DamagedTable(f"{root.join(path)} {fault}: it is damaged, or made to do harm; {REPAIR}")
        columns_of_file = map(found.schema.column, range(found.num_columns))
        texts = [column.name for column in columns_of_file if column.physical_type == "BYTE_ARRAY"]
        # Text that repeats is stored once, and would be unfolded before anybody could look.
        table = pq.read_table(
            pa.BufferReader(copy), columns=chosen, read_dictionary=texts, page_checksum_verification=True
        )
        return _unfolded(table, root.join(path))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedTable(f"{root.join(path)} is damaged ({first_line(error)}): {REPAIR}") from error


def _fault(found: Any, most_rows: int | None) -> str:
    """What the footer says that can't be true; empty if nothing."""
    columns = [found.schema.column(n) for n in range(found.num_columns)]
    if len(columns) > MAX_COLUMNS or any(
        c.max_repetition_level or c.physical_type not in _WIDTHS for c in columns
    ):
        return "holds columns that are neither numbers nor text"
    groups = [found.row_group(n) for n in range(found.num_row_groups)]
    rows = found.num_rows
    if rows != sum(group.num_rows for group in groups):
        return "does not say how many rows it holds"
    if most_rows is not None and rows > most_rows:
        return f"says that it holds {rows:,} rows where {most_rows:,} at most are there"
    # Not by column: where a footer contradicts itself, pyarrow ends the process instead of raising.
    packed = sum(group.total_byte_size for group in groups)
    size = max(packed, rows * sum(_WIDTHS[column.physical_type] for column in columns))
    if size > MAX_BYTES:
        return f"says that it holds {size:,} bytes where {MAX_BYTES:,} at most are read"
    return ""


def _unfolded(table: pa.Table, where: str) -> pa.Table:
    """The table with its text as text."""
    size = 0
    for n, column in enumerate(table.columns):
        kind = column.type
        if not pa.types.is_dictionary(kind):
            if not (pa.types.is_primitive(kind) or pa.types.is_null(kind)):
                raise DamagedTable(
                    f"{where} holds a column of {kind}, which is neither numbers nor text: {REPAIR}"
                )
            continue
        for chunk in column.chunks:
            lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
            size += pc.sum(lengths.cast(pa.int64())).as_py() or 0
        if size > MAX_BYTES:
            raise DamagedTable(
                f"{where} unfolds to more than {MAX_BYTES:,} bytes: it is made to do harm; {REPAIR}"
            )
        table = table.set_column(n, table.field(n).with_type(kind.value_type), column.cast(kind.value_type))
    return table


def _of_arrow(data: bytes) -> pa.Buffer:
    """Copy a file's bytes to memory of Arrow's own, to read from.

    Arrow's threads may still let go of the file when the table is there. Bytes of Python's need Python's lock
    for that, and a thread that waits for it while Python ends takes the process down (SIGABRT, "terminate
    called without an active exception"): measured at 11 of 440 processes that ended right after reading.
    """
    copy = pa.BufferOutputStream()
    copy.write(data)
    return copy.getvalue()


def check_kinds(table: pa.Table, kinds: Mapping[str, str], where: str) -> None:
    """Check that columns are there and of their kinds; others may be there too.

    Parameters
    ----------
    table : pyarrow.Table
        As `read_table` gives it.
    kinds : mapping of str to str
        "text", "integer", "number" or "flag" by column; the first and the third also with " or none".
    where : str
        The file, for the message.

    Raises
    ------
    DamagedTable
        If a column is missing or of another kind.
    """
    for name, kind in kinds.items():
        if table.column_names.count(name) != 1:
            raise DamagedTable(f"{where} lacks the column {name!r}: {REPAIR}")
        column = table[name]
        wanted, _, optional = kind.partition(" or ")
        # Without rows, a column is written with any type.
        fits = _IS[wanted](column.type) or (optional and pa.types.is_null(column.type)) or not len(column)
        if not fits or (column.null_count and not optional):
            found = f"{column.type}, {column.null_count} of {len(column)} absent"
            raise DamagedTable(
                f"{where}: the column {name!r} holds {found}, where {kind} is allowed: {REPAIR}"
            )


def read_tables(
    root: Root,
    directory: str,
    *,
    files: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
    kinds: Mapping[str, str] | None = None,
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
    kinds : mapping of str to str, optional
        As `check_kinds` takes them.

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
    tables = []
    for path, sha256 in chosen.items():
        table = read_table(root, path, sha256=sha256, columns=columns)
        check_kinds(table, kinds or {}, root.join(path))
        tables.append(table if where is None else table.filter(where))
    # A column that is null in a whole block has the type null there.
    return pa.concat_tables(tables, promote_options="default")
