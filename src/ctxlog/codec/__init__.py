"""Events to bytes and back: schemas, framing, bodies within bounds, control records.

The one home of fastavro. Whatever bytes come in, only ctxlog's typed errors come out.
"""
