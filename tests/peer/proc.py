"""Programs under test as child processes.

In: a command line. Out: what it printed, line by line, and the certainty that it is gone afterwards. Nothing here
sleeps for a fixed time: each wait is for an event, with a deadline, and fails with what the program said.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path


class Failure(Exception):
    """Something that was expected did not happen; the text says what and shows the evidence."""


def run(*command, timeout=60, check=True, env=None, stdin=None):
    """Run to the end; returns CompletedProcess with text output."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, input=stdin)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{' '.join(command)} did not end within {timeout} s") from late
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(command)} exited with {done.returncode}: {tail(done.stderr or done.stdout)}")
    return done


def tail(text, lines=6):
    return "\n".join(text.strip().splitlines()[-lines:])


def free_port():
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, ready, timeout=30, alive=None, interval=0.05):
    """Ask `ready()` until it is true; returns its value. `alive` is a Program that must not end meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        value = ready()
        if value:
            return value
        if alive is not None and alive.ended():
            raise Failure(f"{alive.name} ended with {alive.process.returncode} before {what}: {alive.log_tail()}")
        if time.monotonic() > deadline:
            log = f": {alive.log_tail()}" if alive is not None else ""
            raise Failure(f"not within {timeout} s: {what}{log}")
        time.sleep(interval)


def accepts(address):
    """Whether something listens at a Unix socket path or at (host, port)."""
    family = socket.AF_UNIX if isinstance(address, (str, Path)) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(address) if family == socket.AF_UNIX else address)
            return True
        except OSError:
            return False


class Program:
    """A child process in a process group of its own, its log in a file, its standard output as a queue of lines."""

    def __init__(self, name, command, log, env=None, stdin=subprocess.DEVNULL):
        self.name, self.log = name, Path(log)
        self._lines = queue.Queue()
        with open(self.log, "ab") as stderr:
            try:
                self.process = subprocess.Popen(
                    [str(part) for part in command], stdout=subprocess.PIPE, stderr=stderr, stdin=stdin,
                    env=env, text=True, start_new_session=True,
                )
            except OSError as wrong:
                raise Failure(f"{name} cannot be started: {wrong}") from wrong
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with open(self.log, "a", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def ended(self):
        return self.process.poll() is not None

    def log_tail(self):
        return tail(self.log.read_text(encoding="utf-8", errors="replace"))

    def event(self, what, wanted, timeout=30):
        """The next JSON line for which `wanted(event)` is true; lines before it are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Failure(f"{self.name}: not within {timeout} s: {what}: {self.log_tail()}") from None
            if line is None:
                self.process.wait()
                raise Failure(f"{self.name} ended with {self.process.returncode} before {what}: {self.log_tail()}")
            if line.startswith("{") and wanted(event := json.loads(line)):
                return event

    def say(self, line):
        """To its standard input, where that is a pipe. That it has ended shows in what it says next, or does not."""
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def signal(self, number):
        if not self.ended():
            os.killpg(self.process.pid, number)

    def stop(self, timeout=15):
        """Ask it to end; returns the exit status. What does not end in time is killed and that is a Failure."""
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
            raise Failure(f"{self.name} did not end within {timeout} s of SIGTERM: {self.log_tail()}") from None
        self._reader.join(timeout)
        return self.process.returncode

    def kill(self):
        """End it now, without a word; for cleaning up."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Stage:
    """What was started, to be ended in reverse order whatever happens."""

    def __init__(self):
        self._programs = []

    def start(self, *args, **kwargs):
        program = Program(*args, **kwargs)
        self._programs.append(program)
        return program

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in reversed(self._programs):
            try:
                program.stop(timeout=5)
            except Failure:
                pass
        return False


def output_of(script):
    """The last line that a build script prints: a path."""
    done = subprocess.run([str(script)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{script} failed")
    return Path(done.stdout.strip().splitlines()[-1])
