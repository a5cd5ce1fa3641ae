"""Every error that names a way out is made by a test that goes it."""

import configparser
import re

from ways_out import NAMES_A_WAY, ROOT, marked, messages

NOT_YET: tuple[str, ...] = (
    "there are no calibration images to take ranges from. Pass at least",
    "Run on every worker: pip install 'embedlite[images,dask]==",
    "Install the same versions there, or leave it out of the cluster;",
    "). Start it again and run the command again; with --calibration-cache",
    "a cluster needs Dask, which cannot be imported (",
    "calibration reads a graph's operators with ai-edge-litert, which is",
    ", which is not installed here. Run: pip install 'embedlite[convert]'",
    "a model in memory has no folder of its own. Pass output_dir",
    "was fine-tuned, and a recipe holds no weights. Keep that file, or",
    "to check the files, and it is not installed. Run: pip install",
    "compiling for an Ethos-U NPU needs Vela, which is not installed. pip",
)
"""Errors whose ways out no test goes so far. Take out what a test goes; nothing is added."""


def test_every_way_out_that_an_error_names_is_gone_by_a_test() -> None:
    phrases = [*(phrase for phrase, _ in marked()), *NOT_YET]
    named = [message for message in messages() if NAMES_A_WAY.search(message.text)]
    missing = [f"{where}: {text}" for where, text in named if not any(phrase in text for phrase in phrases)]
    assert not missing, "make these errors and do what they say, in a test marked with walks():\n" + "\n".join(missing)


def test_no_mark_names_an_error_that_there_is_not() -> None:
    texts = [message.text for message in messages()]
    said = [*marked(), *((late, "NOT_YET") for late in NOT_YET)]
    gone = [f"{file}: {phrase}" for phrase, file in said if not any(phrase in text for text in texts)]
    assert not gone, "no error says this any more:\n" + "\n".join(gone)
    walked = [phrase for phrase, _ in marked()]
    done = [late for late in NOT_YET if all(any(p in text for p in walked) for text in texts if late in text)]
    assert not done, "these are gone by a test now:\n" + "\n".join(done)


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
