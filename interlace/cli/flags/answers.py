"""The flags of `answer`, beside those of all bulk commands."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from interlace.cli.flags.bulk import OutputFlags, RunFlags, SelectFlags, check_no_quality
from interlace.cli.flags.model import ModelFlags
from interlace.cli.flags.shared import BatchingGroup, RunGroup
from interlace.errors import InvalidRequestError
from interlace.media.encode import Encoder
from interlace.media.formats.table import sound_format
from interlace.media.formats.texts import PlainText

AnswerName = Literal["txt", "wav", "flac", "ogg", "opus", "mp3", "aac"]
AnswerGroup = Group("Answers", sort_key=2, help="For all rows; a row's own column wins. Left out: the model's default.")


@Parameter(name="*", group=RunGroup)
@dataclass(frozen=True, kw_only=True)
class AnswerOutputFlags(OutputFlags):
    """Where and how answers are written."""

    output_format: AnswerName = "txt"
    """txt writes a text file an answer. wav and the other formats of sound have the model speak: a file of sound an
    answer. The manifest has the text either way."""
    output_quality: Annotated[int | None, Parameter(show=False)] = None
    """Answers are written in one quality."""

    @property
    def speaks(self) -> bool:
        """Whether answers are spoken."""
        return self.output_format != "txt"

    def encoder(self) -> Encoder:
        """As of pictures."""
        check_no_quality(self)
        return sound_format(self.output_format) if self.speaks else PlainText()


@Parameter(name="*", group=AnswerGroup)
@dataclass(frozen=True, kw_only=True)
class AnswerFlags:
    """How answers are written and spoken."""

    max_tokens: int | None = None
    """Longest answer in tokens."""
    temperature: float | None = None
    """0 takes the likeliest token always."""
    top_p: float | None = None
    """Tokens are drawn from the likeliest that make up so much of the probability."""
    top_k: int | None = None
    """Tokens are drawn from so many of the likeliest; 0: from all."""
    voice: str | None = None
    """Who speaks."""
    max_speech_tokens: int | None = None
    """Longest speech in the talker's tokens; by default 4096."""
    system_prompt: str | None = None
    """What the model is told before every row."""

    def sampling(self) -> dict[str, object]:
        """What is not left to defaults, but for the system prompt."""
        named = {name: value for name, value in vars(self).items() if name != "system_prompt"}
        return {name: value for name, value in named.items() if value is not None}


@Parameter(name="*", group=BatchingGroup)
@dataclass(frozen=True, kw_only=True)
class AnswerEngineFlags:
    """How many rows are under way."""

    max_num_seqs: Annotated[int, Parameter(alias="--batch-size")] = 16
    """Rows in flight at once."""

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1:
            raise InvalidRequestError(f"max_num_seqs is {self.max_num_seqs}; expected at least 1", "max_num_seqs")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AnswerCommonFlags:
    """The flags of `answer` beside its input's."""

    output: AnswerOutputFlags = AnswerOutputFlags()
    select: SelectFlags = SelectFlags()
    run: RunFlags = RunFlags()
    answer: AnswerFlags = AnswerFlags()
    model: ModelFlags = ModelFlags()
    batching: AnswerEngineFlags = AnswerEngineFlags()
