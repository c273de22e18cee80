"""For tests of permissions, which hold for root only if it gives up that they do not."""

from __future__ import annotations

import ctypes

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def give_up_rights() -> None:
    """Runs in a child between fork and exec (`preexec_fn`), on Linux: permissions hold for the program, whoever runs it."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
