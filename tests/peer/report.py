"""One line a check, and the sum."""

import contextlib
import traceback

from proc import Failure


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    @contextlib.contextmanager
    def check(self, name):
        """`with report.check("…"):` passes when its body does; the rest of the run goes on either way."""
        try:
            yield
        except Exception as wrong:  # also an answer of another shape than expected
            self.failed += 1
            print(f"FAILED  {name}: {reason(wrong)}", flush=True)
        else:
            self.passed += 1
            print(f"passed  {name}", flush=True)

    @contextlib.contextmanager
    def section(self, name):
        """Checks that stand on one another: what cannot be set up counts as one that failed."""
        print(f"{name}", flush=True)
        try:
            yield
        except Exception as wrong:
            self.failed += 1
            print(f"FAILED  {name} could not go on: {reason(wrong)}", flush=True)

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0


def reason(wrong):
    if isinstance(wrong, Failure):
        return str(wrong)
    last = traceback.extract_tb(wrong.__traceback__)[-1]
    return f"{type(wrong).__name__}: {wrong} (in {last.name}: {last.line})"


def expect(condition, reason):
    if not condition:
        raise Failure(reason)


def same(one, other, names=("one", "other")):
    """Two JSON values are equal, apart from members at their default, which older and newer messages may lack."""
    left, right = substance(one), substance(other)
    if left != right:
        raise Failure(f"{names[0]} says {brief(left)} and {names[1]} says {brief(right)}")


def substance(value):
    if isinstance(value, dict):
        members = {name: substance(item) for name, item in value.items()}
        return {name: item for name, item in members.items() if item not in (None, "", "0", 0, False, [], {})}
    if isinstance(value, list):
        return [substance(item) for item in value]
    return value


def brief(value):
    text = str(value)
    return text if len(text) <= 600 else f"{text[:600]}…"
