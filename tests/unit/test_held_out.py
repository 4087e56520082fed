"""Pictures set aside: the same ones every time, sources kept together, and what a run wrote down is what counts."""

import pytest

from detr_mini.data import held_out
from detr_mini.data.held_out import by_source, draw


def names_of(form: str, *ranges: range) -> list[str]:
    """Names made with numbers."""
    return [form.format(*numbers) for numbers in (
        [(i,) for i in ranges[0]] if len(ranges) == 1 else [(i, j) for i in ranges[0] for j in ranges[1]])]


def test_the_draw_depends_on_names_alone_and_takes_the_part_that_was_asked_for():
    names = names_of("photo {}.jpg", range(50))
    first, again = draw(names, 0.2), draw(names[::-1], 0.2)
    assert len(first.names) == 10 and sorted(again.names) == sorted(first.names)
    assert [names[row] for row in first.rows] == first.names and first.rows == sorted(first.rows)
    assert len(set(draw(names, 0.4).names) & set(first.names)) == 10  # a larger part holds the smaller
    assert first.rows != list(range(10)) and first.rows != list(range(40, 50))


@pytest.mark.parametrize("form", [
    "film{}_{:05}.png", "scan_{}_tile_{}.png", "s{}_x{}_y7.png", "slide{}_{}_3.png", "cam{}-frame-{}.jpg", "a{}/{}.jpg",
])
def test_what_was_cut_from_one_source_stays_together(form):
    names = names_of(form, range(20), range(5))
    chosen = set(draw(names, 0.2).names)
    assert len(chosen) == 20
    for source in range(20):
        assert len({form.format(source, i) for i in range(5)} & chosen) in (0, 5)


def test_copies_that_roboflow_made_stay_together():
    names = [f"cell_{i}_jpg.rf.{copy * 7919 + i:08x}.jpg" for i in range(20) for copy in range(1, 4)]
    chosen = draw(names, 0.2)
    groups = {name.split(".rf.")[0] for name in chosen.names}
    assert len(chosen.names) == 12 and len(groups) == 4 and "20 groups of one source kept together" in chosen.said


def test_one_film_is_cut_in_time_and_pictures_that_are_only_numbered_are_drawn():
    film = names_of("frame_{}.jpg", range(20))
    assert sorted(draw(film, 0.25).names) == sorted(film[15:])
    assert len(by_source(names_of("IMG_{:04}.jpg", range(20)))) == 20


def test_few_large_sources_give_the_last_part_of_each():
    names = names_of("cat_{:03}.jpg", range(10)) + names_of("dog_{:03}.jpg", range(30))
    assert draw(names, 0.2).names == names[8:10] + names[34:]


@pytest.mark.parametrize("fraction, words", [
    (0, "between 0 and 1"), (1.5, "between 0 and 1"), (float("nan"), "between"), (0.01, "is 0"), (0.99, "is 10"),
])
def test_a_part_that_leaves_one_side_empty_is_refused(fraction, words):
    with pytest.raises(ValueError, match=words):
        draw(names_of("{}.jpg", range(10)), fraction)


def test_what_is_written_down_is_read_again_and_not_overwritten(tmp_path):
    drawn = draw(names_of("bl\u00fcte {}.jpg", range(10)), 0.2)
    assert held_out.read(tmp_path) is None
    held_out.write(tmp_path, 0.2, drawn)
    held_out.write(tmp_path, 0.2, drawn)
    assert held_out.read(tmp_path) == drawn.names
    with pytest.raises(ValueError, match=r"held_out\.json names 2 .*draws 4, not the same: choose another folder"):
        held_out.write(tmp_path, 0.4, draw(names_of("bl\u00fcte {}.jpg", range(10)), 0.4))
    (tmp_path / "held_out.json").write_text('{"val": 3}')
    with pytest.raises(ValueError, match=r"held_out\.json is damaged"):
        held_out.read(tmp_path)
