import io
import math
import os
import signal
import threading

import pytest
from rich.console import Console
from toys import OPTIONS, Data, Toy, no_bundle

from phosphene.training import train
from phosphene.training.display import duration, show


def steps(out=None, **options):
    return train(Toy(), Data(), out=out, save=no_bundle, **(OPTIONS | {"steps": 12} | options))


@pytest.mark.parametrize("terminal", [True, False])
def test_shows_to_the_end(terminal, tmp_path):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    last = show(steps(tmp_path, resume=True), console)
    text = console.file.getvalue()
    assert last.step == 12 and "from the beginning" in text
    assert "12/12" in text and f"loss {last.loss:.4f}" in text and "images/s" in text and "to go" in text
    if not terminal:
        assert "\x1b" not in text and len(text.splitlines()) == 3  # the note, the first step, the last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(tmp_path, number):
    before = signal.getsignal(number)

    def interrupted():
        for progress in running:
            if progress.step == 4:
                os.kill(os.getpid(), number)
            yield progress

    running = steps(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        show(interrupted(), Console(file=io.StringIO()))
    running.close()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-4"]
    assert signal.getsignal(number) is before


def test_from_another_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(show(steps(), Console(file=io.StringIO()))))
    thread.start()
    thread.join()
    assert seen[0].step == 12


def test_duration():
    assert [duration(s) for s in (5, 65, 3723, math.nan)] == ["0:05", "1:05", "1:02:03", "?"]
