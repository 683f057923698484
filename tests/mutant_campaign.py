"""Run the tests on mutants of the package: what survives is equivalent, or a test is missing.

    python -m tests.mutant_campaign [AREA ...] [--count N] [--json FILE] [--again FILE]

First the tests of each area run once, on modules that note which test runs which statement. A
mutant is then judged by the tests that run its statement, the quickest first, until one fails.

Each judgement is a process of its own, forked from one that has imported the libraries but nothing
of this package, so that a mutated module is imported as any other would be. Two run at a time. A
test that takes far more processor time than before is stopped, and counts as failed.

What a campaign does not see: what the processes run that a test starts; and compiled code, since a
module with kernels is imported as plain Python. Tests that are slow then, or whose outcome depends
on time or memory, are left out, and Hypothesis draws the same few examples every time.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import math
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tests import mutant_process
from tests.code_mutants import Mutant, apply, find_mutants
from tests.forked_jobs import run_jobs
from tests.mutant_process import Judge

ROOT = Path(__file__).parents[1]
PACKAGE = "electra_ref"
COUNT = 900  # mutants of a campaign; there are some thousands
FEWEST = 10  # of a module that has as many
TESTS_SECONDS = 10.0  # of processor time, for all tests of a mutant on the real code
SURVIVED, STOPPED, UNTESTED = "survived", "stopped", "no test runs it"


class Area(NamedTuple):
    """What is mutated, and the test files that judge it."""

    modules: tuple[str, ...]  # a folder stands for its modules, but for those named elsewhere
    tests: str


AREAS = {
    "masking": Area(("masking",), "masking metamorphic samples"),
    "sampling": Area(("sampling", "uniform_draws", "gumbel"), "sampling uniform_draws gumbel"),
    "rng": Area(("rng",), "rng"),
    "tensor_file": Area(("tensor_file",), "tensor_file"),
    "packing": Area(("text.packing",), "packing"),
    "text": Area(
        ("text",),
        "compression corpus corpus_sample decoding embedded_corpus fast_merging holding_out "
        "listing packing parquet prepare prepare_settings sharing shards small_corpora token_cache "
        "token_ids tokenizing unknown_words vocabulary word_counts wordpiece workers",
    ),
    "model": Area(
        ("model",),
        "discriminator_input electra_gradients fixtures generation inference initial_attention "
        "metamorphic objective_gradients objective_runs objective_values objectives padding "
        "parameters step step_wiring task_heads",
    ),
    "huggingface": Area(
        (
            "training.new_folder",
            *(
                f"training.huggingface.{module}"
                for module in (
                    "configuration",
                    "conversion",
                    "exporting",
                    "exporting_fine_tuned",
                    "fine_tuned",
                    "fine_tuned_card",
                    "head_configuration",
                    "importing",
                    "importing_fine_tuned",
                    "model_card",
                    "names",
                    "opening",
                    "tensors",
                    "tokenizer_files",
                )
            ),
        ),
        "convert huggingface_names huggingface_opening huggingface_tasks "
        "huggingface_tokenizer_files new_folder",
    ),
    "processes": Area(
        (
            "message_passing",
            "nccl_processes",
            "processes",
            "running",
            "slices",
            "training.opening",
            "training.step",
            "training.stop_signals",
            "training.summation",
        ),
        "commands_in_processes nccl_processes processes running several_processes slices step "
        "step_wiring stop_signals summation",
    ),
    "training": Area(
        ("config", "training"),
        "checkpoint collapse config data_report device evaluate forecast initialization "
        "inspection loop metrics objective_runs objective_settings optimizer presets "
        "pretraining_run pretraining_task products progress records report report_command "
        "report_drawing resumed_run run_data run_directory samples saved_model schedule "
        "several_processes train_arguments train_command",
    ),
    "finetuning": Area(
        (
            "finetune",
            "config.finetuning",
            "model.objectives.fine_tuning",
            *(
                f"training.finetuning.{module}"
                for module in (
                    "answering",
                    "configuring",
                    "data",
                    "encoder_source",
                    "layerwise",
                    "learning",
                    "prediction",
                    "reading",
                    "run",
                    "saved",
                    "seeds",
                    "seeds_file",
                    "session",
                )
            ),
        ),
        "early_stopping finetune_command finetuning_beginning finetuning_data finetuning_reading "
        "finetuning_run finetuning_seeds finetuning_start predict_fine_tuned predict_settings "
        "settings_of_finetuning",
    ),
    "text_tasks": Area(
        (
            "training.finetuning.rows",
            "training.finetuning.tally",
            *(
                f"training.finetuning.{module}"
                for module in (
                    "formats.choice_record",
                    "formats.choices",
                    "formats.columns",
                    "formats.delimited",
                    "formats.glue",
                    "formats.json_lines",
                    "formats.race",
                    "formats.swag",
                    "formats.text_record",
                    "formats.texts",
                    "scores.labels",
                    "scores.numbers",
                    "tasks.classification",
                    "tasks.multiple_choice",
                    "tasks.regression",
                )
            ),
        ),
        "choice_files delimited finetuning_rows glue_files text_files text_tasks",
    ),
    "spans": Area(
        (
            *(f"model.heads.{module}" for module in ("joint_span", "pooling", "span")),
            *(
                f"training.finetuning.{module}"
                for module in (
                    "formats.json_values",
                    "formats.squad",
                    "scores.squad",
                    "span_decoding",
                    "span_windows",
                    "tasks.span_extraction",
                )
            ),
        ),
        "span_decoding span_extraction span_head span_windows squad_format squad_scores",
    ),
    "tagging": Area(
        (
            "model.heads.tagging",
            *(
                f"training.finetuning.{module}"
                for module in (
                    "formats.conll",
                    "formats.conllu",
                    "formats.propbank",
                    "formats.schemes",
                    "formats.sentences",
                    "formats.tagged_files",
                    "formats.token_lines",
                    "scores.entity_f1",
                    "scores.role_f1",
                    "tag_labels",
                    "tag_results",
                    "tasks.tagging",
                    "word_rows",
                )
            ),
        ),
        "tag_schemes tagged_formats tagging_head tagging_scores tagging_task task_heads word_rows",
    ),
    "prediction": Area(
        ("predict", "training.prediction"),
        "predict_batches predict_command predict_models predict_reading predict_view "
        "predict_windows",
    ),
}


class Outcome(NamedTuple):
    """What became of a mutant."""

    module: str
    mutant: str  # its name
    noticed_by: str  # a test, or one of the words above

    @property
    def survived(self) -> bool:
        """Return whether no test noticed the mutant."""
        return self.noticed_by in (SURVIVED, UNTESTED)


def modules_of(area: str) -> list[str]:
    """Return the modules of an area, with the package."""
    named = {module for other in AREAS.values() for module in other.modules}
    found = []
    for name in AREAS[area].modules:
        files = sorted((ROOT / PACKAGE / name.replace(".", "/")).rglob("*.py"))
        paths = (file.relative_to(ROOT / PACKAGE).with_suffix("") for file in files)
        inside = [".".join(path.parts) for path in paths]
        found += [module for module in inside if module not in named] if inside else [name]
    return [f"{PACKAGE}.{module}" for module in found]


def find_all(areas: Iterable[str] = AREAS) -> list[Mutant]:
    """Return all mutants of some areas."""
    modules = [module for area in areas for module in modules_of(area)]
    return [mutant for module in modules for mutant in find_mutants(module, parse(module))]


def parse(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def choose(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """Return about ``count`` mutants: of each module the same share, but at least ``FEWEST``.

    The choice depends on names only, so that an edit changes little of it.
    """
    share = count / max(len(mutants), 1)
    sizes = Counter(mutant.module for mutant in mutants)
    left = {module: max(math.ceil(share * size), FEWEST) for module, size in sizes.items()}
    chosen = []
    for mutant in sorted(mutants, key=lambda m: hashlib.sha256(m.name.encode()).digest()):
        if left[mutant.module] > 0:
            left[mutant.module] -= 1
            chosen.append(mutant)
    return chosen


def judges_of(mutant: Mutant, judges: Iterable[Judge]) -> list[Judge]:
    """Return the tests that run what ``mutant`` changes, quickest first, for as long as allowed.

    What runs on import concerns all tests; those that run something of the module come first.
    """

    def place(judge: Judge) -> tuple[bool, float]:
        return mutant.module not in judge.statements, judge.seconds

    chosen, seconds = [], 0.0
    for judge in sorted(judges, key=place):
        if mutant.statement is None or mutant.statement in judge.statements.get(mutant.module, ()):
            seconds += judge.seconds
            if seconds < TESTS_SECONDS:
                chosen.append(judge)
    return chosen


def run_campaign(areas: Sequence[str], mutants: Iterable[Mutant]) -> list[Outcome]:
    """Judge ``mutants`` of ``areas`` by the tests of their areas."""
    area_of = {module: area for area in areas for module in modules_of(area)}
    by_name = {mutant.name: mutant for mutant in mutants}
    judges = dict(run_jobs({area: partial(_record, area) for area in areas}))
    for area in areas:
        assert judges[area], f"no test judges {area}"
    chosen = {n: judges_of(m, judges[area_of[m.module]] or []) for n, m in by_name.items()}
    jobs = {n: partial(_judge, by_name[n], chosen[n]) for n in by_name if chosen[n]}
    results = dict(tqdm(run_jobs(jobs), total=len(jobs), unit=" mutants"))
    words = {None: STOPPED, "": SURVIVED}
    noticed = {name: words.get(result, result) for name, result in results.items()}
    return [Outcome(m.module, n, noticed.get(n) or UNTESTED) for n, m in by_name.items()]


def _record(area: str, folder: Path) -> list[Judge]:
    files = [f"tests/test_{name}.py" for name in AREAS[area].tests.split()]
    return mutant_process.record(
        {module: parse(module) for module in modules_of(area)}, files, folder
    )


def _judge(mutant: Mutant, judges: Sequence[Judge], folder: Path) -> str:
    return mutant_process.judge(mutant.module, apply(mutant), judges, folder)


def report(outcomes: Iterable[Outcome]) -> str:
    """Return a table of the modules, and the names of the mutants that survived."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for module, mutant, noticed_by in outcomes:
        fate = noticed_by if noticed_by in (STOPPED, SURVIVED, UNTESTED) else "failed a test"
        for row in (module, "all"):
            counts[row][fate] += 1
        if noticed_by in (SURVIVED, UNTESTED):
            survivors.append(f"{noticed_by}: {mutant}")
    columns = ("failed a test", STOPPED, SURVIVED, UNTESTED)
    lines = [f"{'':<36}" + "".join(f"{column:>16}" for column in columns)]
    lines += [
        f"{module:<36}" + "".join(f"{counts[module][column]:>16}" for column in columns)
        for module in (*sorted(set(counts) - {"all"}), "all")
    ]
    return "\n".join([*lines, "", *sorted(survivors)])


def main() -> None:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutant_campaign")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"{', '.join(AREAS)}; or all")
    parser.add_argument("--count", type=int, default=COUNT, help="mutants, of all areas together")
    parser.add_argument("--json", type=Path, help="a file to write the outcomes to")
    parser.add_argument("--again", type=Path, help="such a file: judge only what survived there")
    arguments = parser.parse_args()
    areas = arguments.areas or list(AREAS)
    if arguments.again is None:
        modules = {module for area in areas for module in modules_of(area)}
        mutants = [m for m in choose(find_all(), arguments.count) if m.module in modules]
    else:
        before = [Outcome(*outcome) for outcome in json.loads(arguments.again.read_text())]
        survivors = {outcome.mutant for outcome in before if outcome.survived}
        mutants = [mutant for mutant in find_all(areas) if mutant.name in survivors]
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as bytecode:
        sys.dont_write_bytecode, sys.pycache_prefix = False, bytecode
        _preload()
        outcomes = run_campaign(areas, mutants)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(outcomes, indent=0), encoding="utf-8")
    print(report(outcomes))


def _preload() -> None:
    """Import what the tests import, then forget what belongs to this checkout."""
    kept = set(sys.modules)
    for area in AREAS.values():
        for name in area.tests.split():
            importlib.import_module(f"tests.test_{name}")
    for name in list(sys.modules):
        if name.partition(".")[0] in (PACKAGE, "tests") and name not in kept:
            del sys.modules[name]


if __name__ == "__main__":
    main()
