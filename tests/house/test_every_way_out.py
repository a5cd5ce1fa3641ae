"""Every error that names a way out is made by a test that goes it."""

import configparser
import re

from ways_out import NAMES_A_WAY, ROOT, marked, messages


def test_every_way_out_that_an_error_names_is_gone_by_a_test() -> None:
    phrases = [phrase for phrase, _ in marked()]
    named = [message for message in messages() if NAMES_A_WAY.search(message.text)]
    missing = [f"{where}: {text}" for where, text in named if not any(phrase in text for phrase in phrases)]
    assert not missing, "make these errors and do what they say, in a test marked with walks():\n" + "\n".join(missing)


def test_no_mark_names_an_error_that_there_is_not() -> None:
    texts = [message.text for message in messages()]
    gone = [f"{file}: {phrase}" for phrase, file in marked() if not any(phrase in text for text in texts)]
    assert not gone, "no error says this any more:\n" + "\n".join(gone)


def test_every_extra_that_an_error_names_is_one() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(setup["options.extras_require"])
    named = {
        name
        for _, text in messages()
        for found in re.findall(r"embedlite\[([\w,-]+)\]", text)
        for name in found.split(",")
    }
    assert named and named <= extras, named - extras
