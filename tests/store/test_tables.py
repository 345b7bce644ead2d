"""The store's promises: what is committed is whole, once, and all there is."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie import pairs
from reverie.errors import FolderInUse, InputError, StoreError, StoreFull, UnitExists
from reverie.store import tables
from tests.store.conftest import captions_of, pairs_of

ROOT = Path(__file__).parents[2]
words = st.text(max_size=12) | st.none()
slow_machine = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def rows_of(unit: int, values: list[tuple[str | None, bytes | None, list[int] | None]]) -> pa.Table:
    names = [pairs.caption_id(0, "t", f"{unit}/{i}") for i in range(len(values))]
    return pairs.table(
        [
            {
                "pair_id": f"{n}-000",
                "caption_id": n,
                "copy": 0,
                "unit": unit,
                "text": t,
                "image": b,
                "tokens": k,
                "status": "ok",
            }
            for n, (t, b, k) in zip(names, values, strict=True)
        ],
        pairs.PAIRS,
    )


@slow_machine
@given(
    st.dictionaries(
        st.integers(0, 2**40),
        st.lists(
            st.tuples(words, st.binary(max_size=40) | st.none(), st.lists(st.integers(0, 2**31 - 1)) | st.none()),
            max_size=4,
        ),
        max_size=4,
    )
)
def test_what_is_read_is_what_was_written(tmp_path_factory, units):
    path = tmp_path_factory.mktemp("s") / "pairs.lance"
    for unit, values in units.items():
        tables.append_unit(path, unit, rows_of(unit, values))
    assert tables.done_units(path) == set(units)
    for unit, values in units.items():
        assert tables.read_unit(path, unit).equals(rows_of(unit, values))
    if units:
        assert tables.count(path) == sum(map(len, units.values()))


@slow_machine
@given(st.data())
def test_any_sequence_of_changes_is_like_a_dictionary(tmp_path_factory, data):
    """append, replace, join, join again and compact, against a plain dictionary of rows."""
    folder = tmp_path_factory.mktemp("s")
    path, model, done, joined = folder / "pairs.lance", {}, set(), False
    tables.append_unit(path, 0, rows_of(0, []))
    done.add(0)
    for number in range(data.draw(st.integers(1, 7))):
        match data.draw(st.sampled_from(["append", "replace", "join", "compact"])):
            case "append":
                unit = data.draw(st.integers(0, 4))
                rows = rows_of(unit, [(f"{unit} {i}", b"x", None) for i in range(data.draw(st.integers(0, 3)))])
                if unit in done:
                    with pytest.raises(UnitExists):
                        tables.append_unit(path, unit, rows)
                else:
                    tables.append_unit(path, unit, rows)
                    done.add(unit)
                    model |= {row["pair_id"]: row | ({"score": None} if joined else {}) for row in rows.to_pylist()}
            case "replace" if model:
                keys = data.draw(st.sets(st.sampled_from(sorted(model)), min_size=1))
                new = [
                    {k: v for k, v in model[key].items() if k != "score"} | {"text": f"new {number}"} for key in keys
                ]
                tables.replace_rows(path, pairs.table(new, pairs.PAIRS), "pair_id")
                model |= {row["pair_id"]: row | ({"score": None} if joined else {}) for row in new}
            case "join" if model:
                keys = data.draw(st.sets(st.sampled_from(sorted(model)), min_size=1))
                scores = folder / f"score{number}.lance"
                extra = {key: number + i / 8 for i, key in enumerate(sorted(keys))}
                column = pa.table({"pair_id": list(extra), "unit": [0] * len(extra), "score": list(extra.values())})
                tables.append_unit(scores, 0, column)
                tables.add_columns(path, scores, replace=joined)
                joined = True
                model = {key: row | {"score": extra.get(key)} for key, row in model.items()}
            case "compact":
                tables.compact(path, keep_s=0)
        stored = {row["pair_id"]: row for batch in tables.scan(path) for row in batch.to_pylist()}
        assert stored == model
        assert tables.count(path) == len(model)
        assert tables.done_units(path) == done
        for unit in done:
            assert {r["pair_id"] for r in tables.read_unit(path, unit).to_pylist()} == {
                k for k, r in model.items() if r["unit"] == unit
            }


def test_a_unit_is_appended_once(run_folder):
    with pytest.raises(UnitExists, match="unit 1 is already in"):
        tables.append_unit(run_folder / "pairs.lance", 1, pairs_of(captions_of(1, 4)))
    assert tables.count(run_folder / "pairs.lance") == 24


def test_a_unit_without_rows_is_done(tmp_path):
    path = tmp_path / "t.lance"
    assert not tables.exists(path)
    assert tables.done_units(path) == set()
    for unit in (5, 2):
        tables.append_unit(path, unit, pairs.PAIRS.empty_table())
        with pytest.raises(UnitExists):
            tables.append_unit(path, unit, pairs.PAIRS.empty_table())
    tables.append_unit(path, 3, pairs_of(captions_of(3, 1)))  # the first rows of a table that has units already
    assert tables.done_units(path) == {2, 3, 5}
    assert tables.read_unit(path, 5, ["text", "unit"]).schema.names == ["text", "unit"]
    assert tables.read_unit(path, 5).num_rows == 0


def _race(path: Path, number: int) -> list[tuple[int, str]]:
    (path.parent / f"ready{number}").touch()
    while len(list(path.parent.glob("ready*"))) < 3:  # nobody begins before all are there
        time.sleep(0.005)
    found = []
    for unit in (0, 10 * number, 10 * number + 1):
        try:
            tables.append_unit(path, unit, captions_of(unit, 3, seed=number if unit == 0 else 0))
            found.append((unit, "won"))
        except UnitExists:
            found.append((unit, "late"))
    return found


def test_processes_that_race(tmp_path):
    """Three processes: one unit that all want, and units of their own. One wins the first; all others land."""
    path = tmp_path / "t.lance"
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as processes:
        racing = [processes.submit(_race, path, number) for number in (1, 2, 3)]
        got = [result for race in racing for result in race.result(timeout=300)]
    assert sorted(word for unit, word in got if unit == 0) == ["late", "late", "won"]
    assert all(word == "won" for unit, word in got if unit)
    assert tables.done_units(path) == {0} | {10 * n + i for n in range(1, 4) for i in range(2)}
    assert tables.count(path) == 7 * 3
    assert len(list(Path(path, "data").iterdir())) == 7  # the losers left nothing behind


def test_processes_that_make_the_same_table(tmp_path, monkeypatch):
    """One looks, finds nothing, and is overtaken: the other makes the table and commits to it. Nothing of that is lost."""
    path, commit = tmp_path / "t.lance", lance.LanceDataset.commit

    def overtaken(*args, **options):
        monkeypatch.setattr(lance.LanceDataset, "commit", commit)
        tables.append_unit(path, 1, captions_of(1, 2))
        return commit(*args, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", overtaken)
    tables.append_unit(path, 2, captions_of(2, 2))
    assert tables.done_units(path) == {1, 2}
    assert tables.count(path) == 4


def test_a_rival_between_look_and_commit(tmp_path, monkeypatch):
    """The rival commits after we looked at what is done: the moment that a plain append cannot see."""
    path = tmp_path / "t.lance"
    tables.append_unit(path, 0, captions_of(0, 2))
    swap = tables._swap

    def slow_swap(table, new):
        monkeypatch.setattr(tables, "_swap", swap)
        tables.append_unit(path, 1, captions_of(1, 2))
        return swap(table, new)

    monkeypatch.setattr(tables, "_swap", slow_swap)
    with pytest.raises(UnitExists):
        tables.append_unit(path, 1, captions_of(1, 2))
    assert tables.count(path) == 4
    monkeypatch.setattr(tables, "_swap", slow_swap)
    with pytest.raises(UnitExists):  # the rival commits unit 1 again, in vain; ours is another one
        tables.append_unit(path, 2, captions_of(2, 2))
    tables.append_unit(path, 2, captions_of(2, 2))
    assert tables.done_units(path) == {0, 1, 2}


def test_killed_at_any_moment_units_are_whole(tmp_path):
    path = tmp_path / "t.lance"
    code = textwrap.dedent(f"""
        from reverie.store import tables
        from tests.store.conftest import captions_of
        print("ready", flush=True)
        for unit in range(1000):
            if unit not in tables.done_units({str(path)!r}):
                tables.append_unit({str(path)!r}, unit, captions_of(unit, 5))
    """)
    for kill_after_s in (0.1, 0.37):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(kill_after_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for unit in tables.done_units(path):
            assert tables.read_unit(path, unit).equals(captions_of(unit, 5))
    done = tables.done_units(path)
    assert done == set(range(len(done)))
    assert done


FULL = """
import sys, resource, pyarrow as pa, numpy as np
from reverie.errors import StoreFull
from reverie.store import tables
path, limit = sys.argv[1], int(sys.argv[2])
def rows(unit, size):
    images = [np.random.default_rng(i).bytes(10_000) for i in range(size)]
    return pa.table({"unit": [unit] * size, "pair_id": [f"{unit}-{i}" for i in range(size)], "image": images})
tables.append_unit(path, 0, rows(0, 10))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    tables.append_unit(path, 1, rows(1, 400))
except StoreFull as error:
    print("full:", error)
assert tables.done_units(path) == {0} and tables.count(path) == 10, "not as before"
tables.append_unit(path, 2, rows(2, 10))
assert tables.done_units(path) == {0, 2}
print("as before")
"""


def test_a_file_limit_while_committing(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path / "t.lance"), "1000000"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.startswith("full: no space left for"), out.stderr
    assert out.stdout.endswith("as before\n"), out.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_full_disk_while_committing(tmp_path):
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    small = f"mount -t tmpfs -o size=2m tmpfs {tmp_path}"
    if subprocess.run([*mount, small], capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    run = f"{small} && exec {sys.executable} -c '{FULL}' {tmp_path}/t.lance 0"
    out = subprocess.run([*mount, run], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.startswith("full: no space left for"), out.stderr
    assert out.stdout.endswith("as before\n"), out.stderr


def test_lances_own_words_for_a_full_disk(tmp_path):
    with pytest.raises(StoreFull, match="run the same command again"), tables._commits(tmp_path):
        raise OSError("LanceError(IO): No space left on device (os error 28), /x/y.rs:1:2")
    with pytest.raises(OSError, match="something else"), tables._commits(tmp_path):
        raise OSError("something else")


def score(rows: pa.Table, value: float, **more) -> pa.Table:
    columns = {"pair_id": rows["pair_id"], "unit": rows["unit"], "score": pa.array([value] * len(rows), pa.float32())}
    return pa.table(columns | more)


def test_columns_join_in_one_commit_without_rewriting_images(run_folder):
    path, scores = run_folder / "pairs.lance", run_folder / "columns" / "score.lance"
    for unit in (0, 2):
        rows = tables.read_unit(path, unit, only="ok")
        tags = pa.array([["x", str(i)] for i in range(len(rows))], pa.list_(pa.string()))
        tables.append_unit(scores, unit, score(rows, unit + 0.5, tags=tags))
    before = {file: file.stat().st_mtime_ns for file in (path / "data").iterdir()}
    version = lance.dataset(str(path)).version
    tables.add_columns(path, scores)
    assert lance.dataset(str(path)).version == version + 1
    assert before.items() <= {file: file.stat().st_mtime_ns for file in (path / "data").iterdir()}.items()
    assert tables.column_names(path) == [*pairs.PAIRS.names, "score", "tags"]
    assert tables.count(path, "score > 2") == 8
    assert tables.count(path, "score is null") == 8  # unit 1 has no scores
    assert tables.read_unit(path, 2, ["tags"])["tags"].to_pylist()[3] == ["x", "3"]
    with pytest.raises(StoreError, match="has score, tags already"):
        tables.add_columns(path, scores)

    # Made again with another type, beside one that stays
    again = run_folder / "columns" / "again.lance"
    rows = tables.read_unit(path, 1)
    tables.append_unit(
        again, 1, pa.table({"pair_id": rows["pair_id"], "unit": rows["unit"], "score": ["high"] * 8, "hash": [7] * 8})
    )
    version = lance.dataset(str(path)).version
    tables.add_columns(path, again, replace=True)
    assert lance.dataset(str(path)).version == version + 1
    assert tables.count(path, "score = 'high' and hash = 7") == 8
    assert tables.count(path, "score is null and tags is not null") == 16
    assert tables.read_unit(path, 1, pairs.PAIRS.names).equals(pairs_of(captions_of(1, 4)))


def test_joining_what_does_not_fit(run_folder):
    path = run_folder / "pairs.lance"
    rows = tables.read_unit(path, 0)
    bad = {
        "twice": (score(pa.concat_tables([rows.slice(0, 1), rows.slice(0, 1)]), 1.0), "the same pair_id twice"),
        "strange": (score(pairs_of(captions_of(9, 1)), 1.0), "no pair_id of .* is in"),
        "own": (score(rows, 1.0, image=pa.array([b"x"] * 8)), "would overwrite image"),
        "keyless": (pa.table({"unit": [0], "score": [1.0]}), "both need a column pair_id"),
    }
    for name, (table, message) in bad.items():
        lance.write_dataset(table, str(run_folder / f"{name}.lance"))
        with pytest.raises(StoreError, match=message):
            tables.add_columns(path, run_folder / f"{name}.lance", replace=True)
    assert tables.column_names(path) == pairs.PAIRS.names


def test_replaced_rows_lose_joined_columns(run_folder):
    path, scores = run_folder / "pairs.lance", run_folder / "score.lance"
    rows = tables.read_unit(path, 1)
    tables.append_unit(scores, 1, score(rows, 1.0))
    tables.add_columns(path, scores)
    version = lance.dataset(str(path)).version
    tables.replace_rows(path, rows.slice(2, 3), "pair_id")
    assert lance.dataset(str(path)).version == version + 1
    assert tables.count(path, "score = 1") == 5
    assert tables.count(path) == 24
    tables.replace_rows(path, rows.slice(0, 0), "pair_id")
    with pytest.raises(StoreError, match=r"unit 8 .* not committed"):
        tables.replace_rows(path, pairs_of(captions_of(8, 1)), "pair_id")


def test_a_change_while_columns_are_joined(run_folder, monkeypatch):
    """Somebody commits between reading and committing the join: it is done again, and nothing is lost."""
    path, scores = run_folder / "pairs.lance", run_folder / "score.lance"
    tables.append_unit(scores, 0, score(tables.read_unit(path, 0), 1.0))
    partners = tables._partners

    def slow(*args):
        monkeypatch.setattr(tables, "_partners", partners)
        tables.append_unit(path, 7, pairs_of(captions_of(7, 2)))
        return partners(*args)

    monkeypatch.setattr(tables, "_partners", slow)
    tables.add_columns(path, scores)
    assert tables.count(path) == 28
    assert tables.count(path, "score = 1") == 8


def test_compact_gathers_and_forgets(run_folder):
    path = run_folder / "pairs.lance"
    before = pa.concat_tables(tables.scan(path))
    tables.replace_rows(path, tables.read_unit(path, 0).slice(0, 2), "pair_id")
    tables.compact(path, keep_s=0)
    table = lance.dataset(str(path))
    assert len(table.get_fragments()) == 1
    assert len(table.versions()) == 1
    assert tables.done_units(path) == {0, 1, 2}
    assert pa.concat_tables(tables.scan(path)).sort_by("pair_id").equals(before.sort_by("pair_id"))


def test_reading_by_rows_units_and_filters(run_folder):
    path = run_folder / "pairs.lance"
    assert (
        tables.read_unit(path, 1, ["label", "copy"], where="copy = 1 and label = 'b'").to_pylist()
        == [{"label": "b", "copy": 1}] * 2
    )
    assert tables.read_unit(path, 1, only="failed").num_rows == 0
    everything = pa.concat_tables(tables.scan(path))
    assert tables.take(path, [17, 3], ["pair_id"])["pair_id"].to_pylist() == [
        everything["pair_id"][i].as_py() for i in (17, 3)
    ]
    assert sum(len(t) for t in tables.scan(path, ["unit"], "unit != 1")) == 16
    with pytest.raises(StoreError, match="unit 3 is not in"):
        tables.read_unit(path, 3)
    for read in (lambda: tables.count(path, "kept ad 1"), lambda: list(tables.scan(path, where="kept"))):
        with pytest.raises(InputError, match=r"filter 'kept.*does not fit .*pairs.lance"):
            read()
    with pytest.raises(InputError, match="columns nothing does not fit"):
        tables.read_unit(path, 1, ["nothing"])


def test_what_is_not_a_table(tmp_path, run_folder):
    with pytest.raises(StoreError, match="there is no table at"):
        tables.count(tmp_path / "nothing.lance")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="is not a table"):
        tables.count(tmp_path / "photos")
    with pytest.raises(FolderInUse, match="holds something that is not a table"):
        tables.append_unit(tmp_path / "photos", 0, captions_of(0, 1))
    assert [item.name for item in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
    for manifest in (run_folder / "pairs.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"broken")
    with pytest.raises(StoreError, match="not a readable table"):
        tables.done_units(run_folder / "pairs.lance")


def test_rows_that_do_not_belong(tmp_path, run_folder):
    path = tmp_path / "t.lance"
    with pytest.raises(ValueError, match="not the rows of unit 2"):
        tables.append_unit(path, 2, captions_of(1, 2))
    double = pa.concat_tables([captions_of(1, 2), captions_of(1, 1)])
    with pytest.raises(ValueError, match="caption_id is not unique"):
        tables.append_unit(path, 1, double)
    with pytest.raises(StoreError, match="has no column colour"):
        tables.append_unit(run_folder / "captions.lance", 5, captions_of(5, 1).append_column("colour", [["red"]]))
    with pytest.raises(StoreError, match="lack status"):
        tables.append_unit(run_folder / "captions.lance", 5, captions_of(5, 1).drop_columns("status"))


def damaged(run_folder, change) -> list[str]:
    """Problems after unit 2 of the pairs is replaced by ``change`` of its rows."""
    path = run_folder / "pairs.lance"
    shutil.rmtree(path)
    for unit in range(3):
        rows = pairs_of(captions_of(unit, 4)).to_pylist()
        rows = change(rows) if unit == 2 else rows
        lance.write_dataset(pairs.table(rows, pairs.PAIRS), str(path), mode="append")  # past append_unit's own checks
    return tables.verify(run_folder, per_caption=2)


def with_first(**changes):
    return lambda rows: [rows[0] | changes, *rows[1:]]


def test_verify_finds_nothing_in_a_whole_store(run_folder):
    seen = []
    assert tables.verify(run_folder, per_caption=2, progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (24, 24)
    assert tables.verify(run_folder) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "1 ok caption does not have copies 0 to 1"),
        (lambda rows: [rows[0], *rows], "1 pair shares its pair_id with another row"),
        (with_first(image=b"not a picture"), "1 image does not decode"),
        (with_first(width=99), "1 image is not as wide and high as its row says"),
        (with_first(image=None), "1 pair is ok but has neither image nor tokens"),
        (with_first(tokens=[1, 2, 3], grid=[2, 2]), "1 pair has more or fewer tokens than its grid holds"),
        (with_first(status="failed"), "1 pair is dropped or failed without a reason"),
        (with_first(status="lost", reason="?"), "1 pair has an unknown status"),
        (with_first(pair_id="../../etc/passwd"), "1 pair has a malformed pair_id: ../../etc/passwd"),
        (with_first(copy=1), "1 pair has an id that is not its caption and copy"),
        (with_first(caption_id="0" * 16), "1 pair belongs to no caption"),
        (with_first(unit=1), "1 pair is in another unit than its caption"),
    ],
)
def test_verify_says_what_is_wrong(run_folder, change, message):
    problems = damaged(run_folder, change)
    assert any(problem.startswith(message) for problem in problems), problems


def test_verify_counts_a_reason_as_an_answer(run_folder):
    reason = {"status": "failed", "reason": "the painter ran out of paint", "image": None}
    assert damaged(run_folder, with_first(**reason)) == []


def test_verify_looks_at_captions_and_columns(run_folder):
    tables.append_unit(run_folder / "captions.lance", 3, captions_of(3, 2))
    assert tables.verify(run_folder, per_caption=2) == [
        "1 unit of captions has no pairs yet; run the same command again to finish"
    ]
    assert tables.verify(run_folder) == []
    silent = captions_of(4, 1).to_pylist()[0] | {"text": " "}
    tables.append_unit(run_folder / "captions.lance", 4, pairs.table([silent], pairs.CAPTIONS))
    tables.append_unit(
        run_folder / "columns" / "score.lance",
        0,
        score(pairs_of(captions_of(9, 1)), 1.0).set_column(1, "unit", [[0, 0]]),
    )
    problems = tables.verify(run_folder)
    assert [problem.split(":")[0] for problem in problems] == [
        "1 caption is ok but has no text",
        "2 keys of score.lance are not in pairs",
    ]
    with pytest.raises(StoreError, match=r"no captions.lance"):
        tables.verify(run_folder / "columns")


def test_what_is_done_stays_fast(tmp_path):
    """A watcher of a growing table reads only what is new: its work does not grow with what it has seen."""
    path = tmp_path / "t.lance"
    for unit in range(12):
        tables.append_unit(path, unit, captions_of(unit, 2))
    tables.done_units(path)
    table = tables.open_table(path)
    table.io_stats_incremental()
    assert tables._done(table) == set(range(12))
    assert table.io_stats_incremental().read_iops == 0


def test_compact_beside_a_writer_loses_nothing(tmp_path):
    """Another process commits units while this one gathers them: each unit is there once, in few files."""
    path, code = (
        tmp_path / "captions.lance",
        (
            "import sys; from reverie import pairs; from reverie.store import tables\n"
            "for unit in range(12):\n"
            "    rows = [{'caption_id': f'{unit:016x}', 'unit': unit, 'text': 'x', 'status': 'ok'}]\n"
            "    tables.append_unit(sys.argv[1], unit, pairs.table(rows, pairs.CAPTIONS))\n"
        ),
    )
    writer, times = subprocess.Popen([sys.executable, "-c", code, str(path)]), 0
    while writer.poll() is None:
        if tables.exists(path) and len(tables.done_units(path)) > 1:
            tables.compact(path, keep_s=60)
            times += 1
    assert writer.returncode == 0
    assert times > 0
    assert tables.done_units(path) == set(range(12))
    assert tables.count(path) == 12


def test_units_of_one_commit_are_all_there_or_none(tmp_path):
    path = tmp_path / "captions.lance"
    units = {unit: three_captions(unit) for unit in (2, 0, 5)}
    tables.append_units(path, {**units, 7: units[0].slice(0, 0)})
    assert tables.done_units(path) == {0, 2, 5, 7}
    assert len(tables.open_table(path).get_fragments()) == 1
    for unit in (0, 2, 5, 7):
        assert tables.read_unit(path, unit).num_rows == (0 if unit == 7 else 3)
    read = tables.read_units(path, [5, 7, 0], columns=["caption_id"])
    assert list(read) == [5, 7, 0]
    assert [part.num_rows for part in read.values()] == [3, 0, 3]
    assert read[5].column_names == ["caption_id"]
    assert read[5].equals(tables.read_unit(path, 5, columns=["caption_id"]))
    with pytest.raises(UnitExists, match=r"unit 2 is already"):
        tables.append_units(path, {8: three_captions(8), 2: three_captions(2)})
    assert tables.done_units(path) == {0, 2, 5, 7}
    with pytest.raises(StoreError, match="unit 3 is not in"):
        tables.read_units(path, [5, 3])


def three_captions(unit):
    rows = [{"caption_id": f"{unit * 10 + n:016x}", "unit": unit, "text": "x", "status": "ok"} for n in range(3)]
    return pairs.table(rows, pairs.CAPTIONS)


@pytest.mark.parametrize("name", ["plain", "a b#c%20d?é"])
def test_single_rows_are_the_same_by_every_way_of_reading(tmp_path, name, monkeypatch):
    path = tmp_path / name / "pairs.lance"
    path.parent.mkdir()
    tables.append_unit(path, 0, pairs_of(captions_of(0, 5), 3))
    expected = tables.open_table(path).take([2, 9, 11])
    assert tables.open_rows(path).take([2, 9, 11]) == expected
    monkeypatch.chdir(path.parent)
    assert tables.open_rows(path.name).take([2, 9, 11]) == expected
    monkeypatch.setattr(tables, "has_ring", lambda: False)
    assert tables.open_rows(path).take([2, 9, 11]) == expected


def test_rows_are_read_through_a_ring_where_there_is_one(tmp_path):
    if not tables.has_ring():
        pytest.skip("this kernel does not let the process use io_uring")
    path = tmp_path / "pairs.lance"
    tables.append_unit(path, 0, pairs_of(captions_of(0, 2), 1))
    assert tables.open_rows(path).uri.startswith("file+uring://")
