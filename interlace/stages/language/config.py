"""How a language model stage is run, here or on a server. Knows nothing of torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from interlace.checks import check_choice, check_number
from interlace.errors import InvalidRequestError

Api = Literal["chat", "completions"]


@dataclass(frozen=True, kw_only=True)
class AREngineArgs:
    """How an embedded language model is run."""

    max_num_seqs: int = 16
    max_model_len: int | None = None  # tokens of prompt and answer; None: what the model can
    kv_cache_gib: float = 1.0
    continuous_batching: bool = True  # False: equal prompt lengths share a `generate`
    dtype: str | None = None
    revision: str | None = None
    local_files_only: bool = False
    system_prompt: str | None = None
    prompt_template: str = "{prompt}"
    chat_template: bool | None = None  # None: where the tokenizer has one

    def __post_init__(self) -> None:
        check_number("max_num_seqs", self.max_num_seqs, 1, whole=True)
        check_number("kv_cache_gib", self.kv_cache_gib, 0.001)
        if self.max_model_len is not None:
            check_number("max_model_len", self.max_model_len, 2, whole=True)
        check_template("prompt_template", self.prompt_template, "prompt")


@dataclass(frozen=True, kw_only=True)
class RemoteEngineArgs:
    """How a language model server is asked. Anything that speaks OpenAI's chat or completions API."""

    base_url: str
    api: Api = "chat"
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key, where one is needed
    max_concurrency: int = 16
    max_retries: int = 3
    request_timeout_s: float = 60.0
    max_prompt_chars: int | None = None
    system_prompt: str | None = None
    prompt_template: str = "{prompt}"

    def __post_init__(self) -> None:
        if not isinstance(self.base_url, str) or not self.base_url.startswith(("http://", "https://")):
            raise InvalidRequestError(
                f"base_url is {self.base_url!r}; expected something like http://host:8000/v1", "base_url"
            )
        check_choice("api", self.api, get_args(Api))
        check_number("max_concurrency", self.max_concurrency, 1, whole=True)
        check_number("max_retries", self.max_retries, 0, whole=True)
        check_number("request_timeout_s", self.request_timeout_s, 0.001)
        check_template("prompt_template", self.prompt_template, "prompt")


def check_template(name: str, template: object, placeholder: str) -> None:
    """Raises `InvalidRequestError` unless `template` is a text that can take its placeholder."""
    if not isinstance(template, str) or f"{{{placeholder}}}" not in template:
        raise InvalidRequestError(f"{name} is {template!r}; expected a text with {{{placeholder}}} in it", name)
