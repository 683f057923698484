"""Where the data and the first parameters of a run come from, as the user named it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from electra_ref.errors import UserError

if TYPE_CHECKING:  # it loads NumPy
    from electra_ref.training.run_directory import RunDirectory


class Source(NamedTuple):
    """Text or token ids; both empty means the embedded corpus."""

    corpus: Sequence[str]  # files and folders by absolute path, or "-" for standard input
    tokens: Sequence[str]  # .npy files of ids by absolute path
    text_key: str = "text"  # of the text in JSON lines
    vocabulary: str | None = None  # a vocab.txt by absolute path; None: trained, or the model's
    init_from: str | None = None  # a model by absolute path


def recorded_source(run: RunDirectory) -> Source:
    """Return the source that ``run`` began with. Raises UserError if it is not on record."""
    try:
        source = Source(**run.environment()["source"])
        if source.tokens is None or isinstance(source.tokens, str):  # of a version before
            source = source._replace(tokens=[source.tokens] if source.tokens else [])
        models = [source.vocabulary or "-", source.init_from or "-"]
        names = [*_list(source.corpus), *_list(source.tokens), *models]
        is_known = all(isinstance(name, str) and name for name in names)
    except (KeyError, TypeError):
        is_known = False
    if not is_known:
        raise UserError(
            f"the environment.json of {run.path} no longer names the data; name them with --corpus "
            "or --tokens"
        )
    return source


def _list(value: object) -> list[object]:
    """Return a list from a JSON file. Raises TypeError if it is none."""
    if not isinstance(value, list):
        raise TypeError
    return value


def moved_source(source: Source, environment: Mapping[str, Any]) -> Source:
    """Return ``source``, where the data lie now, with what stays as it was."""
    before = environment.get("source")
    if isinstance(before, dict):
        for key in ("text_key", "vocabulary", "init_from"):
            if isinstance(before.get(key), str):
                source = source._replace(**{key: before[key]})
    return source
