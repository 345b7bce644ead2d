from __future__ import annotations

from reverie.evaluate.claims import Claim, beats, judge
from reverie.report.claims import interval, markdown, ours, table, write

MEASURED = {"r/s/a": {0: 0.5, 1: 0.54, 2: 0.52}, "r/s/<b>": {0: 0.4, 1: 0.43, 2: 0.43}}
JUDGED = [
    judge(Claim("1", "a beats <b>", "+10", beats("r/s/a", "r/s/<b>")), MEASURED),
    judge(Claim("2", "b beats a", "", beats("r/s/<b>", "r/s/a")), MEASURED),
    judge(Claim("3", "c beats a", "", beats("r/s/c", "r/s/a")), MEASURED),
]


def test_the_page_hides_nothing_and_escapes(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "report.html").touch()
    page = write(tmp_path, "stablerep", "About.", "reverie claims stablerep", JUDGED, {"r": "all", "gone": "not made"})
    text = page.read_text()
    assert "1 of 3 claims holds, 1 fails, 1 is inconclusive" in text
    assert "a beats &lt;b&gt;" in text
    assert "<b>" not in text
    assert text.count('class="verdict fails"') == 1
    assert 'href="r/report.html"' in text
    assert "gone" not in text
    assert "not measured: r/s/c" in text
    assert "<svg" in text
    assert (tmp_path / "claims.md").read_text() == markdown(JUDGED) + "\n"
    assert "#010207" not in text  # drawn in the page's own colours


def test_a_control_that_does_not_hold_casts_doubt(tmp_path):
    for terms, doubt in ((beats("r/s/<b>", "r/s/a"), True), (beats("r/s/a", "r/s/<b>"), False)):
        judged = [judge(Claim("9", "a control", "", terms, control=True), MEASURED)]
        text = write(tmp_path, "x", "About.", "again", judged, {}).read_text()
        assert ("deserve doubt: 9 (fails)" in text) == doubt


def test_numbers_in_points():
    assert ours(JUDGED[0]) == "+10.0"
    low, high = interval(JUDGED[0]).split(" to ")
    assert float(low) < 10 < float(high)
    assert ours(JUDGED[2]) == "not measured"
    assert interval(JUDGED[2]) == ""
    assert table(JUDGED).row_count == 3
    assert markdown(JUDGED).count("\n") == 4


def test_small_and_one_sided_differences_have_an_axis(tmp_path):
    for values in ({0: 0.501}, {0: 0.7}, {0: 0.3, 1: 0.31, 2: 0.33}):
        judged = [
            judge(Claim("1", "a", "", beats("r/s/a", "r/s/b")), {"r/s/a": values, "r/s/b": dict.fromkeys(values, 0.5)})
        ]
        text = write(tmp_path, "x", "About.", "again", judged, {}).read_text()
        assert text.count("xtick_") >= 2 or text.count("<text") >= 3
