"""Logs: the protocol, and the backends that keep it. Backends are strangers to each other.

`memory` is the reference, `embedded` one machine and several processes. Both pass `ctxlog.testing.conformance`.
"""
