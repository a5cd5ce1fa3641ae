"""Records of tf.train.Example, written without TensorFlow."""

import numpy as np
from google_crc32c import value as checksum


def record(image: np.ndarray | bytes) -> bytes:
    """One record of a tf.train.Example with the pixels, or other content, as bytes in the feature ``image``."""
    content = image if isinstance(image, bytes) else image.tobytes()
    return _record(_field(1, _field(1, content)), "image")


def listed(values: np.ndarray, *names: str) -> bytes:
    """One record with a list of floats, under each of the names."""
    return _record(_field(2, _field(1, values.astype("<f4").tobytes())), *names)


def _record(feature: bytes, *names: str) -> bytes:
    example = _field(1, b"".join(_field(1, _field(1, name.encode()) + _field(2, feature)) for name in names))
    length = len(example).to_bytes(8, "little")
    return length + _masked(length) + example + _masked(example)


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _masked(data: bytes) -> bytes:
    crc = checksum(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
