"""The drift report as one HTML page that needs nothing else: no network, no script, no other file.

- :mod:`.page` puts it together, from ``template.html`` and ``style.css``;
- :mod:`.wording` says what the figures are called;
- :mod:`.plot` is a plotting area with axes as SVG, :mod:`.scales` places values on it;
- :mod:`.map`, :mod:`.histogram`, :mod:`.overlap`, :mod:`.dimensions`, :mod:`.layers`, :mod:`.tradeoff` draw one
  picture each.
"""

from .page import check_page, render_page

__all__ = ["check_page", "render_page"]
