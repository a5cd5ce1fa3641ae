"""Whether an export doubts contracts that are right, and how many wrong ones it doubts.

    python3 run.py bench contracts      about five minutes on two cores

Small encoders, with BatchNormalization and without, are trained on crops of photos to tell from which photo each comes,
under ten contracts; backbones of keras.applications have random weights and batch statistics of such crops under the
contract of their own preprocessing. Each is asked with crops of photos that it has not seen, under its own contract,
of which nothing may be said, and under the usual others.
"""

import sys
from collections.abc import Iterator

import numpy as np
from zoo_networks import CALIBRATION, TEST, crops

from embedlite.runtime.commands.options import quiet_libraries

with quiet_libraries():
    import keras
    from keras import layers

from embedlite.convert.contract_search import CAFFE, SCALINGS
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.verify.doubt_contract import doubt_contract
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.input.preprocess import scaled
from embedlite.runtime.model.contract import InputContract

SMALL, LARGE, TRAINED, ASKED = 48, 96, 512, 24
UNIT, RAW, SIGNED, TORCH, _ = SCALINGS

CONTRACTS = {
    "0-1": (UNIT, "rgb"),
    "0-1, BGR": (UNIT, "bgr"),
    "-1 to 1": (SIGNED, "rgb"),
    "-1 to 1, BGR": (SIGNED, "bgr"),
    "0-255": (RAW, "rgb"),
    "0-255, BGR": (RAW, "bgr"),
    "torch": (TORCH, "rgb"),
    "caffe": ((CAFFE[::-1], (1.0,)), "bgr"),
    "gray, 0-1": (UNIT, "gray"),
    "gray, -1 to 1": (SIGNED, "gray"),
}
BACKBONES = {
    "MobileNet": "-1 to 1",
    "MobileNetV2": "-1 to 1",
    "MobileNetV3Small": "0-255",
    "EfficientNetB0": "0-255",
    "EfficientNetV2B0": "0-255",
    "DenseNet121": "torch",
    "ResNet50": "caffe",
    "ResNet50V2": "-1 to 1",
    "InceptionV3": "-1 to 1",
    "Xception": "-1 to 1",
}

Case = tuple[str, keras.Model, InputContract]


def contract_of(name: str, size: int) -> InputContract:
    """One of :data:`CONTRACTS`."""
    (mean, std), order = CONTRACTS[name]
    channels = 1 if order == "gray" else 3
    return InputContract((size, size, channels), mean=mean, std=std, color_order=order)


def pixels_of(images: np.ndarray, contract: InputContract) -> np.ndarray:
    """RGB crops in the channels of a contract."""
    if contract.color_order == "gray":
        return np.rint(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    return np.ascontiguousarray(images[..., ::-1] if contract.color_order == "bgr" else images)


def small(contract: InputContract, *, batch_normalization: bool) -> keras.Model:
    """An encoder that was trained under a contract."""
    keras.utils.set_random_seed(0)
    body = [keras.Input(contract.shape)]
    for width in (16, 32, 48):
        body += [layers.Conv2D(width, 3, strides=2, padding="same")]
        # A hundred steps are few: at the usual momentum a quarter of the statistics would be those of the start.
        body += [layers.BatchNormalization(momentum=0.9)] if batch_normalization else []
        body += [layers.ReLU()]
    encoder = keras.Sequential([*body, layers.GlobalAveragePooling2D(), layers.Dense(32)])
    images, photos = [], []
    for place, photo in enumerate(CALIBRATION):
        images.append(crops((photo,), TRAINED // len(CALIBRATION), SMALL, place))
        photos += [place] * len(images[-1])
    ready = scaled(pixels_of(np.concatenate(images), contract).astype(np.float32), contract)
    whole = keras.Sequential([encoder, layers.ReLU(), layers.Dense(len(CALIBRATION), activation="softmax")])
    whole.compile(keras.optimizers.Adam(0.002), "sparse_categorical_crossentropy")
    whole.fit(ready, np.array(photos), batch_size=32, epochs=8, verbose=0)
    return encoder


def backbone(name: str, contract: InputContract) -> keras.Model:
    """An architecture with batch statistics of crops."""
    keras.utils.set_random_seed(5)
    architecture = getattr(keras.applications, name)
    model = architecture(weights=None, include_top=False, pooling="avg", input_shape=contract.shape)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    images = pixels_of(crops(CALIBRATION, ASKED, LARGE, 1), contract)
    model(scaled(images.astype(np.float32), contract), training=True)
    return model


def cases() -> Iterator[Case]:
    """Name, model and its right contract."""
    for name in CONTRACTS:
        contract = contract_of(name, SMALL)
        for batch_normalization in (True, False):
            kind = "trained, with BatchNormalization" if batch_normalization else "trained"
            yield f"{kind}, {name}", small(contract, batch_normalization=batch_normalization), contract
    for name, kind in BACKBONES.items():
        contract = contract_of(kind, LARGE)
        yield f"{name}, {kind}", backbone(name, contract), contract


def others(contract: InputContract) -> Iterator[InputContract]:
    """The usual contracts of as many channels that are not this one."""
    for name in CONTRACTS:
        other = contract_of(name, contract.shape[0])
        if other.shape == contract.shape and other != contract:
            yield other


def main() -> None:
    """Ask of each case, print; exit code 1 if a right contract was doubted."""
    wrongly = count = 0
    print(f"{'encoder':<46}{'right':<14}{'wrong: refused':>15}{'doubted':>9}{'nothing said':>14}")
    for name, model, contract in cases():
        lowered, found = lower(from_keras(model, "encoder", LoadOptions())), {"refused": 0, "doubted": 0, "": 0}
        images = crops(TEST, ASKED, contract.shape[0], 2)

        def asked(one: InputContract) -> str:
            source = open_source(pixels_of(images, one), one)  # noqa: B023
            try:
                doubts = doubt_contract("encoder", lowered, source, one, accept=False)  # noqa: B023
                if doubts and one == contract:  # noqa: B023
                    print(*doubts, sep="\n")
                return "doubted" if doubts else ""
            except RequestError:
                return "refused"

        right = asked(contract)
        for other in others(contract):
            found[asked(other)] += 1
        count += 1
        wrongly += bool(right)
        said = right or "nothing said"
        print(f"{name:<46}{said:<14}{found['refused']:>15}{found['doubted']:>9}{found['']:>14}", flush=True)
        keras.backend.clear_session()
    print(f"\n{wrongly} of {count} right contracts were doubted")
    sys.exit(bool(wrongly))


if __name__ == "__main__":
    main()
