"""The flags of `t2i` and `edit`, one dataclass a concern; help texts are the docstrings. Frozen, and without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from interlace.bulk.encoding import FormatName
from interlace.bulk.enhance import EnhanceFlags, Task
from interlace.bulk.stores import Layout
from interlace.flags import ModelGroup, NodeGroup, RunGroup, SpeedFlags
from interlace.models.editing import EditModel
from interlace.stages.flags import StageFlags

if TYPE_CHECKING:
    from interlace.bulk.backends.flags import ApiFlags

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
    """Where everything is written; made if missing."""
    overwrite: Annotated[bool, Switch] = False
    """Make every image anew, whatever is there."""
    output_format: FormatName = "png"
    """png loses nothing; jpeg and webp are smaller. All of them say how they were made."""
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
class ModelFlags:
    """What makes the images."""

    backend: str = "diffusers"
    """What makes the images: diffusers (here), openai or google_genai (services; see --base-url)."""
    torch_dtype: str | None = None
    """float32, bfloat16 or float16; by default bfloat16 on a GPU, float32 on a CPU."""
    device: str | None = None
    """cuda, cuda:1, cpu, ...; by default a GPU where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    variant: str | None = None
    """Which weight files, such as fp16."""
    local_files_only: Annotated[bool, Switch] = False
    """Don't download anything."""


@Parameter(name="*", group=NodeGroup)
@dataclass(frozen=True, kw_only=True)
class NodeFlags:
    """Which part of the rows this command makes, and by how many processes."""

    node_rank: int | None = None
    """Which of the nodes this is, from 0; by default what SkyPilot, Kubernetes or Slurm say."""
    num_nodes: int | None = None
    """How many nodes share the rows and the output folder; each row belongs to one of them, by its id."""
    num_gpus: int | None = None
    """Run one process on each of so many GPUs."""
    num_processes: int | None = None
    """Run so many processes, each with its own model; CPU threads are divided among them."""


@dataclass(frozen=True, kw_only=True)
class BulkFlags:
    """Everything that one bulk command was told, beside its rows."""

    model_name: str
    output: OutputFlags
    select: SelectFlags = field(default_factory=SelectFlags)
    run: RunFlags = field(default_factory=RunFlags)
    model: ModelFlags = field(default_factory=ModelFlags)
    speed: SpeedFlags = field(default_factory=SpeedFlags)
    nodes: NodeFlags = field(default_factory=NodeFlags)
    edit: EditModel | None = None  # None: pictures from prompts alone
    model_type: str | None = None  # of an edit, where the user names one
    enhance: EnhanceFlags = field(default_factory=EnhanceFlags)
    task: Task = "t2i"
    stages: StageFlags = field(default_factory=StageFlags)
    api: "ApiFlags | None" = None  # of a service
