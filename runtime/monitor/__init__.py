"""Drift in the field: a device compares some of its own inputs with a reference and keeps statistics that merge.

>>> from embedlite.runtime import DriftMonitor, Encoder
>>> with Encoder("model.int8.tflite") as encoder:                                        # doctest: +SKIP
...     with DriftMonitor(encoder, "model.float32.tflite", state="door.json") as monitor:
...         vector = monitor.embed_one(image)                                            # the encoder's own answer
"""

from .distribution import ReferenceDistribution
from .monitor import DriftMonitor

__all__ = ["DriftMonitor", "ReferenceDistribution"]
