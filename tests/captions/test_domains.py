import json
from pathlib import Path

import pytest

from reverie.captions.domains import Domain, context_of, read_domain
from reverie.captions.word_to_sentence import WordToSentence
from reverie.errors import InputError, UnknownName

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "classnames_templates"
RECORD = {
    "classes": ["forest", ["river", "stream"]],
    "templates": ["a centered satellite photo of a {}.", "a photo of {class} from above"],
    "context": "a centered satellite photo of {caption}",
    "synonyms": {"Forest": ["wood"]},
}
READ = Domain(
    ("forest", "river"),
    ("a centered satellite photo of a {class}.", "a photo of {class} from above"),
    "a centered satellite photo of {caption}",
    {"river": ("stream",), "forest": ("wood",)},
)


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_a_record_alone_or_among_others(tmp_path):
    assert read_domain(write(tmp_path / "land.json", RECORD)) == READ
    assert read_domain(f"{tmp_path / 'land.json'}:Land") == READ
    file = write(tmp_path / "all.json", {"EuroSAT": RECORD})
    assert read_domain(file) == read_domain(f"{file}:EuroSAT") == READ
    file = write(tmp_path / "more.json", {"EuroSAT": RECORD, "Empty": {}})
    assert read_domain(f"{file}:EuroSAT") == READ
    assert read_domain(f"{file}:Empty") == Domain()


def test_it_fits_the_stage(tmp_path):
    domain = read_domain(write(tmp_path / "land.json", RECORD))
    stage = WordToSentence(domain.classes, 10, synonyms=domain.synonyms, context=domain.context)
    assert stage.count == 20


@pytest.mark.parametrize(
    ("template", "context"),
    [
        ("a photo of a {class}.", "a photo of {caption}"),
        ("a photo of a {class}, a type of bird.", "a photo of {caption}, a type of bird"),
        ("a centered satellite photo of the {class}.", "a centered satellite photo of {caption}"),
        ("{class}", "{caption}"),
        ("sketch of {class}", "sketch of {caption}"),
    ],
)
def test_a_template_says_how_a_sentence_is_said(template, context):
    assert context_of(template) == context


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({"A": {}, "B": {}}, "", "holds 2 data sets; say which: .*land.json:A"),
        ({"EuroSAT": {}}, ":EuroSat", "unknown data set in land.json 'EuroSat'; did you mean EuroSAT"),
        ({"A": {"class": ["x"]}}, "", "unknown field in land.json, A 'class'; did you mean classes"),
        ({"A": {"classes": "forest"}}, "", "classes must be a list of names"),
        ({"A": {"classes": [[]]}}, "", "classes must be a list of names"),
        ({"A": {"classes": ["Cat", "cat"]}}, "", "differs only by case"),
        ({"A": {"templates": "a {}"}}, "", "templates must be a list of texts"),
        ({"A": {"templates": ["a photo"]}}, "", "the template 'a photo' has no {} for the class name"),
        ({"A": {"context": "a photo"}}, "", r"must hold \{caption\} once"),
        ({"A": {"context": ["a photo"]}}, "", "context must be one text"),
        ({"A": {"classes": ["cat"], "synonyms": {"dog": ["hound"]}}}, "", "unknown class in the synonyms 'dog'"),
        ({"A": {"synonyms": ["hound"]}}, "", "synonyms must be an object"),
        (RECORD, ":EuroSAT", "unknown data set in land.json 'EuroSAT'; known: land"),
        (["forest"], "", "must hold a JSON object: data set -> its classes"),
    ],
)
def test_files_that_are_refused(tmp_path, content, name, message):
    with pytest.raises(InputError, match=message) as caught:
        read_domain(write(tmp_path / "land.json", content) + name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot read domains from"):
        read_domain(str(tmp_path / "none.json"))
    with pytest.raises(InputError, match="cannot read domains from"):
        read_domain(str(tmp_path / "none.json") + ":EuroSAT")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="CLIP's published prompts are not here")
def test_the_published_prompts_of_clip():
    file = PUBLISHED / "clip_prompts_26_datasets.json"
    for name, record in json.loads(file.read_text(encoding="utf-8")).items():
        domain = read_domain(f"{file}:{name}")
        assert len(domain.classes) == len(record["classes"])
        assert len(domain.templates) == len(record["templates"])
        assert WordToSentence(domain.classes, 1, synonyms=domain.synonyms, context=domain.context).count == len(
            domain.classes
        )
    assert read_domain(f"{file}:EuroSAT").context == "a centered satellite photo of {caption}"
    assert read_domain(f"{file}:Birdsnap").context == "a photo of {caption}, a type of bird"
    assert read_domain(f"{file}:FacialEmotionRecognition2013").synonyms["happy"] == ("smiling",)
    with pytest.raises(UnknownName, match="did you mean EuroSAT"):
        read_domain(f"{file}:Eurosat")


RECORDS = Path(__file__).parents[2] / "examples" / "domains"
COUNTS = {
    "aircraft": 100, "birdsnap": 500, "caltech-101": 102, "caltech-256": 256, "cars": 196, "cifar-10": 10, "cifar-100": 100, "cub": 200,
    "dtd": 47, "eurosat": 10, "flowers": 102, "food": 101, "imagenet": 1000, "imagenet-r": 200, "imagenet-sketch": 1000, "pets": 37,
    "sun397": 397,
}  # fmt: skip


def test_there_is_a_record_for_each_of_the_17_data_sets():
    assert sorted(path.stem for path in RECORDS.glob("*.json")) == sorted(COUNTS)
    assert len(COUNTS) == 17


@pytest.mark.parametrize("name", COUNTS)
def test_a_record_of_the_examples_loads_and_fits_the_stage(name):
    domain = read_domain(str(RECORDS / f"{name}.json"))
    assert len(domain.classes) == COUNTS[name]
    assert domain.context != "{caption}"
    assert len(set(domain.templates)) == len(domain.templates)
    stage = WordToSentence(domain.classes, 1, synonyms=domain.synonyms, context=domain.context)
    assert stage.count == len(domain.classes)


def test_sets_that_share_photos_or_classes_share_their_names():
    imagenet, sketch, renditions = (
        read_domain(str(RECORDS / f"{name}.json")).classes for name in ("imagenet", "imagenet-sketch", "imagenet-r")
    )
    assert sketch == imagenet
    assert [name for name in imagenet if name in renditions] == list(renditions)
