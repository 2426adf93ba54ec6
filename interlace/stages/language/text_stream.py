"""Tokens as text while they arrive: nothing that a later token could still change, nothing after a stop text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextStream:
    """The text of one answer. `stopped` is true once a stop text was written; `text` ends before it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._hold = max((len(one) for one in stop), default=1) - 1  # a stop text may have begun
        self.tokens: list[int] = []  # those that were written, with what ended the text
        self.text = ""
        self.stopped = False
        self._told = 0
        self._prefix = self._read = 0  # the last tokens before `_read` give the next ones their spacing

    def take(self, tokens: Sequence[int], *, last: bool) -> str:
        """All tokens so far; returns the text that is new and certain."""
        if self.stopped:
            return ""
        self.tokens = list(tokens)
        before = self._tokenizer.decode(self.tokens[self._prefix : self._read], skip_special_tokens=True)
        now = self._tokenizer.decode(self.tokens[self._prefix :], skip_special_tokens=True)
        if last or (len(now) > len(before) and not now.endswith("�")):  # not in the middle of a character
            self.text += now[len(before) :]
            self._prefix, self._read = self._read, len(self.tokens)
        cut = min((at for at in (self.text.find(one) for one in self._stop) if at >= 0), default=-1)
        if cut >= 0:
            self.text, self.stopped = self.text[:cut], True
        sure = len(self.text) if last or self.stopped else max(len(self.text) - self._hold, self._told)
        new, self._told = self.text[self._told : sure], sure
        return new
