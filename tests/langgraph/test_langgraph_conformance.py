"""LangGraph's own suite for checkpointers, run over an embedded log."""

import asyncio

from langgraph.checkpoint.conformance import checkpointer_test, validate

from ctxlog import ContextLog
from ctxlog.adapters.langgraph import CtxlogSaver


def test_every_test_of_langgraphs_suite_passes(tmp_path, capsys):
    made = iter(range(100))

    @checkpointer_test(name="CtxlogSaver")
    async def saver():
        with ContextLog.open(f"embedded:{tmp_path / str(next(made))}") as log:
            yield CtxlogSaver(log, agent="suite")

    report = asyncio.run(validate(saver))
    passed = sum(result.tests_passed for result in report.results.values())
    failures = [failure for result in report.results.values() for failure in result.failures]
    with capsys.disabled():
        print(f"\nlanggraph-checkpoint-conformance: {passed} of {passed + len(failures)} passed")
    assert not failures, "\n".join(failures)
    assert report.passed_all()
    assert passed == 81
