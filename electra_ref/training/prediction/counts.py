"""What was read and answered, and the line that says so at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from electra_ref.counting import counted

LEGACY_SHARE = 0.01  # of the bytes are invalid: then the text is probably in another encoding


@dataclass
class Counts:
    """The counts grow while lines are read."""

    bytes: int = 0
    invalid_bytes: int = 0
    lines: int = 0
    empty: int = 0  # lines without a token
    tokens: int = 0  # [CLS] and [SEP] included, each once
    unknown: int = 0  # tokens that are [UNK]
    cut: int = 0  # lines that are longer than the model reads
    windows: int = 0  # into which these were cut
    like_json: int = 0  # lines of text that look like JSON objects
    masks: int = 0
    without_mask: int = 0  # lines

    def summary(self, seconds: float, *, counts_masks: bool = False) -> str:
        """Return one line with all that is worth knowing."""
        rate = self.tokens / max(seconds, 1e-9)
        unknown = f" ({self.unknown:,} [UNK])" if self.unknown else ""
        parts = [
            counted(self.lines, "line"),
            *self._peculiarities(),
            *self._masks(counts_masks=counts_masks),
            f"{counted(self.tokens, 'token')}{unknown} in {seconds:.1f} s ({rate:,.0f} tokens/s)",
        ]
        return ", ".join(parts)

    def invalid_notes(self) -> Iterator[str]:
        """Yield a line with the number of invalid bytes, if there are any."""
        if self.invalid_bytes:
            yield f"{counted(self.invalid_bytes, 'invalid byte')} left out"

    def encoding_notes(self, conversion: str) -> Iterator[str]:
        """Yield that the text is in another encoding, if it is; ``conversion`` says what to do."""
        if self.invalid_bytes > LEGACY_SHARE * self.bytes:
            yield (
                f"{100 * self.invalid_bytes / self.bytes:.1f} % of the bytes are not valid UTF-8, "
                f"so the text is probably in another encoding; {conversion}"
            )

    def notes(self, conversion: str) -> Iterator[str]:
        """Yield what probably went wrong, a line each, for text that ``conversion`` converts."""
        yield from self.encoding_notes(conversion)
        if self.like_json:
            look = "looks like a JSON object and was"
            if self.like_json > 1:
                look = "look like JSON objects and were"
            yield (
                f"{counted(self.like_json, 'line')} of text {look} read as text; --input-format "
                "jsonl reads JSON"
            )

    def _masks(self, *, counts_masks: bool) -> Iterator[str]:
        if self.without_mask:
            yield f"{self.without_mask:,} without [MASK]"
        if counts_masks:
            yield counted(self.masks, "mask")

    def _peculiarities(self) -> Iterator[str]:
        if self.empty:
            yield f"{self.empty:,} empty"
        if self.cut:
            yield (
                f"{self.cut:,} longer than the model reads, cut into "
                f"{counted(self.windows, 'overlapping window')}"
            )
        yield from self.invalid_notes()
