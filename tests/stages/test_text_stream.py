"""Tokens as text: nothing uncertain is told, whatever the pieces."""

from interlace.stages.language.text_stream import TextStream


class Bytes:
    """A tokenizer with one token a byte."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


def run(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream, tokens, told = TextStream(Bytes(), stop), list(text.encode()), []
    for count in range(1, len(tokens) + 1):
        told.append(stream.take(tokens[:count], last=count == len(tokens)))
    return told, stream


def test_a_character_of_several_tokens_comes_whole() -> None:
    told, stream = run("né 🎨!")
    assert "".join(told) == stream.text == "né 🎨!"
    assert not any("�" in one for one in told)


def test_what_may_begin_a_stop_text_waits() -> None:
    told, stream = run("one\n\ntwo", ("\n\n\n", "\n\nt"))
    assert "".join(told) == stream.text == "one"
    assert stream.stopped
    told, stream = run("one\n\nthree", ("\n\n\n",))
    assert "".join(told) == stream.text == "one\n\nthree"
