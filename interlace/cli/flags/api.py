"""The flags of API backends."""

from dataclasses import dataclass

from cyclopts import Group, Parameter

from interlace.bulk.backends.settings import ApiSettings

ApiGroup = Group("API backends", sort_key=7, help="With --backend openai or google_genai.")


@Parameter(name="*", group=ApiGroup)
@dataclass(frozen=True, kw_only=True)
class ApiFlags(ApiSettings):
    """A service's settings as flags."""
