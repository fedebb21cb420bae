"""Dates of sessions, and how people speak of days relative to them."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

PAST = {
    0: ["today", "this morning", "earlier today", "just now", "this afternoon"],
    1: ["yesterday", "last night", "yesterday evening"],
    2: ["two days ago", "the day before yesterday"],
    4: ["a few days ago", "the other day", "earlier this week"],
    7: ["last week", "a week ago", "last weekend", "over the weekend", "last {weekday}", "last {weekday}"],
    14: ["two weeks ago", "a couple of weeks ago", "the week before last"],
    30: ["last month", "a month ago", "a few weeks ago", "early last month"],
    90: ["three months ago", "a few months back", "last season", "back in {month}", "in {month}"],
    365: ["last year", "a year ago", "in {year}", "back in {month} {year}"],
    1100: ["three years ago", "a few years ago", "back in {year}"],
}
FUTURE = ["tomorrow", "next week", "next month", "this weekend", "next {weekday}", "in two weeks", "in {month}"]
FUTURE += ["next year", "on the {day}th of {month}", "later this month", "soon", "in a few days", "this summer"]


def session_times(rng: random.Random, count: int) -> list[datetime]:
    """`count` times of sessions, in order, over some weeks to two years."""
    first = datetime(rng.randint(2016, 2026), rng.randint(1, 12), rng.randint(1, 28))
    days = sorted(rng.randint(0, rng.choice([60, 200, 400, 700])) for _ in range(count))
    return [first + timedelta(days=day, hours=rng.randint(7, 22), minutes=rng.randint(0, 59)) for day in days]


def past(rng: random.Random, said: datetime, longest: int = 2000) -> tuple[str, datetime]:
    """A phrase for a day before `said` (at most about `longest` days) and that day."""
    days = rng.choice([span for span in PAST if span <= longest])
    day = said - timedelta(days=days)
    if rng.random() < 0.15 and days:
        return f"on {day.day} {day:%B}" if rng.random() < 0.5 else f"on {day:%B} {day.day}", day
    return _named(rng.choice(PAST[days]), day), day


def future(rng: random.Random, said: datetime) -> str:
    """A phrase for a day after `said`."""
    return _named(rng.choice(FUTURE), said + timedelta(days=rng.randint(10, 120)))


def span(rng: random.Random, day: datetime) -> str:
    """A day or a month as a question names it: "in May 2023", "on 8 May, 2023"."""
    forms = ["in {month} {year}", "in {month} {year}", "in {month}, {year}", "on {d} {month}, {year}", "on {month} {d}"]
    return _named(rng.choice(forms), day)


def _named(text: str, day: datetime) -> str:
    parts = {"weekday": f"{day:%A}", "month": f"{day:%B}", "year": str(day.year), "day": str(day.day % 17 + 4)}
    return text.format(**parts, d=day.day)
