"""What the OpenAPI schema says of bodies that routes read themselves, and of errors."""

from typing import Any

from pydantic import BaseModel

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REASONS = {
    400: "A field can't be honoured: the message says why and what to do",
    401: "No key, or a wrong one",
    404: "No such model or request",
    405: "No such method here",
    408: "The body took too long",
    409: "The request was aborted, or its id is in use",
    413: "The body is too large",
    415: "Another content type is expected",
    422: "The model gave NaN or Inf",
    429: "The queue is full, or you have enough under way: see Retry-After",
    500: "A fault of the server",
    503: "Shutting down, or the engine has stopped: see Retry-After",
    504: "Not done within timeout_s",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in _REASONS.items()
}


def body_of(model: type[BaseModel], *, files: tuple[str, ...] = (), form: bool = True) -> dict[str, object]:
    """`openapi_extra` for a route that reads `model` from JSON or a form, and may answer with a picture or events."""
    schema = model.model_json_schema(by_alias=True)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if form:
        properties = {**schema["properties"], **{name: {"type": "string", "format": "binary"} for name in files}}
        required = [*schema.get("required", []), *files[:1]]
        content["multipart/form-data"] = {"schema": {**schema, "properties": properties, "required": required}}
    accepted = {"description": "Accepted: a job", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"requestBody": {"required": True, "content": content}, "responses": {"202": accepted}}
