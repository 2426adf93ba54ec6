"""The table of services that make images: what opens each, and where its key is found. No SDK is imported for it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A service by its name on the command line."""

    service: str  # "module:Class" of an `ImageService`, made with (model, extras=...); imported when it is used
    key_names: tuple[str, ...] = ()  # environment variables that may hold the key; none: it asks for none
    keyless: str | None = None  # the environment variable with which its SDK logs in otherwise
    base_url_name: str | None = None  # the environment variable that names its address
    hosts: frozenset[str] = field(default=frozenset())  # of the service itself, beside the SDK's own
    max_workers: int | None = None  # requests that one client sends at once; further ones would wait inside of it


BACKENDS: dict[str, Backend] = {
    "openai": Backend(
        service="interlace.bulk.backends.openai_images:OpenAIImages",
        key_names=("OPENAI_API_KEY",),
        base_url_name="OPENAI_BASE_URL",
        hosts=frozenset({"api.openai.com"}),
    ),
    "google_genai": Backend(
        service="interlace.bulk.backends.google_images:GoogleImages",
        key_names=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        keyless="GOOGLE_CLOUD_PROJECT",  # Vertex AI
        max_workers=100,
    ),
}
