"""Which adapters a pipeline's owner has loaded, for whoever names some."""

from collections.abc import Iterable

from interlace.engine.adapters.layers import AdapterLayers
from interlace.engine.pipeline.tenancy import Tenancy
from interlace.engine.pipeline.variants.recorder import num_written
from interlace.errors import InvalidRequestError


class LoadedAdapters:
    """Of one engine. Safe in any thread: a request that runs may have modules of its own on, in which one that has come
    since is not, so the layers are looked at in the owner's turn alone.
    """

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy
        self._known: tuple[int, frozenset[str]] = -1, frozenset()  # what was written until then

    def check(self, wanted: Iterable[str]) -> None:
        """Raises `InvalidRequestError` for an adapter that no module has. Within a request's own code nothing is known
        of those that have come since the last look; a request is looked at again when it starts.
        """
        commons, (written, known) = self._tenancy.commons.now, self._known
        if written != num_written():
            if commons.taken and not commons.is_owners:
                return
            with commons.turn():
                known = frozenset[str]().union(*(AdapterLayers(module).names for module in self._tenancy.components))
                self._known = num_written(), known
        for name in wanted:
            if name not in known:
                shown = ", ".join(sorted(known)) or "none"
                raise InvalidRequestError(f"no adapter {name!r} is loaded; loaded are {shown}", "adapters")
