"""Records of tf.train.Example, written without TensorFlow."""

import numpy as np
from google_crc32c import value as checksum


def record(image: np.ndarray) -> bytes:
    """One record of a tf.train.Example with the pixels as bytes."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    def masked(data: bytes) -> bytes:
        crc = checksum(data)
        return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    entry = field(1, b"image") + field(2, field(1, field(1, image.tobytes())))
    example = field(1, field(1, entry))
    length = len(example).to_bytes(8, "little")
    return length + masked(length) + example + masked(example)
