"""Search by meaning, over embeddings that the user's function makes.

Embeddings are derived: they stand in no event, and each process makes those of what it searches, once for a value. So another
model searches the same log, and nothing has to be written anew.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from langgraph.store.base import IndexConfig, SearchItem, ensure_embeddings, get_text_at_path, tokenize_path

from ctxlog.adapters.langgraph.looking import Search
from ctxlog.adapters.langgraph.namespaces import Held
from ctxlog.errors import InvalidInputError

VALUES_MAX = 10_000
"""Values whose embeddings are kept: with 1,536 numbers each, about 60 MB."""

Vectors = Any
"""An array of numpy with a row of length 1 for each text of a value."""


class SemanticIndex:
    """Embeds values, and ranks them by a query. Threads may share one.

    Args:
        config: As LangGraph's stores take it: `embed`, `dims`, and `fields` (by default the whole value).
    """

    def __init__(self, config: IndexConfig) -> None:
        if config.get("embed") is None:
            raise InvalidInputError("index: expected `embed`, a function or LangChain's Embeddings; nothing was opened")
        self._embeddings = ensure_embeddings(config["embed"])
        self._dims = config.get("dims")
        self._paths = ["$" if path == "$" else tokenize_path(path) for path in config.get("fields") or ["$"]]
        self._kept: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def rank(self, search: Search, query: str) -> list[SearchItem]:
        """What a search gives, by likeness to a query: the cosine to the nearest of an item's texts."""
        if not search.held:
            return search.result()
        known, texts = self._look(search)
        every = [text for of_one in texts.values() for text in of_one]
        made = self._keep(texts, self._embeddings.embed_documents(every) if every else [])
        return self._result(search, self._embeddings.embed_query(query), {**known, **made})

    async def arank(self, search: Search, query: str) -> list[SearchItem]:
        """As `rank`."""
        if not search.held:
            return search.result()
        known, texts = await asyncio.to_thread(self._look, search)
        every = [text for of_one in texts.values() for text in of_one]
        made = self._keep(texts, await self._embeddings.aembed_documents(every) if every else [])
        return self._result(search, await self._embeddings.aembed_query(query), {**known, **made})

    def _look(self, search: Search) -> tuple[dict[bytes, Vectors], dict[bytes, list[str]]]:
        """The vectors that are at hand, by the digest of a value, and the texts of the values that are to be embedded."""
        values = {_digest(held): held for held in search.held}
        with self._lock:
            known = {value: self._kept[value] for value in values if value in self._kept}
            for value in known:
                self._kept.move_to_end(value)
        return known, {value: self._texts(search.value(held)) for value, held in values.items() if value not in known}

    def _result(self, search: Search, query: Sequence[float], vectors: Mapping[bytes, Vectors]) -> list[SearchItem]:
        (asked,) = self._arrays([query])
        every = [vectors[_digest(held)] for held in search.held]
        return search.result([float((rows @ asked).max()) if len(rows) else None for rows in every])

    def _texts(self, value: dict[str, Any]) -> list[str]:
        plain = json.loads(json.dumps(value, default=str, skipkeys=True))  # A time has no text of its own in JSON.
        return [text for path in self._paths for text in get_text_at_path(plain, path)]

    def _keep(self, texts: Mapping[bytes, Sequence[str]], made: Sequence[Sequence[float]]) -> dict[bytes, Vectors]:
        expected = sum(map(len, texts.values()))
        if len(made) != expected:
            raise InvalidInputError(f"index: `embed` gave {len(made)} vectors for {expected} texts; nothing was searched")
        arrays, rows = self._arrays(made), {}
        for text, of_one in texts.items():
            rows[text], arrays = arrays[: len(of_one)], arrays[len(of_one) :]
        with self._lock:
            self._kept.update(rows)
            while len(self._kept) > VALUES_MAX:
                self._kept.popitem(last=False)
        return rows

    def _arrays(self, vectors: Sequence[Sequence[float]]) -> Vectors:
        """The vectors as rows of length 1; those of length 0 stay as they are, and are like nothing."""
        import numpy as np

        try:
            rows = np.array(vectors, dtype=np.float32).reshape(len(vectors), -1) if len(vectors) else np.empty((0, 0))
        except (ValueError, TypeError):
            raise InvalidInputError("index: `embed` gave vectors of different lengths; nothing was searched") from None
        if self._dims is not None and len(rows) and rows.shape[1] != self._dims:
            raise InvalidInputError(
                f"index: expected vectors of {self._dims} numbers, `embed` gave {rows.shape[1]}; nothing was searched"
            )
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)


def _digest(held: Held) -> bytes:
    """What stands for a value: the same text is embedded once."""
    return sha256(held.fact.value.encode()).digest()
