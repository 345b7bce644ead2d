"""Every reader with damaged input: exit 0 or 2, one line, no traceback, no waiting, and all rows accounted for.

Each source is written whole, then changed in ways drawn from a seed: bits, cuts, doubled and moved pieces, and words that
readers stumble over. A failure names the seed, which makes the same bytes again.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reverie.captions.classes import read_classes, read_synonyms
from reverie.captions.corpus import ReadCorpus
from reverie.captions.domains import read_domain
from reverie.captions.prompts import read_prompt
from reverie.cli.main import main
from reverie.datasets import labelled
from reverie.errors import ReverieError
from reverie.evaluate import caption_files
from reverie.store import imports, tables
from tests.store.conftest import captions_of, pairs_of, picture
from tests.store.test_imports import add_to_tar
from tests.writes import stay_inside

pytestmark = pytest.mark.slow

MUTATIONS = int(os.environ.get("REVERIE_FUZZ", 300))  # of each source
LIMIT_S = 60  # for one of them, on a busy machine
ODD = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\xbd",
        b"\r",
        b"\n\n",
        b'"',
        b"\\",
        b"\\ud83d",
        b",",
        b"\t",
        b"{",
        b"}",
        b"]",
    ),
    *(
        b"[" * 3000,
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 5000,
        b"null",
        b"true",
        b"[]",
        b'""',
        b"../",
        b"/",
        b".",
        b"\x1f\x8b",
        b"x" * 300,
    ),
]


def mutated(data: bytes, seed: int) -> bytes:
    """One to four changes of the bytes."""
    draw = random.Random(seed)
    for _ in range(draw.randint(1, 4)):
        place = draw.randint(0, len(data))
        length = min(draw.choice([1, 4, 40, 512]), len(data) - place)
        piece = data[place : place + length]
        other = draw.randint(0, len(data))
        kind = draw.randrange(6)
        if kind == 0:
            data = data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
        elif kind == 1:
            data = data[:place] + data[place + length :]
        elif kind == 2:
            data = data[:place] + piece + data[place:]
        elif kind == 3:
            data = data[:other] + piece + data[other + len(piece) :]
        elif kind == 4:
            data = data[:place] + draw.choice(ODD) + data[place:]
        else:
            data = data[: draw.choice([place, len(data) - min(place, 600)])]
    return data


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path: Path) -> Iterator[None]:
    with stay_inside(tmp_path):
        yield


@contextlib.contextmanager
def in_time(seed: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"seed {seed}: still at work after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Imports


def _texts(number: int = 6) -> list[str]:
    return [f"a photo of thing {index}, \u043b\u0438\u0441\u0430" for index in range(number)]


def _text(path: Path) -> None:
    path.write_text("".join(f"{text}\n" for text in _texts()), encoding="utf-8")


def _csv(path: Path, tab: str = ",") -> None:
    quote = '"' if tab == "," else ""
    lines = [
        tab.join(["file_name", "text", "label"]),
        *(tab.join([f"{i}.png", f"{quote}{t}{quote}", f"c{i}"]) for i, t in enumerate(_texts())),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _jsonl(path: Path) -> None:
    path.write_text(
        "".join(json.dumps({"image": f"{i}.png", "caption": t, "label": i}) + "\n" for i, t in enumerate(_texts()))
    )


def _coco(path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
    notes = [{"image_id": i % 4, "id": i, "caption": t} for i, t in enumerate(_texts())]
    path.write_text(json.dumps({"images": images, "annotations": notes}))


def _karpathy(path: Path) -> None:
    rows = [
        {"filename": f"{i}.png", "split": "test", "sentences": [{"raw": t}, {"raw": "x"}]}
        for i, t in enumerate(_texts(3))
    ]
    path.write_text(json.dumps({"images": rows}))


def _parquet(path: Path) -> None:
    columns = {"image": [picture(i, 8, 8) for i in range(6)], "caption": _texts(), "label": list(range(6))}
    pq.write_table(pa.table(columns), path, row_group_size=3)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for i, text in enumerate(_texts(4)):
            add_to_tar(tar, f"{i}.png", picture(i, 8, 8))
            add_to_tar(tar, f"{i}.txt", text.encode())
            add_to_tar(tar, f"{i}.json", json.dumps({"label": i, "caption": text}).encode())


def _packed(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def packed(path: Path) -> None:
        write(path)
        path.write_bytes(gzip.compress(path.read_bytes()))

    return packed


SOURCES: dict[str, Callable[[Path], None]] = {
    "a.txt": _text,
    "a.txt.gz": _packed(_text),
    "a.csv": _csv,
    "a.tsv": lambda path: _csv(path, "\t"),
    "a.jsonl": _jsonl,
    "a.json": _coco,
    "karpathy.json": _karpathy,
    "a.json.gz": _packed(_coco),
    "a.parquet": _parquet,
    "a.tar": _tar,
    "a.tar.gz": _packed(_tar),
}
WITH_IMAGES = {"a.csv", "a.tsv", "a.jsonl", "a.json", "karpathy.json"}


def import_by_command(words: list[str], out: Path, capsys: pytest.CaptureFixture[str], seed: int) -> int:
    """Exit code of an import; its sum must be that of its parts, of the rows in the tables and of what was not taken."""
    with in_time(seed), pytest.raises(SystemExit) as stop:
        main(["import", *words, "--out", str(out)])
    said, err = capsys.readouterr()
    assert "Traceback" not in err, seed
    if stop.value.code:
        assert stop.value.code == 2, seed
        assert err.splitlines()[-1].startswith("reverie: "), (seed, err)
        assert len(err.splitlines()) == 1, (seed, err)
        return 2
    total, parts = said.splitlines()[-1].split(" found = ")
    plain = re.sub(r"\((?:[^()]|\([^()]*\))*\)", "", parts)
    numbers = {
        fate: int(number.replace(",", ""))
        for number, fate in re.findall(r"([\d,]+) (taken|dropped|failed|not taken)", plain)
    }
    assert int(total.replace(",", "")) == sum(numbers.values()), (seed, said)
    assert tables.count(out / "captions.lance") == sum(numbers.values()) - numbers.get("not taken", 0), (seed, said)
    assert tables.verify(out) == [], seed
    return 0


@pytest.mark.parametrize("name", SOURCES)
def test_imports(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(picture(i, 8, 8))
    path = tmp_path / name
    SOURCES[name](path)
    whole = path.read_bytes()
    words = [str(path), *(["--images", str(tmp_path)] if name in WITH_IMAGES else [])]
    codes = set()
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(whole, seed))
        codes.add(import_by_command(words, tmp_path / "out", capsys, seed))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert codes


def test_rows_of_lines_are_all_there(tmp_path: Path) -> None:
    """Where a row is a line, they can be counted without the reader."""
    for name in ("a.txt", "a.jsonl"):
        SOURCES[name](tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for seed in range(MUTATIONS):
            data = mutated(whole, seed)
            (tmp_path / name).write_bytes(data)
            try:
                found = list(imports.entries(tmp_path / name, imports.guess_kind(tmp_path / name)))
            except ReverieError:
                continue
            text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            lines = len(text.removesuffix("\n").split("\n")) if text else 0
            rows = {str(item.position).partition("/")[0] for item in found if isinstance(item, imports.Sample)}
            assert len(rows) + sum(isinstance(item, imports.NotTaken) for item in found) == lines, (name, seed)


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of every kind with damage, names that are drawn, and a metadata file."""
    forms = {
        "png": "PNG",
        "jpg": "JPEG",
        "webp": "WEBP",
        "avif": "AVIF",
        "gif": "GIF",
        "bmp": "BMP",
        "tif": "TIFF",
        "": "PNG",
    }
    whole = {ending: picture(1, 8, 8, form) for ending, form in forms.items()}
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        folder = tmp_path / "f"
        for number, (ending, data) in enumerate(whole.items()):
            stem = draw.choice([b"a", b"caf\xe9", b".hidden", b"[x]", b":cat:", b"a b", b"-"]) + str(number).encode()
            name = stem + (f".{ending}".encode() if ending else b"")
            inner = draw.choice([b"c", b"c", b"d\xf6g", b"c/deep.jpg", b"c/.git", b"__MACOSX"])
            file = Path(os.fsdecode(bytes(folder) + b"/" + inner + b"/" + name))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(mutated(data, seed))
        (folder / "c").mkdir(exist_ok=True)
        (folder / "c" / "whole.png").write_bytes(whole["png"])
        if draw.random() < 0.3:
            (folder / "metadata.csv").write_bytes(mutated(b"file_name,text\nc/whole.png,a cat\n", seed))
        import_by_command([str(folder)], tmp_path / "out", capsys, seed)
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_saved_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": _texts(), "label": list(range(6))}).save_to_disk(tmp_path / "whole")
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    for seed in range(MUTATIONS):
        shutil.copytree(tmp_path / "whole", tmp_path / "d")
        file = tmp_path / "d" / files[seed % len(files)]
        file.write_bytes(mutated(file.read_bytes(), seed))
        import_by_command([str(tmp_path / "d"), "--kind", "huggingface"], tmp_path / "out", capsys, seed)
        shutil.rmtree(tmp_path / "d")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


# Other readers


def refuses_in_one_line(read: Callable[[], object], seed: int) -> None:
    try:
        with in_time(seed):
            read()
    except ReverieError as error:
        assert "\n" not in str(error), seed  # noqa: PT017 - either end is fine


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("c.txt", "red fox\nowl\n\u043b\u0438\u0441\u0430\n", read_classes),
        ("c.json", json.dumps(["red fox", "owl", "\u043b\u0438\u0441\u0430"]), read_classes),
        ("s.json", json.dumps({"fox": ["vixen"], "owl": "bird"}), lambda path: read_synonyms(path, ("fox", "owl"))),
        (
            "d.json",
            json.dumps({"A": {"classes": ["x", ["y", "z"]], "templates": ["a {}."]}}),
            lambda path: read_domain(str(path)),
        ),
        (
            "p.txt",
            "a sentence about \u043b\u0438\u0441\u0430 and {class}{gloss}:\n",
            lambda path: read_prompt(path, ("fox", "owl")).of("fox"),
        ),
        (
            "p.json",
            json.dumps(
                {"prompt": "{examples}{class} ({gloss}): ", "glosses": {"fox": "a beast"}, "examples": [["owl", "x"]]}
            ),
            lambda path: read_prompt(path, ("fox", "owl")).of("fox").encode(),
        ),
    ],
)
def test_lists(name: str, content: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    for seed in range(MUTATIONS):
        (tmp_path / name).write_bytes(mutated(content.encode(), seed))
        refuses_in_one_line(lambda: read(tmp_path / name), seed)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json", "a.parquet", "a.tar"])
def test_captions_to_paint(name: str, tmp_path: Path) -> None:
    SOURCES[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for seed in range(MUTATIONS):
        (tmp_path / f"{seed}-{name}").write_bytes(mutated(whole, seed))
        refuses_in_one_line(lambda: ReadCorpus(tmp_path / f"{seed}-{name}").count, seed)  # noqa: B023 - called at once


def test_caption_files(tmp_path: Path) -> None:
    results, references = tmp_path / "results.json", tmp_path / "references.json"
    _coco(references)
    whole = [
        json.dumps([{"image_id": i, "caption": text} for i, text in enumerate(_texts(4))]).encode(),
        references.read_bytes(),
    ]
    for seed in range(MUTATIONS):
        for number, path in enumerate((results, references)):
            path.write_bytes(mutated(whole[number], seed) if seed % 2 == number else whole[number])
        refuses_in_one_line(lambda: caption_files.measure(caption_files.read(results, references)), seed)


def test_photos_to_measure_on(tmp_path: Path) -> None:
    columns = {"image": [picture(i, 8, 8) for i in range(4)], "label": ["a", "b"] * 2}
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    whole = (tmp_path / "test.parquet").read_bytes()
    for seed in range(MUTATIONS):
        (tmp_path / "test.parquet").write_bytes(mutated(whole, seed))
        refuses_in_one_line(lambda: labelled.check_photos(tmp_path, "test"), seed)
        refuses_in_one_line(lambda: labelled.check_labels(tmp_path, "test"), seed)
        refuses_in_one_line(lambda: labelled.load_photos(tmp_path, "test"), seed)


def test_tables(tmp_path: Path) -> None:
    """Of a damaged table, verify says what is wrong, and what is read of it is an error in one line or rows."""
    for unit in range(2):
        captions = captions_of(unit, 3)
        tables.append_unit(tmp_path / "whole" / "captions.lance", unit, captions)
        tables.append_unit(tmp_path / "whole" / "pairs.lance", unit, pairs_of(captions))
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    for seed in range(MUTATIONS):
        folder = tmp_path / f"{seed}"  # a new one each time, as Lance remembers what it read
        shutil.copytree(tmp_path / "whole", folder)
        file = folder / files[seed % len(files)]
        file.write_bytes(mutated(file.read_bytes(), seed))
        refuses_in_one_line(lambda: tables.verify(folder), seed)  # noqa: B023 - called at once
        refuses_in_one_line(lambda: list(tables.scan(folder / "pairs.lance")), seed)  # noqa: B023
        refuses_in_one_line(lambda: tables.done_units(folder / "captions.lance"), seed)  # noqa: B023
        tables._units_seen.clear()
        shutil.rmtree(folder)
