"""Every verb on a real chat model, in units of an ordinary training step of the same batch, and its peak memory.

    python -m benchmarks.real_model                          (all parts; goes on after a stop)
    python -m benchmarks.real_model --part answers drift
    python -m benchmarks.real_model --profile train          (where the time of a part goes; writes nothing)

Knows: the command line, a process a part, the clock, the rows. Does not know: what a part runs (real_parts.py).

CPU seconds, so that a busy neighbour changes little; a part stands between two ordinary steps of its own process.
Peak memory is the kernel's counter for the whole process, weights included, over that of the ordinary step.
"""

import argparse
import cProfile
import ctypes
import gc
import logging
import os
import pstats
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import real_parts, results
from benchmarks.real_parts import PARTS, QUICK, Bench, Sizes
from holdfast.core.errors import UserError
from holdfast.core.files import read_json, write_json
from holdfast.models import Subject, add_lora, load

LOOKALIKES = Path(__file__).parents[1] / "studies" / "real_model" / "lookalikes.txt"
ALIGNED = Path(__file__).parents[1] / "studies" / "real_model" / "adapter"
AGAINST = "an ordinary training step of the benchmark's batch"
PEERS = ("opacus", "bergson")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.real_model", description="Verbs on a real model.")
    add = found.add_argument
    add("--model", type=Path, help="chat model (default: what `python -m studies.real_model fetch` made)")
    add("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    add("--pairs", type=int, default=1, help="measurements a part (default 1; one or two have no interval)")
    add("--kept", type=Path, help="folder of a file a part (default: benchmark/ in the study's cache)")
    add("--quick", action="store_true", help="the built-in model, tiny sizes: proves that it runs")
    add("--profile", choices=list(PARTS), help="one part under cProfile; writes nothing")
    add("--out", type=Path, help="result file (default: benchmarks/results/real_model-<device>.json)")
    add("--show", action="store_true", help="print the README's table of the result file")
    return found


def bench_of(folder: Path | None, quick: bool) -> Bench:
    """The aligned model with a fresh adapter that is moved a little, so that there is drift."""
    if quick:
        from holdfast.organism import proxy_prompts, shipped

        aligned, sizes = load(shipped("aligned"), dtype="float32"), QUICK
        prompts = [text for kind in ("overt", "benign") for text in proxy_prompts("evaluate", kind, 20)]
    else:
        sizes = Sizes()
        loaded = load(_chat(folder), adapter=ALIGNED, dtype="float32")
        whole: Any = loaded.model
        aligned = Subject(whole.merge_and_unload(), loaded.tokenizer)
        lines = LOOKALIKES.read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        prompts = prompts[:: max(1, len(prompts) // sizes.answers)][: sizes.answers]
    subject = Subject(add_lora(aligned.model, 8, 16, seed=0), aligned.tokenizer, "adapter")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in subject.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(2e-3 * torch.randn(parameter.shape, generator=draw))
    return Bench(subject, real_parts.rows(subject, sizes.lengths), tuple(prompts), sizes)


def _chat(folder: Path | None) -> Path:
    from studies.real_model import model

    found = folder or model.cache_folder(None) / "chat"
    if not (found / "config.json").exists():
        raise UserError(f"{found}: no model; run python -m studies.real_model fetch, or give --model")
    return found


def measured(bench: Bench, part: str, pairs: int) -> dict[str, Any]:
    """Ratios of one part to the ordinary step around it, and both peaks; in this process."""
    work, unit = PARTS[part][1](bench), real_parts.ordinary(bench)
    step_peak, before = _peak(unit)
    ratios, seconds, steps, peak = [], [], [], 0.0
    for number in range(pairs):
        if number:  # a trainer runs once
            work = PARTS[part][1](bench)
        part_peak, took = _peak(work)
        peak = max(peak, part_peak)
        after = _seconds(unit)
        ratios.append(took / (0.5 * (before + after)) / _counted(bench, part))
        seconds, steps, before = [*seconds, took], [*steps, before, after], after
    return {
        "ratios": ratios,
        "cpu_seconds": seconds,
        "step_cpu_seconds": steps,
        "peak": peak,
        "step_peak": step_peak,
    }


def _counted(bench: Bench, part: str) -> int:
    return bench.sizes.steps if part in ("train", "stock", "anchor") else 1


def _seconds(work: real_parts.Work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _peak(work: real_parts.Work) -> tuple[float, float]:
    """(bytes of the whole process at its highest, CPU seconds)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier peak left behind is not this one's
    Path("/proc/self/clear_refs").write_text("5")
    took = _seconds(work)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in status if line.startswith("VmHWM:")), took


def in_own_process(bench: Bench, part: str, pairs: int, path: Path) -> None:
    """Measure in a fork: memory of one part is nothing to the next, and the model is loaded once."""
    if path.exists():
        return
    child = os.fork()
    if not child:
        code = 1
        try:
            write_json(path, measured(bench, part, pairs) | {"versions": results.versions()})
            code = 0
        except BaseException as error:
            print(f"{part}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        print(f"{part}: no figures; see above, and give the command again", file=sys.stderr)


def rows_of(kept: Mapping[str, Mapping[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """Result rows of the parts that are there, of what follows from them, and of peers that are not here."""
    found = []
    for part, value in kept.items():
        params = {"case": "smollm2-135m-lora", "part": part, "memory_ratio": value["peak"] / value["step_peak"]}
        params |= {"peak_bytes": int(value["peak"]), "cpu_seconds": value["cpu_seconds"]}
        found.append(results.row(PARTS[part][0], params, value["ratios"], AGAINST))
    middle = {part: results.median_interval(value["ratios"]).value for part, value in kept.items()}
    if {"answers", "drift"} <= middle.keys():
        ratio = (middle["answers"] + middle["drift"]) / middle["answers"]
        note = {"case": "smollm2-135m-lora", "part": "evaluate_adapter_over_answers"}
        found.append(
            results.row("evaluate --adapter over its answers alone", note, [ratio], "evaluate --no-drift")
        )
    if {"train", "monitor"} <= middle.keys():
        rows = len(sizes.lengths)
        ratio = real_parts.monitored_over_plain(middle["monitor"], middle["train"], rows, sizes.share)
        note = {"case": "smollm2-135m-lora", "part": "train_monitored_over_plain", "note": "from the two rows"}
        found.append(results.row("train with its monitors over without", note, [ratio], "train without monitors"))
    for name in PEERS:
        if name not in kept and name not in results.versions():
            failed = {"case": "smollm2-135m-lora", "part": name}
            found.append(results.row(f"{name}, the batch's rows", failed, [], AGAINST, "not installed, not run"))
    return found


def table(value: Mapping[str, Any]) -> str:
    """Markdown: one row a part."""
    lines = ["| what | ratio | against | peak memory over the step's |", "|---|---|---|---|"]
    for item in value["rows"]:
        failed = item["params"].get("failed")
        ratio = failed or f"{item['ratio_median']:.2f}"
        memory = item["params"].get("memory_ratio")
        lines.append(f"| {item['what']} | {ratio} | {item['against']} | {f'{memory:.2f}' if memory else ''} |")
    return "\n".join(lines)


def profile(bench: Bench, part: str) -> str:
    """Where the CPU time of one part goes, by function."""
    work, profiler = PARTS[part][1](bench), cProfile.Profile(time.process_time)
    profiler.runcall(work)
    stats: Any = pstats.Stats(profiler)
    rows = sorted(((t, calls, *where) for where, (_, calls, t, _, _) in stats.stats.items()), reverse=True)
    whole = sum(row[0] for row in rows)
    return "\n".join(f"{t:8.2f} s {t / whole:6.1%} {calls:7d} x {name} {Path(file).name}:{line}"
                     for t, calls, file, line, name in rows[:20])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        path = options.out or (None if options.quick else results.default_path("real_model", "cpu"))
        if options.show:
            print(table(read_json(path or results.default_path("real_model", "cpu"))))
            return 0
        torch.set_num_threads(1)
        kept = options.kept
        if kept is None:
            from studies.real_model import model

            kept = model.cache_folder(None) / ("benchmark-quick" if options.quick else "benchmark")
        if options.profile:
            print(profile(bench_of(options.model, options.quick), options.profile))
            return 0
        here = [part for part in options.part if part not in PEERS or part in results.versions()]
        missing = [part for part in here if not (kept / f"{part}.json").exists()]
        if missing:
            bench = bench_of(options.model, options.quick)
            for part in missing:
                in_own_process(bench, part, options.pairs, kept / f"{part}.json")
        there = {part: read_json(kept / f"{part}.json") for part in PARTS if (kept / f"{part}.json").exists()}
        found = rows_of(there, QUICK if options.quick else Sizes())
        file = results.ResultFile(path, "real_model", "cpu", results.command("real_model", words), options.pairs)
        file.add(found)
        print(table({"rows": found}))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        logging.disable(logging.NOTSET)
    return 0 if len(there) == len(PARTS) or not missing else int(not set(here) <= there.keys())


if __name__ == "__main__":
    sys.exit(main())
