"""Calibration: what it costs in time and memory, and what it gains in accuracy.

    python3 run.py bench calibration [PART ...]      default: all parts, about ten minutes on two cores

throughput  images a second of plain float inference, of embedlite's calibration with and without histograms, of
            litert-quantizer's two calibrators and of TensorFlow's converter; the six-block encoder at 512x512x3
memory      peak memory of calibrating with histograms on 100 and on 2,000 images of a mapped .npy
accuracy    int8 with ranges by `minmax` and by `auto` against TensorFlow's converter, same calibration images

Each part is a module of its own beside this file, and says there how it measures.
"""

import sys


def main() -> None:
    """Run the parts that were named, or all."""
    parts = ("throughput", "memory", "accuracy")
    chosen = sys.argv[1:] or parts
    unknown = [part for part in chosen if part not in parts]
    if unknown:
        sys.exit(f"there is no part {unknown[0]!r}. Use any of: {', '.join(parts)}.")
    for place, part in enumerate(chosen):
        print(f"{'' if place == 0 else chr(10)}# {part}\n", flush=True)
        if part == "throughput":
            from calibration_throughput import measure_throughput

            measure_throughput()
        elif part == "memory":
            from calibration_memory import measure_memory

            measure_memory()
        else:
            from calibration_accuracy import measure_accuracy

            measure_accuracy()


if __name__ == "__main__":
    main()
