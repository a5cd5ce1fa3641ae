"""Takes the place of the Python executable: ``client.py PYTHON FOLDER WORLD [ARGUMENT…]``, the arguments Python's.

WORLD names the server that runs them; FOLDER has its socket. With ``auto`` a script or module of the project is run by
the server of its world, and everything else by PYTHON. So is what a server cannot run, or that has no server any more.
Imports little, because every command waits for it.
"""

# pathlib would take as long to import as all the rest.
# ruff: noqa: PTH109, PTH110, PTH118, PTH119, PTH123, PTH208
import array
import json
import os
import signal
import socket
import sys

TENSORFLOW_MODULES = ("embedlite.report.reference", "embedlite.report.causes.ladder_files")
SCRIPTS = {
    "export-tflite": "tensorflow",
    "embed-tflite": "device",
    "inspect-tflite": "device",
    "drift-report": "device",
    "drift-fleet": "device",
}
READ_BY_ALL = ("PYTHON", "OMP_", "OPENBLAS_", "MKL_", "LD_", "LC_", "LANG")
"""How environment variables begin that libraries or Python read once: a command with others is not served."""

# Also in servers/__init__.py, which is not imported here.
CONNECTION_LOST = 250


def world_of(arguments: "list[str]") -> "str | None":
    """The server that runs these arguments, or None."""
    first, second = [*arguments, "", ""][:2]
    if first == "-m":
        if second in TENSORFLOW_MODULES:
            return "tensorflow"
        if second == "ethosu.vela":
            return "vela"
        return "device" if second.startswith("embedlite.runtime.") else None
    return SCRIPTS.get(os.path.basename(first))


def circumstances() -> "dict[str, str]":
    """What a process inherits and a fork of a server would not: limits, signals, processors, and the file mode mask."""
    wanted = ("Umask", "SigBlk", "SigIgn", "Cpus_allowed", "NoNewPrivs", "Seccomp")
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        found = dict(line.rstrip("\n").split(":\t", 1) for line in status if line.startswith(wanted))
    with open("/proc/self/limits", encoding="ascii") as limits:
        found["limits"] = limits.read()
    return found


def main() -> None:
    """Pass the command on, wait for its end, and end as it did."""
    python, folder, world, *arguments = sys.argv[1:]
    chosen = world_of(arguments) if world == "auto" else world
    answer = b"cold" if chosen is None else ask(os.path.join(folder, chosen), arguments)
    if answer == b"cold":
        os.execv(python, [python, *arguments])
    if not answer:
        sys.stderr.write(f"the server {chosen} that ran this command for the tests ended before the command did\n")
        os._exit(CONNECTION_LOST)
    status = int(answer)
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def ask(path: str, arguments: "list[str]") -> bytes:
    """The server's answer: the exit code; the word that Python has to run this; or nothing if the server is gone."""
    inherited = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    if any(os.path.exists(f"/proc/self/fd/{number}") and os.get_inheritable(number) for number in inherited):
        return b"cold"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.connect(path)
            request = {
                "arguments": arguments,
                "cwd": os.getcwd(),
                "environment": dict(os.environ),
                "circumstances": circumstances(),
            }
            data = json.dumps(request).encode()
            streams = array.array("i", [0, 1, 2])
            server.sendmsg([len(data).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            server.sendall(data)
        except OSError:
            # Nothing has run: a server forks for whole requests only.
            return b"cold"
        try:
            return server.recv(64)
        except OSError:
            return b""


if __name__ == "__main__":
    main()
