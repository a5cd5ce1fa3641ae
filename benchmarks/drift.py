"""The drift report: what it costs, and that each fault is caught by the gate that should catch it.

    python3 run.py bench drift [PART ...]      default: all parts, about four minutes on two cores

time        10,000 x 128 stored embeddings: the whole report, beyond Python's start; neighbours beside other libraries
memory      peak memory of the report on 1,000,000 x 128 stored embeddings, in another order, against as many
faults      planted faults in real embeddings, by the gate that caught them

Each part is a module of its own beside this file, and says there how it measures.
"""

import sys


def main() -> None:
    """Run the parts that were named, or all."""
    parts = ("time", "memory", "faults")
    chosen = sys.argv[1:] or parts
    unknown = [part for part in chosen if part not in parts]
    if unknown:
        sys.exit(f"there is no part {unknown[0]!r}. Use any of: {', '.join(parts)}.")
    for place, part in enumerate(chosen):
        print(f"{'' if place == 0 else chr(10)}# {part}\n", flush=True)
        if part == "faults":
            from drift_faults import show_faults

            show_faults()
        else:
            from drift_scale import measure_memory, measure_time

            measure_time() if part == "time" else measure_memory()


if __name__ == "__main__":
    main()
