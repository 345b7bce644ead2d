from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate.text_shift import read_raw, shift_between, text_shift
from reverie.smallworld.describe import describe

DATA = Path(__file__).parents[3] / "shared" / "data"


def styles(num, *wanted, seed=0):
    """The same scenes in several styles."""
    import numpy as np

    from reverie.smallworld.scene import sample

    rng = np.random.default_rng(seed)
    scenes = [sample(rng) for _ in range(num)]
    return {style: [describe(scene, style, rng) for scene in scenes] for style in wanted}


def say(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "text-shift", *map(str, words)])
    out, err = capsys.readouterr()
    return ended.value.code, out, " ".join(err.split())


def test_long_captions_tell_more_and_lie_farther_from_short_ones_than_chance():
    found = text_shift(styles(160, "short", "long", "alt"), draws=20)
    told = {one.name: one.values for one in found.sets}
    for metric in ("words", "bits", "content words", "attributes"):
        assert told["long"][metric].low > told["short"][metric].high, metric
    assert all(value.low <= value.value <= value.high for one in found.sets for value in one.values.values())
    for measure in ("length", "word classes", "function words", "bits", "mmd"):
        rows = found.shifts[measure]
        for place in range(3):
            assert rows[place][place] == min(row[place] for row in rows), (measure, place)
    assert found.shifts["bits"][0][0] == 0
    assert found.between("length")["short", "alt"] == found.shifts["length"][0][2]
    assert found.limit is None


def test_numbers_by_hand():
    texts = ["IMG_1234.jpg", "a red Fiat, two dogs on the left", "naïve art", "one dog"] * 10
    found = text_shift({"set": texts}, (lambda some: [len(text) for text in some], 12), draws=5)
    values = {name: value.value for name, value in found.sets[0].values.items()}
    assert values["words"] == (2 + 8 + 2 + 2) / 4
    assert values["two words or fewer"] == 3 / 4
    assert values["no caption"] == 1 / 4
    assert values["not ASCII"] == 1 / 4
    assert values["over 12 tokens"] == 1 / 4
    assert values["tokens"] == sum(map(len, texts[:4])) / 4
    assert values["relations"] == 1 / 4
    assert values["numbers"] == 1 / 4
    assert found.limit == 12
    assert shift_between("length", ["a b"], ["c d"]) == 0
    assert shift_between("length", ["a b"], ["c"]) == 1
    with pytest.raises(KeyError):
        shift_between("bits", ["a"], ["b"])


def test_texts_are_taken_as_they_are(tmp_path):
    table = tmp_path / "web.csv"
    table.write_text("URL,TEXT\nx,IMG_1234.jpg\ny,\nz,a red Fiat\n")
    assert read_raw(f"{table}:TEXT") == ["IMG_1234.jpg", "", "a red Fiat"]
    (tmp_path / "empty.csv").write_text("TEXT,b\n,1\n")
    with pytest.raises(InputError, match="has no captions"):
        read_raw(f"{tmp_path / 'empty.csv'}:TEXT")


def test_command(tmp_path, capsys):
    files = []
    for style, texts in styles(60, "short", "long").items():
        files.append(tmp_path / f"{style}.txt")
        files[-1].write_text("\n".join(texts))
    code, out, _ = say(capsys, *files, "--names", "brief", "detailed", "--tokenizer", "builtin:clip", "--draws", "10")
    assert code == 0
    for said in ("brief", "bits a word", "function words", "tokens", "language models are counted on"):
        assert said in out
    code, out, _ = say(capsys, *files, "--json", "--draws", "10")
    told = json.loads(out)
    assert [one["total"] for one in told["sets"]] == [60, 60]
    assert len(told["shifts"]["mmd"]) == 2
    small = tmp_path / "small.txt"
    small.write_text("a dog\na cat\n")
    for words, said in (
        ([], "captions"),
        ([files[0], "--names", "a", "b"], "2 names were given for 1 sets"),
        ([small], "2 captions with a word, too few"),
        ([files[0], "--draws", "1"], "draws must be at least 2"),
        ([tmp_path / "nothing.txt"], "nothing.txt"),
        ([files[0], "--tokenizer", "builtin:nothing"], "unknown builtin model"),
    ):
        code, _, err = say(capsys, *words)
        assert (code, said in err) == (2, True), err


@pytest.mark.skipif(not (DATA / "alttext").exists(), reason="the extracts of public captions are not here")
def test_alt_text_of_the_web_lies_far_from_descriptions():
    random.seed(0)
    alt = read_raw(f"{DATA / 'alttext' / 'laion400m_10k_url_text.parquet'}:TEXT")
    assert len(alt) == 10_000
    people = read_raw(f"{DATA / 'iiw' / 'IIW-400.jsonl'}:IIW")
    found = text_shift({"alt": random.sample(alt, 400), "people": people}, draws=10)
    told = {one.name: one.values for one in found.sets}
    assert told["people"]["bits"].low > 5 * told["alt"]["bits"].high
    assert found.shifts["function words"][0][1] > 5 * found.shifts["function words"][0][0]
