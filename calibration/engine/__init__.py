"""embedlite.calibration.engine: where the work on many images is done: on this machine, or on a Dask cluster.

A :class:`Task` says what is done with an image and what is kept of it. An :class:`Engine` runs it over a source and
hands on :class:`Part` after part, in no order; each image is in exactly one of them. On this machine a part is what one
thread made, on a cluster what one shard gave; whoever asked merges parts in the same way. Dask is imported only if it
is asked for. See docs/scale-out.md.
"""

from .listing import Listing, list_images
from .local import LocalEngine
from .open import DASK, LOCAL, open_engine
from .task import Engine, Part, Task, Work

__all__ = ["DASK", "LOCAL", "Engine", "Listing", "LocalEngine", "Part", "Task", "Work", "list_images", "open_engine"]
