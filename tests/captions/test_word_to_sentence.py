import json
import random
from pathlib import Path

import pyarrow as pa
import pytest

from reverie.captions.checks import check, same
from reverie.captions.llm import words_missing
from reverie.captions.word_to_sentence import WordToSentence
from reverie.errors import InputError, ModelError, UnknownName
from reverie.pairs import CAPTIONS
from reverie.run.engine import retry, run
from reverie.run.plan import Plan, Step
from reverie.seeds import derive
from reverie.stage import StepContext
from reverie.store import tables
from tests.captions.conftest import asked, units_of
from tests.models import tiny

RUN_SEED = 7  # of the fixture ``context``


class Numbered:
    """A writer whose answer is a function of the class name and the number of the draw, which it finds by the seed."""

    revision = "numbered@1"

    def __init__(self, answer, labels, seed=RUN_SEED, most=20_000):
        self.answer, self.calls = answer, []
        self.numbers = {derive("words", seed, label, number): number for label in labels for number in range(most)}

    def write(self, prompts, seeds, max_tokens, temperature, top_p):
        self.calls.append([(prompt, self.numbers[seed]) for prompt, seed in zip(prompts, seeds, strict=True)])
        return [self.answer(prompt, number) for prompt, number in self.calls[-1]]


def chatter(prompt, number):
    """One in four says nothing of the class, and the others repeat each other."""
    choose = random.Random(f"{prompt} {number}")
    thing = "horse" if choose.random() < 0.25 else prompt
    return f"a {choose.choice(['small', 'large', 'old'])} {thing} {choose.choice(range(40))} steps away."


def rows_in(stage, writer, context, unit_size):
    """All rows, made unit by unit by one worker, without their unit."""
    worker = stage.worker(writer, context)
    units = [
        worker(asked(unit, start, min(start + unit_size, stage.count)))
        for unit, start in enumerate(range(0, stage.count, unit_size))
    ]
    for number, unit in enumerate(units):
        assert set(unit["unit"].to_pylist()) == {number}
    return pa.concat_tables(units).drop_columns("unit").to_pylist()


def by_hand(label, per_class, max_draws):
    """The method as it is written: sample one sentence after the other, keep those that are new and name the class."""
    kept = []
    for number in range(max_draws):
        text, reason = check(chatter(label, number))
        if reason is None and not words_missing(text, label) and same(text) not in map(same, kept):
            kept.append(text)
        if len(kept) == per_class:
            return kept, number + 1
    return kept, max_draws


CLASSES = ("cat", "dog", "blue fish")


@pytest.mark.parametrize("unit_size", [1, 7, 30, 1000])
def test_sentences_are_the_same_for_any_unit_size_and_as_by_hand(context, unit_size):
    stage = WordToSentence(CLASSES, per_class=50)
    rows = rows_in(stage, Numbered(chatter, CLASSES), context, unit_size)
    for label in CLASSES:
        expected, drawn = by_hand(label, 50, 400)
        own = [row for row in rows if row["label"] == label]
        good = [row for row in own if row["status"] == "ok"]
        assert [row["text"] for row in good] == expected
        assert len(own) == drawn  # every draw that was looked at is a row
        assert all(row["seed"] is not None and row["prompt"] == label for row in own)
        assert {row["reason"] for row in own} <= {None, "duplicate within its class"} | {
            f"does not name its class: {label} is missing"
        }
    assert len({row["caption_id"] for row in rows}) == len(rows)
    assert [row["status"] for row in rows].count("ok") == stage.count == 150


def test_a_worker_that_begins_in_the_middle_of_a_class_writes_the_same(context):
    stage = WordToSentence(CLASSES, per_class=50)
    whole = rows_in(stage, Numbered(chatter, CLASSES), context, 30)
    for start in (30, 60, 90):
        late = stage.worker(Numbered(chatter, CLASSES), context)(asked(0, start, 150)).drop_columns("unit").to_pylist()
        assert late == whole[-len(late) :]


def test_rounds_are_of_one_class_and_the_same_whoever_asks(context):
    """So the arithmetic of a batch is the same too, to the last bit."""
    stage = WordToSentence(CLASSES, per_class=50)
    calls = {}
    for unit_size in (1, 30, 150):
        writer = Numbered(chatter, CLASSES)
        rows_in(stage, writer, context, unit_size)
        calls[unit_size] = writer.calls
        assert all(len({prompt for prompt, _ in call}) == 1 for call in writer.calls)
    assert calls[1] == calls[30] == calls[150]


def test_the_cost_is_near_one_draw_a_sentence(context):
    writer = Numbered(lambda prompt, number: f"{prompt} {number}", CLASSES)
    rows_in(WordToSentence(CLASSES, per_class=200), writer, context, 30)
    assert [len(call) for call in writer.calls] == [250] * 3  # the paper draws 250 for 200
    writer = Numbered(lambda prompt, number: f"{prompt} {number}", ["cat"])
    rows_in(WordToSentence(("cat",), per_class=200, surplus=0.0), writer, context, 30)
    assert [len(call) for call in writer.calls] == [200]


def test_a_large_class_is_drawn_bit_by_bit(context):
    writer = Numbered(lambda prompt, number: f"{prompt} {number}", ["cat"])
    stage = WordToSentence(("cat",), per_class=3000)
    worker = stage.worker(writer, context)
    worker(asked(0, 0, 100))
    assert [len(call) for call in writer.calls] == [1250]
    worker(asked(29, 2900, 3000))
    assert [len(call) for call in writer.calls] == [1250, 1250, 625]


def test_what_is_missing_is_drawn_again_and_then_given_up(context):
    """Ten sentences are all that the dog's writer knows; the cat is not touched by it."""
    stage = WordToSentence(("dog", "cat"), per_class=20, max_tries=4)
    writer = Numbered(lambda prompt, number: f"a {prompt} {number % 10 if prompt == 'dog' else number}", stage.classes)
    table = stage.worker(writer, context)(asked(0, 0, 40))
    assert table.schema == CAPTIONS
    dogs = [row for row in table.to_pylist() if row["label"] == "dog"]
    assert [row["status"] for row in dogs].count("ok") == 10
    failed = [row for row in dogs if row["status"] == "failed"]
    assert len(failed) == 10
    drawn = sum(len(call) for call in writer.calls if call[0][0] == "dog")
    assert 80 <= drawn < 80 + 1.25 * 20
    assert {row["reason"] for row in failed} == {
        f"{drawn} draws gave 10 of 20 usable sentences; most often: duplicate within its class"
    }
    assert len(dogs) == drawn + 10
    cats = [row for row in table.to_pylist() if row["label"] == "cat"]
    assert [row["status"] for row in cats] == ["ok"] * 20


def test_synonyms_count_as_the_class(context, tmp_path):
    said = ["an automobile in the rain", "two Cars", "a cart", "a motor by a car", "a motor car, parked"]
    file = tmp_path / "synonyms.json"
    file.write_text(json.dumps({"Automobile": ["car", "motor car"], "boat": "ship"}))
    stage = WordToSentence(("automobile", "boat"), per_class=4, synonyms=file)
    writer = Numbered(
        lambda prompt, number: f"{said[number % 5]}" if prompt != "boat" else f"ship {number}", stage.classes
    )
    rows = stage.worker(writer, context)(asked(0, 0, 8)).to_pylist()
    assert [row["reason"] for row in rows if row["label"] == "automobile"] == [
        None,
        None,
        "does not name its class: automobile is missing",
        None,
        None,
    ]
    assert {row["text"] for row in rows if row["label"] == "boat"} == {f"ship {number}" for number in range(4)}
    plain = WordToSentence(stage.classes, per_class=4, max_tries=2)
    rows = plain.worker(writer, context)(asked(0, 0, 4)).to_pylist()
    assert [row["status"] for row in rows].count("ok") == 1


def test_the_context_is_put_around_each_sentence(context):
    said = ["A forest from above.", "a forest from above", "a river", f"forest {'very ' * 30}far away"]
    stage = WordToSentence(
        ("forest",), per_class=1, context="a satellite photo of {caption}, a type of land", max_chars=170
    )
    writer = Numbered(lambda prompt, number: said[number], stage.classes)
    assert stage.worker(writer, context)(asked(0, 0, 1))["text"].to_pylist() == [
        "a satellite photo of A forest from above, a type of land"
    ]
    twice = WordToSentence(("forest",), per_class=2, context=stage.context, max_chars=170, max_tries=2, surplus=1.0)
    rows = twice.worker(writer, context)(asked(0, 0, 2)).to_pylist()
    assert [row["reason"] for row in rows][1:4] == [  # what repeats a sentence is told before the context hides it
        "duplicate within its class",
        "does not name its class: forest is missing",
        "longer than 170 characters",
    ]


def test_the_prompt_holds_the_class(context):
    stage = WordToSentence(("cat",), per_class=1, prompt="Write a sentence about a {class}.")
    numbers = {derive("words", RUN_SEED, "cat", number): number for number in range(9)}

    class Echo:
        revision = "echo"

        def write(self, prompts, seeds, max_tokens, temperature, top_p):
            assert set(prompts) == {"Write a sentence about a cat."}
            return [f'"a cat {numbers[seed]}"\nI hope this helps!' for seed in seeds]

    (row,) = stage.worker(Echo(), context)(asked(0, 0, 1)).to_pylist()
    assert (row["text"], row["source"], row["writer"]) == ("a cat 0", "words", "echo")


def test_other_classes_and_another_number_of_them_leave_the_sentences_as_they_are(context):
    few = rows_in(WordToSentence(("cat", "dog"), per_class=10), Numbered(chatter, CLASSES), context, 100)
    more = rows_in(WordToSentence(("dog", "blue fish", "cat"), per_class=30), Numbered(chatter, CLASSES), context, 100)

    def good(rows, label):
        return [(row["caption_id"], row["text"]) for row in rows if (row["label"], row["status"]) == (label, "ok")]

    for label in ("cat", "dog"):
        assert good(more, label)[:10] == good(few, label)


def test_every_class_tells_its_rate_and_the_worst_are_warned_of(context):
    labels = tuple(f"class{number:03d}" for number in range(100))

    def answer(prompt, number):
        share = int(prompt.removeprefix("class")) / 100  # of nonsense
        return f"{prompt} {number}" if (number * 37) % 100 >= 100 * share else "nonsense"

    stage = WordToSentence(labels, per_class=20, max_tries=100)
    rows_in(stage, Numbered(answer, labels, most=2500), context, 100)
    told = {facts["label"]: facts for kind, facts in context.report if kind == "refused"}
    assert list(told) == list(labels)
    assert told["class000"]["rate"] == 0
    assert told["class000"]["why"] is None
    assert told["class090"]["rate"] == pytest.approx(0.9, abs=0.04)
    assert told["class090"]["drawn"] - told["class090"]["refused"] == 20
    warnings = [facts["text"] for kind, facts in context.report if kind == "warning"]
    assert 3 <= len(warnings) <= 8  # each time there are twice as many
    assert "of 100 classes; worst: class099 99%, class098 98%" in warnings[-1]
    num_high = sum(facts["rate"] > 0.5 for facts in told.values())
    assert f"refused for {num_high} of 100" in warnings[-1]


def test_a_retry_goes_on_where_the_draws_ended(tmp_path):
    """The writer's first 40 draws hold ten sentences only; what comes later is fresh."""

    class Late(WordToSentence):
        def open(self, context):
            def answer(prompt, number):
                return f"a {prompt} {number % 10 if number < 100 else number}"

            return self.worker(Numbered(answer, self.classes, context.seed), context)

    plan = Plan("test", (Step("captions", Late(("cat", "dog"), per_class=20, max_tries=4)),), seed=3, unit_size=15)
    assert run(plan, tmp_path / "run")
    before = captions(tmp_path / "run")
    assert sum(row["status"] == "failed" for row in before) == 20
    assert retry(plan, tmp_path / "run") == {"captions": 20}
    after = captions(tmp_path / "run")
    good = [row for row in before if row["status"] != "failed"]
    assert [row for row in after if row["caption_id"] in {row["caption_id"] for row in good}] == good
    assert sum(row["status"] == "ok" for row in after) == 40
    for label in ("cat", "dog"):
        assert len({row["text"] for row in after if (row["label"], row["status"]) == (label, "ok")}) == 20
    assert tables.verify(tmp_path / "run") == []


def captions(folder):
    rows = [row for part in tables.scan(folder / "captions.lance") for row in part.to_pylist()]
    return sorted(rows, key=lambda row: (row["unit"], row["caption_id"]))


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    assert run(small_plan(), folder)
    return folder


def small_plan(unit_size=9):
    return Plan(
        "test", (Step("captions", WordToSentence(("red circle", "pink star"), per_class=20)),), unit_size=unit_size
    )


def test_parts_and_another_unit_size_give_the_same_captions_with_the_builtin_model(in_one_go, tmp_path):
    parts = tmp_path / "parts"
    for number in (3, 1, 2):
        run(small_plan(), parts, part=(number, 3))
    assert captions(parts) == captions(in_one_go)
    run(small_plan(unit_size=40), tmp_path / "large")

    def without_unit(folder):
        return sorted(({**row, "unit": None} for row in captions(folder)), key=lambda row: row["caption_id"])

    assert without_unit(tmp_path / "large") == without_unit(in_one_go)


def test_the_builtin_model_says_much_about_a_class(in_one_go):
    rows = captions(in_one_go)
    good = [row for row in rows if row["status"] == "ok"]
    assert len(good) == len({row["text"] for row in good}) == 40
    assert all(row["label"] in row["text"] and row["writer"].startswith("builtin:words@") for row in good)
    assert any(row["text"].count(" a ") + row["text"].count(" an ") > 1 for row in good)


def test_one_class_is_enough_for_sentences(context):
    rows = rows_in(WordToSentence(("cat",), per_class=3), Numbered(chatter, ["cat"]), context, 2)
    assert [row["status"] for row in rows].count("ok") == 3


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "is empty"),
        (("cat", "dog", "cat"), "holds 'cat' twice"),
        (("cat", "Cat"), "'Cat' beside 'cat', which differs only by case"),
    ],
)
def test_classes_that_are_refused_before_any_work(classes, message):
    with pytest.raises(InputError, match=message):
        WordToSentence(classes).check()
    with pytest.raises(InputError, match=message):
        _ = WordToSentence(classes).count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "a satellite photo"}, r"the context 'a satellite photo' must hold \{caption\} once"),
        ({"context": "{caption} and {caption}"}, r"must hold \{caption\} once"),
        ({"prompt": "write a sentence"}, r"has no \{class\}"),
        ({"temperature": 0.0}, "sampling"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"surplus": -0.1}, "surplus"),
        ({"per_class": 0}, "per_class"),
        ({"max_tries": 0}, "max_tries"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        WordToSentence(("cat", "dog"), **options)


def test_synonyms_that_do_not_fit(tmp_path):
    def refused(synonyms, match, kind=InputError):
        with pytest.raises(kind, match=match) as caught:
            WordToSentence(("automobile", "cat"), synonyms=synonyms).check()
        assert "\n" not in str(caught.value)

    file = tmp_path / "synonyms.json"
    file.write_text(json.dumps({"automobil": ["car"]}))
    refused(file, "unknown class in synonyms.json 'automobil'; did you mean automobile", UnknownName)
    refused({"tram": ("streetcar",)}, "unknown class in the synonyms 'tram'", UnknownName)
    file.write_text('["car"]')
    refused(file, "must hold a JSON object")
    file.write_text('{"cat": 3}')
    refused(file, "the words for 'cat' must be a list of words")
    file.write_text('{"cat": [""]}')
    refused(file, "the words for 'cat' must be a list of words")
    file.write_text("{")
    refused(file, "is not JSON")
    refused(tmp_path / "none.json", "cannot read synonyms")


def test_models_that_cannot_write(context, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        WordToSentence(("cat",), model=str(tmp_path / "none")).check()
    vit = str(tiny.save_vit(tmp_path / "vit"))
    with pytest.raises(ModelError, match=r"vit is a vision model \(vit\); what is needed here is a language model"):
        WordToSentence(("cat",), model=vit).open(context)
    with pytest.raises(ModelError, match=r"builtin:clip is an encoder of images and texts \(clip\)"):
        WordToSentence(("cat",), model="builtin:clip").open(context)


@pytest.mark.parametrize("save", [tiny.save_seq2seq, tiny.save_writer])
def test_both_kinds_of_model_write_and_what_they_write_is_judged(context, tmp_path, save):
    folder = save(tmp_path / "model")
    stage = WordToSentence(
        ("cat", "dog"), per_class=2, model=str(folder), synonyms={"cat": ("a", "the", "red")}, max_tokens=12
    )
    (table,) = units_of(stage, context, 10)
    rows = table.to_pylist()
    assert sum(row["status"] != "dropped" for row in rows) == 4
    for row in rows:
        if row["status"] == "ok":
            words = row["text"].split()
            assert row["label"] in words or (row["label"] == "cat" and {"a", "the", "red"} & set(words))


def test_a_changed_synonym_file_is_another_stage(tmp_path):
    file = Path(tmp_path / "synonyms.json")
    prints = []
    for word in ("car", "auto"):
        file.write_text(json.dumps({"automobile": [word]}))
        plan = Plan("test", (Step("captions", WordToSentence(("automobile",), synonyms=file)),))
        prints.append(plan.fingerprints())
    assert prints[0] != prints[1]


def test_place_is_all_that_a_worker_needs(tmp_path):
    """The texts depend on the run seed, and not on where the run is."""
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        context = StepContext(tmp_path / name, "captions", seed=seed)
        stage = WordToSentence(("cat",), per_class=5)
        rows = stage.worker(Numbered(chatter, ["cat"], seed), context)(asked(0, 0, 5)).to_pylist()
        texts.append([row["seed"] for row in rows])
    assert texts[0] == texts[1] != texts[2]
