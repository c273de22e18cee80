"""The conformance kit: what a backend must do so that everything above it works, as tests to be subclassed.

    from ctxlog.testing.conformance import EventLogConformance

    class TestMyLog(EventLogConformance):
        def create_log(self, folder, partitions):
            return MyLog(folder, partitions=partitions)

Each group of tests is a class of its own in a file of its own, so that an author can begin with one. Needs `pytest` and
`hypothesis`. For readable failures, put `pytest.register_assert_rewrite("ctxlog.testing.conformance")` into `conftest.py`.
"""

from ctxlog.testing.conformance.agreement import AgreementCase
from ctxlog.testing.conformance.appending import AppendingCase
from ctxlog.testing.conformance.base import LogCase
from ctxlog.testing.conformance.contexts import ContextsCase
from ctxlog.testing.conformance.following import FollowingCase
from ctxlog.testing.conformance.handles import HandlesCase
from ctxlog.testing.conformance.points import PointsCase
from ctxlog.testing.conformance.reading import ReadingCase
from ctxlog.testing.conformance.times import TimesCase

__all__ = [
    "AgreementCase",
    "AppendingCase",
    "ContextsCase",
    "EventLogConformance",
    "FollowingCase",
    "HandlesCase",
    "LogCase",
    "PointsCase",
    "ReadingCase",
    "TimesCase",
]


class EventLogConformance(
    AppendingCase, ReadingCase, TimesCase, FollowingCase, HandlesCase, ContextsCase, PointsCase, AgreementCase
):
    """All groups: a backend that passes them can stand below ctxlog."""
