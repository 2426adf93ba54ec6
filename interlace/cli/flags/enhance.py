"""The flags of the language model that rewrites prompts."""

from dataclasses import dataclass

from cyclopts import Group, Parameter

from interlace.bulk.enhance import EnhanceSettings

EnhanceGroup = Group("Prompt enhancement", sort_key=8, help="A language model rewrites prompts and instructions first.")


@Parameter(name="*", group=EnhanceGroup)
@dataclass(frozen=True, kw_only=True)
class EnhanceFlags(EnhanceSettings):
    """Its settings as flags."""
