"""Lines that fit: no line is longer than the width, no word is lost or cut, and what matters most stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedlite.runtime.terminal import Column, table, wrap

WIDTHS = (40, 80, 100, 120)
WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1, max_size=30)


@given(st.lists(WORDS, min_size=1, max_size=60), st.sampled_from(WIDTHS), st.sampled_from(["", "  - ", "FAIL: "]))
def test_a_sentence_keeps_its_words(words: list[str], width: int, first: str) -> None:
    lines = wrap(" ".join(words), width, first=first)
    assert all(len(line) <= width for line in lines)
    assert " ".join([lines[0].removeprefix(first), *lines[1:]]).split() == words
    assert lines[0].startswith(first)
    assert all(line.startswith(" " * len(first)) for line in lines[1:])


def test_a_path_longer_than_a_line_is_broken_at_slashes() -> None:
    path = "/".join(["folder"] * 20)
    lines = wrap(f"see {path} there", 40)
    assert max(map(len, lines)) <= 40
    assert "".join(lines).replace("see", "").replace("there", "").replace(" ", "") == path
    assert all(line.rstrip().endswith(("/", "see", "there", "folder")) for line in lines)


@given(
    st.lists(st.lists(WORDS, min_size=5, max_size=5), min_size=1, max_size=5),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.sampled_from(WIDTHS),
)
def test_a_table_fits_and_keeps_what_matters_most(rows: list[list[str]], importance: list[int], width: int) -> None:
    columns = [Column(f"title {place}", level) for place, level in enumerate(importance)]
    lines = table(columns, rows, width, indent="  ")
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            assert column.importance or cell in text or len(cell) > width - 8


@pytest.mark.parametrize(
    ("width", "titles"),
    [(80, "name middle least most"), (26, "name middle most"), (19, "name most")],
)
def test_columns_go_by_importance(width: int, titles: str) -> None:
    columns = [Column("name", left=True), Column("middle", 1), Column("least", 2), Column("most", 0)]
    lines = table(columns, [["a.tflite", "1.25", "2", "3"]], width)
    assert lines[0].split() == titles.split()
    assert max(map(len, lines)) <= width


def test_columns_without_text_are_left_out_and_long_names_stand_on_their_own_line() -> None:
    columns = [Column("name", left=True), Column("empty"), Column("SQNR dB"), Column("share")]
    name = "a/long/path/of/a/candidate/with/many/folders.tflite"
    assert table(columns, [[name, "", "41.04", "0.2%"]], 40) == [
        "a/long/path/of/a/candidate/with/many/",
        "folders.tflite",
        "  SQNR dB 41.04, share 0.2%",
    ]
