"""LiteLLM's SDK. Prints one object with the pictures in base64."""

import json
import sys

import litellm

url = sys.argv[1]
few = {"size": "64x64", "num_inference_steps": 2}
asked = {"model": "openai/demo", "api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}
talk = {"messages": [{"role": "user", "content": "a red circle"}], "extra_body": few}


def base64(image: dict) -> str:
    return image["image_url"]["url"].partition(",")[2]


found = {}
made = litellm.completion(**asked, **talk)
found["content"] = made.choices[0].message.content
found["chat"] = base64(made.choices[0].message.images[0])
chunks = list(litellm.completion(**asked, **talk, stream=True))
images = [image for chunk in chunks for image in getattr(chunk.choices[0].delta, "images", None) or []]
found["num_images"] = len(images)
found["stream"] = base64(images[0])
drawn = litellm.image_generation(prompt="a star", size="64x64", **asked, extra_body={"num_inference_steps": 2})
found["image"] = drawn.data[0].b64_json
print(json.dumps(found))
