"""What the page says first is what the advice says, the threshold to set included."""

from dataclasses import replace

import pytest

from embedlite.report.page import render_page

from drift_pairs import pair, report


@pytest.mark.parametrize("threshold", [None, 0.987654])
def test_the_threshold_to_set_is_in_the_headline(threshold: float | None) -> None:
    made = report(*pair(0.01))
    told = "ship as is" if threshold is None else f"ship with threshold {threshold:.6f}"
    action = "ship" if threshold is None else "ship-with-threshold"
    advice = replace(made.advice, action=action, threshold=threshold, headline=f"{told}: the figures: all of them")
    page = render_page(replace(made, advice=advice)).decode()
    shown = (
        "the figures: all of them" if threshold is None else "ship with threshold 0.987654: the figures: all of them"
    )
    assert f'<p class="headline">{shown}</p>' in page
