"""What a bare device can import: every command, without any package of the extras."""

import subprocess
import sys

EXTRAS = (
    *("tensorflow", "keras", "tf_keras", "flatbuffers", "litert_quantizer", "rich", "jinja2", "h5py", "PIL"),
    *("dask", "distributed", "fsspec", "pyarrow"),
)
COMMANDS = (
    "convert.command",
    "report.command",
    "report.fleet.command",
    "runtime.commands.embed",
    "runtime.commands.inspect",
)


def test_every_command_is_imported_without_any_extra() -> None:
    code = (
        f"import importlib, sys\nsys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        f"for name in {COMMANDS!r}: importlib.import_module('embedlite.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_device_is_imported_where_there_is_no_unix() -> None:
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp')))\n"
        "import os\nfor name in ('fork', 'sched_getaffinity', 'geteuid'): hasattr(os, name) and delattr(os, name)\n"
        "import embedlite.runtime, embedlite.runtime.monitor, embedlite.runtime.commands.embed\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
