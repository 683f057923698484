"""Pre-train ELECTRA: ``python -m electra_ref.train``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM, with a
checkpoint saved.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence

from electra_ref.command_line import (
    Parser,
    add_data_arguments,
    add_settings_arguments,
    file_name,
    folder,
    reading_of,
    reporting,
    settings_of,
    source_of,
)
from electra_ref.config.pretraining import (
    OF_SENTENCES,
    PRESETS,
    PretrainingConfig,
    has_default_vocabulary_size,
    resolve_config,
)
from electra_ref.config.settings import chosen_values, to_toml
from electra_ref.config.training import TrainingConfig, shared_out
from electra_ref.errors import UserError
from electra_ref.processes import ALONE, Processes
from electra_ref.running import run_together
from electra_ref.training.pretraining.source import Source
from electra_ref.training.progress import show
from electra_ref.training.stop_signals import StoppedError, exit_code

_WHOSE_VOCABULARY = {
    "--tokens": "token ids have a vocabulary already",
    "--init-from": "a model brings its own",
}
PROGRAM = "python -m electra_ref.train"


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    if_too_large = "begin a run with a larger accumulate, or a smaller preset"
    return run_together(
        parser.prog,
        lambda processes: train(parser.parse(arguments), processes),
        if_too_large,
    )


def train(options: argparse.Namespace, processes: Processes = ALONE) -> int:
    """Do what ``options`` say, in each of the ``processes``; return the exit code.

    Raises UserError.
    """
    if options.max_steps is not None and options.max_steps < 1:
        raise UserError(f"--max-steps {options.max_steps}: at least 1")
    if options.max_minutes is not None and not 0 < options.max_minutes < math.inf:
        raise UserError(f"--max-minutes {options.max_minutes:g}: a number above 0")
    if options.resume:
        refuse_with_resume(options)
        return run(options, None, processes)
    config = configuration_of(options, processes.size)
    if options.print_config:
        show(to_toml(config))
        return 0
    require_within_schedule(options, config)
    return run(options, config, processes)


def require_within_schedule(options: argparse.Namespace, config: TrainingConfig) -> None:
    """Raise UserError if the run shall go on where its schedule has ended."""
    if options.max_steps is not None and options.max_steps > config.steps:
        raise UserError(
            f"--max-steps {options.max_steps}: the schedule ends at step {config.steps}; for a "
            f"longer one write --set steps={options.max_steps}"
        )


def configuration_of(options: argparse.Namespace, processes: int = 1) -> PretrainingConfig:
    """Return the settings of a new run of so many ``processes``. Raises UserError."""
    given = settings_of(options)
    chosen = chosen_values(PretrainingConfig, options.config, given)
    return shared_out(_configuration_of_one(options, given), chosen, processes)


def _configuration_of_one(options: argparse.Namespace, given: Sequence[str]) -> PretrainingConfig:
    layers = {"preset": options.preset, "path": options.config, "settings": given}
    chosen = chosen_values(PretrainingConfig, None, given)  # a file may have values of all keys
    for key in OF_SENTENCES:
        if key in chosen and options.tokens:
            raise UserError(f"{key} needs sentences, and --tokens has none: leave it out")
    if options.init_from is None:
        config = resolve_config(**layers)
        was_asked = "max_vocab_size" in chosen or not has_default_vocabulary_size(config)
        if options.vocab is not None and was_asked:
            raise UserError(
                f"--vocab {options.vocab} decides how many entries there are: leave max_vocab_size "
                "and vocab_size out"
            )
        return config
    from electra_ref.training.pretraining.initialization import (  # noqa: PLC0415  (loads numba)
        require_same,
        settings_of_model,
    )
    from electra_ref.training.saved_model import find_model  # noqa: PLC0415

    if "max_vocab_size" in chosen:
        raise UserError("max_vocab_size does nothing with --init-from: a model brings its own")
    stored = find_model(options.init_from)
    config = resolve_config(**layers, base=settings_of_model(stored, options.preset))
    require_same(stored, config, options.init_from)
    return config


def build_parser(program: str = PROGRAM) -> Parser:
    """Return the parser; its help is what a newcomer reads first."""
    parser = Parser(
        program,
        "Pre-train ELECTRA on text or token ids. Without arguments it trains the tiny preset on "
        "the documentation that comes with Python.",
        PretrainingConfig,
    )
    add = parser.add_argument
    add_data_arguments(parser)
    add(
        "--vocab",
        type=file_name,
        metavar="FILE",
        help="vocab.txt to cut text with, a token a line, in place of one trained on the corpus; "
        "for a vocabulary with capital letters add --set lowercase=false",
    )
    add(
        "--init-from",
        type=folder,
        metavar="DIR",
        help="begin with the model of DIR, a run, a checkpoint or a Hugging Face directory: its "
        "parameters, sizes and vocabulary; the schedule is new, and so is the generator of a "
        "discriminator that comes alone",
    )
    add(
        "--output-dir",
        type=folder,
        metavar="DIR",
        help="where the run is kept; default runs/<preset>, runs/<preset>-2, ...",
    )
    add_settings_arguments(parser, PRESETS)
    add(
        "--max-steps",
        type=int,
        metavar="N",
        help="stop after step N, with a checkpoint; the schedule stays that of the configuration",
    )
    add(
        "--max-minutes",
        type=float,
        metavar="N",
        help="stop N minutes after the start, with a checkpoint; a step is completed, and an "
        "evaluation comes after it",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the run in --output-dir, or the newest one in runs/; --set and --device "
        "may then change steps, learning rate, warm-up, intervals and device, and --corpus or "
        "--tokens name where the same data lie now",
    )
    return parser


def refuse_with_resume(options: argparse.Namespace) -> None:
    """Raise UserError for an argument that would change a run that has already begun.

    The run itself looks at ``--set``.
    """
    if options.print_config:
        raise UserError(
            "--print-config and --resume exclude each other; see config.toml in the run"
        )
    for name in ("preset", "config", "precision", "seed", "text_key", "vocab", "init_from"):
        if getattr(options, name) is not None:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} cannot change a run that is resumed; leave it out")


def run(
    options: argparse.Namespace, config: PretrainingConfig | None, processes: Processes = ALONE
) -> int:
    """Train as ``options`` say, a new run with ``config`` or an old one; return the exit code."""
    from electra_ref.training.completing import Limits  # noqa: PLC0415  (loads numba)
    from electra_ref.training.pretraining import run as pretraining  # noqa: PLC0415
    from electra_ref.training.run_directory import newest_run  # noqa: PLC0415  (loads NumPy)

    started = time.monotonic()
    reading = reading_of(options)
    with reporting(processes=processes) as (progress, stop):
        try:
            if config is None:
                path = options.output_dir or processes.of_first(
                    lambda: newest_run(pretraining.RUNS)
                )
                moved = source_of(options) if options.corpus or options.tokens else None
                settings = settings_of(options)
                trainer = pretraining.resume(
                    path, settings, moved, progress, stop, reading, processes
                )
            else:
                source = start_of(options)
                trainer = pretraining.begin(
                    options.output_dir, config, source, progress, stop, reading, processes
                )
            with trainer.run:
                require_within_schedule(options, trainer.config)
                limits = Limits(options.max_steps, options.max_minutes, started)
                pretraining.complete(trainer, stop, limits)
        except StoppedError as stopped:
            progress.say("stopped before the first step; to go on:")
            progress.say(str(stopped), whole=True)
        stop.agree(processes)
    return 0 if stop.requested is None else exit_code(stop.requested)


def start_of(options: argparse.Namespace) -> Source:
    """Return the data, by absolute paths, and what the run begins with. Raises UserError."""
    if options.vocab is not None and (options.tokens or options.init_from):
        other = "--tokens" if options.tokens else "--init-from"
        raise UserError(f"--vocab and {other} exclude each other: {_WHOSE_VOCABULARY[other]}")
    vocabulary, init_from = (
        os.path.abspath(name) if name else None for name in (options.vocab, options.init_from)
    )
    return source_of(options)._replace(vocabulary=vocabulary, init_from=init_from)


if __name__ == "__main__":
    sys.exit(main())
