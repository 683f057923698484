"""How text is changed before it is cut into pieces: what a model and its vocabulary belong to."""

from __future__ import annotations

import dataclasses

from electra_ref.config.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class NormalizationConfig(Settings):
    """What is done to letters."""

    lowercase: bool = setting(True, "lower-case the text")
    strip_accents: bool = setting(True, "strip the accents of text that is lower-cased")

    @property
    def strips_accents(self) -> bool:
        """Whether accents are stripped: never in cased text, as in the original's tokenization.py.

        Without accents, words of some languages are other words: Hindi, Vietnamese.
        """
        return self.lowercase and self.strip_accents
