"""Every error that embedlite raises on purpose.

The tree; each package adds its own leaves in its own ``errors`` module. Behind each class: its cause, and what to do::

    EmbedliteError               anything below: read the message; exit code 2
      RequestError               an option, or options that contradict each other: change what the message names
      MissingPackageError        a package is not installed (also an ImportError): run the pip line in the message
        NoInterpreterError       neither ai-edge-litert nor tflite-runtime can be used: the same
      ModelFileError             a model file that cannot be used: pass another one
        NotTFLiteError           no TFLite flatbuffer at all: pass a .tflite file
        DamagedModelError        cut short, or its SHA-256 is not the one it was written with: copy it again
        NewerContractError       written by a newer embedlite than this one: install the version in the message
        UnsupportedModelError    sound, but no encoder, or of a newer TFLite schema: export it with export-tflite
        ModelLimitError          loading it asks for more memory than any such model: get it again where it was made
        InterpreterFailedError   the interpreter refused the file or failed in it: update it, or export another mode
          MissingOperatorError   it lacks an operator, or a version of one: install the release that has it
          DelegateError          refused the file, or took none of it: see its documentation, or do without
            DelegateLoadError    not there, no delegate, or its device is missing: correct the path or connect it
      InputError                 what the caller passed to an encoder: one of these
        EmptyBatchError          no image in it: pass at least one; iterators can be read only once
        InputShapeError          another rank or size: do the conversion that the message names
        InputTypeError           int8, bool, text, objects: pass uint8 pixels or floats
        InputValueError          NaN, infinity, or integers outside 0-255: repair or leave out that image
      DataError                  a folder or file of inputs, or of stored embeddings: one of these
        EmptyDataError           nothing in it: pass another one, or other ids
        UnreadableDataError      missing, or not what it claims to be, such as an undecodable image: repair or remove it
        MonitorStateError        a monitor's state of another model or reference, or in use: name another state file
        DeviceFiguresError       of another model, or by a newer embedlite: measure this export's files, or update
      EngineError                a cluster that cannot do the work: see that the scheduler and its workers run
        WorkerMismatchError      its workers lack embedlite, or have another version: install this one there
      OutputError                a result could not be written, nothing is left half written: choose another place
        OutputExistsError        a file was kept because nobody said --force: say it, or choose another name
      EncoderClosedError         used after close(): open the file again

A command turns any of them into one message on stderr and the class's exit code. Exit code 1 is not
an error: it is the answer "bad" (a drift gate that failed), given by the command itself.

Messages have three parts: what was wrong, what was received, what to do next.
"""

from __future__ import annotations


class EmbedliteWarning(UserWarning):
    """Something was assumed that the caller may want to say."""


class EmbedliteError(Exception):
    """Base class: catching it catches everything that embedlite raises on purpose."""

    exit_code = 2


class RequestError(EmbedliteError):
    """An option that does not exist, or options that contradict each other."""


class MissingPackageError(EmbedliteError, ImportError):
    """A package is needed that is not installed; the message names the pip line that brings it."""


class NoInterpreterError(MissingPackageError):
    """No TFLite interpreter can be used in this environment."""


class ModelFileError(EmbedliteError):
    """A model file that cannot be used."""


class NotTFLiteError(ModelFileError):
    """The file is not a TFLite flatbuffer."""


class DamagedModelError(ModelFileError):
    """The bytes are not the ones that were written: truncated, altered, or structurally unsound."""


class NewerContractError(ModelFileError):
    """The file's contract has a schema that this version does not know."""


class UnsupportedModelError(ModelFileError):
    """The file is sound, but it is not a single-input, single-output, batch-1 encoder."""


class ModelLimitError(ModelFileError):
    """Loading it asks for more memory than a model of its size needs."""


class InterpreterFailedError(ModelFileError):
    """The interpreter refused the file, or failed while running it."""


class MissingOperatorError(InterpreterFailedError):
    """The interpreter lacks an operator of the file, or the version of it that the file needs."""


class DelegateError(InterpreterFailedError):
    """The delegate cannot be loaded, refused the file, or took none of its operators."""


class DelegateLoadError(DelegateError):
    """The delegate cannot be loaded, whatever the file: its library is missing or no delegate, or has no device."""


class InputError(EmbedliteError):
    """An input that does not fit the encoder."""


class EmptyBatchError(InputError):
    """A batch without an image."""


class InputShapeError(InputError):
    """An array of the wrong rank or size."""


class InputTypeError(InputError):
    """An array of a dtype that has no meaning as an image here."""


class InputValueError(InputError):
    """An array with NaN, infinity, or pixels outside 0-255."""


class DataError(EmbedliteError):
    """A folder or file of inputs or embeddings that cannot be used."""


class EmptyDataError(DataError):
    """There is nothing in it."""


class UnreadableDataError(DataError):
    """It exists, but it cannot be read as what it claims to be."""


class MonitorStateError(DataError):
    """A drift monitor's state that is of another model, of a newer version, in use, or not to be merged."""


class DeviceFiguresError(DataError):
    """What a device measured is of another model, or was written by a newer version."""


class EngineError(EmbedliteError):
    """A cluster that does not answer, has no workers, or lost them."""


class WorkerMismatchError(EngineError):
    """Workers whose results would not be those of this machine, or that could give none."""


class OutputError(EmbedliteError):
    """A result could not be written; nothing was left half written."""


class OutputExistsError(OutputError):
    """The file exists, and it was kept."""


class EncoderClosedError(EmbedliteError):
    """The encoder was used after ``close()``."""


EXIT_BAD_ANSWER = 1


EXIT_INTERRUPTED = 130
