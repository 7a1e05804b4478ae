"""An answer over HTTP, whoever passes it on."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """``status`` with its words, as WSGI wants it; the body's type; the body."""

    status: str
    content_type: str
    body: str

    @property
    def headers(self) -> dict[str, str]:
        """Of HTTP."""
        return {"Content-Type": self.content_type, "Cache-Control": "no-store"}
