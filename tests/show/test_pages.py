"""What the pages show, whom they answer, and what a mark leaves behind."""

from __future__ import annotations

import html
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from reverie import pairs
from reverie.errors import InputError
from reverie.show.app import plain
from reverie.show.gallery import PER_PAGE, Gallery
from reverie.show.query import Query, read, words_of
from reverie.store import tables

from ..report.conftest import EVIL, picture
from .conftest import HERE, Open


def shown(page: str) -> list[str]:
    """Keys of the pairs of a grid, in order."""
    return re.findall(r'class="open" href="/pair/([^"?]+)', page)


def keys(folder: Path, where: str | None = None) -> list[str]:
    return [
        name for part in tables.scan(folder / "pairs.lance", ["pair_id"], where) for name in part["pair_id"].to_pylist()
    ]


def get(pages: TestClient, **asked: str) -> str:
    answer = pages.get("/", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_all_pairs_in_stored_order(folder: Path, browse: Open) -> None:
    page = get(browse(folder))
    assert shown(page) == keys(folder)
    assert "18 pairs" in page
    assert "failed: <bdi>not a number</bdi>" in page
    assert "dropped: <bdi>black</bdi>" in page
    assert "dropped: <bdi>fails: clip_score &gt;= 0.1" in page


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"words": "NUMBER thing 3"}, "text = 'a photo of thing number 3'"),
        ({"words": '"thing number"'}, "text like '%thing number%'"),
        ({"words": "it's 100%_"}, "false"),
        ({"words": "<script>"}, f"text = '{EVIL}'"),
        ({"label": "thing"}, "label = 'thing'"),
        ({"label": "thin"}, "false"),
        ({"state": "kept"}, "status = 'ok' and kept"),
        ({"state": "dropped"}, "status = 'dropped' or kept = false"),
        ({"state": "failed"}, "status = 'failed'"),
        ({"where": "clip_score > 0.1 or copy = 2"}, "clip_score > 0.1 or copy = 2"),
        ({"where": "clip_score > 0.1 or copy = 2", "state": "kept"}, "(clip_score > 0.1 or copy = 2) and kept"),
        ({"state": "nonsense"}, None),
    ],
)
def test_what_is_asked_for(folder: Path, browse: Open, asked: dict[str, str], where: str | None) -> None:
    assert shown(get(browse(folder), **asked)) == keys(folder, where)


def test_sorted_by_a_column_with_nothing_last(folder: Path, browse: Open) -> None:
    rows = [row for part in tables.scan(folder / "pairs.lance", ["pair_id", "clip_score"]) for row in part.to_pylist()]
    pages = browse(folder)
    for up, sign in (("", -1), ("1", 1)):
        own = sorted(rows, key=lambda row: (row["clip_score"] is None, sign * (row["clip_score"] or 0)))
        assert shown(get(pages, sort="clip_score", up=up)) == [row["pair_id"] for row in own]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"where": "clip_scor > 1"}, "Did you mean &#39;clip_score&#39;?"),
        ({"where": "bad is not true"}, "is marked yet, so there is no column"),
        ({"where": "("}, "a parenthesis is not closed"),
        ({"where": "true) or (true"}, None),
        ({"where": "1 = 1; drop table x"}, "does not belong in it"),
        ({"where": "text > 1 and lower(7)"}, None),
        ({"where": "1/0 = 1"}, "Divide by zero"),
        ({"where": "cast(text as int) = 1"}, "Cannot cast string"),
        ({"where": "count(*) > 1"}, None),
        ({"where": "seed = $1"}, "$ at character 8 does not belong in it"),
        ({"where": "seed" + "+1" * 900 + " = 3"}, "more than 200 of"),  # at which the whole process would end
        ({"where": "seed < 0 and " * 160 + "true or true"}, "longer than 2,000 characters"),  # and is not cut
        ({"words": "a " * 1001}, None),
        ({"sort": "text"}, "no column of numbers"),
    ],
)
def test_a_wrong_filter_is_one_line_in_the_page(
    folder: Path, browse: Open, asked: dict[str, str], said: str | None
) -> None:
    answer = browse(folder).get("/", params=asked)
    assert answer.status_code == 400
    (line,) = re.findall(r'<p class="wrong" role="alert"><bdi>(.*)</bdi></p>', answer.text)
    assert (said or ("filter" if "where" in asked else "longer")) in line
    assert "cannot read" not in line
    assert "Traceback" not in answer.text
    assert 'name="words"' in answer.text  # the form is there to mend it


def test_pages_follow_each_other(tmp_path: Path, browse: Open) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for unit in range(2):
        rows = [row(number, unit) for number in range(unit * 100, unit * 100 + 100)]
        tables.append_unit(folder / "pairs.lance", unit, pairs.table(rows, pairs.PAIRS))
        captions = [
            {"caption_id": each["caption_id"], "unit": unit, "text": each["text"], "status": "ok"} for each in rows
        ]
        tables.append_unit(folder / "captions.lance", unit, pairs.table(captions, pairs.CAPTIONS))
    pages = browse(folder)
    for asked in ({}, {"where": "seed >= 7"}, {"sort": "seed"}):
        every = shown(get(pages, **asked))
        assert len(every) == PER_PAGE
        number = 2
        while found := re.search(
            rf'href="([^"]*page={number})"[^>]*rel="next"', get(pages, **asked, page=str(number - 1))
        ):
            every += shown(pages.get(found[1].replace("&amp;", "&")).text)
            number += 1
        wanted = keys(folder, asked.get("where"))
        assert every == (wanted[::-1] if "sort" in asked else wanted)
    assert shown(get(pages, page="999999")) == keys(folder)[180:]  # the last one
    # from pair to pair, across pages
    name = keys(folder)[60]
    page = pages.get(f"/pair/{name}", params={"place": "60"}).text
    assert f'rel="prev" href="/pair/{keys(folder)[59]}?place=59"' in page
    assert f'rel="next" href="/pair/{keys(folder)[61]}?place=61"' in page
    assert "imported, not made here" in page


def test_pictures_of_which_nothing_is_said(tmp_path: Path, browse: Open) -> None:
    from reverie.store import imports

    (tmp_path / "flat").mkdir()
    for number in range(3):
        (tmp_path / "flat" / f"{number}.png").write_bytes(picture(number))
    imports.import_into(tmp_path / "flat", tmp_path / "store")
    pages = browse(tmp_path / "store")
    assert get(pages).count("<bdi>without a caption</bdi>") == len(keys(tmp_path / "store")) == 3
    assert shown(get(pages, words="none")) == []
    page = pages.get(f"/pair/{keys(tmp_path / 'store')[0]}")
    assert page.status_code == 200
    assert "no text, an image alone" in page.text


def row(number: int, unit: int, **more: object) -> dict[str, object]:
    name = pairs.caption_id(0, "many", number)
    return {
        "pair_id": pairs.pair_id(name, 0), "caption_id": name, "copy": 0, "unit": unit, "text": f"number {number}", "seed": number,
        "status": "ok", **more,
    }  # fmt: skip


def test_one_pair_with_all_that_is_known(folder: Path, browse: Open) -> None:
    name = keys(folder, "kept = false")[0]
    page = browse(folder).get(f"/pair/{name}").text
    told = re.sub(r"<[^>]+>", " ", page)
    told = re.sub(r"\s+", " ", told)
    assert f"reverie repaint &#39;{folder}&#39; {name} --out {name}.png" in told
    assert "fails: clip_score &gt;= 0.1" in told
    assert "source llm" in told  # of the caption
    assert re.search(r"score.{0,40}Score, fingerprint [0-9a-f]{16}.{0,40}model builtin:clip", told)
    assert "guidance 2" in told
    assert "origin painted" in told


def test_a_rule_is_told_part_by_part(folder: Path, browse: Open) -> None:
    import json

    plan = json.loads((folder / "plan.json").read_text())
    place = next(place for place, step in enumerate(plan["steps"]) if step["name"] == "score")
    rule = {"stage": "Keep", "rule": "status = 'ok' and clip_score >= 0.1 and nothing > 1", "top": 0.9}
    step = {
        "name": "keep",
        "inputs": ["score"],
        "kind": "job",
        "role": "select",
        "settings": rule,
        "fingerprint": "0" * 16,
    }
    plan["steps"].insert(place + 1, step)
    (folder / "plan.json").write_text(json.dumps(plan))
    page = browse(folder).get(f"/pair/{keys(folder, 'kept = false')[0]}").text
    said = re.findall(r'<li class="(\w+)"><code>(.*?)</code> (.*?)</li>', page)
    assert said == [
        ("holds", "status = &#39;ok&#39;", "yes"), ("fails", "clip_score &gt;= 0.1", "no"), ("soft", "nothing &gt; 1", "cannot be said"),
    ]  # fmt: skip
    assert re.search(r"top</th><td><bdi>0.9", page)


def test_pictures_are_decoded_and_encoded_again(folder: Path, browse: Open) -> None:
    pages, (first, *_) = browse(folder), keys(folder)
    answer = pages.get(f"/picture/0/0/{first}")
    assert answer.headers["content-type"] == "image/png"
    assert np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).shape == (48, 48, 3)
    assert pages.get(f"/picture/0/7/{first}").content == answer.content  # by its key, where rows have moved
    failed = keys(folder, "status = 'failed'")[0]
    assert pages.get(f"/picture/0/4/{failed}").status_code == 404
    assert pages.get(f"/picture/1/0/{first}").status_code == 404
    assert pages.get("/picture/0/0/nobody").status_code == 404


def test_tokens_are_decoded_to_look_at(tmp_path: Path) -> None:
    from reverie.models.tokenizer import open_tokenizer
    from tests.models import tiny

    vq = str(tiny.save_vq(tmp_path / "vq"))
    tokenizer = open_tokenizer(vq)
    ids = np.arange(16, dtype=np.int32).reshape(4, 4) % 12
    own = {
        "tokens": ids.ravel().tolist(),
        "grid": [4, 4],
        "codebook": tokenizer.codebook_name,
        "width": 16,
        "height": 16,
    }
    rows = [row(0, 0, **own), row(1, 0, **{**own, "codebook": "of somebody else"})]
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    gallery = Gallery(tmp_path, tokenizer=vq)
    found = gallery.picture(str(rows[0]["pair_id"]), 0, 160)
    assert found is not None
    assert (np.asarray(Image.open(io.BytesIO(found[0]))) == tokenizer.pictures(ids[None])[0]).all()
    assert gallery.picture(str(rows[1]["pair_id"]), 1, 160) is None


def test_two_runs_side_by_side(folder: Path, tmp_path: Path, browse: Open) -> None:
    other = tmp_path / "b"
    shutil.copytree(folder, other)
    gone, name = keys(folder)[0], keys(folder)[3]
    import lance

    lance.dataset(str(other / "pairs.lance")).delete(f"pair_id = '{gone}'")
    lance.dataset(str(other / "pairs.lance")).update(
        {"guidance": "7.5", "text": "'another sentence'"}, f"pair_id = '{name}'"
    )
    pages = browse(folder, other)
    page = get(pages)
    assert shown(page) == keys(folder)
    cards = page.split('<li class="pair')[1:]
    assert "not there" in cards[0]
    assert f"/picture/1/0/{keys(folder)[1]}" in cards[1]
    assert "another sentence" in cards[3]
    page = pages.get(f"/pair/{name}").text
    assert re.search(r"guidance</th><td><bdi></bdi></td><td><bdi>7.5", page)
    assert re.search(r"text</th><td><bdi>a photo of thing number 1</bdi></td><td><bdi>another sentence", page)
    assert "not there" in pages.get(f"/pair/{gone}").text


def test_pairs_of_other_keys_meet_by_caption_and_seed(tmp_path: Path) -> None:
    for name, keyed in (("a", "one"), ("b", "other")):
        (tmp_path / name).mkdir()
        rows = [row(n, 0, seed=100 + n, pair_id=f"{keyed}-{n:03d}") for n in range(4)]
        if name == "b":
            rows[2]["text"] = "another caption"
        tables.append_unit(tmp_path / name / "pairs.lance", 0, pairs.table(rows, pairs.PAIRS))
    one, other = Gallery(tmp_path / "a"), Gallery(tmp_path / "b")
    found = other.partners(one.page(Query()).cards)
    assert [card and card.pair_id for card in found] == ["other-000", "other-001", None, "other-003"]


# Texts of people and models


def test_what_people_wrote_is_shown_as_text(folder: Path, browse: Open) -> None:
    pages = browse(folder)
    for page in (
        get(pages),
        pages.get(f"/pair/{keys(folder)[0]}").text,
        get(pages, words=EVIL),
        pages.get("/", params={"where": EVIL}).text,
    ):
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "&lt;script&gt;alert" in page
    assert pages.get(f"/pair/{EVIL.replace('/', '')}").status_code == 404


def test_marks_of_direction_are_shown_by_their_number() -> None:
    assert plain("a\u202ecod\x1b[31m <b>") == (
        'a<span class="code">U+202E</span>cod<span class="code">U+001B</span>[31m &lt;b&gt;'
    )
    assert plain("שלום and مرحبا") == "שלום and مرحبا"  # direction of the letters themselves is no mark


def test_nothing_but_our_own_is_loaded(folder: Path, browse: Open) -> None:
    pages = browse(folder)
    for path in ("/", f"/pair/{keys(folder)[0]}", f"/picture/0/0/{keys(folder)[0]}", "/nope", "/show.js"):
        headers = pages.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'"
        )
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    page = get(pages)
    assert not re.search(r'(?:src|href|action)="(?!/)', page)
    attributes: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, given: attributes.extend(name for name, _ in given)  # type: ignore[method-assign]
    parser.feed(page)
    assert "href" in attributes
    assert not [name for name in attributes if name == "style" or name.startswith("on")]


# Who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"}, {"host": "evil.example:8420"}, {"host": "127.0.0.1:8421"}, {"host": "127.0.0.1.evil.example:8420"},
        {"host": ""}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8420"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_other_sites_are_refused(folder: Path, browse: Open, headers: dict[str, str]) -> None:
    pages, name = browse(folder), keys(folder)[0]
    for method, path in (
        ("GET", "/"),
        ("GET", f"/picture/0/0/{name}"),
        ("POST", "/mark"),
        ("POST", "/given"),
        ("GET", "/show.js"),
    ):
        answer = pages.request(
            method, path, headers=headers, data={"pair": name, "bad": "1"} if method == "POST" else None
        )
        assert answer.status_code == 403, path
        assert name not in answer.text
    assert not (folder / "show").exists()


def test_a_change_says_where_it_comes_from(folder: Path, browse: Open) -> None:
    pages = browse(folder)
    del pages.headers["origin"]
    assert pages.get("/", headers={"host": "localhost:8420"}).status_code == 200
    assert pages.post("/mark", data={"pair": keys(folder)[0], "bad": "1"}).status_code == 403
    assert pages.get("/mark", params={"pair": keys(folder)[0], "bad": "1"}).status_code == 405
    assert not (folder / "show").exists()


# Marks


def test_a_mark_is_a_column_that_a_filter_can_use(folder: Path, browse: Open) -> None:
    pages, every = browse(folder), keys(folder)
    before, wrong = (folder / "plan.json").read_bytes(), tables.verify(folder)
    for name in every[2:4]:
        answer = pages.post("/mark", data={"pair": name, "bad": "1", "back": "/?state=kept"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/?state=kept")
    assert pages.post("/mark", data={"pair": every[3], "bad": "0"}, headers={"accept": "application/json"}).json() == {
        "pair": every[3], "bad": False, "num_bad": 1,
    }  # fmt: skip
    assert shown(get(pages, state="bad")) == [every[2]]
    assert shown(get(pages, where="not bad")) == [*every[:2], *every[3:]]
    assert shown(get(pages, where="bad")) == [every[2]]
    assert keys(folder, "bad is not true") == [*every[:2], *every[3:]]
    assert keys(folder) == every  # the order of rows, of which batches are drawn, is what it was
    assert (folder / "plan.json").read_bytes() == before
    assert tables.verify(folder) == wrong


def test_marks_outlive_the_server(folder: Path, browse: Open) -> None:
    every = keys(folder)
    gallery = Gallery(folder)
    gallery.marks.set(every[5], True)  # and killed before the column is written
    assert "bad" not in tables.column_names(folder / "pairs.lance")
    with (folder / "show" / "bad.jsonl").open("a") as log:
        log.write('{"pair_id": "cut')
    pages = browse(folder)
    assert shown(get(pages, where="bad")) == [every[5]]
    pages.post("/mark", data={"pair": every[6], "bad": "1"})
    assert shown(get(browse(folder), state="bad")) == every[5:7]


def test_a_mark_lets_a_run_go_on(folder: Path, browse: Open) -> None:
    """Rows that come after a mark are false as well, and whoever works there is not disturbed."""
    from reverie.store.locks import all_units_held

    pages, every = browse(folder), keys(folder)
    with all_units_held(folder):
        assert pages.post("/mark", data={"pair": every[0], "bad": "1"}).status_code == 303
        assert "when nobody else is at work" in str(Gallery(folder).settle())
        assert "bad" not in tables.column_names(folder / "pairs.lance")
        answer = pages.get("/", params={"where": "bad"})
        assert answer.status_code == 400
        assert "when nobody else is at work" in answer.text
        assert not shown(get(pages, where="text = 'bad'"))  # names no column
    Gallery(folder).settle()
    assert keys(folder, "bad") == every[:1]
    late = row(1, 2, image=picture((9, 9, 9)), width=48, height=48)
    tables.append_unit(folder / "pairs.lance", 2, pairs.table([late], pairs.PAIRS))
    assert keys(folder, "bad is null") == [late["pair_id"]]
    gallery = Gallery(folder)
    gallery.settle()
    assert keys(folder, "bad = false") == [*every[1:], late["pair_id"]]
    make_plan_again(folder)


def make_plan_again(folder: Path) -> None:
    """Raises SettingsChanged if anything about the run were other than before."""
    from ..report.conftest import make_plan

    make_plan().settle(folder)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"pair": "nobody", "bad": "1"}, 404), ({"pair": "' or true", "bad": "1"}, 404), ({"bad": "1"}, 404), ({"pair": "x"}, 400),
        ({"pair": "x", "bad": "2"}, 400), ({"pair": "x", "bad": "1", "side": "7"}, 400), ({"pair": "x" * 30_000, "bad": "1"}, 413),
    ],
)  # fmt: skip
def test_a_mark_of_nothing(folder: Path, browse: Open, given: dict[str, str], code: int) -> None:
    assert browse(folder).post("/mark", data=given).status_code == code
    assert not (folder / "show").exists()


def test_a_mark_leads_to_no_other_site(folder: Path, browse: Open) -> None:
    for back in ("//evil.example", "/\\evil.example", "https://evil.example", "", "/a\nb"):
        answer = browse(folder).post("/mark", data={"pair": keys(folder)[0], "bad": "1", "back": back})
        assert answer.headers["location"] == "/"


def test_the_column_alone_says_what_is_marked(folder: Path, browse: Open) -> None:
    every = keys(folder)
    gallery = Gallery(folder)
    gallery.marks.set(every[2], True)
    gallery.close()
    shutil.rmtree(folder / "show")
    pages = browse(folder)
    assert shown(get(pages, state="bad")) == [every[2]]
    pages.post("/mark", data={"pair": every[3], "bad": "1"})
    assert shown(get(pages, where="bad")) == every[2:4]


def test_two_servers_may_mark(folder: Path) -> None:
    """Neither takes away what the other marked, in the log or in the column."""
    every = keys(folder)
    one, other = Gallery(folder), Gallery(folder)
    one.marks.set(every[0], True)
    one.settle()
    other.marks.set(every[1], True)
    assert one.marks.bad == other.marks.bad == set(every[:2])
    other.settle()
    assert keys(folder, "bad") == every[:2]
    one.marks.set(every[0], False)
    other.marks.set(every[2], True)
    other.settle()
    one.settle()
    assert keys(folder, "bad") == every[1:3]
    one.close()
    other.close()


def test_a_column_without_a_mark_takes_new_ones(folder: Path) -> None:
    name, gallery = keys(folder)[0], Gallery(folder)
    for is_bad in (True, False):
        gallery.marks.set(name, is_bad)
        gallery.close()
    shutil.rmtree(folder / "show")
    gallery = Gallery(folder)
    gallery.marks.set(name, True)
    gallery.close()
    assert keys(folder, "bad") == [name]


def test_a_column_of_somebody_else_stays(folder: Path, browse: Open) -> None:
    import lance

    lance.dataset(str(folder / "pairs.lance")).add_columns({"bad": "copy + 1"})
    answer = browse(folder).post("/mark", data={"pair": keys(folder)[0], "bad": "1"})
    assert answer.status_code == 400
    assert "a column &#39;bad&#39; of its own" in answer.text


def test_a_run_that_was_marked_half_way_ends_as_it_would_have(tmp_path: Path) -> None:
    from reverie.run.engine import run
    from tests.run.fake_recipe import fake_recipe

    whole, marked = tmp_path / "whole", tmp_path / "marked"
    plan = fake_recipe(count=20)
    run(plan, whole, device="cpu")
    run(plan, marked, device="cpu", part=(1, 2))
    first = keys(marked)[0]
    gallery = Gallery(marked)
    gallery.marks.set(first, True)
    gallery.close()
    run(plan, marked, device="cpu")
    rows = [
        {row["pair_id"]: row for part in tables.scan(folder / "pairs.lance") for row in part.to_pylist()}
        for folder in (whole, marked)
    ]
    assert rows[1][first].pop("bad")
    assert {name: {key: value for key, value in row.items() if key != "bad"} for name, row in rows[1].items()} == rows[
        0
    ]
    assert not tables.verify(marked)
    gallery = Gallery(marked)
    gallery.settle()
    assert keys(marked, "bad") == [first]
    assert tables.count(marked / "pairs.lance", "not bad") == len(rows[0]) - 1


def test_columns_that_are_no_text_are_left_out(tmp_path: Path, browse: Open) -> None:
    wide = pa.table(
        {
            "pair_id": [str(row(0, 0)["pair_id"])], "unit": pa.array([0], pa.int64()), "mine": pa.array([[0.5] * 900], pa.list_(pa.float32())),
            "raw": pa.array([b"bytes"], pa.binary()), "flags": pa.array([["too_long"]], pa.list_(pa.string())),
        }
    )  # fmt: skip
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table([row(0, 0)], pairs.PAIRS))
    tables.append_unit(tmp_path / "columns.lance", 0, wide)
    tables.add_columns(tmp_path / "pairs.lance", tmp_path / "columns.lance")
    page = browse(tmp_path).get(f"/pair/{row(0, 0)['pair_id']}").text
    assert "too_long" in page
    assert "0.5" not in page
    assert "bytes" not in page


# Words and folders


def test_words_and_phrases() -> None:
    assert words_of('red "two circles" on') == ["red", "two circles", "on"]
    assert words_of('"open') == ["open"]
    assert read({"words": " a ", "else": "b", "page": "x"}) == Query(words="a", page="x")
    assert Query(page="x").number == Query(page="-3").number == Query(page="0").number == 1
    assert Query(words="a b", page="3").link(state="kept") == "/?words=a+b&state=kept"


def test_a_folder_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        Gallery(tmp_path / "nowhere")
    with pytest.raises(InputError, match="s3://bucket/run is an address; give the folder"):
        Gallery(Path("s3://bucket/run"))
    with pytest.raises(InputError, match="holds no images"):
        Gallery(tmp_path)


def test_a_key_may_hold_any_characters(tmp_path: Path, browse: Open) -> None:
    name = "a/b?c#d%'\"<x>"
    own = {"pair_id": name, "image": picture((9, 9, 9)), "width": 48, "height": 48}
    tables.append_unit(tmp_path / "pairs.lance", 0, pairs.table([row(0, 0, **own)], pairs.PAIRS))
    pages = browse(tmp_path)
    (link,) = shown(get(pages))
    assert pages.get(f"/pair/{link}").status_code == 200
    assert pages.get(f"/picture/0/0/{link}").headers["content-type"] == "image/png"
    pages.post("/mark", data={"pair": name, "bad": "1"})
    assert shown(get(pages, where="bad")) == [link]


def test_a_command_to_paste_writes_nowhere_else(folder: Path, browse: Open) -> None:
    """Whoever wrote the table gave the key."""
    own = {"pair_id": "../../up; rm x", "image": picture((9, 9, 9)), "width": 48, "height": 48}
    known = tables.read_unit(folder / "pairs.lance", 0, pairs.PAIRS.names)
    rows = pairs.table([row(0, 99, **own)], pairs.PAIRS)
    assert rows.schema.names == known.schema.names
    tables.append_unit(folder / "pairs.lance", 99, rows)
    page = html.unescape(browse(folder).get("/pair/..%2F..%2Fup%3B%20rm%20x").text)
    assert "'../../up; rm x' --out '______up_ rm x.png'" in page


def test_a_page_of_what_is_not_there(folder: Path, browse: Open) -> None:
    pages = browse(folder)
    many = "9" * 5000  # digits, of which Python makes no number
    odd = (
        f"/picture/0/{many}/nobody",
        f"/picture/{many}/0/nobody",
        f"/pair/nobody?place={many}",
        "/picture/0/-1/nobody",
    )
    for path in ("/pair/nobody", "/nope", "/pair/%27%20or%20true", *odd):
        answer = pages.get(path)
        assert answer.status_code == 404
        assert "Traceback" not in answer.text
    assert str(answer.url).startswith(HERE)


def test_what_is_made_meanwhile_is_seen(folder: Path, browse: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverie.show.gallery.LOOK_AGAIN_S", 0)
    pages = browse(folder)
    assert "18 pairs" in get(pages)
    tables.append_unit(folder / "pairs.lance", 2, pairs.table([row(1, 2)], pairs.PAIRS))
    assert "19 pairs" in get(pages)
