"""A table of vectors beside the pairs, and which of them are nearest: Lance's index once they are many, all of them one by one before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reverie.store import tables
from reverie.store.tables import TablePath, asked

VECTOR = "vector"
INDEX_FROM = 20_000  # vectors; fewer are compared one by one, in milliseconds
LAG = 0.1  # share of vectors that may be newer than the index, and are then compared one by one
PER_PARTITION = 4096  # vectors of an index that are looked at together
PROBES = 32  # partitions that are looked at
REFINE = 8  # candidates of the index, by compressed vectors, for each that is wanted


def rows(pair_ids: list[str], unit: int, vectors: list[npt.NDArray[np.float32] | None], size: int) -> pa.Table:
    """Rows of such a table; a pair without a vector has null."""
    return pa.table(
        {
            "pair_id": pair_ids,
            "unit": pa.array([unit] * len(pair_ids), pa.int64()),
            VECTOR: pa.array(vectors, pa.list_(pa.float32(), size)),
        }
    )


def index(path: TablePath) -> bool:
    """Make the index where it is worth while and not there, or has fallen behind. Returns: whether it was made."""
    table = tables.open_table(path)
    number = table.count_rows()
    if number < INDEX_FROM:
        return False
    indexed = [each.num_rows_indexed for each in table.describe_indices() if VECTOR in each.field_names]
    if indexed and number - indexed[0] <= LAG * number:
        return False
    size = table.schema.field(VECTOR).type.list_size
    how = {"index_type": "IVF_PQ", "num_sub_vectors": size // 8} if size % 8 == 0 else {"index_type": "IVF_FLAT"}
    with asked(path, None):
        table.create_index(VECTOR, metric="cosine", num_partitions=max(1, number // PER_PARTITION), replace=True, **how)
    return True


def vector_of(path: TablePath, pair_id: str) -> npt.NDArray[np.float32] | None:
    """The vector of a pair, or None if it has none."""
    key = pair_id.replace("'", "''")
    for part in tables.scan(path, [VECTOR], f"pair_id = '{key}'"):
        for value in part[VECTOR].to_pylist():
            return None if value is None else np.asarray(value, np.float32)
    return None


def nearest(path: TablePath, vector: npt.NDArray[np.float32], number: int) -> list[tuple[str, float]]:
    """Pairs whose vectors have the highest cosine to this one, with it, nearest first."""
    how = {"column": VECTOR, "q": vector, "k": number, "metric": "cosine", "nprobes": PROBES, "refine_factor": REFINE}
    table = tables.open_table(path)
    with asked(path, None):
        found = table.scanner(columns=["pair_id", "_distance"], nearest=how).to_table()
    pairs = zip(found["pair_id"].to_pylist(), found["_distance"].to_pylist(), strict=True)
    return [(name, 1 - distance) for name, distance in pairs if distance is not None]
