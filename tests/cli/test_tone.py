"""A tone is told from silence, from noise and from its neighbours, also after PCMU's rough steps."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cli.tone import RATE, energy_share, read_wav, tone_seconds, tone_seconds_in, write_tone, write_wav


@pytest.mark.parametrize("hz", [350, 440, 1000, 1633, 3400])
def test_a_written_tone_is_recognised_for_all_its_length(tmp_path: Path, hz: int) -> None:
    write_tone(tmp_path / "tone.wav", hz, seconds=2)
    assert tone_seconds(tmp_path / "tone.wav", hz) == pytest.approx(2.0)


def test_another_tone_is_not_recognised(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 440)
    assert [tone_seconds(tmp_path / "tone.wav", hz) for hz in (350, 460, 880, 1000)] == [0.0] * 4


def test_silence_and_noise_are_no_tone() -> None:
    rng = random.Random(1)
    noise = [rng.randint(-16384, 16384) for _ in range(RATE)]
    assert tone_seconds_in([0] * RATE, 440) == 0.0
    assert tone_seconds_in(noise, 440) == 0.0
    assert energy_share([], 440) == 0.0


def test_a_tone_too_quiet_to_be_meant_is_none(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 440)
    samples, _ = read_wav(tmp_path / "tone.wav")
    assert tone_seconds_in([sample // 100 for sample in samples], 440) == 0.0


def test_only_the_part_with_the_tone_is_counted(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 440)
    samples, _ = read_wav(tmp_path / "tone.wav")
    write_wav(tmp_path / "gap.wav", [0] * RATE + list(samples) + [0] * RATE)
    assert tone_seconds(tmp_path / "gap.wav", 440) == pytest.approx(1.0)


def test_a_looped_tone_has_no_click(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 441)
    samples, _ = read_wav(tmp_path / "tone.wav")
    assert energy_share(list(samples) * 3, 441) > 0.9999


def test_a_tone_at_another_sampling_rate(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 440, rate=16000)
    assert tone_seconds(tmp_path / "tone.wav", 440) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"not a WAV file at all, but long enough to look at twice"]
)
def test_what_is_no_wav_file_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(ValueError, match="not a WAV file"):
        read_wav(tmp_path / "bad.wav")
