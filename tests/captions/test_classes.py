import pytest

from reverie.captions.classes import read_classes
from reverie.errors import InputError


def test_from_a_tuple_and_from_files(tmp_path):
    expected = ("red circle", "blå katt")
    assert read_classes(("red  circle", "blå katt")) == expected
    lines = tmp_path / "names.txt"
    lines.write_text("\ufeffred circle\n\n  blå katt \r\n", encoding="utf-8")
    assert read_classes(lines) == expected
    listed = tmp_path / "names.json"
    listed.write_text('["red circle", "blå katt"]', encoding="utf-8")
    assert read_classes(str(listed)) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "is empty"),
        (("cat", "dog", "cat"), "holds 'cat' twice"),
        (("cat", "Cat"), "'Cat' beside 'cat', which differs only by case"),
        (("cat", " "), "empty class name .number 2"),
    ],
)
def test_lists_that_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        read_classes(names)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "names.txt", "is empty"),
        (b"\xff\xfe\x00cat", "names.txt", "not UTF-8"),
        (b'{"a": 1}', "names.json", "JSON list of strings"),
        (b"[", "names.json", "is not JSON"),
    ],
)
def test_files_that_are_refused(tmp_path, content, name, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_classes(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read class names"):
        read_classes(tmp_path / "no.txt")
