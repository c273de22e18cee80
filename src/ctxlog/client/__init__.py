"""What users import: `ContextLog`, a log opened for appending and reading, and `Context`, one context in it.

    append: events (validated) -> meta -> Avro -> log.append -> for conditional ones, read back what the log decided
    read:   end of the partition -> the kept cursor reads on to it -> state

The outcome of a conditional append comes from reading the log, never from what the append returned: there is one
arbitration, and writers go through it as every reader does.
"""

from ctxlog.client.context import Context
from ctxlog.client.log import ContextLog
from ctxlog.client.options import AppendOptions

__all__ = ["AppendOptions", "Context", "ContextLog"]
