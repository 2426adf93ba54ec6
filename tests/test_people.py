"""What people bring: adapters, checkpoints, components, embeddings, samplers, each as stock diffusers has it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file

from interlace import Engine, Omni
from interlace.adapters import LoraChoice, from_prompt, parse_lora
from interlace.errors import InvalidRequestError, ModelLoadError, UnknownAdapterError
from interlace.extras import Extras
from interlace.models.adapters.library import LoraLibrary
from interlace.models.loader import LoadedModel, load_model
from tests.checkpoints import save_dora, save_gguf, save_kohya, save_sd15
from tests.test_families import TOLERANCE, difference
from tests.zoo import FAMILIES

SD = "sd15-ddim"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and files of theirs: sd/ and flux/, sd.safetensors, flux.gguf, three adapters in three formats."""
    folder = tmp_path_factory.mktemp("files")
    sd, flux = FAMILIES[SD].build(), FAMILIES["flux"].build()
    sd.save_pretrained(folder / "sd")
    flux.save_pretrained(folder / "flux")
    save_sd15(sd, folder / "sd.safetensors")
    save_gguf(flux.transformer, folder / "flux.gguf")
    torch.manual_seed(0)
    save_file({"emb_params": torch.randn(2, 32)}, folder / "cat.safetensors")
    (folder / "lora").mkdir()
    save_kohya(sd.unet, folder / "lora" / "kohya.safetensors")
    save_dora(sd.unet, folder / "dora.safetensors")
    inject_adapter_in_model(_lora(["to_q", "to_k", "conv1"]), sd.unet)
    inject_adapter_in_model(_lora(["q_proj", "v_proj"]), sd.text_encoder)
    StableDiffusionPipeline.save_lora_weights(
        folder / "lora",
        unet_lora_layers=get_peft_model_state_dict(sd.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(sd.text_encoder),
        weight_name="peft.safetensors",
    )
    return folder


def _lora(targets: list[str]) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)


def call(family: str = SD, number: int = 0) -> dict[str, Any]:
    return FAMILIES[family].requests()[number]


def quiet(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_checkpoint_in_one_file_draws_as_the_pipeline_that_it_was(files: Path) -> None:
    extras = Extras(config_from=str(files / "sd"), embedding={"<cat>": str(files / "cat.safetensors")})
    loaded = load_model(files / "sd.safetensors", extras=extras, device="cpu")
    assert type(loaded.pipeline) is StableDiffusionPipeline
    assert difference(quiet(loaded.pipeline)(**call()), FAMILIES[SD].build()(**call())) == 0
    assert loaded.pipeline.maybe_convert_prompt("a <cat>", loaded.pipeline.tokenizer) == "a <cat> <cat>_1"
    with Engine(loaded.pipeline) as engine:
        own = engine.map([{**call(), "prompt": "a <cat>"}])[0]
    assert difference(own, loaded.pipeline(**{**call(), "prompt": "a <cat>"})) == 0


def test_a_file_whose_configuration_is_not_there_says_which_flag_names_one(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="--config-from"):
        load_model(files / "sd.safetensors", local_files_only=True)
    with pytest.raises(ModelLoadError, match="--config-from"):
        load_model(files / "flux.gguf")
    (tmp_path / "torn.safetensors").write_bytes((files / "sd.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelLoadError, match="can't read"):
        load_model(tmp_path / "torn.safetensors")


def test_a_component_in_gguf_stays_quantised_and_shares_exactly(files: Path) -> None:
    loaded = load_model(files / "flux", extras=Extras(component=f"transformer={files / 'flux.gguf'}"))
    pipeline = quiet(loaded.pipeline)
    assert type(pipeline.transformer.proj_out).__name__ == "GGUFLinear"
    alone = [pipeline(**call("flux", number)) for number in range(3)]
    with Engine(pipeline, max_batch_rows=None) as engine:
        together = engine.map([call("flux", number) for number in range(3)])
        assert engine.stats()["mean_rows"]["transformer"] > 1.2
    assert max(map(difference, together, alone)) < TOLERANCE
    with pytest.raises(InvalidRequestError, match="has no component 'unet'"):
        load_model(files / "flux", extras=Extras(component="unet=x.safetensors"))


def test_samplers_by_request_and_by_flag(files: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler

    loaded = load_model(files / "sd", extras=Extras(scheduler="dpm++ 2m karras"))
    assert isinstance(loaded.pipeline.scheduler, DPMSolverMultistepScheduler)
    assert loaded.pipeline.scheduler.config.use_karras_sigmas
    pipeline = quiet(FAMILIES[SD].build())
    with Omni(pipeline) as omni:
        assert omni.model.pipeline is pipeline
        params = {"prompt": "x", "seed": 3, "num_inference_steps": 3, "height": 32, "width": 32}
        own, other, wrong = omni.generate([params, {**params, "sampler": "Heun"}, {**params, "sampler": "Hein"}])
    assert "did you mean 'Heun'" in str(wrong.error)
    assert own.images[0].tobytes() != other.images[0].tobytes()


def test_adapters_of_three_formats_load_beside_each_other_and_never_half(files: Path, tmp_path: Path) -> None:
    pipeline = quiet(FAMILIES[SD].build())
    before = pipeline(**call())
    with Engine(pipeline) as engine:
        extras = Extras(lora=f"dora={files / 'dora.safetensors'}", lora_dir=str(files / "lora"), max_loras=2)
        library = LoraLibrary("tiny", pipeline, extras, engine)
        assert library.names == ["dora", "kohya", "peft"]
        asked = [{"peft": 0.7}, {"kohya": 1.0}, {"dora": 1.0}, {}, {"peft": 0.3, "kohya": 1.3}]
        for _ in range(2):  # with room for two, each round loads some again
            taken = [library.take([LoraChoice(*pair) for pair in own.items()]) for own in asked]
            futures = [engine.submit(call(), adapters=adapters) for adapters, _ in taken]
            outputs = [future.result(timeout=300) for future in futures]
            for _, give_back in taken:
                give_back()
            assert len(library.loras) == 2
        torn = tmp_path / "torn.safetensors"
        torn.write_bytes((files / "lora" / "peft.safetensors").read_bytes()[:900])
        with pytest.raises(InvalidRequestError, match="can't read"):
            LoraLibrary("tiny", pipeline, Extras(lora=f"torn={torn}"), engine)
        with pytest.raises(UnknownAdapterError, match="known are dora, kohya, peft"):
            library.take([LoraChoice("ink")])
        with pytest.raises(InvalidRequestError, match="under --lora-dir"):
            library.take([LoraChoice("x", path="../dora.safetensors")])
        for name in list(library.loras):
            library.unload(name)
        assert difference(engine.map([call()])[0], before) == 0
    assert not any(isinstance(part, BaseTunerLayer) for part in pipeline.unet.modules())
    for own, output in zip(asked, outputs, strict=True):
        assert difference(output, _stock(files, own)) < TOLERANCE
        assert bool(own) == (difference(output, before) > 10 * TOLERANCE)


def _stock(files: Path, own: dict[str, float]) -> Any:
    from interlace.models.adapters.lora import _present_peft_will_do

    pipeline = quiet(FAMILIES[SD].build())
    with _present_peft_will_do():
        for name in own:
            place = files / f"{name}.safetensors" if name == "dora" else files / "lora" / f"{name}.safetensors"
            pipeline.load_lora_weights(str(place), adapter_name=name)
        if own:
            pipeline.set_adapters(list(own), list(own.values()))
    return pipeline(**call())


def test_an_adapter_for_another_family_is_refused_and_leaves_nothing(files: Path) -> None:
    pipeline = FAMILIES["flux"].build()
    parts = set(pipeline.transformer.state_dict())
    with Engine(pipeline) as engine:
        extras = Extras(lora=str(files / "lora" / "peft.safetensors"))
        with pytest.raises(InvalidRequestError, match="another family"):
            LoraLibrary("tiny", pipeline, extras, engine)
    assert set(pipeline.transformer.state_dict()) == parts
    assert not any(isinstance(part, BaseTunerLayer) for part in pipeline.text_encoder.modules())


def test_a_sibling_pipeline_gets_the_models_own_defaults() -> None:
    loaded = load_model("demo", pipeline_class="FluxImg2ImgPipeline")
    assert loaded.defaults["max_sequence_length"] == 24
    assert isinstance(loaded, LoadedModel)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("ink", [("ink", 1.0)]),
        ("ink:0.5, wash", [("ink", 0.5), ("wash", 1.0)]),
        ({"name": "ink", "scale": 0.5}, [("ink", 0.5)]),
        ({"name": "ink", "local_path": "ink.safetensors", "scale": 2, "int_id": 7}, [("ink", 2.0)]),
        ({"ink": 0.5, "wash": 1}, [("ink", 0.5), ("wash", 1.0)]),
        ('[{"name": "ink"}, "wash:0.1"]', [("ink", 1.0), ("wash", 0.1)]),
        ([], []),
        ("none", []),
    ],
)
def test_forms_in_which_a_request_names_adapters(given: Any, found: list[tuple[str, float]]) -> None:
    assert [(one.name, one.scale) for one in parse_lora(given) or ()] == found


@pytest.mark.parametrize("given", [3, {"name": ""}, {"name": "a", "rank": 3}, "a:much", ["a", "a"], {"a": None}, "{"])
def test_wrong_forms_are_refused(given: Any) -> None:
    with pytest.raises(InvalidRequestError):
        parse_lora(given)


def test_adapters_in_a_prompt() -> None:
    assert from_prompt("a cat <lora:ink:0.8>, sitting <lora:wash>") == (
        "a cat , sitting",
        (LoraChoice("ink", 0.8), LoraChoice("wash", 1.0)),
    )
