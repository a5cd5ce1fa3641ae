import importlib.metadata

import embedlite.runtime


def test_installed_metadata_and_module_agree_on_the_version() -> None:
    assert importlib.metadata.version("embedlite") == embedlite.runtime.__version__
