"""What ``import reverie`` does with plans and run folders: ``recipe`` makes a plan, ``run`` does it, ``open_run`` opens what was made.

Nothing here holds a run in memory: rows are read when they are asked for, and a table that grows meanwhile shows what it has by then.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from reverie import hub
from reverie.errors import InputError, MissingExtra
from reverie.run import engine
from reverie.run.plan import Plan, call_recipe, read_plan
from reverie.run.status import StepStatus, status
from reverie.store import exports, results, tables
from reverie.store.files import BESIDE
from reverie.store.results import Result

if TYPE_CHECKING:
    from PIL.Image import Image

ExportKind = Literal["webdataset", "parquet", "coco", "folder"]
WITH_IMAGE = "image is not null"


def recipe(name: str, /, **settings: Any) -> Plan:
    """The plan of a recipe, by name or as a ``.py`` file of one's own.

    Args:
        settings: what ``reverie run NAME --help`` lists, with ``_`` for ``-``; the defaults are the same.
    Raises: UnknownName, InputError for a recipe or a setting that is not there, and whatever the recipe refuses.
    """
    try:
        return call_recipe(name, settings)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{error}; its settings are the flags of: reverie run {name} --help") from error


def run(
    plan: Plan,
    folder: str | Path,
    device: str = "",
    part: tuple[int, int] = (1, 1),
    until: str | None = None,
    jobs: int = 1,
) -> Run:
    """Do what is left of a plan in a folder; the same call with the same folder goes on where it stopped.

    Args:
        device: cpu, cuda or cuda:N; the GPU if there is one, when empty.
        part: (k, n) does the k-th of n slices of the units, k from 1.
        until: last step to do.
        jobs: trainings at a time, each in a process of its own with its share of the cores; with more than one, a script guards
            its first lines with ``if __name__ == "__main__"``.
    Raises: FolderInUse, SettingsChanged, and whatever ReverieError a stage raises; what was finished before is kept.
    """
    if not device:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    engine.run(plan, Path(folder), device, part, until, jobs)
    return Run(Path(folder))


def open_run(folder: str | Path) -> Run:
    """A run folder, finished or at work, or a folder of tables that ``import_into`` made. Raises InputError if it is neither."""
    found = Run(Path(folder))
    if not tables.exists(found.captions.path):
        read_plan(found.folder)
    return found


class Records(list[Result]):
    """A list of measured numbers; what is in one stands in ``store/results.py``."""

    def select(self, **wanted: object) -> Records:
        """Those with these fields, factors or details: ``results.select(arm="guided", metric="top1", shots=4)``."""
        return Records(results.select(self, **wanted))

    def to_pandas(self) -> Any:
        """A data frame with a row for each record; factors are columns ``factors.NAME``. Raises MissingExtra."""
        return _pandas().json_normalize([record.as_dict() for record in self])


@dataclass(frozen=True)
class Rows:
    """Rows of a table, all or those that fit a filter. Iterate for dictionaries, or take them elsewhere by one of the ``to_``."""

    path: Path
    filter: str | None = None  # Lance SQL

    def where(self, sql: str) -> Rows:
        """Those of these rows that fit, such as ``kept and clip_score > 0.3``. Raises InputError for what is no filter on this table."""
        tables.check_filter(sql, tables.open_table(self.path).schema)
        return Rows(self.path, f"({self.filter}) and ({sql})" if self.filter else sql)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return tables.column_names(self.path)

    def __len__(self) -> int:
        return tables.count(self.path, self.filter)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for part in tables.scan(self.path, None, self.filter):
            yield from part.to_pylist()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """An Arrow table of these columns; all when None. It is held in memory, images included."""
        schema = tables.open_table(self.path).schema
        parts = list(tables.scan(self.path, columns, self.filter))
        if not parts:
            return pa.schema([schema.field(name) for name in columns or schema.names]).empty_table()
        return pa.concat_tables(parts)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """A data frame of these columns; all when None. Raises MissingExtra."""
        _pandas()
        return self.to_arrow(columns).to_pandas()

    def to_datasets(self, columns: Sequence[str] | None = None) -> Any:
        """A ``datasets.Dataset`` with ``image`` as an Image feature, kept on disk in the cache of ``datasets``.

        Args:
            columns: what to take beside pair_id, text and image; all when None.
        Raises: MissingExtra; InputError if no row fits.
        """
        try:
            import datasets
        except ImportError as error:
            raise MissingExtra("to_datasets", "huggingface") from error
        where = self.filter or "true"
        table = tables.open_table(self.path)
        first = exports.for_datasets(next(exports.unit_tables(self.path, where, columns), table.schema.empty_table()))
        if not len(first):
            raise InputError(f"no row of {self.path} fits {where!r}")
        return datasets.Dataset.from_generator(
            _rows_for_datasets,
            features=datasets.Features.from_arrow_schema(first.schema),
            gen_kwargs={  # which name the cached file, so that a table that has changed is read again
                "path": str(self.path.resolve()), "where": where, "columns": columns, "version": table.version,
                "identity": str(table.schema.metadata),
            },
        )  # fmt: skip

    def to_torch(
        self, transform: Callable[[Image], Any] | None = None, columns: Sequence[str] = ("pair_id", "text", "label")
    ) -> Images:
        """A data set for ``torch.utils.data.DataLoader``: dictionaries of ``image`` and these columns. Rows without an image are left out.

        Args:
            transform: called with each picture (PIL, RGB); without one, ``image`` is a uint8 tensor (3, height, width).
        Raises: InputError for a column that is not there.
        """
        return Images(self.path, f"({self.filter}) and {WITH_IMAGE}" if self.filter else WITH_IMAGE, transform, columns)

    def export(self, kind: ExportKind, folder: str | Path) -> dict[str, int]:
        """Write these pairs as files that other tools read; returns how many of what. Raises: as ``reverie export`` does.

        Rows that are not ``ok`` are left out, as they have no image to show.
        """
        write: dict[str, Callable[..., dict[str, int]]] = {
            "webdataset": exports.to_webdataset,
            "parquet": exports.to_parquet,
            "coco": exports.to_coco,
            "folder": exports.to_folder,
        }
        if kind not in write:
            raise InputError(f"there is no export {kind!r}; use one of: {', '.join(write)}")
        return write[kind](self.path, folder, where=f"({self.filter}) and {exports.OK}" if self.filter else exports.OK)

    def save_pretrained(self, folder: str | Path) -> Path:
        """These pairs as parquet with a card (README.md), in a new folder that ``datasets.load_dataset`` opens."""
        folder = Path(folder)
        counts = self.export("parquet", folder)
        hub.write_card(folder, self.path.parent, data=counts["pairs"], where=self.filter)
        return folder

    def push_to_hub(self, repo_id: str, *, private: bool = True, api: Any = None) -> str:
        """The same on the Hub, as a data set. Returns: its address.

        Args:
            repo_id: OWNER/NAME.
            api: a ``huggingface_hub.HfApi``, with another token say.
        Raises: InputError if the Hub refuses.
        """
        return hub.push(self.save_pretrained, repo_id, "dataset", private, api)


class Images:
    """A map-style data set of PyTorch. Pictures of a batch are read together; with workers, ask for ``multiprocessing_context="spawn"``."""

    def __init__(
        self, path: Path, where: str, transform: Callable[[Image], Any] | None, columns: Sequence[str] = ()
    ) -> None:
        self.path, self.transform, self.columns = path, transform, tuple(columns)
        if missing := [name for name in self.columns if name not in tables.column_names(path)]:
            raise InputError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(tables.column_names(path))}"
            )
        numbers = list(tables.scan(path, ["_rowoffset"], where))
        self.numbers = np.concatenate([part["_rowoffset"].to_numpy() for part in numbers]) if numbers else np.empty(0)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several at once, as a DataLoader asks for them. Raises BrokenImage naming the pair."""
        from reverie.store.pictures import open_picture

        wanted = self.numbers[np.asarray(indices, dtype=np.int64)]
        names = list(dict.fromkeys([*self.columns, "pair_id", "image"]))
        found = []
        for row in tables.take(self.path, wanted, names).to_pylist():
            picture = open_picture(row["image"], f"pair {row['pair_id']}")
            rest = {name: "" if row[name] is None else row[name] for name in self.columns}  # batches collate no None
            found.append({"image": (self.transform or _as_tensor)(picture)} | rest)
        return found


@dataclass(frozen=True)
class Run:
    """What is in a run folder."""

    folder: Path

    def status(self) -> list[StepStatus]:
        """How far each step is."""
        return status(self.folder)

    @property
    def is_complete(self) -> bool:
        """Whether every step is done."""
        return all(step.complete for step in self.status())

    def results(self) -> Records:
        """The numbers measured so far."""
        return Records(results.read(self.folder / "results.jsonl"))

    @property
    def captions(self) -> Rows:
        """Captions, also those that could not be used."""
        return Rows(self.folder / "captions.lance")

    @property
    def pairs(self) -> Rows:
        """Image-text pairs and what filters say of them, also those that could not be made or were not kept."""
        return Rows(self.folder / "pairs.lance")

    def weights(self, step: str) -> Path:
        """Folder of the finished weights of a step. Raises InputError if there are none."""
        found = self.folder / "weights" / step
        if not found.is_dir():
            there = sorted(path.name for path in found.parent.glob("*") if path.is_dir() and path.suffix not in BESIDE)
            raise InputError(f"{self.folder} has no weights of {step!r}; it has {', '.join(there) or 'none yet'}")
        return found

    @property
    def page(self) -> Path:
        """The page of the run, ``report.html``; written now if the run has none yet."""
        page = self.folder / "report.html"
        if not page.exists():
            from reverie.report.page import write

            write(self.folder)
        return page

    def save_pretrained(self, step: str, folder: str | Path) -> Path:
        """The weights of a step with a card (README.md) in a new folder, which every ``from_pretrained`` opens."""
        return hub.save_weights(self.weights(step), self.folder, step, Path(folder))

    def push_to_hub(self, step: str, repo_id: str, *, private: bool = True, api: Any = None) -> str:
        """The same on the Hub. Returns: its address.

        Args:
            repo_id: OWNER/NAME.
            api: a ``huggingface_hub.HfApi``, with another token say.
        Raises: InputError if there are no such weights, or the Hub refuses.
        """
        self.weights(step)
        return hub.push(lambda folder: self.save_pretrained(step, folder), repo_id, "model", private, api)


def _pandas() -> Any:
    if importlib.util.find_spec("pandas") is None:
        raise MissingExtra("to_pandas", "huggingface")
    import pandas

    return pandas


def _rows_for_datasets(
    path: str, where: str, columns: Sequence[str] | None, version: int, identity: str
) -> Iterator[dict[str, Any]]:
    for part in exports.unit_tables(path, where, columns):
        yield from exports.for_datasets(part).to_pylist()


def _as_tensor(picture: Image) -> Any:
    import torch

    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
