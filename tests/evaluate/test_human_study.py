from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from reverie import pairs
from reverie.cli.main import main
from reverie.errors import InputError
from reverie.evaluate.human_study import Item, Study, count, pick, read_key, write_key
from reverie.evaluate.painted import painted
from reverie.store import tables
from reverie.store.pictures import as_png

COLOURS = {"base": (200, 0, 0), "mix": (0, 200, 0), "long": (0, 0, 200)}


def runs(folder, num=6, names=("base", "mix", "long"), text="a red circle {n}"):
    """A run for each name, whose pictures are all of one colour."""
    for name in names:
        rows = [
            {
                "pair_id": pairs.pair_id(f"{n:016x}", copy), "caption_id": f"{n:016x}", "copy": copy, "unit": 0,
                "text": text.format(n=n), "image": as_png(Image.new("RGB", (32, 32), COLOURS[name])), "status": "ok",
            }
            for n in range(num)
            for copy in range(2)
        ]  # fmt: skip
        tables.append_unit(folder / name / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    return [folder / name for name in names]


def say(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["study-page", *map(str, words)])
    out, err = capsys.readouterr()
    return ended.value.code, out, " ".join(err.split())


ITEMS = tuple(Item(f"p{n}", f"text {n}", (0, 1) if n % 2 else (1, 0), ("a", "b")) for n in range(4))
STUDY = Study("s", 0, ("base", "mix"), ITEMS)


def voted(file, rater, shows, best, study="s"):
    """Votes by arm: what each rater says of (item, arm), and which arm is best; turned into places."""
    places = {f"{n}.{STUDY.items[n].order.index(arm)}": said for (n, arm), said in shows.items() if said is not None}
    liked = {str(n): arm if arm < 0 else STUDY.items[n].order.index(arm) for n, arm in best.items()}
    file.write_text(json.dumps({"study": study, "rater": rater, "shows": places, "best": liked}))
    return file


def test_votes_by_hand(tmp_path):
    every = {(n, arm): True for n in range(4) for arm in range(2)}
    files = [
        voted(
            tmp_path / "a.json", "a", every | {(0, 0): False, (1, 0): False, (2, 0): False}, {0: 1, 1: 1, 2: -1, 3: 0}
        ),
        voted(tmp_path / "b.json", "b", every | {(0, 0): False, (1, 0): False, (3, 1): None}, {0: 1, 1: 1, 2: 1, 3: 0}),
        voted(tmp_path / "c.json", "c", every | {(1, 0): False, (0, 0): True, (2, 0): False, (2, 1): False}, {0: 1}),
    ]
    found = count(STUDY, files)
    base, mix = found.arms
    # base: captions 0 (2 of 3 no), 1 (all no), 2 (2 of 3 no) fail, 3 holds; mix: all hold by most
    assert (base.faithful.value, mix.faithful.value) == (1 / 4, 1.0)
    assert mix.gain.value == pytest.approx(3.0)
    assert mix.gain.low <= 3.0 <= mix.gain.high
    assert base.gain is None
    assert (base.best.value, mix.best.value) == (2 / 9, 6 / 9)  # one of nine votes says that there is no difference
    assert found.raters == ("a", "b", "c")
    assert found.unanswered == 1 + 3
    assert 0 < found.agreement < 1
    other = count(STUDY, files, baseline="mix")
    assert other.arms[0].gain.value == pytest.approx(-0.75)
    assert other.arms[1].gain is None


def test_no_gain_over_what_showed_nothing(tmp_path):
    shows = {(n, arm): arm == 1 for n in range(4) for arm in range(2)}
    found = count(STUDY, [voted(tmp_path / "a.json", "a", shows, {})])
    assert found.arms[1].gain is None
    assert found.arms[1].faithful.value == 1.0
    assert found.agreement is None


def test_pictures_pair_and_their_order_is_drawn(tmp_path):
    sets = {folder.name: painted(folder) for folder in runs(tmp_path, 12)}
    study = pick(sets, 8, seed=3)
    assert len(study.items) == 8
    assert all(item.pair_id.endswith("-000") for item in study.items)  # one picture of a caption
    assert len({item.order for item in study.items}) > 2
    assert all(sorted(item.order) == [0, 1, 2] for item in study.items)
    assert pick(sets, 8, seed=3) == study
    assert pick(sets, 8, seed=4).study != study.study
    assert len(pick(sets, 99).items) == 12
    write_key(study, tmp_path / "k.json")
    assert read_key(tmp_path / "k.json") == study


def test_votes_are_of_the_pictures_that_were_shown(tmp_path, capsys):
    base, mix = runs(tmp_path, 3, ("base", "mix"))
    shown, swapped = tmp_path / "shown.html", tmp_path / "swapped.html"
    for page, folders in ((shown, (base, mix)), (swapped, (mix, base))):
        assert say(capsys, *folders, "--names", "b", "m", "--out", page)[0] == 0
    study = read_key(shown.with_suffix(".key.json"))
    votes = tmp_path / "votes.json"
    votes.write_text(json.dumps({"study": study.study, "rater": "a", "shows": {"0.0": True, "0.1": True}, "best": {}}))
    code, _, err = say(capsys, "--votes", votes, "--key", swapped.with_suffix(".key.json"))
    assert (code, "holds votes on another page" in err) == (2, True), err
    # A key that was changed by hand is none.
    known = json.loads(shown.with_suffix(".key.json").read_text())
    changed = tmp_path / "changed.key.json"
    for other in (
        {"arms": ["m", "b"]},
        {"items": [item | {"pictures": item["pictures"][::-1]} for item in known["items"]]},
        {"items": [item | {"order": item["order"][::-1]} for item in known["items"]]},
    ):
        changed.write_text(json.dumps(known | other))
        code, _, err = say(capsys, "--votes", votes, "--key", changed)
        assert (code, "was changed after it was written" in err) == (2, True), err


def test_page_is_blind_whole_and_escaped(tmp_path, capsys):
    folders = runs(tmp_path, 3, text="<script>alert({n})</script> & a cat")
    page = tmp_path / "out" / "study.html"
    code, out, _ = say(capsys, *folders, "--out", page, "--num", 3)
    assert code == 0
    html = page.read_text()
    assert "keep it from raters" in out
    for name in ("base", "mix", "long", tmp_path.name):
        assert not re.search(rf"\b{name}\b", html.split("</style>")[1].replace("data:image/png;base64", "")), name
    assert html.count("<script>") == 1
    assert 'class="asked"' in html  # a caption of thousands of words is scrolled, and does not push its pictures away
    assert re.search(r"\.asked \{[^}]*max-height: [^}]*overflow-y: auto", html)
    assert "&lt;script&gt;alert(0)&lt;/script&gt; &amp; a cat" in html
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    # The pictures stand in the order of the key.
    key = read_key(page.with_suffix(".key.json"))
    shown = re.findall(r"data:image/png;base64,([^\"]+)", html)
    for number, item in enumerate(key.items):
        for place, arm in enumerate(item.order):
            import io

            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[3 * number + place]))))
            assert tuple(pixels[0, 0]) == COLOURS[key.arms[arm]]


def test_votes_come_back(tmp_path, capsys):
    folders = runs(tmp_path, 3)
    page = tmp_path / "study.html"
    say(capsys, *folders, "--out", page)
    key = read_key(page.with_suffix(".key.json"))
    files = []
    for rater in "abc":
        shows = {f"{n}.{place}": key.arms[arm] != "base" or n == 0 for n, item in enumerate(key.items) for place, arm in enumerate(item.order)}  # fmt: skip
        best = {str(n): item.order.index(1) for n, item in enumerate(key.items)}
        files.append(tmp_path / f"votes-{rater}.json")
        files[-1].write_text(json.dumps({"study": key.study, "rater": rater, "shows": shows, "best": best}))
    code, out, _ = say(capsys, "--votes", *files, "--key", page.with_suffix(".key.json"), "--json", "--draws", 50)
    told = json.loads(out)
    assert code == 0
    assert [arm["faithful"]["value"] for arm in told["arms"]] == [pytest.approx(1 / 3), 1.0, 1.0]
    assert told["arms"][1]["gain"]["value"] == pytest.approx(2.0)
    assert told["arms"][1]["best"]["value"] == 1.0
    assert told["agreement"] == 1.0
    code, out, _ = say(capsys, "--votes", files[0], "--key", page.with_suffix(".key.json"))
    assert "a majority of 1 says little" in out
    twice = tmp_path / "again.json"
    twice.write_text(files[0].read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"study": "x", "rater": "z", "shows": {}, "best": {}}))
    far = tmp_path / "far.json"
    far.write_text(json.dumps({"study": key.study, "rater": "z", "shows": {}, "best": {"0": 7}}))
    none = tmp_path / "none.json"
    none.write_text(json.dumps({"study": key.study, "rater": "z", "shows": {}, "best": {}}))
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    known = ["--key", page.with_suffix(".key.json")]
    for words, said in (
        (["--votes", files[0]], "--key study.key.json"),
        (["--votes", files[0], twice, *known], "each rater counts once"),
        (["--votes", other, *known], "holds votes on another page"),
        (["--votes", far, *known], "picture 7 of caption 0 is not there"),
        (["--votes", none, *known], "the files hold no vote"),
        (["--votes", bad, *known], "is not valid JSON"),
        (["--votes", files[0], *known, "--baseline", "x"], "is none of base, mix, long"),
        (["--votes", files[0], "--key", bad], "is not valid JSON"),
        ([folders[0], "--out", page], "at least two sets"),
        (folders, "--out study.html"),
        ([*folders, "--out", page, "--key", page], "--key belongs to files of --votes"),
        ([*folders, "--out", page, "--num", 0], "--num 0"),
        ([*folders, "--out", page, "--names", "a"], "1 names for 3 sets"),
        ([], "one of the two"),
    ):
        code, _, err = say(capsys, *words)
        assert (code, said in err) == (2, True), err


def test_runs_of_other_captions_do_not_pair(tmp_path):
    first = {"base": painted(runs(tmp_path / "a", 2, ("base",))[0])}
    other = {"mix": painted(runs(tmp_path / "b", 2, ("mix",), text="another {n}")[0])}
    with pytest.raises(InputError, match="painted for different captions"):
        pick(first | other, 2)
    with pytest.raises(InputError, match="no caption in common"):
        pick(
            {
                "base": first["base"],
                "mix": painted(runs(tmp_path / "c", 3, ("mix",))[0], "caption_id > '0000000000000001'"),
            },
            2,
        )
