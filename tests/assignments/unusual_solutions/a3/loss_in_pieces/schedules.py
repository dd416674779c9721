"""Schedules as points between which the rate is interpolated by a curve."""

import math


def between(step, start, end, high, low, curve):
    if step >= end:
        return low
    done = (step - start) / (end - start)
    left = curve(done)
    return high * left + low * (1 - left)


def learning_rate_at(step, *, steps, warmup_steps, learning_rate, min_learning_rate):
    if step < warmup_steps and step < steps:
        return step / warmup_steps * learning_rate
    half = lambda done: math.cos(math.pi * done / 2) ** 2  # noqa: E731
    return between(step, warmup_steps, steps, learning_rate, min_learning_rate, half)


def linear_decay_at(step, *, steps, warmup_steps, learning_rate, min_learning_rate=0):
    if step < warmup_steps and step < steps:
        return step / warmup_steps * learning_rate
    line = lambda done: 1 - done  # noqa: E731
    return between(step, warmup_steps, steps, learning_rate, min_learning_rate, line)
