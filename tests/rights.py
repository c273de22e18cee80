"""For tests of permissions, which hold for root only if it gives up that they do not."""

from __future__ import annotations

import ctypes

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def give_up_rights() -> None:
    """Runs in a child between fork and exec (`preexec_fn`), on Linux: permissions hold for the program, whoever runs it."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
