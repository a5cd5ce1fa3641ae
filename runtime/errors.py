"""Every error that embedlite raises on purpose.

The tree; each package adds its own leaves in its own ``errors`` module::

    EmbedliteError                      exit code 2
      RequestError                      an option, or options that contradict each other
      MissingPackageError               also an ImportError; names the pip line
        NoInterpreterError              neither ai-edge-litert nor tflite-runtime can be used
      ModelFileError                    a .tflite file that cannot be trusted or read
        NotTFLiteError                  not a TFLite flatbuffer at all
        DamagedModelError               truncated, or its SHA-256 is not the one it was written with
        NewerContractError              written by a newer embedlite than this one
        UnsupportedModelError           a sound file that is no encoder this package can run
        InterpreterFailedError          the interpreter refused the file or failed while it ran it
          MissingOperatorError          it lacks an operator that the file needs; names one that has it
          DelegateError                 a delegate that cannot be loaded, refused the file, or took none of it
      InputError                        what the caller passed to an encoder
        EmptyBatchError                 no image in it
        InputShapeError                 another rank or size; names the likely mistake
        InputTypeError                  int8, bool, text, objects: no images
        InputValueError                 NaN, infinity, or pixels outside 0-255
      DataError                         a folder or file of inputs, or of stored embeddings
        EmptyDataError
        UnreadableDataError
        MonitorStateError               a drift monitor's state that belongs to something else, or is in use
      OutputError                       a result that could not be written
        OutputExistsError               kept, because nobody said --force
      EncoderClosedError

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
    """The file is sound, but it is no single-input, single-output, batch-1 encoder."""


class InterpreterFailedError(ModelFileError):
    """The interpreter refused the file, or failed while running it."""


class MissingOperatorError(InterpreterFailedError):
    """The interpreter lacks an operator of the file, or the version of it that the file needs."""


class DelegateError(InterpreterFailedError):
    """The delegate cannot be loaded, refused the file, or took none of its operators."""


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


class OutputError(EmbedliteError):
    """A result could not be written; nothing was left half written."""


class OutputExistsError(OutputError):
    """The file exists, and it was kept."""


class EncoderClosedError(EmbedliteError):
    """The encoder was used after ``close()``."""
