"""A limit on the memory of the process that sets it.

The limit is RLIMIT_DATA of Linux: private memory that can be written, which is what `malloc`,
numpy, pyarrow and fastText allocate. Beyond it, their allocations fail, and Python raises
MemoryError. RLIMIT_AS also counts files that are mapped and address space that is only reserved:
a process with numpy and fastText has 313 MB of it, but 97 MB of data and 95 MB in memory (Linux,
Python 3.11).

What this leaves out: other systems, where the limit has no effect, and memory that is shared with
other processes.
"""

import re
import sys
from pathlib import Path

from lm_core.user_error import UserError


def limit_memory(max_bytes: int) -> None:
    """Let this process have at most `max_bytes` of data.

    Raises UserError if it has more than half of that before its first page.
    """
    if sys.platform != "linux":
        return
    import resource

    used = data_bytes()
    if used > max_bytes // 2:
        raise UserError(
            f"max_worker_memory is {max_bytes:,} bytes, but a worker has {used:,} before its "
            f"first page; give it at least {2 * used:,}"
        )
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def data_bytes() -> int:
    """Return the bytes of data of this process, on Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmData:\s+(\d+) kB", status, re.MULTILINE)
    assert found, "/proc/self/status has no VmData"
    return int(found[1]) * 1024
