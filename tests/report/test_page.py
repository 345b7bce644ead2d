import re
import shlex
from html.parser import HTMLParser

import pytest

from reverie import pairs
from reverie.errors import InputError, StoreError
from reverie.report import thumbs
from reverie.report.page import WritePage, write
from reverie.stage import StepContext
from reverie.store import tables

from .conftest import EVIL, add_shapes, make_plan, write_curves, write_events, write_results, write_tables


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.sources, self.inside = [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.inside:
            self.texts.append(data)


def read(folder):
    return Page((folder / "report.html").read_text())


def test_a_finished_run_tells_everything(run_folder):
    assert write(run_folder) == run_folder / "report.html"
    seen = read(run_folder)
    assert "is right on" in seen.text
    for wanted in (
        "400 unseen photos",
        "Is StableRep better than SimCLR?",
        "7 captions made = 6 usable + 1 dropped + 0 failed (6 asked for)",
        "18 images made = 16 usable + 1 dropped + 1 failed (18 expected)",
        "16 usable images = 12 kept to learn from + 4 not kept",
        "1 × failed: not a number",
        "1 × dropped: black",
        "loss above its lowest possible value, in nats",
        "a photo of thing number 3",
        "learner.temperature",
        "pylance",
        "run seed 7",
    ):
        assert wanted in seen.text, wanted
    assert "This run is not complete" not in seen.text
    assert "page" not in {text.strip() for text in seen.texts}  # the step that writes the page is no news
    pictures = [attrs for tag, attrs in seen.tags if tag == "img"]
    assert len(pictures) == 6 * 3 - 1 + 5  # the grid less the failed one, and those not kept that have a picture
    assert sum(tag == "svg" for tag, _ in seen.tags) == 2
    assert [path.name for path in run_folder.iterdir() if "partial" in path.name] == []


def test_nothing_of_others_becomes_markup(run_folder):
    """Captions, labels, reasons, settings and warnings all hold a script; the page must show it, never run it."""
    write(run_folder)
    seen = read(run_folder)
    assert seen.text.count('alert("1")') >= 6
    assert not [tag for tag, _ in seen.tags if tag in ("script", "iframe", "object", "embed", "link", "base", "form")]
    assert not [attrs for _, attrs in seen.tags if any(key.startswith("on") for key in attrs)]
    assert any(attrs.get("alt") == EVIL for tag, attrs in seen.tags if tag == "img")


def test_an_evil_arm_name_stays_text_in_the_drawings(run_folder):
    path = run_folder / "results.jsonl"
    path.write_text(path.read_text().replace('"label": "SimCLR"', '"label": "<script>$x_1$</script>&"'))
    write(run_folder)
    seen = read(run_folder)
    assert not [tag for tag, _ in seen.tags if tag == "script"]
    assert "<script>$x_1$</script>&" in seen.text


def test_it_asks_nothing_of_any_other_file(run_folder):
    write(run_folder)
    html = (run_folder / "report.html").read_text()
    seen = read(run_folder)
    outside = [source for source in seen.sources if not source.startswith(("data:image/png;base64,", "#"))]
    assert outside == []
    assert "@import" not in html
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))
    policy = next(attrs["content"] for tag, attrs in seen.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    names = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(names) == len(set(names))  # the drawings keep their ids apart


def test_two_writings_are_equal(run_folder):
    first = write(run_folder).read_bytes()
    WritePage().run(StepContext(run_folder, "page"))
    assert (run_folder / "report.html").read_bytes() == first


@pytest.mark.parametrize("stage", range(5))
def test_a_run_cut_short_says_what_is_missing(tmp_path, stage):
    plan = make_plan()
    plan.settle(tmp_path)
    if stage >= 1:
        write_events(tmp_path, plan, until=stage)
    if stage >= 2:
        write_tables(tmp_path)
    if stage >= 3:
        write_curves(tmp_path, plan)
    write(tmp_path)
    seen = read(tmp_path)
    assert "Nothing is measured yet" in seen.text
    assert "This run is not complete" in seen.text
    assert "step probe has not begun" in seen.text
    assert ("there are no images yet" in seen.text) == (stage < 2)
    assert ("No training yet." in seen.text) == (stage < 3)
    if stage == 4:
        assert f"step {plan.steps[3].name} is not finished (1 of 2)" in seen.text
        assert "4 of 10 steps" not in seen.text
        assert "3 of 10 steps are done" in seen.text


def test_one_seed_is_inconclusive_and_has_no_interval(tmp_path):
    plan = make_plan(num_seeds=1)
    plan.settle(tmp_path)
    write_results(tmp_path, num_seeds=1)
    write(tmp_path)
    seen = read(tmp_path)
    assert "Inconclusive:" in seen.text
    assert "none from one seed" in seen.text
    assert "another seed may turn it round" in seen.text


def test_pictures_stop_at_the_limit(run_folder, monkeypatch):
    monkeypatch.setattr(thumbs, "MAX_BYTES", 1500)
    write(run_folder)
    seen = read(run_folder)
    assert 1 <= sum(tag == "img" for tag, _ in seen.tags) < 10
    assert "pictures were left out to keep this page small" in seen.text


def test_a_broken_picture_leaves_an_empty_frame(tmp_path):
    plan = make_plan()
    plan.settle(tmp_path)
    row = {
        "pair_id": "a-000",
        "caption_id": "a",
        "copy": 0,
        "unit": 0,
        "text": "t",
        "status": "ok",
        "image": b"\x89PNG no",
    }
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table([row], pairs.PAIRS))
    write(tmp_path)
    assert "no picture" in read(tmp_path).text


def test_the_command_can_be_pasted(run_folder):
    write(run_folder)
    (command,) = re.findall(r"<pre>(.*?)</pre>", (run_folder / "report.html").read_text(), re.DOTALL)
    command = command.replace("&#39;", "'").replace("&#34;", '"').replace("\\\n", "")
    assert shlex.split(command) == [
        *("reverie", "run", "stablerep", "--guidance", "2.0", "--painter", "it's; rm -rf ~", "--seeds", "0", "1"),
        *("--device", "cpu", "--out", f"{run_folder}-again"),
    ]


def test_what_cannot_be_read_is_said(tmp_path, run_folder):
    with pytest.raises(InputError, match="does not exist"):
        write(tmp_path / "nowhere")
    (run_folder / "results.jsonl").write_text("{broken\n")
    with pytest.raises(StoreError, match="line 1"):
        write(run_folder)
    (run_folder / "plan.json").write_text("{broken")
    with pytest.raises(InputError, match="not valid JSON"):
        write(run_folder)


def test_shape_class_and_colour_stand_side_by_side(run_folder):
    add_shapes(run_folder)
    write(run_folder)
    seen = read(run_folder)
    for wanted in (
        "tells the shape in",
        "better than SimCLR at shape?",
        "three linear classifiers, of shape, class and colour, are trained",
        "linear probe, shape linear probe, class linear probe, colour nearest neighbours, class",
        "difference in linear probe, shape",
    ):
        assert wanted in seen.text, wanted
    (drawing,) = (attrs for tag, attrs in seen.tags if tag == "svg" and "linear probe" in attrs["aria-label"])
    assert [part.partition(":")[0] for part in drawing["aria-label"].split(". ")] == [
        "linear probe, shape",
        "linear probe, class",
        "linear probe, colour",
    ]
    titles = [text.strip() for text in seen.texts]
    assert all(title in titles for title in ("shape", "class", "colour"))
