"""The drift report as one HTML page that needs nothing else: no network, no script, no other file.

``page`` puts it together, from ``template.html`` with ``body.html`` (a report) ``several.html`` (several
candidates) or ``gallery.html`` and ``style.css``; ``plot`` is a plotting area with axes as SVG;
``map``, ``cosines``, ``overlap``, ``dimensions``, ``layers`` and ``tradeoff`` draw one picture each; ``pictures`` makes
the small photos, ``inputs`` the small plots of other inputs; ``export_files`` reads an export.json.
"""

from .page import check_page, render_comparison, render_gallery, render_page

__all__ = ["check_page", "render_comparison", "render_gallery", "render_page"]
