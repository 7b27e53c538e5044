"""What :meth:`cosphere.search.Index.build` is asked for, checked before any row is looked at."""

from __future__ import annotations

from typing import Any, NamedTuple

from cosphere.checks import check_number, check_seed, check_whole
from cosphere.errors import SettingsError
from cosphere.search.engines.settings import IndexSettings
from cosphere.search.kinds import AUTO, check_kind
from cosphere.search.self_check import QUERIES, check_wanted_recall


class BuildOptions(NamedTuple):
    """Checked arguments of :meth:`cosphere.search.Index.build` besides the rows."""

    check_queries: int
    wanted_recall: float | None
    most_bytes: float | None
    seed: int
    settings: IndexSettings

    @classmethod
    def of(
        cls,
        kind: str,
        *,
        check_queries: int = QUERIES,
        wanted_recall: float | None = None,
        most_bytes: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> BuildOptions:
        """Check them.

        Raises:
            SettingsError: there is no such kind or setting, a value is out of range, or two contradict each other.
        """
        check_kind(kind, auto=True)
        check_wanted_recall(wanted_recall)
        check_queries, seed = check_whole("check_queries", check_queries, least=0), check_seed(seed)
        chosen = IndexSettings.of(settings)
        if wanted_recall is not None and not check_queries:
            raise SettingsError("wanted_recall needs a check, but check_queries is 0. Leave check_queries out.")
        if most_bytes is not None:
            most_bytes = check_number("most_bytes", most_bytes, above=0)
            if kind != AUTO:
                raise SettingsError(f"most_bytes bounds what kind 'auto' chooses; the kind is {kind!r}. Leave it out.")
        return cls(check_queries, wanted_recall, most_bytes, seed, chosen)
