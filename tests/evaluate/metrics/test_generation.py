import math

import pytest

from reverie.evaluate.metrics.generation import confirmed, counting_error, object_accuracy, positional_alignment


def test_object_accuracy_by_hand():
    # dog: 3 pictures, found in 2; cat: 2 pictures, found in 1; one picture (the last) in which nothing is found.
    named = [["dog"], ["dog", "cat"], ["cat"], ["dog"]]
    found = [{"dog", "tree"}, {"dog"}, {"cat"}, set()]
    scores = object_accuracy(named, found)
    assert scores["soa_c"].value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["soa_i"].value == pytest.approx(3 / 5)
    assert scores["soa_c"].parts == {"cat": 0.5, "dog": pytest.approx(2 / 3)}
    assert scores["soa_c"].counts == {"cat": 2, "dog": 3}
    assert scores["soa_i"].each == (1.0, 0.5, 1.0, 0.0)
    assert set(scores) == {"soa_c", "soa_i"}
    assert object_accuracy([[], []], [{"dog"}, set()]) == {}


def test_pictures_in_which_nothing_is_found_stay_in_the_denominator_unless_asked_as_tise_does():
    named, found = [["dog"]] * 4, [{"dog"}, set(), set(), {"cat"}]
    assert object_accuracy(named, found)["soa_i"].value == 1 / 4
    compat = object_accuracy(named, found, tise_compat=True)
    assert compat["soa_i"].value == compat["soa_c"].value == 1 / 2
    assert compat["soa_i"].num == 2
    assert compat["soa_i"].each == (1.0, None, None, 0.0)


def test_top_and_bottom_classes_go_by_how_often_they_are_named():
    names = [f"c{number:02d}" for number in range(81)]
    named = [[name] for number, name in enumerate(names) for _ in range(90 - number)]
    found = [[name] if name < "c10" else [] for (name,) in named]
    scores = object_accuracy(named, found, draws=5)
    assert scores["soa_top"].value == pytest.approx(10 / 40)
    assert scores["soa_bottom"].value == 0.0
    assert "soa_top" not in object_accuracy(named[:3000], found[:3000], draws=5)


def test_counting_error_by_hand():
    wanted = [{"dog": 2, "cat": 1}, {"dog": 3}, {}, {"cat": 1}]
    counted = [{"dog": 4}, {"dog": 3, "cat": 7}, {"dog": 9}, {"cat": 1}]
    score = counting_error(wanted, counted)
    first = math.sqrt((2**2 + 1**2) / 2)
    assert score.each == (pytest.approx(first, abs=1e-6), 0.0, None, 0.0)
    assert score.value == pytest.approx(first / 3)
    assert score.num == 3
    assert counting_error([{}], [{}]) is None
    with pytest.raises(ValueError, match="1 pictures were counted in"):
        counting_error(wanted, [{}])


def test_positional_alignment_is_the_mean_over_words():
    words = [["above"], ["above"], ["above"], ["left of", "above"], []]
    right = [[True], [True], [False], [False, True], []]
    score = positional_alignment(words, right)
    assert score.value == pytest.approx((3 / 4 + 0 / 1) / 2)
    assert score.parts == {"above": 0.75, "left of": 0.0}
    assert score.each == (1.0, 1.0, 0.0, 0.5, None)
    assert positional_alignment([[], []], [[], []]) is None


def test_facts_confirmed():
    scores = confirmed([[True, True], [True, False], []])
    assert scores["qa"].value == 3 / 4
    assert scores["qa_all"].value == 1 / 2
    assert confirmed([[], []]) == {}


def test_intervals_are_over_captions_and_not_over_pictures():
    named, found = [["dog"]] * 80, [["dog"] if number // 10 % 2 else [] for number in range(80)]
    apart = object_accuracy(named, found)["soa_i"]
    shared = object_accuracy(named, found, captions=[number // 10 for number in range(80)])["soa_i"]
    assert apart.value == shared.value == 0.5
    assert shared.high - shared.low > 2 * (apart.high - apart.low)
    assert apart.low < 0.5 < apart.high
    with pytest.raises(ValueError, match="3 captions for 80 pictures"):
        object_accuracy(named, found, captions=[1, 2, 3])


def test_intervals_of_shares_end_where_shares_do():
    for right in ([True] * 7 + [False], [False] * 7 + [True]):
        for score in confirmed([[each] for each in right]).values():
            assert 0 <= score.low < score.value < score.high <= 1
    assert counting_error([{"dog": 1}] * 4, [{"dog": 1}] * 3 + [{"dog": 30}]).high > 1  # an error is no share
