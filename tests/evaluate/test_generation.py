from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from reverie import pairs
from reverie.arms import Arm
from reverie.cli.main import main
from reverie.errors import InputError, ModelError, UnknownName
from reverie.evaluate.generation import Instruments, MeasureGeneration, Measuring, pictures_folder, prompts
from reverie.evaluate.metrics.frechet import Moments, frechet_distance
from reverie.evaluate.painted import check_reference, is_black, painted, reference
from reverie.evaluate.transfer import features_of
from reverie.images.pixels import PaintPixels
from reverie.report import page
from reverie.run import engine
from reverie.run.plan import Plan, Step
from reverie.smallworld.describe import describe
from reverie.smallworld.render import render
from reverie.smallworld.scene import Scene, Thing, sample
from reverie.store import results, tables
from reverie.store.pictures import as_png

RED, BLUE = (Thing("circle", "red", "large", 0.25, 0.5, 0.2), Thing("star", "blue", "large", 0.75, 0.5, 0.2))


def picture(*things):
    return Image.fromarray(render(Scene(things, "white"), "studio", 0).image)


def store(folder, rows):
    """A run folder with these (text, picture or None, status)."""
    made = [
        {
            "pair_id": pairs.pair_id(f"{number:016x}", 0), "caption_id": f"{number:016x}", "copy": 0, "unit": 0,
            "text": text, "image": as_png(image) if image else None, "origin": "painted", "status": status,
        }
        for number, (text, image, status) in enumerate(rows)
    ]  # fmt: skip
    tables.append_unit(folder / "pairs.lance", 0, pairs.table(made, pairs.PAIRS))
    return folder


def rendered(folder, num, shift=0, style="human"):
    """A perfect painter's run, or one that paints what the caption after next asks for."""
    rng = np.random.default_rng(0)
    scenes = [sample(rng) for _ in range(num)]
    images = [Image.fromarray(render(scene, "studio", number).image) for number, scene in enumerate(scenes)]
    texts = [describe(scene, style, rng) for scene in scenes]
    return store(folder, [(text, images[(n + shift) % num], "ok") for n, text in enumerate(texts)])


def by_metric(found):
    return {one.metric: one for one in found}


def test_numbers_by_hand(tmp_path):
    text = "a red circle left of a blue star"
    folder = store(
        tmp_path / "run",
        [
            (text, picture(RED, BLUE), "ok"),
            (text, picture(BLUE), "ok"),  # no red circle
            (text, None, "failed"),  # shows nothing, and is asked for all the same
            ("two red circles", picture(RED), "ok"),
        ],
    )
    how = Instruments(features=(), answerer="judge")
    found = by_metric(Measuring(how).measure(painted(folder), None))
    assert found["soa_c:judge"].value == pytest.approx((2 / 4 + 2 / 3) / 2)  # red circle, blue star
    assert found["soa_i:judge"].value == pytest.approx(4 / 7)
    assert found["ca:judge"].value == pytest.approx((0 + np.sqrt(1 / 2) + 1 + 1) / 4)
    assert found["pa:judge"].value == pytest.approx(1 / 3)
    assert found["qa_all:judge"].value == pytest.approx(1 / 4)
    # of a red circle left of a blue star: both, each exactly once, and their places are asked; of two red circles, two questions
    assert found["qa:judge"].value == pytest.approx((5 + 2 + 0 + 1) / (3 * 5 + 2))
    assert found["qa_no:judge"].num == 3
    assert found["soa_i:judge"].each == (1.0, 0.5, 0.0, 1.0)
    assert found["soa_i:judge"].details["without_picture"] == 1
    compat = by_metric(Measuring(Instruments((), tise_compat=True)).measure(painted(folder), None))
    assert compat["soa_i:judge"].value == pytest.approx(4 / 5)  # the failed one is left out
    assert "qa:judge" not in compat


def test_who_cannot_answer_is_told_before_anything_is_painted(tmp_path, monkeypatch):
    def says(answer):
        monkeypatch.setattr(
            "reverie.evaluate.observers.open_asked", lambda *how: lambda pictures, questions: [answer] * len(questions)
        )
        arm = Arm("one", "one", factors={"painter": "builtin:painter"})
        how = Instruments((), "", "", answerer="builtin:describer")
        paint = PaintPixels(per_caption=1, steps=1)
        step = MeasureGeneration((arm,), "smallworld:human:1", "", paint, instruments=how)
        return engine.run(Plan(recipe="test", seed=0, steps=(Step("generation", step),)), tmp_path / "run")

    with pytest.raises(ModelError, match="builtin:describer answered none of 2 questions with yes or no"):
        says("a red circle")
    assert not pictures_folder(tmp_path / "run", "generation").exists()
    assert says("no, it is not")
    assert pictures_folder(tmp_path / "run", "generation").exists()


def test_who_answers_no_question_gives_no_number(tmp_path):
    folder = store(tmp_path / "run", [("a red circle", picture(RED), "ok"), ("a blue star", None, "failed")])

    def says(answer):
        how = Instruments((), "", "", answerer="builtin:describer")
        return Measuring(how, answerer=lambda pictures, questions: [answer(each) for each in questions]).measure(
            painted(folder), None
        )

    with pytest.raises(ModelError, match=r"builtin:describer answered none of \d+ questions with yes or no"):
        says(lambda question: "yes" if "all over" in question else "a red circle")  # of a plain picture alone
    found = by_metric(says(lambda question: "yes"))
    assert found["qa:builtin:describer"].value == 0.5  # of the picture that is not there nothing is confirmed
    assert found["qa:builtin:describer"].details["unclear_answers"] == 0


def test_distances_are_those_of_the_features(tmp_path):
    run, other = rendered(tmp_path / "a", 20), rendered(tmp_path / "b", 30)
    found = by_metric(Measuring(Instruments(("pixels",), "", "")).measure(painted(run), reference(str(other))))
    features, _ = features_of("pixels")
    made = features([image for _, some in painted(run).batches(7) for image in some]).numpy()
    assert found["fd:pixels"].details["num_real"] == 20  # as many as were painted
    assert found["fd:pixels"].low < found["fd:pixels"].value < found["fd:pixels"].high
    assert set(found) == {"fd:pixels", "kd:pixels"}
    same = by_metric(Measuring(Instruments(("pixels",), "", "")).measure(painted(run), reference(str(run))))
    assert same["fd:pixels"].value == pytest.approx(0, abs=1e-6)
    assert frechet_distance(Moments.of([made]), Moments.of([made])) == pytest.approx(0, abs=1e-6)
    assert same["kd:pixels"].value < found["kd:pixels"].high


def test_pictures_of_a_store(tmp_path):
    black = Image.new("RGB", (64, 64))
    folder = store(tmp_path / "run", [("a red circle", picture(RED), "ok"), ("", picture(RED), "ok"), ("a blue star", black, "dropped"), ("a b", None, "failed")])  # fmt: skip
    made = painted(folder)
    assert [len(made), *made.texts] == [3, "a red circle", "a blue star", "a b"]
    ((_, found),) = made.batches(8)
    assert [item is None for item in found] == [False, False, True]
    assert [is_black(item) for item in found[:2]] == [False, True]
    chosen = painted(folder, "text = 'a blue star'")
    assert (chosen.texts, is_black(chosen.read([0])[0])) == (["a blue star"], True)
    assert painted(folder, max_images=2).texts == ["a red circle", "a blue star"]
    assert len(reference(str(folder))) == 2  # to be near to, a picture needs no caption
    single = store(tmp_path / "single", [("a red circle", picture(RED), "ok")])
    silent = store(tmp_path / "silent", [("", picture(RED), "ok"), (None, picture(RED), "ok")])
    assert len(reference(str(silent))) == 2
    for call, said in (
        (lambda: painted(tmp_path / "none"), "holds no pictures with captions"),
        (lambda: painted(folder, "text = 'x'"), "no picture of .* has a caption and fits"),
        (lambda: reference(str(single)), "has 1 picture; a distance"),
        (lambda: painted(silent), "no picture of .*silent has a caption$"),
        (lambda: reference(str(tmp_path / "none")), "there is no"),
        (lambda: check_reference(str(tmp_path / "none")), "there is no"),
        (lambda: check_reference("smallworld:studio:0"), "ask for at least 1"),
        (lambda: prompts("smallworld:human"), "must read smallworld:STYLE:NUMBER"),
        (lambda: prompts("smallworld:human:0"), "give 1 or more"),
        (lambda: Instruments((), "", "", ""), "nothing is left to measure"),
        (lambda: Instruments(("a", "a")), "named twice"),
        (lambda: Instruments(threshold=2), "give a score from 0 to 1"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    with pytest.raises(UnknownName, match="camera"):
        check_reference("smallworld:odd:3")
    with pytest.raises(UnknownName, match="style of captions"):
        prompts("smallworld:odd:3")


def test_pictures_of_an_arm_are_found_where_they_lie(tmp_path):
    arm = store(tmp_path / "run" / "generation" / "generation" / "mix-0", [("a red circle", picture(RED), "ok")])
    with pytest.raises(InputError, match=f"give one of the arms in it, such as {arm}"):
        painted(tmp_path / "run")


def test_prompts_are_of_the_same_scenes_in_every_style():
    short, long = prompts("smallworld:short:30"), prompts("smallworld:long:30")
    assert len(set(long)) > 25
    told = [text.split(" ")[:3] for text in short]
    assert sum(" ".join(words[-2:]) in other for words, other in zip(told, long, strict=True)) > 10
    assert prompts("smallworld:short:10") == short[:10] == prompts("smallworld:short:30", 10)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    arms = (Arm("one", "the builtin one", factors={"painter": "builtin:painter"}),)
    stage = MeasureGeneration(
        arms, "smallworld:human:6", "smallworld:studio:8", PaintPixels(per_caption=1, steps=2), (1.0, 3.0),
        Instruments(("pixels",), answerer="judge", draws=10),
    )  # fmt: skip
    plan = Plan("generation", (Step("measure", stage),))
    engine.run(plan, folder)
    return folder, plan, stage


def test_guidances_share_captions_and_noise(sweep):
    folder, plan, _ = sweep
    found = results.read(folder / "results.jsonl")
    assert [*dict.fromkeys((record.arm, record.factors["guidance"]) for record in found)] == [
        ("one-g1", 1.0),
        ("one-g3", 3.0),
    ]
    assert {record.metric for record in found} >= {"fd:pixels", "kd:pixels", "soa_c:judge", "ca:judge", "qa_all:judge"}
    assert all(record.details["low"] <= record.value <= record.details["high"] for record in found)
    columns = ["pair_id", "caption_id", "text", "seed"]
    rows = [
        [row for part in tables.scan(pictures_folder(folder, "measure") / f"one-g{scale}-0" / "pairs.lance", [*columns, "image"]) for row in part.to_pylist()]
        for scale in (1, 3)
    ]  # fmt: skip
    assert [[row[name] for name in columns] for row in rows[0]] == [[row[name] for name in columns] for row in rows[1]]
    assert rows[0][0]["image"] != rows[1][0]["image"]
    before = (folder / "results.jsonl").read_bytes()
    engine.run(plan, folder)  # all is done
    assert (folder / "results.jsonl").read_bytes() == before


def test_a_guidance_more_leaves_the_others_as_they_are(sweep):
    folder, plan, stage = sweep
    before = {record.metric: record for record in results.read(folder / "results.jsonl") if record.arm == "one-g3"}
    more = dataclasses.replace(plan, steps=(Step("measure", dataclasses.replace(stage, guidance=(1.0, 3.0, 4.0))),))
    engine.run(more, folder)
    found = results.read(folder / "results.jsonl")
    assert {record.arm for record in found} == {"one-g1", "one-g3", "one-g4"}
    after = {record.metric: record for record in found if record.arm == "one-g3"}
    assert {metric: record.value for metric, record in after.items()} == {
        metric: record.value for metric, record in before.items()
    }
    files = [pictures_folder(folder, "measure") / f"one-g{scale}-0" / "pairs.lance" for scale in (1, 3, 4)]
    assert all(tables.count(file) == 6 for file in files)


def test_page_shows_the_pictures_and_the_sweep(sweep):
    folder, _, _ = sweep
    html = page.write(folder).read_text()
    assert "The same captions, painter by painter" in html
    assert "Over guidance" in html
    assert "SOA-I, judge" in html
    assert prompts("smallworld:human:6")[0] in html


def test_stages_that_cannot_be():
    arm = Arm("a", "a", factors={"painter": "builtin:painter"})
    with pytest.raises(InputError, match="names no painter"):
        MeasureGeneration((Arm("a", "a"),))
    with pytest.raises(InputError, match="no painter is named"):
        MeasureGeneration(())
    with pytest.raises(InputError, match=r"guidance 0.5 must be"):
        MeasureGeneration((arm,), guidance=(0.5,))
    with pytest.raises(InputError, match="named twice"):
        MeasureGeneration((arm,), guidance=(2.0, 2.0))
    with pytest.raises(InputError, match="name classes of a detector"):
        Instruments(synonyms="x.json").check()


def say(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "generation", *map(str, words)])
    out, err = capsys.readouterr()
    return ended.value.code, out, " ".join(err.split())


def test_command(tmp_path, capsys):
    right, wrong = rendered(tmp_path / "right", 24), rendered(tmp_path / "wrong", 24, shift=3)
    code, out, _ = say(capsys, right, wrong, "--answerer", "judge", "--json", "--draws", 20)
    told = {name: {one["metric"]: one["value"] for one in own} for name, own in json.loads(out)["sets"].items()}
    assert code == 0
    assert told["right"]["soa_i:judge"] > 0.9 > 0.5 > told["wrong"]["soa_i:judge"]
    assert told["right"]["qa_all:judge"] > 0.8 > told["wrong"]["qa_all:judge"]
    code, out, _ = say(capsys, right, wrong, "--real", right, "--features", "pixels")
    assert code == 0
    assert "Fréchet distance, pixels" in out
    assert "SOA-C, judge" in out
    for words, said in (
        ([], "name folders with painted pictures, or painters"),
        ([right, "--painters", "builtin:painter"], "one of the two"),
        (["--painters", "builtin:painter"], "--out FOLDER"),
        ([right, "--guidance", "2"], "--guidance says how painters paint"),
        (
            ["--painters", "builtin:painter", "--out", tmp_path / "x", "--where", "kept"],
            "--where chooses among pictures",
        ),
        ([right, "--names", "a", "b"], "2 names for 1 sets"),
        ([right, "--detector", "builtin:clip"], "what is needed here is an object detector"),
        ([right, "--answerer", "builtin:writer"], "cannot say what it sees"),
        ([right, "--detector", "", "--places", ""], "nothing is left to measure"),
        ([tmp_path / "nowhere"], "holds no pictures"),
    ):
        code, _, err = say(capsys, *words)
        assert (code, said in err) == (2, True), err


@pytest.mark.slow
def test_command_that_paints(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--painters", "builtin:painter", "--captions", "smallworld:human:4", "--sampler-steps", 2, "--out", out]
    code, told, _ = say(capsys, *words)
    assert code == 0
    assert "SOA-C, judge" in told
    assert (out / "report.html").is_file()


def test_a_detector_counts_in_its_own_words(tmp_path):
    text = "a red circle left of a blue star"
    folder = store(tmp_path / "run", [(text, picture(RED, BLUE), "ok"), (text, picture(BLUE), "ok")])
    how = Instruments((), "builtin:detector", "builtin:clip")
    found = by_metric(Measuring(how).measure(painted(folder), None))
    assert {"soa_c:builtin:detector", "ca:builtin:detector", "pa:builtin:clip"} <= set(found)
    assert found["soa_c:builtin:detector"].details["model"].startswith("builtin:detector@")
    assert 0.5 <= found["soa_i:builtin:detector"].value <= 1
