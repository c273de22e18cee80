"""A tool that counts its runs."""

from __future__ import annotations

from typing import Any

PAY = {"order": "W-204", "amount": 129.9}
"""What it is called with."""


class Tool:
    """A tool that counts its runs."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.ran: list[Any] = []

    def __call__(self, arguments: Any) -> Any:
        self.ran.append(arguments)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, BaseException):
            raise result
        return result
