"""Debian packages and wheels of another processor, unpacked into folders.

Needs no root and changes nothing on the system: apt keeps its state in a temporary folder, and nothing is installed.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from project_wheel import pip

GLIBC_MINORS = range(17, 37)
"""manylinux_2_17, the oldest in use, to manylinux_2_36, what Debian 12 runs."""


class FetchError(Exception):
    """Packages could not be had; the message holds what apt printed."""


def unpack_debian(packages: Sequence[str], architecture: str, root: Path) -> str:
    """Unpack packages and all that they depend on, from the system's own apt sources.

    Args:
        packages: names, such as ``python3.11``.
        architecture: Debian's name of it, such as ``arm64``.
        root: an existing folder; becomes what a Debian system has at ``/``.

    Returns:
        The file names of all packages, one a line; they hold the versions.

    Raises:
        FetchError: the sources cannot be reached, or do not have the packages.
    """
    with TemporaryDirectory(prefix="embedlite-apt-") as name:
        state = Path(name)
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        (state / "status").touch()
        options = [
            f"APT::Architecture={architecture}",
            f"Dir::State={state / 'state'}",
            # An empty list of what is installed, so that every dependency is downloaded.
            f"Dir::State::status={state / 'status'}",
            f"Dir::Cache={state / 'cache'}",
            "APT::Install-Recommends=false",
            "APT::Sandbox::User=root",
            "Acquire::Retries=3",
        ]
        apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
        # An update that fails for one of several sources is not a reason to stop; the download tells.
        update = _run(*apt, "update")
        download = _run(*apt, "install", "--yes", "--download-only", *packages)
        if download.returncode:
            raise FetchError(
                f"apt has no {', '.join(packages)} for {architecture} (Debian 12 has them):\n"
                f"{update.stderr}{download.stderr}"
            )
        archives = sorted((state / "cache" / "archives").glob("*.deb"))
        for archive in archives:
            subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
    _link_alternatives(root)
    return "".join(f"{archive.name}\n" for archive in archives)


def _link_alternatives(root: Path) -> None:
    """Link what update-alternatives would: Debian's BLAS and LAPACK lie in folders of their own until then."""
    for library in root.glob("usr/lib/*/*/lib*.so.3"):
        if library.parent.name in ("blas", "lapack"):
            (library.parents[1] / library.name).symlink_to(library.relative_to(library.parents[1]))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)


def install_wheels(requirements: Sequence[str], folder: Path, machine: str | None = None) -> None:
    """Install wheels into a folder, for CPython 3.11 on another machine or for the Python that runs this.

    Args:
        requirements: requirements and options, as pip takes them.
        folder: what will be ``site-packages``; scripts go to its ``bin``.
        machine: such as ``aarch64``.

    Raises:
        RuntimeError: pip failed; the message holds what it printed.
    """
    options = ["--only-binary=:all:"]
    if machine is not None:
        names = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in GLIBC_MINORS)]
        options += [f"--platform={name}_{machine}" for name in names]
        options += ["--implementation=cp", "--python-version=3.11", "--no-compile"]
    pip("install", *options, "--target", str(folder), *requirements)
