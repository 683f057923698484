"""What was read, in lines for the person who started the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from electra_ref.counting import counted
from electra_ref.text.corpus import LONGEST_SENTENCE
from electra_ref.text.listing import NAMED_THEMSELVES, NAMES_SHOWN
from electra_ref.text.wordpiece import MAX_CHARACTERS

LARGEST_UNKNOWN_SHARE = 0.01  # of the tokens; more is a warning
SHARE_OF_A_CAUSE = 0.2  # of the unknown words; a smaller one is not named


def data_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the text of a run. ``report`` is that of PreparedData.

    What it does not have is not said: token ids have no text, and a resumed run lists no files.
    """
    if "sentences" in report:
        yield _what_was_read(report)
    if skipped := report.get("skipped"):
        names = ", ".join([*report["skipped_names"], "..."][:skipped])
        because = "its name does not" if skipped == 1 else "their names do not"
        yield (
            f"{counted(skipped, 'file')} in folders {_was(skipped)} skipped, because {because} end "
            f"in .txt, .text, .jsonl or .parquet: {names}; {NAMED_THEMSELVES}"
        )
    if runs := report.get("skipped_runs"):
        names = ", ".join([*runs[:NAMES_SHOWN], "..."][: len(runs)])
        yield f"{counted(len(runs), 'run')} in folders of the corpus skipped: {names}"
    if invalid := report.get("invalid_bytes"):
        share = _percent(invalid / max(1, report["bytes"]))
        yield (
            f"{counted(invalid, 'byte')} of the text ({share}) {_is(invalid)} not valid UTF-8 and "
            f"{_is(invalid)} left out"
        )
    if controls := report.get("control_characters"):
        yield f"{counted(controls, 'control character')} of the text {_is(controls)} left out"
    if cuts := report.get("cut_sentences"):
        yield (
            f"sentences (lines) longer than {LONGEST_SENTENCE:,} characters were cut in "
            f"{counted(cuts, 'place')}; one sentence a line is better"
        )
    yield from _unknown_warnings(report)


def _what_was_read(report: Mapping[str, Any]) -> str:
    files = counted(report["files"], "file")
    kinds = (("object_files", "of JSON lines"), ("row_files", "of Parquet"))
    special = [f"{number:,} {kind}" for key, kind in kinds if (number := report.get(key))]
    if special:
        files += f" ({', '.join(special)})"
    counts = [counted(report[f"{noun}s"], noun) for noun in ("document", "sentence", "byte")]
    line = f"text: {', '.join([files, *counts])}"
    if "unknown_tokens" in report:
        line += f"; {_percent(_unknown_share(report))} of the tokens are [UNK]"
    return line


def _unknown_warnings(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each likely cause of many [UNK], as far as it was measured."""
    share = _unknown_share(report)
    if share <= LARGEST_UNKNOWN_SHARE:
        return
    examined = report["unknown_examined"]
    too_long, foreign = report["unknown_too_long"], report["unknown_characters"]
    causes = (
        (
            too_long,
            f"are words of more than {MAX_CHARACTERS} characters: is it text without spaces? Put "
            "spaces between its words first",
        ),
        (foreign, _lacking(report["missing_characters"])),
        (
            examined - too_long - foreign,
            "have only characters that the vocabulary has, but not as pieces where they stand: it "
            "was made from other text",
        ),
    )
    for words, cause in causes:
        if words >= SHARE_OF_A_CAUSE * examined:
            of_these = _percent(words / examined)
            yield f"warning: {_percent(share)} of the tokens are [UNK]; {of_these} of these {cause}"


def _lacking(characters: list[str]) -> str:
    names = ", ".join(f"{character} (U+{ord(character):04X})" for character in characters)
    line = f"have characters that the vocabulary lacks, most often {names}: "
    if all(character.isupper() for character in characters):
        return line + "it was made from text in lower case; lowercase = true reads it so"
    return line + (
        "it was made from another language, or the alphabet of this text did not fit into it; one "
        "trained on this text, with a larger max_vocab_size, has them"
    )


def _unknown_share(report: Mapping[str, Any]) -> float:
    share: float = report.get("unknown_tokens", 0) / max(1, report["tokens"])
    return share


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _percent(share: float) -> str:
    """Return a share in percent: two or three digits, and never 0 for what occurs."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "under 0.01 %"
    return f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %"
