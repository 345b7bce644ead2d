from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate.diversity import SHARES, MeasureDiversity, _measured, compare, in_top_clusters, read_captions
from reverie.recaption.mix import Mix
from reverie.stage import StepContext
from reverie.store import results, tables

THINGS = [f"thing{chr(97 + number)}" for number in range(20)]
DATA = Path(__file__).parents[3] / "shared" / "data"


def say(*words):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "diversity", *map(str, words)])
    return ended.value.code


def captions(num, kinds, seed=0):
    """Sentences about so many kinds of things."""
    rng = random.Random(seed)
    return [
        f"{(thing := rng.choice(THINGS[:kinds]))} and {thing} beside another {thing} number {rng.randrange(9)}"
        for _ in range(num)
    ]


def test_numbers_are_those_of_a_slow_loop():
    texts = ["a cat sat", "a dog sat", "A cat sat.", "one red bird flew off"]
    rows = np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    labels = np.array([0, 1, 0, 2])
    found = {name: value for name, (value, _) in _measured(texts, rows, labels, 5, np.ones((2, 4))).numbers.items()}
    shares = [0.5, 0.25, 0.25]
    entropy = -sum(share * math.log(share) for share in shares)
    cosines = [float(rows[a] @ rows[b]) for a in range(4) for b in range(4) if a != b]
    assert found == {
        "entropy": pytest.approx(entropy),
        "effective": pytest.approx(math.exp(entropy)),
        "balance": pytest.approx(entropy / math.log(5)),
        "empty": 0.4,
        "distance": pytest.approx(1 - sum(cosines) / len(cosines)),
        "distinct-1": 9 / 14,
        "distinct-2": 8 / 10,
        "words": 9,
        "unique": 0.75,
        "length": 3.5,
    }


def test_the_largest_clusters_are_told_of_only_where_there_are_more():
    texts, rows = captions(30, 20), np.eye(30)
    for clusters, known in ((5, []), (6, ["top 5"]), (20, ["top 5"]), (21, ["top 5", "top 20"])):
        labels = np.arange(30) % clusters
        found = _measured(texts, rows, labels, clusters, np.ones((2, 30))).numbers
        assert [name for name in found if name.startswith("coverage")] == [f"coverage {each}" for each in known]
        assert all(found[f"coverage {each}"][0] < 1 for each in known)


def test_the_more_varied_set_has_the_higher_numbers():
    sets = {"many": captions(300, 20), "few": captions(500, 4, seed=1), "same": captions(400, 20, seed=2)}
    many, few, same = compare(sets, clusters=20, num_seeds=1, draws=30)
    assert (many.size, few.total) == (300, 500)
    for metric in ("entropy", "effective", "balance", "distance"):
        assert many.values[metric].low > few.values[metric].high, metric
    assert many.values["coverage top 5"].value < few.values["coverage top 5"].value
    assert few.values["effective"].value < 12
    assert abs(many.values["entropy"].value - same.values["entropy"].value) < 0.2
    for one in (many, few):
        assert sum(one.shares) == pytest.approx(1)
        assert all(value.low <= value.value <= value.high for value in one.values.values())
    skewed = in_top_clusters(sets["many"], 20, 4, 50, seed=0)
    assert len({sets["many"][at].split()[0] for at in skewed}) <= 8
    with pytest.raises(InputError, match=r"hold .* captions, and 300 are wanted"):
        in_top_clusters(sets["many"], 20, 4, 300, seed=0)


def test_no_interval_goes_further_than_its_number_can():
    many, few = compare(
        {"many": captions(300, 20), "few": captions(300, 2, seed=1)}, clusters=20, num_seeds=2, draws=30
    )
    for one in (many, few):
        for metric, value in one.values.items():
            assert value.low >= (1 if metric == "effective" else 0), metric
            assert metric not in SHARES or value.high <= 1, metric
    assert many.values["empty"].value < 0.1
    assert few.values["coverage top 5"].value > 0.9


def test_files_runs_and_columns(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(captions(30, 5)))
    assert len(read_captions(str(lines))) == 30
    table = tmp_path / "two.csv"
    table.write_text("first,second\none red cat,two blue dogs\nthree birds,four fish\n")
    assert read_captions(f"{table}:second") == ["two blue dogs", "four fish"]
    rows = [
        {"caption_id": f"c{number}", "unit": 0, "text": f"text {number}", "status": status}
        for number, status in enumerate(("ok", "dropped", "ok"))
    ]
    tables.append_unit(tmp_path / "run" / "captions.lance", 0, pairs.table(rows, pairs.CAPTIONS))
    assert read_captions(str(tmp_path / "run")) == ["text 0", "text 2"]
    with pytest.raises(InputError, match="no captions in a column 'other'"):
        read_captions(f"{tmp_path / 'run'}:other")
    with pytest.raises(InputError):
        read_captions(str(tmp_path / "nothing.txt"))
    with pytest.raises(InputError, match="has no column 'third'; name as FILE:COLUMN one of"):
        read_captions(f"{table}:third")


def test_a_run_with_a_mix_is_measured_by_the_captions_that_captioners_read(tmp_path):
    """Half long and half short ones, and none of the text that came with the images."""
    count = 64
    written = [
        {"caption_id": f"c{i}", "unit": 0, "text": f"a red cat number {i}", "status": "ok"} for i in range(count)
    ]
    tables.append_unit(tmp_path / "captions.lance", 0, pairs.table(written, pairs.CAPTIONS))
    human = [
        {"pair_id": f"p{i}", "caption_id": f"p{i}", "copy": 0, "unit": 0, "status": "ok", "text": f"{i} of the web"}
        | {"caption_short": f"dog {i}", "caption_long": [f"one brown dog number {i} runs"]}
        for i in range(count)
    ]
    human[0] |= {"caption_short": " ", "caption_long": None}
    more = [pa.field("caption_short", pa.string()), pa.field("caption_long", pa.list_(pa.string()))]
    tables.append_unit(tmp_path / "pairs" / "pairs.lance", 0, pairs.table(human, pa.schema([*pairs.PAIRS, *more])))
    found = {}
    for words in ((), ("short=0.5", "long=0.5"), ("short",)):
        mix = Mix.read(words) if words else None
        stage = MeasureDiversity(tmp_path / "pairs", num_seeds=1, mix=mix)
        stage.check()
        stage.run(StepContext(tmp_path, "diversity"))
        rows = results.select(results.read(tmp_path / "results.jsonl"), arm="people")
        found[" ".join(words)] = {(row.label, row.details["captions"]) for row in rows}, {
            row.metric: row.value for row in rows
        }  # fmt: skip
    assert found[""][0] == {("captions of people", 64)}
    assert found["short=0.5 long=0.5"][0] == {("captions of the human pairs (long=0.5 short=0.5)", 63)}
    assert found["short"][0] == {("captions of the human pairs (short=1)", 63)}
    assert (found[""][1]["length"], found["short"][1]["length"]) == (4, 2)
    assert 3 < found["short=0.5 long=0.5"][1]["length"] < 5  # the mean of 2 and 6 is 4
    with pytest.raises(InputError, match="has no column 'nothing'"):
        MeasureDiversity(tmp_path / "pairs", mix=Mix.read(("nothing",))).check()


def test_command(tmp_path, capsys):
    files = []
    for name, kinds in (("many", 20), ("few", 3)):
        files.append(tmp_path / f"{name}.txt")
        files[-1].write_text("\n".join(captions(120, kinds)))
    picture = tmp_path / "out" / "diversity.svg"
    words = [*files, "--names", "many $5", "few", "--clusters", "10", "--num-seeds", "1", "--draws", "20"]
    assert say(*words, "--picture", picture, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["sets"]] == ["many $5", "few"]
    assert told["sets"][0]["values"]["effective"]["value"] > told["sets"][1]["values"]["effective"]["value"]
    assert "<svg" in picture.read_text()
    assert say(*words) == 0
    assert "effective" in capsys.readouterr().out
    for wrong, said in (
        (["--picture", "x.gif"], "cannot be written"),
        (["--clusters", "100"], "too few for 100 clusters"),
        (["--size", "12"], "--size 12 takes too few for 50 clusters; give at least 200"),
        (["--names", "one"], "--names gives 1 for 2 sets"),
        (["--names", "one", "one"], "two sets are called one; give each a name of its own: --names"),
    ):
        assert say(*files, *wrong) == 2
        assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(not (DATA / "coco").exists(), reason="the extracts of public captions are not here")
def test_real_captions_are_told_apart():
    coco = read_captions(str(DATA / "coco" / "captions_val2017.json.gz"), 2000)
    docci = read_captions(f"{DATA}/iiw/DOCCI_Test.jsonl:DOCCI", 2000)
    found = {
        one.name: one.values for one in compare({"coco": coco, "docci": docci}, clusters=10, num_seeds=1, draws=10)
    }
    assert found["coco"]["length"].value < found["docci"]["length"].value
