"""`make dev`: Dagster's UI and daemon with the simulator beside them, until Ctrl-C.

State is kept over restarts, the simulator's batches included. The demo's job has its nightly
schedule switched on; its sensor is on by default.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SIMULATOR_PORT = os.environ.get("SIMULATOR_PORT", "8765")
UI_PORT = os.environ.get("DAGSTER_PORT", "3000")
SCHEDULE = "license_review_nightly"
# Dagster lets its code servers finish; what is left after this is killed.
ENDING_SECONDS = 20


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell that starts this in the background has it ignore Ctrl-C, and its children too.
        signal.signal(number, _interrupt)
    # Dagster's events and logs name documents: they are for this user alone.
    os.umask(0o077)
    home = Path(os.environ["BATCH_PIPELINE_HOME"]).resolve()
    dagster_home = ROOT / ".dagster"
    dagster_home.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "dagster.yaml", dagster_home / "dagster.yaml")
    environ = {
        **os.environ,
        "BATCH_PIPELINE_HOME": str(home),
        "DAGSTER_HOME": str(dagster_home),
        "BATCH_PIPELINE_POLL_SECONDS": os.environ.get("BATCH_PIPELINE_POLL_SECONDS", "10"),
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{SIMULATOR_PORT}",
        "ANTHROPIC_API_KEY": "simulator",
    }
    _run(environ, "batch-pipeline", "demo", "--input-only")
    # The state folder of the demo: nights that it began find their batches here.
    simulator = _start(
        environ,
        "batch-pipeline",
        "simulator",
        *("--port", SIMULATOR_PORT, "--turnaround", "20", "--state-dir", str(home / "simulator")),
    )
    assert simulator.stdout is not None
    listens = simulator.stdout.readline().strip()
    if not listens:
        sys.exit(f"The simulator did not start; is port {SIMULATOR_PORT} in use?")
    print(listens, flush=True)
    processes = [simulator]
    try:
        _start_schedule(environ)
        workspace = ("-w", str(ROOT / "workspace.yaml"))
        web = ("-h", "127.0.0.1", "-p", UI_PORT)
        processes.append(_start(environ, "dagster-webserver", *web, *workspace))
        processes.append(_start(environ, "dagster-daemon", "run", *workspace))
        print(f"Dagster's UI: http://localhost:{UI_PORT} (Ctrl-C ends everything)", flush=True)
        _wait_for_any(processes)
    except KeyboardInterrupt:
        print("ending …", flush=True)
    finally:
        _end(processes)


def _run(environ: Mapping[str, str], command: str, *arguments: str) -> None:
    subprocess.run([str(BIN / command), *arguments], env=environ, check=True)


def _start(environ: Mapping[str, str], command: str, *arguments: str) -> subprocess.Popen[str]:
    stdout = subprocess.PIPE if command == "batch-pipeline" else None
    return subprocess.Popen(
        [str(BIN / command), *arguments],
        env=environ,
        stdout=stdout,
        text=True,
        # A Ctrl-C reaches this process alone, which ends the others in order.
        start_new_session=True,
    )


def _start_schedule(environ: Mapping[str, str]) -> None:
    command = [str(BIN / "dagster"), "schedule", "start", SCHEDULE]
    command += ["-w", str(ROOT / "workspace.yaml"), "--location", "batch_pipeline"]
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    started_before = "already" in done.stdout + done.stderr
    if done.returncode and not started_before:
        print(f"the schedule {SCHEDULE} was not started: {done.stderr}", file=sys.stderr)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(processes: list[subprocess.Popen[str]]) -> None:
    for process in reversed(processes):
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_any(processes: list[subprocess.Popen[str]]) -> None:
    while True:
        for process in processes:
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            print(f"{process.args!r} ended with {process.returncode}", file=sys.stderr)
            return


if __name__ == "__main__":
    main()
