"""`ctxlog copy` in small batches, for the test that kills it: as many moments as possible lie between two of them.

python kafka_copying.py SOURCE TARGET
"""

from __future__ import annotations

import sys

from ctxlog.cli import main
from ctxlog.replay import copying

if __name__ == "__main__":
    copying.BATCH_RECORDS = 10
    sys.argv[1:] = ["copy", "--log", sys.argv[1], sys.argv[2], "-o", "json"]
    main()
