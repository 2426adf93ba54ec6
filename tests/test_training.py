"""A few steps of every training, from drawn scenes to a model that Interlace loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interlace import Omni, SamplingParams
from training import denoiser, language, latents, vae
from training.common import load_checkpoint, save_checkpoint
from training.export import assemble, export, load_autoencoder, mix


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    vae.train(folder, minutes=None, num_steps=2, batch=2, peak=1e-3, seed=0)
    return folder / "model"


@pytest.fixture(scope="module")
def shards(autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("latents"), load_autoencoder(autoencoder)
    for index in (0, 1, 6):  # of 128x128, 64x64 and another size
        shard = latents.make_shard(model, index, 0, num_scenes=24, num_pairs=6)
        save_checkpoint(folder / f"{index:03d}.pt", **shard)
    wide = latents.make_shard(model, 7, 0, num_scenes=24, num_pairs=6, size=(160, 112))
    assert wide["latents"].shape[-2:] == (14, 20)
    save_checkpoint(folder / "007.pt", **wide)
    return folder


def train_denoiser(folder: Path, shards: Path, num_steps: int) -> dict[str, torch.Tensor]:
    found = denoiser.Shards(shards, easy_share=0.2, edit_share=0.5)
    denoiser.train(folder, found, minutes=None, num_steps=num_steps, batch=2, peak=1e-3, seed=0)
    state = load_checkpoint(folder / "checkpoint.pt")
    assert state is not None
    assert state["step"] == num_steps
    return state["model"]


def test_a_denoiser_is_trained_goes_on_and_draws(autoencoder: Path, shards: Path, tmp_path: Path) -> None:
    first = train_denoiser(tmp_path / "one", shards, 3)
    again = train_denoiser(tmp_path / "other", shards, 3)
    assert all(torch.equal(first[name], again[name]) for name in first)  # the seed decides everything
    further = train_denoiser(tmp_path / "one", shards, 6)  # edits too
    assert any(not torch.equal(first[name], further[name]) for name in first)

    export(assemble(load_autoencoder(autoencoder), tmp_path / "one" / "checkpoint.pt"), tmp_path / "model")
    omni = Omni(model=str(tmp_path / "model"))
    try:
        output = omni.generate("a red circle", SamplingParams(num_inference_steps=2))[0]
    finally:
        omni.close()
    assert output.images[0].size == (128, 128)

    finished = load_file(tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    other = assemble(load_autoencoder(autoencoder), tmp_path / "other" / "checkpoint.pt")
    own = {name: weight.clone() for name, weight in other.transformer.state_dict().items()}
    mix(other, tmp_path / "model", 0.25)
    for name, weight in other.transformer.state_dict().items():
        assert torch.allclose(weight, 0.75 * own[name] + 0.25 * finished[name].float(), atol=1e-6)
    assert any(not torch.equal(weight, own[name]) for name, weight in other.transformer.state_dict().items())

    for num_steps, learns in ((1, False), (3, True)):  # the probes first, then the transformer
        on = denoiser.Shards(shards, easy_share=0.2, edit_share=0.5, other_share=0.5)
        told = {"num_steps": num_steps, "batch": 2, "peak": 1e-3, "seed": 0, "dtype": torch.bfloat16}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.start.PROBE_STEPS", 1)
            denoiser.train(tmp_path / f"on{num_steps}", on, minutes=None, init_from=tmp_path / "model", **told)
        state = load_checkpoint(tmp_path / f"on{num_steps}" / "checkpoint.pt")
        assert state is not None
        same = [torch.equal(state["model"][f"transformer.{name}"], part.float()) for name, part in finished.items()]
        assert all(same) != learns
        assert state["std"] == pytest.approx(on.std)


def test_a_language_model_is_trained_and_says_known_words(tmp_path: Path) -> None:
    language.train(tmp_path / "training", minutes=None, num_steps=2, batch=2, peak=1e-3, seed=0)
    language.export(tmp_path / "training", tmp_path / "model")
    known = set(language.vocabulary())
    for prompt in language.expand(tmp_path / "model", ["a star"]):
        assert set(prompt.replace(",", " ,").split()) <= known


def test_a_colour_said_again_is_a_loss() -> None:
    tokens = torch.tensor([[5, 1, 5, 6, 7, 2]])  # an idea of colour 5, <eos>, and a prompt of colours 5 and 6
    labels = torch.where(torch.arange(6) < 2, -100, tokens)
    likely = torch.full((1, 6, 8), -9.0)
    likely[0, torch.arange(5), tokens[0, 1:]] = 9.0
    assert language.said_again(likely, tokens, labels, torch.tensor([5, 6])) < 1e-3
    likely[0, 2] = likely[0, 1]  # where 6 is due, 5 again
    assert language.said_again(likely, tokens, labels, torch.tensor([5, 6])) > 1


def test_the_encoder_stays_as_it_is_once_frozen(tmp_path: Path) -> None:
    vae.train(tmp_path, minutes=None, num_steps=3, batch=2, peak=1e-3, seed=0, freeze_at=0.5)
    frozen, trained = load_autoencoder(tmp_path / "encoder"), load_autoencoder(tmp_path / "model")
    assert all(
        torch.equal(a, b) for a, b in zip(frozen.encoder.parameters(), trained.encoder.parameters(), strict=True)
    )
    assert any(
        not torch.equal(a, b) for a, b in zip(frozen.decoder.parameters(), trained.decoder.parameters(), strict=True)
    )
