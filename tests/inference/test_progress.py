import pytest
from rich.progress import Progress

from mbv2kit.inference.progress import Speed, with_bar


def test_the_bar_counts_the_images_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # What Rich takes for a terminal, and how wide it is.
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    assert list(with_bar(iter("abcd"), 4)) == ["a", "b", "c", "d"]
    shown = capfd.readouterr()
    assert "4/4" in shown.err
    assert shown.out == ""


def test_the_speed_is_in_images_per_second() -> None:
    clock = iter([0.0, 0.0, 0.5, 1.0])
    progress = Progress(get_time=lambda: next(clock), disable=True)
    bar = progress.add_task("pictures", total=100)
    assert Speed().render(progress.tasks[0]).plain == ""
    for _ in range(3):
        progress.advance(bar, 8)
    assert Speed().render(progress.tasks[0]).plain == "16.0 images/s"
