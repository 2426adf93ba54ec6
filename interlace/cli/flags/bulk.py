"""The flags of `t2i` and `edit`, one dataclass a concern; help texts are the docstrings. Frozen, and without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from interlace.bulk.enhance import Task
from interlace.bulk.launch.nodes import NodeSettings
from interlace.bulk.made import Wanted
from interlace.bulk.output.stores import Layout
from interlace.cli.flags.api import ApiFlags
from interlace.cli.flags.enhance import EnhanceFlags
from interlace.cli.flags.model import ModelFlags
from interlace.cli.flags.shared import (
    EngineFlags,
    ExtraFlags,
    FilmFlags,
    ModelGroup,
    NodeGroup,
    PictureFlags,
    RunGroup,
    SoundFlags,
    SpeedFlags,
)
from interlace.cli.flags.stages import StageFlags
from interlace.errors import InvalidRequestError
from interlace.media.encode import Encoder, Encoding
from interlace.media.formats.table import film_format, sound_format
from interlace.models.editing import EditModel
from interlace.stages.config import OmniStageConfig

FilmName = Literal["mp4", "webm", "webp", "gif", "frames"]
SoundName = Literal["wav", "flac", "ogg", "opus", "mp3", "aac"]
Switch = Parameter(negative=())
Many = Parameter(consume_multiple=True, negative=())


@Parameter(name="*", group=RunGroup)
@dataclass(frozen=True, kw_only=True)
class SelectFlags:
    """Which rows of the input are used, and how its columns are called."""

    rows: str | None = None
    """Use rows START:STOP or START:STOP:STEP, counted from 0: 0:100, 500:, -10:."""
    where: Annotated[list[str], Many] = field(default_factory=list)
    """Use rows that meet a condition: 'height >= 512', 'prompt ~ circle' (== != < <= > >= and ~ for contains)."""
    limit: int | None = None
    """Use only so many rows, from the start."""
    strict: Annotated[bool, Switch] = False
    """Make nothing where any row is broken."""
    dry_run: Annotated[bool, Switch] = False
    """Say what would be done, and write nothing."""
    match: Literal["number", "content"] = "number"
    """Which picture is a row's where it has no id: that of its number in the input, or that of its prompt and pictures,
    wherever in the input it stands."""
    split: str | None = None
    """Which split of a Hugging Face dataset."""
    subset: str | None = None
    """Which subset (configuration) of a Hugging Face dataset."""
    prompt_column: str | None = None
    """What the input calls its prompts."""
    instruction_column: str | None = None
    """What the input of an edit calls its instructions."""
    negative_prompt_column: str | None = None
    """What the input calls its negative prompts."""
    id_column: str | None = None
    """What the input calls its ids."""
    image_columns: Annotated[list[str], Many] = field(default_factory=list)
    """What the input of an edit calls its images: one column or more."""
    column: Annotated[list[str], Many] = field(default_factory=list)
    """Any column by another name, as OURS=THEIRS: seed=rng_seed."""
    ignore_unknown_columns: bool | None = None
    """Leave columns alone that have no meaning here; on for Parquet, datasets and folders, off for prompt files."""


@Parameter(name="*", group=RunGroup)
@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """Where and how images are written."""

    output_dir: Path = Path("output")
    """Where everything is written; made if missing. Also a URL that fsspec knows: s3://BUCKET/RUN, gs://BUCKET/RUN."""
    overwrite: Annotated[bool, Switch] = False
    """Make every image anew, whatever is there."""
    output_format: str = "png"
    """png (loses nothing), jpeg or webp (smaller). All of them say how they were made."""
    output_quality: int | None = None
    """Of jpeg (by default 95) and webp (90): 1 to 100."""
    output_layout: Layout = "files"
    """files: one an image; webdataset: tar shards that hold each image, its prompt and its parameters."""
    shard_size: int = 1000
    """Images a tar shard."""
    verify: Annotated[bool, Switch] = False
    """Read every image that is there already and make it again if a byte differs, instead of trusting its size."""
    export_parquet: Annotated[bool, Switch] = False
    """Write manifest.parquet at the end."""
    html: bool = True
    """Write report.html at the end: all images with their parameters on one page."""

    def encoder(self) -> Encoder:
        """What writes the files. Raises `InvalidRequestError` for a format or a quality that can't be."""
        return Encoding(self.output_format, self.output_quality)


@Parameter(name="*", group=RunGroup)
@dataclass(frozen=True, kw_only=True)
class FilmOutputFlags(OutputFlags):
    """Where and how films are written."""

    output_format: FilmName = "mp4"
    """mp4 and webm play anywhere; webp and gif are animated pictures; frames is a zip of PNGs, which loses nothing. All
    of them say how they were made."""
    output_quality: Annotated[int | None, Parameter(show=False)] = None
    """Films are written in one quality."""

    def encoder(self) -> Encoder:
        """As of pictures."""
        check_no_quality(self)
        return film_format(self.output_format)


@Parameter(name="*", group=RunGroup)
@dataclass(frozen=True, kw_only=True)
class SoundOutputFlags(OutputFlags):
    """Where and how sounds are written."""

    output_format: SoundName = "wav"
    """wav and flac lose nothing; ogg, opus, mp3 and aac are smaller. All of them say how they were made."""
    output_quality: Annotated[int | None, Parameter(show=False)] = None
    """Sounds are written in one quality."""

    def encoder(self) -> Encoder:
        """As of pictures."""
        check_no_quality(self)
        return sound_format(self.output_format)


def check_no_quality(flags: OutputFlags) -> None:
    """Raises `InvalidRequestError` for a quality of what has none."""
    if flags.output_quality is not None:
        raise InvalidRequestError(
            "films, sounds and answers are written in one quality; leave it out", "output_quality"
        )


@Parameter(name="*", group=RunGroup)
@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """How the run goes about it."""

    seed: int = 0
    """A row without a seed gets one made of this number, its id and the image's index."""
    grace_s: float = 60.0
    """Seconds that the first Ctrl-C waits for images under way."""
    max_retries: int | None = None
    """Further attempts at an image after an error that may pass, such as out of memory or a lost connection; by
    default 2, with a service 5."""
    retry_failed: Annotated[bool, Switch] = False
    """Run only the rows that failures.jsonl lists."""


@Parameter(name="*", group=ModelGroup)
@dataclass(frozen=True, kw_only=True)
class BackendFlags:
    """What makes the images."""

    backend: str = "diffusers"
    """What makes the images: diffusers (here), xdit (here, over the ranks that DG_XDIT_* ask for), openai or
    google_genai (services; see --base-url)."""


@Parameter(name="*", group=NodeGroup)
@dataclass(frozen=True, kw_only=True)
class NodeFlags(NodeSettings):
    """This node's settings as flags, and the cluster that takes the place of nodes."""

    ray: str | None = None
    """Make the images on a Ray cluster: auto (the one that this machine belongs to), its head's HOST:PORT, or local
    (this machine alone)."""
    num_replicas: int | None = None
    """Models on the Ray cluster, a GPU each; by default one on each GPU, or without GPUs one on each node. More than
    there is room for wait until nodes come."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """The flags that `t2i` and `edit` have in common: all but those of their input."""

    output: OutputFlags = OutputFlags()
    select: SelectFlags = SelectFlags()
    run: RunFlags = RunFlags()
    picture: PictureFlags = PictureFlags()
    model: ModelFlags = ModelFlags()
    maker: BackendFlags = BackendFlags()
    engine: EngineFlags = EngineFlags()
    extras: ExtraFlags = ExtraFlags()
    speed: SpeedFlags = SpeedFlags()
    nodes: NodeFlags = NodeFlags()
    stages: StageFlags = StageFlags()
    api: ApiFlags = ApiFlags()
    enhance: EnhanceFlags = EnhanceFlags()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FilmCommonFlags:
    """The flags of `t2v` beside its input's."""

    output: FilmOutputFlags = FilmOutputFlags()
    select: SelectFlags = SelectFlags()
    run: RunFlags = RunFlags()
    picture: FilmFlags = FilmFlags()
    model: ModelFlags = ModelFlags()
    engine: EngineFlags = EngineFlags()
    extras: ExtraFlags = ExtraFlags()
    speed: SpeedFlags = SpeedFlags()
    nodes: NodeFlags = NodeFlags()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SoundCommonFlags:
    """The flags of `t2a` beside its input's."""

    output: SoundOutputFlags = SoundOutputFlags()
    select: SelectFlags = SelectFlags()
    run: RunFlags = RunFlags()
    sound: SoundFlags = SoundFlags()
    model: ModelFlags = ModelFlags()
    engine: EngineFlags = EngineFlags()
    speed: SpeedFlags = SpeedFlags()
    nodes: NodeFlags = NodeFlags()


@dataclass(frozen=True, kw_only=True)
class BulkFlags(CommonFlags):
    """Everything that one bulk command was told, beside its rows."""

    task: Task = "t2i"
    makes: Wanted = "pictures"
    own_stages: tuple[OmniStageConfig, ...] | None = None  # of a command that makes its own
    edit: EditModel | None = None  # None: pictures from prompts alone
    model_type: str | None = None  # of an edit, where the user names one

    @property
    def backend(self) -> str:
        """What makes the images."""
        return self.maker.backend

    @property
    def draws_here(self) -> bool:
        """Whether a model of our own does, and no service."""
        return self.backend in ("diffusers", "xdit")

    def check_for_ray(self) -> None:
        """Raises `InvalidRequestError` for flags that --ray has no use for."""
        for name in ("node_rank", "num_nodes", "num_gpus", "num_processes"):
            if getattr(self.nodes, name) is not None:
                flag = name.replace("_", "-")
                text = f"--{flag} and --ray exclude each other: --num-replicas says how many models Ray is to run"
                raise InvalidRequestError(text, name)
        if self.backend != "diffusers":
            raise InvalidRequestError(f"--ray needs --backend diffusers; got {self.backend}", "backend")
        if self.stages.given:
            name = self.stages.given[0].replace("_", "-")
            raise InvalidRequestError(f"--ray runs one model; leave --{name} out, or take --num-processes", "ray")

    def check_for_remote(self, url: str) -> None:
        """Raises `InvalidRequestError` for flags that an output folder in an object store has no use for."""
        if self.output.output_layout != "files":
            raise InvalidRequestError(f"{url} takes files; tar shards grow, which objects can't", "output_layout")
        if self.output.verify:
            raise InvalidRequestError(f"--verify reads local folders; {url} keeps checksums of its own", "verify")
