"""The process in which ``attack.py`` opens and runs files: a JSON request on each line of stdin, its answer on stdout.

With ``--fork`` the trial of a file without a contract is a fork of a process that has imported the interpreter and
opened nothing, instead of one that is started: the same code with the same limits, ten times as many files in an hour.
"""

import json
import os
import select
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.backends import trial
from embedlite.runtime.backends.interpreters import find_runtime
from embedlite.runtime.errors import EmbedliteError


def main() -> None:
    """Judge one file after the other."""
    warnings.simplefilter("ignore")
    if "--fork" in sys.argv[1:]:
        trial.ask = Forks().ask
    for line in sys.stdin:
        print(json.dumps(judge(json.loads(line))), flush=True)


def judge(job: dict[str, Any]) -> str:
    """What a file ends in: the name of an error of ours, "runs" or a finding."""
    try:
        contract = None if job["wanted"] else InputContract(tuple(job["shape"]))
        with Encoder(Path(job["path"]), 1, input_contract=contract) as encoder:
            found = encoder.embed_one(np.load(job["pixels"]))
    except EmbedliteError as error:
        return type(error).__name__
    except BaseException as error:
        return f"FINDING foreign exception {type(error).__name__}: {error}"
    if job["wanted"] and not np.array_equal(found, np.load(job["wanted"])):
        return "FINDING another vector"
    return "runs"


class Forks:
    """A process that has opened no file, and answers each request in a fork of its own."""

    def __init__(self) -> None:
        find_runtime(None)  # imported here, once
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        if os.fork() == 0:
            os.close(self._requests)
            os.close(self._answers)
            with os.fdopen(requests, "rb") as lines, os.fdopen(answers, "wb") as channel:
                _answer_all(lines, channel)
            os._exit(0)
        os.close(requests)
        os.close(answers)
        self._channel = os.fdopen(self._answers, "rb")  # as long as this process

    def ask(self, module: str, request: Mapping[str, Any], seconds: float) -> tuple[Any, str]:
        """As embedlite.runtime.child.ask."""
        assert module == "backends.trial"
        os.write(self._requests, json.dumps([request, seconds]).encode() + b"\n")
        answer, failure = json.loads(self._channel.readline())
        return answer, failure


def _answer_all(lines: BinaryIO, channel: BinaryIO) -> None:
    for line in lines:
        request, seconds = json.loads(line)
        channel.write(json.dumps(_fork(request, seconds)).encode() + b"\n")
        channel.flush()


def _fork(request: dict[str, Any], seconds: float) -> tuple[Any, str]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer = json.dumps(trial._answer(**request)).encode()
            os.write(writer, answer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    answer = b""
    with os.fdopen(reader, "rb", 0) as pipe:
        while select.select([pipe], [], [], seconds)[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            answer += part
        else:
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGKILL:
        return None, f"gave no answer within {seconds:g} s"
    if code < 0:
        return None, f"crashed with signal {-code}"
    return (json.loads(answer), "") if code == 0 else (None, f"ended with code {code}")


if __name__ == "__main__":
    main()
