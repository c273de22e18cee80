"""Recorded agent runs become streams of a log.

    path -> files -> JSON (strict) -> format (looked for, or named) -> runs -> drafts of events -> compared with the stream -> log

Whatever the same file says twice is in the log once: an event's id follows from format, stream and place in the run, so an
import that is repeated or was cut short adds what is missing and nothing else.
"""

from ctxlog.importers.formats import FORMATS
from ctxlog.importers.importing import Failure, ImportReport, Progress, import_path

__all__ = ["FORMATS", "Failure", "ImportReport", "Progress", "import_path"]
