"""A tone as a WAV file, and the recognition of it in another: how a test hears that audio arrived.

Sixteen-bit mono PCM only, as the softphone plays and records. Recognition is Goertzel's filter, which asks of
one frequency what a Fourier transform would ask of all: a window counts as the tone when nearly all of its
energy is there.
"""

from __future__ import annotations

import math
import sys
import wave
from array import array
from collections.abc import Sequence
from pathlib import Path

RATE = 8000  # samples/s, that of PCMU and of the softphone's WAV files
WINDOW = 0.1  # seconds that are judged as one
PURITY = 0.8  # the least share of a window's energy at the tone's frequency
QUIETEST = 300.0  # the least root mean square (of 32,768) of a window that counts: comfort noise is no tone


def write_tone(path: Path, hz: int, seconds: int = 1, rate: int = RATE) -> None:
    """Write a sine at half of full scale: whole hertz and seconds, so that it loops without a click."""
    write_wav(path, tone_samples(hz, seconds, rate), rate)


def tone_samples(hz: int, seconds: int = 1, rate: int = RATE) -> list[int]:
    """The same as samples."""
    step = 2 * math.pi * hz / rate
    return [round(16384 * math.sin(step * i)) for i in range(seconds * rate)]


def tone_seconds(path: Path, hz: float) -> float:
    """How many seconds of the WAV file are this tone; 0.0 for any other sound. Raises as read_wav."""
    samples, rate = read_wav(path)
    return tone_seconds_in(samples, hz, rate)


def tone_seconds_in(samples: Sequence[int], hz: float, rate: int = RATE) -> float:
    """How many seconds of these samples are this tone, in whole windows of 0.1 s."""
    size = round(WINDOW * rate)
    windows = (samples[start : start + size] for start in range(0, len(samples) - size + 1, size))
    return WINDOW * sum(_is_tone(window, hz, rate) for window in windows)


def energy_share(samples: Sequence[int], hz: float, rate: int = RATE) -> float:
    """The share of the samples' energy at this frequency: 1.0 for a pure tone, about 2/n for n of noise."""
    energy = sum(sample * sample for sample in samples)
    if not energy:
        return 0.0
    coefficient = 2 * math.cos(2 * math.pi * hz / rate)
    last = before = 0.0
    for sample in samples:
        last, before = sample + coefficient * last - before, last
    power = last * last + before * before - coefficient * last * before
    return min(1.0, 2 * power / (len(samples) * energy))


def read_wav(path: Path) -> tuple[array[int], int]:
    """The samples and their rate. Raises ValueError on anything but 16-bit mono PCM, OSError as open does."""
    try:
        with wave.open(str(path), "rb") as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise ValueError(f"{path}: not 16-bit mono PCM")
            data = file.readframes(file.getnframes())
            rate = file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: not a WAV file ({error})") from None
    samples = array("h", data[: len(data) & ~1])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples, rate


def write_wav(path: Path, samples: Sequence[int], rate: int = RATE) -> None:
    """Write samples of -32,768 to 32,767 as 16-bit mono PCM."""
    content = array("h", samples)
    if sys.byteorder == "big":
        content.byteswap()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(content.tobytes())


def _is_tone(samples: Sequence[int], hz: float, rate: int) -> bool:
    loudness = math.sqrt(sum(sample * sample for sample in samples) / len(samples))
    return loudness >= QUIETEST and energy_share(samples, hz, rate) >= PURITY
