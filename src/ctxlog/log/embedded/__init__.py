"""The embedded log: one SQLite file, several processes, nothing to install."""

from ctxlog.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
