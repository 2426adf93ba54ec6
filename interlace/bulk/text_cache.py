"""Texts that a language model wrote, kept in a file by what they were written from."""

import sqlite3
import threading
from pathlib import Path

from interlace.errors import InvalidRequestError


class TextCache:
    """Texts by what they were written from, in a file that many processes may share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._database.execute("CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, prompt TEXT, text TEXT)")
        except (sqlite3.Error, OSError) as error:
            how = "delete it, or name another with --prompt-enhance-cache"
            message = f"{path} can't keep rewritten prompts: {error}; {how}"
            raise InvalidRequestError(message, "prompt_enhance_cache") from error

    def get(self, key: str) -> str | None:
        with self._lock:
            found = self._database.execute("SELECT text FROM texts WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def put(self, key: str, prompt: str, text: str) -> str:
        """The text that stands for `key` from now on: where another process was quicker, its text."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", (key, prompt, text))
        return self.get(key) or text

    def close(self) -> None:
        with self._lock:
            self._database.close()
