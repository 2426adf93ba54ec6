"""What a pipeline makes beside pictures: films and sound, how fast they play, and how long they are to be."""

from collections.abc import Container, Mapping
from inspect import Parameter
from typing import Any, Literal

from interlace.errors import InvalidRequestError

Makes = Literal["pictures", "film", "sound"]

# Frames a second by the beginning of the pipeline's class, as the example of each in diffusers writes them.
_FPS: dict[str, float] = {
    "Allegro": 15, "AnimateDiff": 8, "Cosmos2_5": 16, "Cosmos2Video": 16, "CogVideoX": 8, "ConsisID": 8, "Cosmos": 30,
    "EasyAnimate": 8, "Helios": 24, "HunyuanVideoFramepack": 30, "HunyuanVideo15": 24, "Hunyuan": 15, "Kandinsky": 24,
    "Latte": 10, "LTX": 24, "LucyEdit": 24, "Mochi": 30, "MotifVideo": 24, "SkyReels": 24, "StableVideoDiffusion": 7,
    "WanAnimate": 30,
}  # fmt: skip
_OTHER_FPS = 16.0  # Wan's, and SANA-Video's
_FRAMES = ("num_frames", "frames", "video_length")  # what pipelines call how many frames a film is to have
_RATES = ("frame_rate", "fps")  # what pipelines call it where the model itself is told
_LENGTHS = ("audio_end_in_s", "audio_length_in_s", "audio_duration_s", "audio_duration", "duration")  # seconds of sound


def makes(parameters: Container[str]) -> Makes:
    """What comes out of a pipeline whose call has these parameters."""
    if frames_name(parameters) is not None:
        return "film"
    return "sound" if any(name in parameters for name in _LENGTHS) else "pictures"


def frames_name(parameters: Container[str]) -> str | None:
    """What a pipeline with these parameters calls `num_frames`; None where it makes no films."""
    return next((name for name in _FRAMES if name in parameters), None)


def begins_with_picture(pipeline: object, parameters: Mapping[str, Parameter]) -> bool:
    """Whether a pipeline makes films and needs a picture for each."""
    image = parameters.get("image")
    if image is None or makes(parameters) != "film":
        return False
    return image.default is image.empty or "ImageToVideo" in type(pipeline).__name__


def check_picture(pipeline: object, parameters: Mapping[str, Parameter], arguments: Mapping[str, object]) -> None:
    """Raises `InvalidRequestError` where films begin with a picture and none is given, nor its embeddings."""
    name, given = type(pipeline).__name__, (key for key, value in arguments.items() if value is not None)
    if begins_with_picture(pipeline, parameters) and not any(key.startswith("image") for key in given):
        text = f"{name} begins a film with a picture and none is given; give one, or choose a model that needs none"
        raise InvalidRequestError(text, "image")


def film_fps(pipeline: Any, arguments: Mapping[str, Any], defaults: Mapping[str, Any], asked: float | None) -> float:
    """How many frames a second a film of these `arguments` has: as asked for, as the model was told, or its usual."""
    told = next((arguments[name] for name in _RATES if arguments.get(name) is not None), None)
    usual = next((fps for kind, fps in _FPS.items() if type(pipeline).__name__.startswith(kind)), _OTHER_FPS)
    return float(asked or told or defaults.get("fps") or usual)


def frames_of(seconds: float, fps: float, pipeline: object) -> int:
    """The number of frames that lasts about so long and that the model's autoencoder takes: a multiple of its step,
    and one."""
    names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
    step = next((int(value) for name in names if isinstance(value := getattr(pipeline, name, None), (int, float))), 1)
    return max(1, round(seconds * fps / step) * step + (step > 1))


def check_num_frames(pipeline: object, num_frames: int | None) -> None:
    """Raises `InvalidRequestError` for a film that is longer than a pipeline's motion adapter knows, or of another
    length than the only one that its model was made for (Latte). Other pipelines take any number of frames, or round
    it."""
    if num_frames is None:
        return
    most = _says(pipeline, "motion_adapter", "motion_max_seq_length")
    if most is not None and num_frames > most:
        text = f"num_frames is {num_frames}; expected 1 to {most}, which is as long as the motion adapter's films are"
        raise InvalidRequestError(text, "num_frames")
    only = _says(pipeline, "transformer", "video_length")
    if only is not None and num_frames not in (1, only):
        text = f"num_frames is {num_frames}; expected {only}, or 1: this model's films have no other length"
        raise InvalidRequestError(text, "num_frames")


def _says(pipeline: object, part: str, name: str) -> int | None:
    """What the configuration of a pipeline's part has under a name."""
    found = getattr(getattr(getattr(pipeline, part, None), "config", None), name, None)
    return found if isinstance(found, int) else None


def length_arguments(
    pipeline: Any, parameters: Mapping[str, Any], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """`seconds` and `fps` of a request as the pipeline's own arguments; `given` has them, and `num_frames`.

    Raises `InvalidRequestError` where the pipeline makes nothing that lasts, or a length is given twice.
    """
    seconds, fps, num_frames = given.get("seconds"), given.get("fps"), given.get("num_frames")
    kind, name = makes(parameters), type(pipeline).__name__
    for field, value in (("seconds", seconds), ("fps", fps)):
        if value is not None and (kind == "pictures" or (field == "fps" and kind == "sound")):
            text = f"{name} makes {kind}, which have no {field}; leave it out, or choose a model that makes films"
            raise InvalidRequestError(text, field)
    if seconds is not None and num_frames is not None:
        raise InvalidRequestError("seconds and num_frames are given; expected one of them", "seconds")
    if kind == "sound":
        length = next(name for name in _LENGTHS if name in parameters)
        return {} if seconds is None else {length: float(seconds)}
    found: dict[str, Any] = {}
    rate = next((one for one in _RATES if one in parameters), None)
    if fps is not None and rate is not None:
        found[rate] = int(fps) if float(fps).is_integer() else float(fps)
    if seconds is not None:
        own = {one: default_of(parameters, one) for one in _RATES if one in parameters}
        found[frames_name(parameters) or "num_frames"] = frames_of(
            seconds, film_fps(pipeline, {**own, **defaults}, defaults, fps), pipeline
        )
    return found


def default_of(parameters: Mapping[str, Any], name: str) -> Any:
    """The pipeline's own default; None where it has none."""
    parameter = parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def sample_rate(pipeline: object) -> int | None:
    """Samples a second of the sound that a pipeline makes, where its parts say so."""
    for part, names in (
        ("vocoder", ("output_sampling_rate", "sampling_rate")),
        ("vae", ("sampling_rate", "sample_rate")),
        ("audio_vae", ("sampling_rate", "sample_rate")),
        ("sound_tokenizer", ("sampling_rate",)),
    ):
        config: Any = getattr(getattr(pipeline, part, None), "config", None)
        for name in names:
            rate = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
            if isinstance(rate, (int, float)) and rate > 0:
                return int(rate)
    own = getattr(pipeline, "sample_rate", None)
    return int(own) if isinstance(own, (int, float)) else None
