"""LangChain's chat model over responses, and its wrapper for DALL-E. Prints one object with the pictures."""

import base64
import json
import sys
import urllib.request

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
from langchain_openai import ChatOpenAI

url = sys.argv[1]
found = {}
painter = ChatOpenAI(
    model="demo",
    base_url=f"{url}/v1",
    api_key="none",
    max_retries=0,
    use_responses_api=True,
    extra_body={"num_inference_steps": 2},
    output_version="responses/v1",
).bind_tools([{"type": "image_generation", "size": "64x64"}])


def result(message) -> str:
    return next(part["result"] for part in message.content if part["type"] == "image_generation_call")


first = painter.invoke("a red circle")
found["response"] = result(first)
found["edited"] = result(painter.invoke([("user", "a red circle"), first, ("user", "make it blue")]))
plain = ChatOpenAI(
    model="demo",
    base_url=f"{url}/v1",
    api_key="none",
    max_retries=0,
    temperature=0.7,
    extra_body={"num_inference_steps": 2, "size": "64x64"},
)
found["content"] = plain.invoke("a red circle").content
wrapper = DallEAPIWrapper(model="dall-e-3", base_url=f"{url}/v1", api_key="none", max_retries=0)
place = wrapper.run("a star")
found["url"] = place
found["dalle"] = base64.b64encode(urllib.request.urlopen(place, timeout=60).read()).decode()
print(json.dumps(found))
