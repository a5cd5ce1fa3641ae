"""One state of every generator of random numbers that has a global one."""

import random
import sys

import numpy as np


def seed_everything() -> None:
    """As at the start of a process that asks for the seed 0; Keras and TensorFlow only where they are loaded.

    A Keras layer draws the seed of its weights when it is made, from Python's generator.
    """
    random.seed(0)
    np.random.seed(0)
    if "tensorflow" in sys.modules and (keras := sys.modules.get("keras")) is not None:
        keras.utils.set_random_seed(0)
