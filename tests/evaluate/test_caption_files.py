import gzip
import json
import subprocess
import sys

import pytest

from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate.caption_files import measure, read

REFERENCES = {
    "images": [{"id": 1}, {"id": 2}, {"id": 3}],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "A dog runs over green grass."},
        {"id": 2, "image_id": 1, "caption": "A brown dog on a lawn."},
        {"id": 3, "image_id": 2, "caption": "Two cats sleep on a sofa."},
        {"id": 4, "image_id": 3, "caption": "An empty street at night."},
    ],
}
RESULTS = [{"image_id": 2, "caption": "two cats on a couch"}, {"image_id": 1, "caption": "a dog runs"}]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(results=RESULTS, references=REFERENCES):
        for name, content in (("results.json", results), ("references.json", references)):
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / name).write_bytes(text)
        return tmp_path / "results.json", tmp_path / "references.json"

    return write


@pytest.fixture
def say(capsys):
    """Type words; get exit code, stdout, stderr."""

    def typed(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        return (int(stop.value.code or 0), *capsys.readouterr())

    return typed


def refused(answer):
    code, out, err = answer
    assert (code, out) == (2, ""), err
    (line,) = [line for line in err.splitlines() if line.startswith("reverie: ")]
    assert "Traceback" not in err
    return line


def test_scores_the_photos_of_the_results_in_their_order(files):
    found = read(*files())
    assert found.ids == [2, 1]
    assert found.references[1] == ["A dog runs over green grass.", "A brown dog on a lawn."]
    assert (found.num_references, found.num_without) == (3, 1)
    scores = measure(found, ("rouge_l", "bleu"))
    assert list(scores) == ["ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    assert scores["BLEU-1"].each.shape == (2,)


def test_the_command(files, say):
    files()
    code, out, err = say("evaluate", "captions", "results.json", "references.json")
    assert code == 0, err
    for name in ("BLEU-4", "ROUGE-L", "CIDEr-D", "CIDEr, plain", "METEOR without paraphrases", "times 100"):
        assert name in out
    assert "2 photos, 3 references" in out
    assert "1 more photos have references and no result" in out

    code, out, _ = say("evaluate", "captions", "results.json", "references.json", "--json", "--metrics", "rouge_l")
    told = json.loads(out)
    assert (code, told["photos"], told["references"], told["photos_without_result"]) == (0, 2, 3, 1)
    assert told["times_100"] == {"ROUGE-L": round(100 * measure(read(*files()), ["rouge_l"])["ROUGE-L"].corpus, 4)}


def test_gzipped_files(files, say):
    whole = read(*files())
    assert read(*files(*(gzip.compress(json.dumps(part).encode()) for part in (RESULTS, REFERENCES)))) == whole


def without(number):
    return {**REFERENCES, "annotations": [note for note in REFERENCES["annotations"] if note["image_id"] != number]}


SLIPS = {
    "no reference": (RESULTS, without(2), "1 of 2 results have no reference in references.json: 2"),
    "many": (
        [{"image_id": 100 + n, "caption": "a"} for n in range(9)],
        REFERENCES,
        "9 of 9 results have no reference in references.json: 100, 101, 102, 103, 104 and 4 more",
    ),
    "ids of another kind": (
        [{"image_id": "1", "caption": "a"}],
        REFERENCES,
        "text in one file and a number in the other",
    ),
    "twice": ([*RESULTS, RESULTS[0]], REFERENCES, "results.json has more than one caption for 1 photo: 2"),
    "empty": ([], REFERENCES, "results.json holds no caption"),
    "an empty file": (b"", REFERENCES, "results.json is not JSON"),
    "not JSON": (b"image_id,caption\n1,a dog", REFERENCES, "results.json is not JSON"),
    "not text": (b"\xff\xfe\x00", REFERENCES, "results.json is not UTF-8 text"),
    "deep": (b"[" * 100_000, REFERENCES, "results.json is not JSON"),
    "damaged gzip": (gzip.compress(b"[]" * 50)[:-9], REFERENCES, "results.json is a damaged gzip file"),
    "swapped": (REFERENCES, RESULTS, "results.json is not a COCO results file"),
    "a list of text": (["a dog"], REFERENCES, "results.json is not a COCO results file"),
    "results twice": (RESULTS, RESULTS, "references.json is not a COCO captions file"),
    "no key": ([{"image_id": 1, "text": "a"}], REFERENCES, "results.json: result 1 lacks caption"),
    "no text": ([{"image_id": 1, "caption": None}], REFERENCES, "the caption of photo 1 is not text but null"),
    "a list": ([{"image_id": 1, "caption": ["a"]}], REFERENCES, 'the caption of photo 1 is not text but ["a"]'),
    "an odd id": ([{"image_id": 1.5, "caption": "a"}], REFERENCES, "result 1 has the image_id 1.5"),
    "no reference text": (
        RESULTS,
        {"annotations": [*REFERENCES["annotations"], {"image_id": 1, "caption": 7}]},
        "references.json: the caption of photo 1 is not text but 7",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_one_line(slip, files, say):
    results, references, line = SLIPS[slip]
    files(results, references)
    assert line in refused(say("evaluate", "captions", "results.json", "references.json"))


def test_files_that_are_not_there(files, say, tmp_path):
    files()
    assert "there is no file mine.json" in refused(say("evaluate", "captions", "mine.json", "references.json"))
    assert "is a folder" in refused(say("evaluate", "captions", str(tmp_path), "references.json"))


def test_a_kind_that_is_not_there(say):
    assert "did you mean captions" in refused(say("evaluate", "caption"))
    code, out, _ = say("evaluate", "--help")
    assert (code, "captions" in out) == (0, True)


def test_a_metric_that_is_not_there(files, say):
    files()
    assert say("evaluate", "captions", "results.json", "references.json", "--metrics", "blue")[0] == 2
    with pytest.raises(InputError, match="at least one metric"):
        measure(read(*files()), ())


def test_java_is_looked_for_before_any_work(files, say, monkeypatch):
    files()
    monkeypatch.setenv("JAVA_HOME", "nowhere")
    monkeypatch.setattr("reverie.evaluate.metrics.ptb.tokenise", None)
    for metric in ("spice", "meteor_java"):
        line = refused(say("evaluate", "captions", "results.json", "references.json", "--metrics", "bleu", metric))
        assert "Java" in line or "java-metrics" in line


def test_very_long_captions(files, say):
    long = {"image_id": 1, "caption": "a dog, that's it - " * 5300}
    files([long, RESULTS[0]])
    code, _, err = say("evaluate", "captions", "results.json", "references.json")
    assert code == 0, err


def test_captions_without_words(files):
    found = measure(read(*files([{"image_id": 1, "caption": "..."}, {"image_id": 2, "caption": ""}])))
    assert {name: round(score.corpus, 6) for name, score in found.items()} == dict.fromkeys(found, 0.0)


def test_the_command_does_not_load_torch(files):
    files()
    program = "import sys; from reverie.cli.main import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    words = ["evaluate", "captions", "results.json", "references.json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_captions_without_words_are_counted(files, say):
    results = [{"image_id": 2, "caption": ". , !"}, {"image_id": 1, "caption": "a dog runs"}]
    files(results)
    code, out, _ = say("evaluate", "captions", "results.json", "references.json", "--metrics", "bleu")
    assert code == 0
    assert "1 captions and 0 references hold no word" in out
    told = json.loads(say("evaluate", "captions", "results.json", "references.json", "--metrics", "bleu", "--json")[1])
    assert (told["captions_without_words"], told["references_without_words"]) == (1, 0)
