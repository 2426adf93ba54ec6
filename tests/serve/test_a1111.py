"""AUTOMATIC1111's API, as Open WebUI, SillyTavern and others call it."""

import base64
import io
import json
import threading
from typing import Any

from PIL import Image

from interlace.serve.dialects.a1111_info import parameters_of
from serve.live import WAIT_S, Live, b64, picture, png, until

# What Open WebUI and SillyTavern send, defaults and all.
OPEN_WEBUI = {"prompt": "a red circle", "batch_size": 1, "width": 64, "height": 64, "steps": 2, "seed": 7}
SILLY = {"prompt": "a red circle", "negative_prompt": "", "sampler_name": "Euler", "scheduler": "Automatic", "steps": 2,
         "cfg_scale": 2, "width": 64, "height": 64, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent",
         "hr_scale": 2, "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": 7, "clip_skip": 1,
         "override_settings": {"CLIP_stop_at_last_layers": 1}, "override_settings_restore_afterwards": True,
         "save_images": True, "send_images": True, "do_not_save_grid": False, "do_not_save_samples": False,
         "alwayson_scripts": {}, "subseed": -1, "styles": [], "tiling": False}  # fmt: skip


def post(server: Live, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with server.http() as http:
        got = http.post(f"/sdapi/v1/{path}", json=body)
        assert got.status_code == 200, got.text
        return got.json()


def test_txt2img_draws_what_the_images_api_draws(server: Live) -> None:
    drawn = post(server, "txt2img", OPEN_WEBUI)
    info = json.loads(drawn["info"])
    assert picture(drawn["images"][0]).size == (64, 64)
    assert (info["seed"], info["all_seeds"], info["steps"]) == (7, [7], 2)
    assert drawn["parameters"]["prompt"] == "a red circle"
    with server.http() as http:
        same = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2, "seed": 7}
        plain = http.post("/v1/images/generations", json=same).json()
    assert picture(drawn["images"][0]).tobytes() == picture(plain["data"][0]["b64_json"]).tobytes()
    silly = post(server, "txt2img", SILLY)
    assert picture(silly["images"][0]).tobytes() == picture(drawn["images"][0]).tobytes()
    assert [text.split(" ")[0] for text in silly["warnings"]] == ["save_images"]


def test_samplers_are_those_of_the_table_and_others_are_told(server: Live) -> None:
    with server.http() as http:
        names = [one["name"] for one in http.get("/sdapi/v1/samplers").json()]
    assert names == ["Automatic", "Euler", "Euler a"]
    own = post(server, "txt2img", OPEN_WEBUI)
    chosen = {name: post(server, "txt2img", {**OPEN_WEBUI, "sampler_name": name}) for name in ("Euler a", "DPM++ 2M")}
    assert chosen["Euler a"]["images"] != own["images"]
    assert chosen["DPM++ 2M"]["images"] == own["images"]
    assert "sampler_name is ignored" in chosen["DPM++ 2M"]["warnings"][0]


def test_adapters_are_named_in_the_prompt(server: Live) -> None:
    named = post(server, "txt2img", {**OPEN_WEBUI, "prompt": "a red circle <lora:outline:0.8>"})
    same = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2, "seed": 7,
            "lora": {"name": "outline", "scale": 0.8}}  # fmt: skip
    with server.http() as http:
        plain = http.post("/v1/images/generations", json=same).json()
        assert picture(named["images"][0]).tobytes() == picture(plain["data"][0]["b64_json"]).tobytes()
        unknown = http.post("/sdapi/v1/txt2img", json={**OPEN_WEBUI, "prompt": "a star <lora:zz:0.5>"})
        gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "outline"})  # others have this server too
    assert gone.status_code == 200, gone.text
    assert unknown.status_code in (400, 404)
    assert "outline" in unknown.text


def test_batches_times_iterations(server: Live) -> None:
    drawn = post(server, "txt2img", {**OPEN_WEBUI, "batch_size": 2, "n_iter": 2, "seed": -1})
    assert len(drawn["images"]) == len(json.loads(drawn["info"])["all_seeds"]) == 4


def test_unknown_fields_and_high_resolution_passes_are_refused(server: Live) -> None:
    with server.http() as http:
        for body, param in (({"promt": "a"}, "promt"), ({**SILLY, "enable_hr": True}, "enable_hr")):
            got = http.post("/sdapi/v1/txt2img", json=body)
            assert (got.status_code, got.json()["error"]["param"]) == (400, param)


def test_img2img_with_a_mask_changes_only_where_it_is_white(server: Live) -> None:
    white = Image.new("L", (64, 64), 0)
    white.paste(255, (0, 0, 32, 64))
    buffer = io.BytesIO()
    white.save(buffer, "PNG")
    body = {**OPEN_WEBUI, "prompt": "make it blue", "init_images": [b64(png())], "mask": b64(buffer.getvalue()),
            "denoising_strength": 0.75, "mask_blur": 4, "inpainting_fill": 1}  # fmt: skip
    changed = picture(post(server, "img2img", body)["images"][0]).convert("RGB")
    assert set(changed.crop((33, 0, 64, 64)).getdata()) == {(255, 0, 0)}
    assert len(set(changed.crop((0, 0, 32, 64)).getdata())) > 1
    inverted = post(server, "img2img", {**body, "inpainting_mask_invert": 1})
    other = picture(inverted["images"][0]).convert("RGB")
    assert set(other.crop((0, 0, 32, 64)).getdata()) == {(255, 0, 0)}
    with server.http() as http:
        assert http.post("/sdapi/v1/img2img", json=OPEN_WEBUI).json()["error"]["param"] == "init_images"


def test_progress_with_previews_and_interrupt(server: Live) -> None:
    answers: list[Any] = []

    def draw() -> None:
        with server.http() as http:
            body = {"prompt": "a", "width": 192, "height": 192, "steps": 150, "batch_size": 8}  # takes a while
            answers.append(http.post("/sdapi/v1/txt2img", json=body))

    thread = threading.Thread(target=draw)
    thread.start()
    with server.http() as http:
        shown = until(lambda: (told := http.get("/sdapi/v1/progress").json())["current_image"] and told)
        assert 0 < shown["progress"] < 1
        assert shown["state"]["sampling_steps"] == 150
        assert picture(shown["current_image"]).size == (192, 192)
        assert http.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
        assert http.post("/sdapi/v1/interrupt").json() == {}
        thread.join(WAIT_S)
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (409, "aborted")
        assert http.get("/sdapi/v1/progress").json()["progress"] == 0


def test_options_choose_the_model(server: Live) -> None:
    with server.http() as http:
        assert http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "demo"
        titles = [model["title"] for model in http.get("/sdapi/v1/sd-models").json()]
        assert titles == ["demo", "demo-edit"]
        set_ = http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "demo", "CLIP_stop_at_last_layers": 2})
        assert set_.status_code == 200
        assert "CLIP_stop_at_last_layers" in set_.headers["x-interlace-warnings"]
        assert http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sdxl"}).status_code == 404
        for path in ("samplers", "schedulers", "loras", "upscalers", "sd-vae", "embeddings", "scripts", "cmd-flags"):
            assert http.get(f"/sdapi/v1/{path}").status_code == 200, path
        assert http.post("/sdapi/v1/refresh-checkpoints").status_code == 200


def test_a_file_says_how_it_was_made(server: Live) -> None:
    drawn = post(server, "txt2img", {**OPEN_WEBUI, "negative_prompt": "green"})
    told = post(server, "png-info", {"image": f"data:image/png;base64,{drawn['images'][0]}"})
    assert told["info"] == json.loads(drawn["info"])["infotexts"][0]
    assert told["parameters"]["Prompt"] == "a red circle"
    assert told["parameters"]["Negative prompt"] == "green"
    assert (told["parameters"]["Steps"], told["parameters"]["Seed"]) == ("2", "7")
    assert post(server, "png-info", {"image": b64(png())})["info"] == ""
    with server.http() as http:
        broken = http.post("/sdapi/v1/png-info", json={"image": base64.b64encode(b"x").decode()})
        assert broken.status_code == 400
    assert parameters_of("") == {}
