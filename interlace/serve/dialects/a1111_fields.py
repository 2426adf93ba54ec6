"""What AUTOMATIC1111's clients send to draw, as the fields of our orders. Values that they send by default pass."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from PIL import Image, ImageOps
from pydantic import Field

from interlace.adapters import as_plain, from_prompt
from interlace.errors import InvalidRequestError
from interlace.models.schedulers import make_scheduler
from interlace.serve.http.errors import invalid
from interlace.serve.http.uploads import decode_image, image_bytes
from interlace.serve.jobs.models import Lane, Lanes
from interlace.serve.leniency.sift import sift
from interlace.serve.leniency.table import Known
from interlace.serve.orders.fields import EditFields, Fields, GenerationFields
from interlace.serve.orders.images import edit_order, generation_order
from interlace.serve.orders.order import Order

F = TypeVar("F", GenerationFields, EditFields)
_PREVIEWS = 3  # for /sdapi/v1/progress
_SCRIPTS = "scripts and extensions of that program do not run here"
_SIZE = "the picture is drawn at the size that was asked for, in one pass"
_SAVED = "nothing is kept on the server; the answer has the pictures"


def _known(reason: str, draws: bool = False, **neutral: tuple[object, ...]) -> list[Known]:
    return [Known(name, reason, values, draws) for name, values in neutral.items()]


_ROWS = [
    _known("the sampler has settings of its own", eta=(0, 1), s_min_uncond=(0,), s_churn=(0,), s_tmax=(0,), s_tmin=(0,),
           s_noise=(0, 1), clip_skip=(0, 1)),
    _known("variation seeds are not mixed in", subseed=(-1, 0), subseed_strength=(0,), seed_resize_from_h=(-1, 0),
           seed_resize_from_w=(-1, 0)),
    _known(_SAVED, save_images=(False,), send_images=(True,), do_not_save_samples=(True, False),
           do_not_save_grid=(True, False), override_settings_restore_afterwards=(True, False)),
    _known("there is no face restoration or tiling here", restore_faces=(False,), tiling=(False,)),
    _known(_SCRIPTS, script_name=("none", "None"), script_args=(), alwayson_scripts=(), comments=(), styles=(),
           firstpass_image=(), infotext=(), force_task_id=(), disable_extra_networks=(True, False)),
    _known(_SIZE, True, enable_hr=(False,)),
    _known(_SIZE, firstphase_width=(0,), firstphase_height=(0,), hr_scale=(1, 1.5, 2), hr_upscaler=("None", "Latent"),
           hr_second_pass_steps=(0,), hr_resize_x=(0,), hr_resize_y=(0,), hr_prompt=(), hr_negative_prompt=(),
           hr_cfg=(0, 1), hr_sampler_name=(), hr_scheduler=(), hr_checkpoint_name=(), hr_additional_modules=(),
           refiner_checkpoint=("None",), refiner_switch_at=(0, 0.8, 1)),
    _known("the mask is used as it is", mask_blur=(0, 4), mask_blur_x=(0, 4), mask_blur_y=(0, 4), mask_round=(True,),
           inpainting_fill=(0, 1), inpaint_full_res=(True, False, 0, 1), inpaint_full_res_padding=(0, 32),
           initial_noise_multiplier=(0, 1), image_cfg_scale=(0, 1.5), latent_mask=(), resize_mode=(0, 1, 2),
           include_init_images=(True, False)),
]  # fmt: skip
_ANY_SAMPLER = ("automatic", "default", "")
_THEIRS = {known.name: known for row in _ROWS for known in row}


class DrawFields(Fields):
    """Of /sdapi/v1/txt2img and img2img: what is honoured."""

    prompt: str = ""
    negative_prompt: str | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    distilled_cfg_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    n_iter: Annotated[int, Field(ge=1)] | None = None
    denoising_strength: Annotated[float, Field(ge=0, le=1)] | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None  # what the name was called before
    scheduler: str | None = None  # how noise levels are spaced
    override_settings: dict[str, Any] | None = None
    init_images: list[Any] | None = None
    mask: Any = None
    inpainting_mask_invert: int | None = None


def read_fields(values: Mapping[str, object], strict: bool) -> DrawFields:
    """Raises `InvalidRequestError` for fields that are no field of theirs, or that would change the picture."""
    plain = {name: value for name, value in values.items() if value is not None}
    kept, warnings = sift(plain, DrawFields.names(), strict=strict, known=_THEIRS)
    fields = DrawFields.model_validate(kept)
    fields.warnings.extend(warnings)
    return fields


def _sampler(fields: DrawFields, lane: Lane, *, strict: bool) -> str | None:
    """The sampler by the one table of them. Clients send their favourite to every model: one that this model can't use
    is ignored with a warning, unless `strict`; then it raises `InvalidRequestError`."""
    name, spacing = fields.sampler_name or fields.sampler_index, fields.scheduler
    if name is None or name.lower() in _ANY_SAMPLER:
        return None
    wanted = name if spacing is None or spacing.lower() in _ANY_SAMPLER else f"{name} {spacing}"
    try:
        make_scheduler(lane.model.pipeline, wanted)
    except InvalidRequestError as error:
        if strict:
            raise InvalidRequestError(str(error), "sampler_name") from error
        fields.warnings.append(f"sampler_name is ignored: {error}")
        return None
    return wanted


def order_of(fields: DrawFields, lanes: Lanes, model: str | None, *, edit: bool) -> Order:
    """Raises `ApiError` for what can't be done. Runs in a worker: pictures are decoded."""
    model = (fields.override_settings or {}).get("sd_model_checkpoint") or model
    lane = lanes.choose(model, edit=edit)
    sampler = _sampler(fields, lane, strict=lanes.settings.strict_fields)
    values = _values(fields, lane, model, sampler)
    if not edit:
        order = generation_order(_checked(GenerationFields, fields, values), lanes)
    else:
        images, mask = _pictures(fields, lanes)
        order = edit_order(_checked(EditFields, fields, values), images, mask, lanes)
    return order


def _checked(model: type[F], fields: DrawFields, values: dict[str, Any]) -> F:
    checked = model.model_validate(values)
    checked.warnings.extend(fields.warnings)
    return checked


def _values(fields: DrawFields, lane: Lane, model: str | None, sampler: str | None) -> dict[str, Any]:
    prompt, adapters = from_prompt(fields.prompt)  # nowhere else can their clients name any
    values: dict[str, Any] = {
        "prompt": prompt,
        "lora": as_plain(adapters) or None,
        "model": model,
        "negative_prompt": fields.negative_prompt or None,
        "seed": fields.seed,
        "num_inference_steps": fields.steps,
        "width": fields.width,
        "height": fields.height,
        "n": (fields.batch_size or 1) * (fields.n_iter or 1),
        "async": True,  # that is: with previews, for those who ask how far it is
        "partial_images": _PREVIEWS,
        "sampler": sampler,
    }
    if fields.denoising_strength is not None and lane.takes("strength"):
        values["strength"] = fields.denoising_strength
    elif fields.init_images and fields.denoising_strength not in (None, 0.75):
        fields.warnings.append(f"denoising_strength is ignored: {lane.name} changes a picture as its prompt says")
    return {**values, **_guidance(fields, lane)}


def _guidance(fields: DrawFields, lane: Lane) -> dict[str, Any]:
    """Their CFG scale is the one that weighs the negative prompt; of distilled guidance they speak separately."""
    both = lane.takes("true_cfg_scale")
    values = {"true_cfg_scale" if both else "guidance_scale": fields.cfg_scale}
    if both:
        values["guidance_scale"] = fields.distilled_cfg_scale
    return values


def _pictures(fields: DrawFields, lanes: Lanes) -> tuple[list[Image.Image], Image.Image | None]:
    settings = lanes.settings
    given = fields.init_images or []
    if not given:
        raise invalid("init_images is missing; expected a list with one picture in base64", "init_images")
    if len(given) > settings.max_input_images:
        text = f"{len(given)} pictures; this server allows {settings.max_input_images}"
        raise invalid(text, "init_images")
    images = [decode_image(image_bytes(one, settings, "init_images"), settings, "init_images") for one in given]
    if fields.mask is None:
        return images, None
    white = decode_image(image_bytes(fields.mask, settings, "mask"), settings, "mask").convert("L")
    if white.size != images[0].size:
        white = white.resize(images[0].size)
    if fields.inpainting_mask_invert:
        white = ImageOps.invert(white)
    mask = images[0].convert("RGBA")
    mask.putalpha(ImageOps.invert(white))  # ours is transparent where to edit, theirs white
    return images, mask
