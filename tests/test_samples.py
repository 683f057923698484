"""What a run shows: samples in the width of the terminal, times, plain progress lines."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from electra_ref.backends import reference
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.masking import MaskedBatch
from electra_ref.model.discriminator_input import paired_rows, replaced_rows
from electra_ref.model.generation import Guesses
from electra_ref.model.losses import LossTerm
from electra_ref.model.objectives.output import Detections, Output
from electra_ref.sampling import CorruptedBatch, corrupt
from electra_ref.training import progress as progress_module
from electra_ref.training.pretraining.samples import SAMPLES, describe_samples, format_sample
from electra_ref.training.progress import Bar, Progress, format_duration, wants_colour

SAMPLE: dict[str, Any] = {
    "original": ["[CLS]", "a", "river", "runs", "[SEP]"],
    "masked": ["[CLS]", "a", "[MASK]", "[MASK]", "[SEP]"],
    "generated": ["[CLS]", "a", "tree", "sings", "[SEP]"],
    "replaced": [False, False, True, True, False],
    "probability": [0.1, 0.6, 0.9, 0.2, 0.0],
}


def test_a_sample_says_what_both_networks_did() -> None:
    """One row of three tokens and one of padding, and more rows than an evaluation keeps."""
    rows = SAMPLES + 2
    ids, masked, corrupted = (np.full((rows, 4), word, np.int32) for word in (0, 1, 2))
    ids[1], masked[1], corrupted[1] = [0, 3, 4, 5], [0, 1, 4, 5], [0, 6, 4, 5]
    attention_mask = np.arange(4) < np.array([4, 3] + [1] * (rows - 2))[:, None]
    replaced = ids != corrupted
    logits = np.zeros((rows, 4))
    logits[1] = [-np.log(3), np.log(3), np.log(0.1234567 / 0.8765433), 9.0]
    nothing = np.zeros((rows, 1), np.int32)
    batch = Batch(ids, np.zeros_like(ids), attention_mask)
    masked_batch = MaskedBatch(batch, masked, nothing, nothing, nothing > 0)
    generated = CorruptedBatch(masked_batch, nothing, corrupted, replaced)
    read = replaced_rows(generated, SpecialTokens(0, 1, 2, 3, 4))
    output = Output(
        terms=(LossTerm("mlm", 0.0, 0, 1.0), LossTerm("rtd", 0.0, 0, 1.0)),
        masked=masked_batch,
        corrupted=generated,
        detections=Detections(read, np.zeros((4 * rows, 2)), logits.reshape(-1)),
    )
    samples = describe_samples(reference, output, ["zero", "one", "two", *"abcd"])
    assert [len(sample["original"]) for sample in samples] == [4, 3, 1, 1]
    assert len(samples) == SAMPLES
    assert samples[1] == {
        "original": ["zero", "a", "b"],
        "masked": ["zero", "one", "b"],
        "generated": ["zero", "d", "b"],
        "replaced": [False, True, False],
        "probability": [0.25, 0.75, 0.1235],
    }


def test_a_sample_is_four_aligned_lines() -> None:
    assert format_sample(SAMPLE, colour=False, columns=80).splitlines() == [
        " original [CLS] a river  runs   [SEP]",
        "   masked [CLS] a [MASK] [MASK] [SEP]",
        "generated [CLS] a tree   sings  [SEP]",
        "  flagged       ? ^^^^   -----",
    ]


def test_a_token_at_even_odds_is_not_flagged() -> None:
    lines = format_sample({**SAMPLE, "probability": [0.5] * 5}, colour=False, columns=80)
    assert lines.splitlines()[3] == "  flagged         ----   -----"


def test_a_sample_keeps_to_the_width_of_the_terminal() -> None:
    lines = format_sample(SAMPLE, colour=False, columns=27).splitlines()
    assert lines[1] == "   masked [CLS] a [MASK]"


def test_colour_marks_the_verdicts_and_leaves_the_text() -> None:
    coloured = format_sample(SAMPLE, colour=True, columns=80)
    assert "\33[32mtree" in coloured  # flagged: green
    assert "\33[31msings" in coloured  # missed: red
    assert "\33[33ma" in coloured  # false alarm: yellow


def sample_of(*tokens: str) -> dict[str, Any]:
    """Return a sample in which every token was replaced by itself, and flagged."""
    count = len(tokens)
    words = {name: list(tokens) for name in ("original", "masked", "generated")}
    return {**words, "replaced": [True] * count, "probability": [1.0] * count}


def test_marks_stand_below_wide_tokens() -> None:
    """An ideograph takes two columns; so do its marks, and what follows does not drift."""
    sample = {**sample_of("中国", "a", "か", "b"), "masked": ["中国", "[MASK]", "か", "b"]}
    assert format_sample(sample, colour=False, columns=80).splitlines() == [
        " original 中国 a      か b",
        "   masked 中国 [MASK] か b",
        "generated 中国 a      か b",
        "  flagged ^^^^ ^      ^^ ^",
    ]


def test_a_sample_is_cut_by_its_width() -> None:
    sample = sample_of("中国", "か", "e\u0301")
    for columns, shown in ((18, 3), (17, 2), (16, 2), (15, 1)):  # 9 + 5 + 3 + 2 is 19
        lines = format_sample(sample, colour=False, columns=columns + 1).splitlines()
        assert lines[0].split()[1:] == sample["original"][:shown]
        assert len(lines[3]) <= columns + 1


def test_tokens_that_are_written_from_right_to_left_keep_their_places() -> None:
    sample = sample_of("שלמה", "a", "عقلم")
    lines = format_sample(sample, colour=False, columns=80).splitlines()
    assert lines[2] == "generated \u2068שלמה\u2069 a \u2068عقلم\u2069"
    assert lines[3] == "  flagged ^^^^ ^ ^^^^"


@pytest.mark.parametrize("colour", [True, False])
def test_no_token_is_obeyed_by_the_terminal(colour: bool) -> None:
    """Escape sequences of a corpus, of ids or of a vocabulary of somebody else are shown."""
    sample = sample_of("\33[2J", "\x9b", "a\rb", "\u202e", "\u0301", "\n")
    lines = format_sample(sample, colour=colour, columns=200).splitlines()
    assert len(lines) == 4
    for ours in ("\33[32m", "\33[2m", "\33[0m"):
        lines = [line.replace(ours, "") for line in lines]
    assert lines[2] == "generated \\x1b[2J \\x9b a\\rb \\u202e \u25cc\u0301 \\n"
    assert lines[3] == "  flagged ^^^^^^^ ^^^^ ^^^^ ^^^^^^ ^ ^^"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7.4, "7 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3725, "1 h 02 min"),
        (71 * 3600, "71 h 00 min"),
        (72 * 3600, "3 days"),
        (1300 * 86_400, "1,300 days"),
    ],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_color_and_pipes_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_progress_elsewhere_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    bar = Bar(Progress(stream), "training", total=4)
    bar.move_to(1, "loss 3.00")
    bar.move_to(2, "loss 2.00")
    bar.close()
    first, second = stream.getvalue().splitlines()
    assert first == "training: 1/4 (25 %), loss 3.00"  # one call says nothing of the pace
    assert second.startswith("training: 2/4 (50 %), loss 2.00, ")
    assert second.endswith(" s left")
    assert "\r" not in stream.getvalue()


def test_progress_on_a_terminal_is_one_line_that_is_redrawn() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.stage("tokenizing", 10, 40)
    progress.stage("tokenizing", 40, 40)
    progress.say("a line above it")
    progress.close()
    assert "tokenizing" in stream.getvalue()
    assert "a line above it\n" in stream.getvalue()


def test_colours_end_with_the_token_and_columns_are_counted_exactly() -> None:
    generated = format_sample(SAMPLE, colour=True, columns=80).splitlines()[2]
    assert "\33[32mtree  \33[0m" in generated
    assert generated.count("\33[0m") == 4  # the name of the line, and three verdicts
    widths = [5, 1, 6, 6, 5]  # of the tokens; a space before each, behind a name of nine
    for tokens in range(1, 6):
        columns = 9 + sum(1 + width for width in widths[:tokens])
        for room, shown in ((columns, tokens), (columns - 1, tokens - 1)):
            original = format_sample(SAMPLE, colour=False, columns=room).splitlines()[0]
            assert original.split()[1:] == SAMPLE["original"][:shown]


def test_a_terminal_that_is_dumb_gets_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_bar_shows_its_note_and_its_colour(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    bar = Bar(Progress(stream), "training", total=4)
    bar.move_to(1, "loss 3.00")
    bar.tqdm.refresh()
    bar.close()
    assert "loss 3.00" in stream.getvalue()
    assert ("\33[32m" in stream.getvalue()) == (term == "xterm")


def test_a_stage_of_unknown_length_counts_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    Progress(stream).stage("reading standard input", 70, 0)
    assert stream.getvalue() == "reading standard input: 70\n"


def guessing_output() -> Output:
    """Two rows; the second has a masked position, and a slot that is not used."""
    ids = np.array([[0, 3, 4], [0, 5, 4]], np.int32)
    masked_ids = np.array([[0, 3, 4], [0, 1, 4]], np.int32)
    batch = Batch(ids, np.zeros_like(ids), np.array([[1, 1, 0], [1, 1, 1]], bool))
    positions = np.array([[0, 0], [1, 0]], np.int32)
    weights = np.array([[0, 0], [1, 0]], bool)
    masked = MaskedBatch(batch, masked_ids, positions, np.array([[0, 0], [5, 0]]), weights)
    logits = np.zeros((4, 7))
    logits[2, 6] = 1.0  # the best guess of the only slot
    logits[[0, 1, 3], 2] = 1.0
    return Output((), masked, guesses=Guesses(np.zeros(0), logits, np.zeros(())))


def test_without_samples_the_best_guesses_are_shown() -> None:
    samples = describe_samples(reference, guessing_output(), ["zero", "one", "two", *"abcd"])
    assert samples == [
        {"original": ["zero", "a"], "masked": ["zero", "a"], "guessed": ["zero", "a"]},
        {
            "original": ["zero", "c", "b"],
            "masked": ["zero", "one", "b"],
            "guessed": ["zero", "d", "b"],
        },
    ]
    for colour in (True, False):
        lines = format_sample(samples[1], colour=colour, columns=80)
        for dim in ("\33[2m", "\33[0m"):
            lines = lines.replace(dim, "")
        assert lines.splitlines() == [
            " original zero c   b",
            "   masked zero one b",
            "  guessed zero d   b",
        ]


def test_a_sample_of_a_pair_is_its_second_half() -> None:
    """The discriminator reads [CLS] a b [SEP] a x [SEP]: the figures of the last three are shown.

    [CLS] stands there once. What it says of the original half is shown nowhere.
    """
    ids = np.array([[2, 5, 6, 3, 0], [2, 7, 3, 0, 0]], np.int32)
    is_token = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
    batch = Batch(ids, np.zeros_like(ids), is_token)
    positions, weights = np.array([[2], [1]], np.int32), np.array([[1], [1]], bool)
    masked = MaskedBatch(batch, ids, positions, np.array([[6], [7]], np.int32), weights)
    corrupted = corrupt(masked, np.array([8, 7], np.int32))
    read = paired_rows(corrupted, SpecialTokens(0, 1, 2, 3, 4))
    logits = np.full(read.replaced.shape, 50.0)
    logits[0, [0, 4, 5, 6]] = np.log([1 / 4, 1 / 3, 3.0, 1 / 9])
    logits[1, [0, 3, 4]] = np.log([1 / 2, 4.0, 1.0])
    output = Output((), masked, corrupted, None, None,
                    Detections(read, np.zeros(0), logits.reshape(-1)))  # fmt: skip
    first, second = describe_samples(reference, output, [*"PUCSM", *"abcx"])
    assert first["generated"] == ["C", "a", "x", "S"]
    assert first["replaced"] == [False, False, True, False]
    assert first["probability"] == [0.2, 0.25, 0.75, 0.1]
    assert second["generated"] == ["C", "c", "S"]
    assert second["replaced"] == [False] * 3
    assert second["probability"] == [0.3333, 0.8, 0.5]
    assert format_sample(first, colour=False, columns=80).splitlines()[3] == "  flagged     ^"


def test_a_run_that_only_replaces_has_no_flags() -> None:
    sample = {name: SAMPLE[name] for name in ("original", "masked", "generated")}
    lines = format_sample(sample, colour=True, columns=80).splitlines()
    assert len(lines) == 3
    assert lines[2].endswith(" [CLS] a tree   sings  [SEP]")
