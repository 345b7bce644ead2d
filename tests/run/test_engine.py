import dataclasses
import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from reverie.errors import FolderInUse, InputError, SettingsChanged, UnitExists, UnknownName
from reverie.images.features import PaintFeatures
from reverie.images.pixels import PaintPixels
from reverie.learn.fit import Fit
from reverie.run import engine
from reverie.run.engine import Made, StepRunner, part_of, retry, run
from reverie.run.events import read_events
from reverie.run.plan import Plan, Step, read_plan
from reverie.run.repaint import repaint
from reverie.run.status import status
from reverie.stage import Job, StepContext, TwoPartWorker, Worker
from reverie.store import results, tables
from tests.records import result
from tests.run.fake_recipe import Brightness, PaintNoise, Sentences, changed, fake_recipe

Rows = Callable[[Path], dict[str, list[dict[str, Any]]]]


def test_a_run_is_whole(tmp_path: Path, rows: Rows) -> None:
    assert run(fake_recipe(), tmp_path) is True
    made = rows(tmp_path)
    captions = [row for row in made["captions"] if row["status"] != "dropped"]
    assert [row["text"] for row in sorted(captions, key=lambda row: int(row["text"].split()[-1]))] == [
        f"a sentence about {n}" for n in range(10)
    ]
    assert len(made["pairs"]) == 20
    assert {row["unit"] for row in made["pairs"]} == {0, 1, 2}
    assert all((row["brightness"] is not None) == (row["status"] == "ok") for row in made["pairs"])
    assert sorted(path.stem for path in (tmp_path / "done").iterdir()) == ["brightness", "captions", "count", "paint"]
    assert (tmp_path / "count.txt").read_text() == str(sum(row["status"] == "ok" for row in made["pairs"]))
    assert tables.verify(tmp_path, per_caption=2) == []


def test_running_again_does_nothing(tmp_path: Path) -> None:
    run(fake_recipe(), tmp_path)
    (tmp_path / "count.txt").unlink()  # the job would write it again
    seen = sum(event["kind"] == "unit" for event in read_events(tmp_path))
    assert run(fake_recipe(pause_s=0.001), tmp_path, device="cuda") is True
    assert sum(event["kind"] == "unit" for event in read_events(tmp_path)) == seen
    assert not (tmp_path / "count.txt").exists()


def test_what_there_will_be_is_said_before_any_work_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = dataclasses.replace(fake_recipe(), notes=("10 images of each class",))
    run(plan, tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("fake_recipe: 10 images of each class\n")
    assert said.count("of each class") == 1
    assert read_plan(tmp_path)["notes"] == ["10 images of each class"]
    run(plan, tmp_path)
    assert "of each class" not in capsys.readouterr().err, "there is no work"
    run(fake_recipe(), tmp_path)  # words are no settings


def test_changed_settings_are_refused_and_touch_nothing(tmp_path: Path, rows: Rows) -> None:
    run(fake_recipe(), tmp_path)
    before = rows(tmp_path)
    with pytest.raises(SettingsChanged, match=r"paint\.guidance: 2\.0 -> 3\.0"):
        run(fake_recipe(guidance=3.0), tmp_path)
    assert rows(tmp_path) == before


def test_settings_of_steps_that_have_not_begun_may_change(tmp_path: Path, rows: Rows) -> None:
    run(fake_recipe(), tmp_path, until="captions")
    run(fake_recipe(guidance=3.0, per_caption=1), tmp_path)
    assert {row["guidance"] for row in rows(tmp_path)["pairs"]} == {3.0}
    assert read_plan(tmp_path)["steps"][1]["per_caption"] == 1
    with pytest.raises(SettingsChanged, match=r"captions\.count: 10 -> 9"):
        run(fake_recipe(count=9, guidance=3.0, per_caption=1), tmp_path)


def test_a_retry_takes_the_marks_of_what_can_be_done_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fail = tmp_path / "fail.json"
    fail.write_text('{"texts": ["a sentence about 1"], "captions": []}')
    plan = fake_recipe(fail_file=str(fail))
    run(plan, tmp_path / "run")
    fail.write_text('{"texts": [], "captions": []}')
    assert retry(plan, tmp_path / "run")["paint"] == 1
    assert "count: is done anew" in capsys.readouterr().err
    assert run(plan, tmp_path / "run") is True
    assert (tmp_path / "run" / "count.txt").read_text() == str(
        tables.count(tmp_path / "run" / "pairs.lance", "status = 'ok'")
    )


@dataclasses.dataclass(frozen=True)
class LearnOnce(Job):
    """Keeps what it made, as a training does: the number of good images, and the numbers of those it read."""

    together: bool = False

    def run(self, context: StepContext) -> None:
        if not context.weights().exists():
            before = [json.loads((context.weights(name) / "seen.json").read_text()) for name in context.inputs[1:]]
            context.weights().mkdir(parents=True)
            context.checkpoints().mkdir(parents=True)
            good = tables.count(context.pairs, "status = 'ok'")
            (context.weights() / "seen.json").write_text(json.dumps([good, *before]))
            found = result(arm=context.step, metric="images", value=good, step=context.step)
            results.append(context.results, found)


def test_a_retry_forgets_what_was_learned_of_the_failed_rows(tmp_path: Path) -> None:
    fail = tmp_path / "fail.json"
    fail.write_text('{"texts": ["a sentence about 1"], "captions": []}')
    plan = fake_recipe(fail_file=str(fail))
    more = (
        Step("learned", LearnOnce(), inputs=("paint",)),
        Step("of-that", LearnOnce(), inputs=("captions", "learned")),
        Step("together", LearnOnce(together=True), inputs=("paint",)),
    )
    plan = dataclasses.replace(plan, steps=(*plan.steps, *more))
    folder = tmp_path / "run"
    run(plan, folder)
    before = tables.count(folder / "pairs.lance", "status = 'ok'")
    fail.write_text('{"texts": [], "captions": []}')
    retry(plan, folder)
    after = tables.count(folder / "pairs.lance", "status = 'ok'")
    assert before < after
    assert {row.arm for row in results.read(folder / "results.jsonl")} == {"together"}
    assert not (folder / "checkpoints" / "learned").exists()
    assert run(plan, folder)

    def seen(step: str) -> Any:
        return json.loads((folder / "weights" / step / "seen.json").read_text())

    assert (seen("learned"), seen("of-that"), seen("together")) == ([after], [after, [after]], [before])
    values = {row.arm: row.value for row in results.read(folder / "results.jsonl")}
    assert values == {"learned": after, "of-that": after, "together": before}


def test_parts_together_equal_one_run(tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    plan = fake_recipe(count=26)
    for part in ((2, 3), (1, 3)):
        assert run(plan, tmp_path / "parts", part=part) is False
        assert "brightness" not in tables.column_names(tmp_path / "parts" / "pairs.lance")
    assert run(plan, tmp_path / "parts", part=(3, 3)) is False  # the last one joins, but does no job
    assert "count: one piece of work" in capsys.readouterr().err
    run(plan, tmp_path / "one")
    assert rows(tmp_path / "parts") == rows(tmp_path / "one")
    assert not (tmp_path / "parts" / "count.txt").exists()
    assert run(plan, tmp_path / "parts") is True  # a run of all does the rest
    assert (tmp_path / "parts" / "count.txt").read_text() == (tmp_path / "one" / "count.txt").read_text()


def test_parts_are_slices() -> None:
    for num, n in ((10, 3), (2, 5), (0, 2), (7, 1)):
        units = [unit for k in range(1, n + 1) for unit in part_of(num, (k, n))]
        assert units == list(range(num))
    for part in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(InputError, match="k from 1 to n"):
            part_of(10, part)


def test_until(tmp_path: Path) -> None:
    assert run(fake_recipe(), tmp_path, until="paint") is True
    assert not tables.exists(tmp_path / "columns" / "brightness.lance")
    with pytest.raises(UnknownName, match="did you mean paint"):
        run(fake_recipe(), tmp_path, until="pain")


@dataclasses.dataclass(frozen=True)
class Half(Job):
    """Has half precision among its settings, at some depth."""

    fit: Fit = dataclasses.field(default_factory=lambda: Fit(1, precision="fp16"))

    def run(self, context: StepContext) -> None:
        (context.folder / "half.txt").write_text(context.device)


def test_half_precision_is_refused_on_a_cpu_before_any_work(tmp_path: Path) -> None:
    plan = fake_recipe()
    plan = dataclasses.replace(plan, steps=(*plan.steps, Step("half", Half(), inputs=("count",))))
    with pytest.raises(InputError, match="--precision fp16 needs a GPU"):
        run(plan, tmp_path / "folder" / "run")
    assert not (tmp_path / "folder").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderInUse, match="is a file"):  # known sooner than what needs models
        run(plan, tmp_path / "file")
    with pytest.raises(InputError, match="--painter-dtype fp16 needs a GPU"):
        PaintFeatures(PaintPixels(dtype="fp16")).check_device("cpu")
    PaintFeatures(PaintPixels(dtype="bf16")).check_device("cpu")
    assert run(plan, tmp_path / "run", until="count") is True, "what comes later is somebody else's work"
    assert run(plan, tmp_path / "run", device="cuda") is True
    assert run(plan, tmp_path / "run") is True, "it is done"


def test_a_user_error_in_a_unit_keeps_the_units_before(tmp_path: Path, rows: Rows) -> None:
    ask = tmp_path / "fail.json"
    ask.write_text(json.dumps({"captions": [], "texts": ["a sentence about 5", "user error"]}))
    plan = fake_recipe(fail_file=str(ask))
    with pytest.raises(InputError, match="told to refuse"):
        run(plan, tmp_path / "run")
    assert tables.done_units(tmp_path / "run" / "pairs.lance") == {0}
    ask.write_text(json.dumps({"captions": [], "texts": []}))
    assert run(plan, tmp_path / "run") is True
    run(fake_recipe(), tmp_path / "other")
    assert rows(tmp_path / "run") == rows(tmp_path / "other")


def test_a_unit_without_usable_captions_is_no_obstacle(tmp_path: Path, rows: Rows) -> None:
    ask = tmp_path / "fail.json"
    ask.write_text(json.dumps({"captions": [4, 5, 6, 7], "texts": []}))
    plan = fake_recipe(fail_file=str(ask))
    assert run(plan, tmp_path / "run") is True
    assert {row["unit"] for row in rows(tmp_path / "run")["pairs"]} == {0, 2}
    assert run(plan, tmp_path / "run") is True


def test_retry_equals_a_run_that_never_failed(tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    ask = tmp_path / "fail.json"
    ask.write_text(json.dumps({"captions": [1, 4, 5, 6, 7], "texts": ["a sentence about 0", "a sentence about 9"]}))
    plan = fake_recipe(fail_file=str(ask))
    run(plan, tmp_path / "run")
    failed = rows(tmp_path / "run")
    assert sum(row["status"] == "failed" for row in failed["captions"]) == 5
    assert sum(row["status"] == "failed" for row in failed["pairs"]) == 2

    ask.write_text(json.dumps({"captions": [], "texts": ["a sentence about 9"]}))
    fixed = retry(plan, tmp_path / "run")
    assert fixed["captions"] == 5
    assert "count: is done anew" in capsys.readouterr().err
    ask.write_text(json.dumps({"captions": [], "texts": []}))
    retry(plan, tmp_path / "run")
    assert retry(plan, tmp_path / "run") == {"captions": 0, "paint": 0, "brightness": 0}
    run(fake_recipe(), tmp_path / "other")
    assert rows(tmp_path / "run") == rows(tmp_path / "other")


def test_a_retry_cut_short_is_mended_by_the_next_run(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = tmp_path / "fail.json"
    ask.write_text(json.dumps({"captions": [], "texts": ["a sentence about 0"]}))
    plan = fake_recipe(fail_file=str(ask))
    run(plan, tmp_path / "run")
    ask.write_text(json.dumps({"captions": [], "texts": []}))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables, "add_columns", killed)
        with pytest.raises(KeyboardInterrupt):
            retry(plan, tmp_path / "run")
    assert not all(step.complete for step in status(tmp_path / "run"))
    assert run(plan, tmp_path / "run") is True
    run(fake_recipe(), tmp_path / "other")
    assert rows(tmp_path / "run") == rows(tmp_path / "other")


def test_repaint_gives_the_stored_bytes(tmp_path: Path, rows: Rows) -> None:
    run(fake_recipe(), tmp_path)
    row = rows(tmp_path)["pairs"][3]
    again = repaint(fake_recipe(), tmp_path, row["pair_id"])
    assert (again.image, again.same, again.by) == (row["image"], True, "bytes")
    with pytest.raises(InputError, match="no pair 'x'"):
        repaint(fake_recipe(), tmp_path, "x")
    with pytest.raises(InputError, match="no pair"):
        repaint(fake_recipe(), tmp_path, "' or 'a' = 'a")


def test_status_counts_add_up(tmp_path: Path) -> None:
    run(fake_recipe(), tmp_path, part=(1, 3))
    steps = {step.name: step for step in status(tmp_path)}
    assert (steps["captions"].done, steps["captions"].left, steps["captions"].complete) == (4, 6, False)
    assert steps["captions"].dropped == 1
    paint = steps["paint"]
    assert paint.ok is not None
    assert paint.dropped is not None
    assert (paint.done, paint.left, paint.ok + paint.dropped) == (8, 12, 8)
    assert steps["brightness"].done == paint.ok
    assert steps["count"].done is None

    run(fake_recipe(), tmp_path)
    steps = {step.name: step for step in status(tmp_path)}
    assert all(step.complete and step.left == 0 for step in steps.values())
    assert steps["paint"].rate_per_s is not None


def test_status_of_a_folder_where_nothing_is_made_yet(tmp_path: Path) -> None:
    fake_recipe().settle(tmp_path)
    assert [(step.name, step.done, step.left) for step in status(tmp_path)][:2] == [
        ("captions", 0, 10),
        ("paint", 0, 20),
    ]


@dataclasses.dataclass(frozen=True)
class Liar(PaintNoise):
    """Breaks the promise of a stage in one way."""

    lie: str = ""

    def open(self, context: StepContext) -> Worker:
        honest = super().open(context)

        def paint(rows: pa.Table) -> pa.Table:
            made = honest(rows)
            if self.lie == "too few":
                return made.slice(1)
            if self.lie == "twice":
                return pa.concat_tables([made.slice(0, 1), made.slice(0, 1), made.slice(2)])
            return made.set_column(
                made.schema.get_field_index("unit"), made.schema.field("unit"), pa.array([99] * len(made))
            )

        return paint


@pytest.mark.parametrize(
    ("lie", "message"), [("too few", "7 rows for 4"), ("twice", "one pair_id"), ("unit", "another unit")]
)
def test_a_stage_that_breaks_its_promise_writes_nothing(tmp_path: Path, lie: str, message: str) -> None:
    plan = fake_recipe()
    steps = (plan.steps[0], Step("paint", Liar(lie=lie), inputs=("captions",)))
    with pytest.raises(ValueError, match=message):
        run(Plan("liar", steps, unit_size=4), tmp_path)
    assert not tables.exists(tmp_path / "pairs.lance")


@dataclasses.dataclass(frozen=True)
class Twice(Brightness):
    """Needs a joined column, so all of it."""

    reads: ClassVar[tuple[str, ...]] = ("brightness",)

    def open(self, context: StepContext) -> Worker:
        return lambda rows: rows.select(["pair_id", "unit"]).append_column(
            "twice", pa.array([2 * x for x in rows["brightness"].to_pylist()])
        )


def test_columns_from_columns(tmp_path: Path, rows: Rows) -> None:
    plan = fake_recipe()
    plan = dataclasses.replace(plan, steps=(*plan.steps[:3], Step("twice", Twice(), inputs=("brightness",))))
    for part in ((1, 2), (2, 2)):
        run(plan, tmp_path, part=part)
    assert run(plan, tmp_path) is True
    assert all(row["twice"] == 2 * row["brightness"] for row in rows(tmp_path)["pairs"] if row["status"] == "ok")


class Elsewhere:
    """A pool whose first unit is already there when it comes back."""

    def __init__(self) -> None:
        self.ended = False

    def units(self, work: StepRunner, todo: Sequence[int]) -> Generator[Made, None, None]:
        worker = work.step.stage.open(work.context)  # type: ignore[attr-defined]
        try:
            for unit in todo:
                rows = worker(work.given(unit))
                if unit == todo[0]:
                    tables.append_unit(work.table, unit, rows)
                yield Made(unit, rows, 0.0)
            time.sleep(30)  # the next one would take long
        finally:
            self.ended = True

    def jobs(self, *_: object) -> None:
        raise NotImplementedError


def test_other_processes_are_let_go_before_an_error_is_told(tmp_path: Path) -> None:
    """Not when nobody remembers the error any more: they could be gone by then."""
    pool = Elsewhere()
    try:
        run(fake_recipe(count=600, unit_size=2), tmp_path, pool=pool)
    except UnitExists:
        assert pool.ended
    else:
        pytest.fail("nobody noticed that the unit was there")


def test_memory_holds_few_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk makes the painter wait; finished units do not pile up."""
    import threading
    import time

    append, waiting, most, guard = tables.append_units, [0], [0], threading.Lock()

    def slow(path: Path, units: dict[int, pa.Table]) -> None:
        if path.name == "pairs.lance":
            time.sleep(0.05)
            with guard:
                waiting[0] -= len(units)
        append(path, units)

    class Counting(PaintNoise):
        def open(self, context: StepContext) -> Worker:
            honest = super().open(context)

            def paint(rows: pa.Table) -> pa.Table:
                with guard:
                    waiting[0] += 1
                    most[0] = max(most[0], waiting[0])
                return honest(rows)

            return paint

    monkeypatch.setattr(tables, "append_units", slow)
    monkeypatch.setattr(engine, "AHEAD_BYTES", 0)  # as if each were large
    steps = (Step("captions", Sentences(32)), Step("paint", Counting(), inputs=("captions",)))
    run(Plan("slow", steps, unit_size=4), tmp_path)
    assert 2 <= most[0] <= 4  # one in the making, two waiting, one being written


def test_changed_helper_changes_the_fingerprint() -> None:
    assert changed(fake_recipe(), "paint", guidance=9.0).fingerprints() != fake_recipe().fingerprints()


@dataclass(frozen=True)
class InTwoParts(PaintNoise):
    """The end of each unit but the last waits for the beginning of the next."""

    num_units: int = 3
    lose: int = -1  # unit whose rows are lost at its end
    refuse: int = -1  # unit that cannot begin

    def open(self, context: StepContext) -> Worker:
        paint = super().open(context)
        begun = [threading.Event() for _ in range(self.num_units)]

        class Halves(TwoPartWorker):
            def begin(halves, rows: pa.Table) -> Callable[[], pa.Table]:  # noqa: N805
                unit = rows["unit"][0].as_py()
                begun[unit].set()
                if unit == self.refuse:
                    raise InputError(f"unit {unit} cannot begin")

                def finish() -> pa.Table:
                    assert unit + 1 == self.num_units or begun[unit + 1].wait(30), "the next unit was not begun"
                    made = paint(rows)
                    return made.slice(0, 1) if unit == self.lose else made

                return finish

        return Halves()


def test_a_unit_ends_while_the_next_one_is_begun_and_keeps_its_promises(tmp_path: Path, rows: Rows) -> None:
    def plan(stage: PaintNoise) -> Plan:
        return Plan("mine", (Step("captions", Sentences(12)), Step("paint", stage, inputs=("captions",))), unit_size=4)

    assert run(plan(InTwoParts()), tmp_path / "halves")
    assert run(plan(PaintNoise()), tmp_path / "whole")
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    with pytest.raises(ValueError, match="1 rows for 4 captions of 2 each"):
        run(plan(InTwoParts(lose=1)), tmp_path / "lost")
    assert 1 not in tables.done_units(tmp_path / "lost" / "pairs.lance")
    # What was begun before a unit that cannot begin is ended and kept.
    with pytest.raises(InputError, match="unit 2 cannot begin"):
        run(plan(InTwoParts(refuse=2)), tmp_path / "refused")
    assert tables.done_units(tmp_path / "refused" / "pairs.lance") == {0, 1}
